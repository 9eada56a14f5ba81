"""Counts what a recipe computes and keeps in memory, without weights: steps, tokens, parameters, FLOPs and bytes.

The model is built on the meta device, and one training step of its largest batch runs on fake tensors, which have shapes but no
values ([`torch._subclasses.FakeTensorMode`]). PyTorch's own FLOP formulas (`torch.utils.flop_counter`) count every matrix
product, and the storage of every tensor counts for as long as it lives.
"""

import contextlib
import math
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F  # noqa: N812  (the field's usual name)
from datasets import Dataset
from peft.helpers import disable_input_dtype_casting
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from radrecipes.models.classification_head import head_at, is_encoder, output_layer
from radrecipes.models.lm_head import lm_head_input
from radrecipes.models.weights import count_parameters
from radrecipes.recipe import Recipe
from radrecipes.training import trainer as training
from radrecipes.training.collators import IGNORED
from radrecipes.training.grpo_trainer import steps_of_epoch

# bitsandbytes 0.50.2, functional.py: one float32 constant per 64 weights; nested, one byte per 64 and one float32 per 64 x 256;
# and per layer a table of 16, nested also one of 256 and an offset. 8-bit: one float32 per output row.
_BLOCK, _NESTED_BLOCK = 64, 256
_TABLE_BYTES, _NESTED_TABLE_BYTES = 16 * 4, 256 * 4 + 4


@dataclass(frozen=True)
class Layout:
    """Shapes of one epoch's micro batches: rows, row length in tokens, and scored tokens of each."""

    batches: list[tuple[int, int, int]]

    @property
    def tokens(self) -> int:
        """Tokens computed in the epoch, including padding."""
        return sum(rows * length for rows, length, _ in self.batches)

    @property
    def largest(self) -> tuple[int, int, int]:
        """The batch with the most tokens."""
        return max(self.batches, key=lambda batch: (batch[0] * batch[1], batch))


@dataclass(frozen=True)
class StepCost:
    """One forward and backward pass of a micro batch."""

    flops: int  # of all matrix products; a multiplication and an addition count as two
    peak_bytes: int  # of all live tensors, without weights and inputs


@dataclass(frozen=True)
class Sizes:
    """Bytes of what is frozen, and number of trained parameters; without quantisation `plain` is all that is frozen."""

    packed: int  # weights of quantised layers
    constants: int  # the constants that unpack them
    plain: int  # the rest in its dtype: embeddings, norms, LM head
    before: int  # the quantised layers as they are loaded, before they are packed
    unpacked: int  # the largest quantised weight in the compute dtype; the backward pass unpacks one at a time
    trained: int  # parameters of the adapter, or all
    bytes_per_trained: tuple[int, int, int]  # of each parameter: the weight, its gradient, and AdamW's two moments

    @property
    def base(self) -> int:
        """Bytes of all that is frozen: the base model under an adapter."""
        return self.packed + self.constants + self.plain


@dataclass(frozen=True)
class Workload:
    """What a recipe trains, on any machine."""

    rows: int
    steps: int  # optimizer steps of the complete training
    steps_per_epoch: int
    tokens: int  # of all rows, without padding
    trainable_parameters: int
    total_parameters: int  # of base model and adapter, if there is one

    @property
    def epochs(self) -> float:
        """Passes over the rows."""
        return self.steps / self.steps_per_epoch

    def describe(self, recipe: Recipe) -> tuple[str, str]:
        """The lines on steps and parameters for the terminal."""
        fraction = self.trainable_parameters / self.total_parameters
        passes = f"{self.epochs:g} epoch{'s' if self.epochs != 1 else ''}"
        examples = "texts" if recipe.arguments.stage == "grpo" else "rows"
        return (
            f"steps        {self.steps:,} of {recipe.arguments.global_batch_size} {examples}, {passes}",
            f"parameters   {self.trainable_parameters:,} of {self.total_parameters:,} trained ({fraction:.2%})",
        )


def count_workload(recipe: Recipe, rows: Dataset, model: PreTrainedModel) -> Workload:
    """Steps, tokens and parameters; `model` is from [`~training.construction.build_on_meta`]."""
    args = recipe.training
    if recipe.arguments.stage == "grpo":
        steps_per_epoch = steps_of_epoch(recipe, len(rows))
    else:
        steps_per_epoch = math.ceil(len(rows) / recipe.arguments.global_batch_size)
    trained, total = count_parameters(model)
    return Workload(
        rows=len(rows),
        steps=args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * steps_per_epoch),
        steps_per_epoch=steps_per_epoch,
        tokens=sum(map(len, rows["input_ids"])),
        trainable_parameters=trained,
        total_parameters=total,
    )


def as_trained(recipe: Recipe) -> tuple[Recipe, int]:
    """A recipe with the layout of its training, and how many texts it has to a row; TRL pads those of the stage `grpo`."""
    if recipe.arguments.stage != "grpo":
        return recipe, 1
    padded = replace(recipe, arguments=replace(recipe.arguments, batch_layout="padded"))
    return padded, recipe.training.num_generations


def lay_out(rows: Dataset, collator, batch_size: int, seed: int, texts: int = 1) -> Layout:
    """Shapes of the micro batches of one epoch over shuffled rows; they are nearly the same for any order.

    Each row counts as `texts` of its length.
    """
    batches = []
    for examples in _shuffled_batches(rows.to_list(), batch_size, seed, texts):
        batch = collator(examples)
        batches.append((*batch["input_ids"].shape, int((batch["labels"] != IGNORED).sum())))
    return Layout(batches)


def count_padded_tokens(rows: Dataset, batch_size: int, seed: int, texts: int = 1) -> int:
    """Tokens of one epoch with one example per row, each batch padded to its longest, as TRL's collator does."""
    lengths = [len(ids) for ids in rows["input_ids"]]
    return sum(max(batch) * len(batch) for batch in _shuffled_batches(lengths, batch_size, seed, texts))


def _shuffled_batches(items: list, batch_size: int, seed: int, texts: int) -> Iterator[list]:
    shuffled = torch.randperm(len(items), generator=torch.Generator().manual_seed(seed)).tolist()
    order = [index for index in shuffled for _ in range(texts)]
    for start in range(0, len(order), batch_size):
        yield [items[index] for index in order[start : start + batch_size]]


def count_step(
    recipe: Recipe, model: PreTrainedModel, dtype: torch.dtype, rows: int, length: int, scored: int
) -> StepCost:
    """Run one training step of a micro batch of shape `(rows, length)` on fake tensors and count it.

    `dtype` is the compute dtype; below float32 the step runs under autocast, as in training. `scored` is the number of positions
    that the LM head sees.
    """
    kept: list[torch.Tensor] = []
    at_head: list[int] = []
    head = output_layer(model)
    counter, living = FlopCounterMode(display=False), LivingBytes()
    filled = -(-scored // training.SCORED_ROUND_TO) * training.SCORED_ROUND_TO

    def narrow(hidden: torch.Tensor) -> torch.Tensor:
        return hidden.flatten(0, 1)[:filled]

    with FakeTensorMode(), contextlib.ExitStack() as hooks:
        weights = _fake_weights(model, _trained_dtype(recipe))
        inputs = {
            "input_ids": torch.zeros(rows, length, dtype=torch.long),
            "position_ids": torch.zeros(rows, length, dtype=torch.long),
            "use_cache": False,
        }
        if recipe.arguments.batch_layout == "shared_prefix":
            inputs["attention_mask"] = torch.zeros(rows, 1, length, length, dtype=dtype)
        noted = head.register_forward_pre_hook(lambda module, args: at_head.append(living.now))
        hooks.callback(noted.remove)
        if not recipe.has_head:
            hooks.enter_context(lm_head_input(model, narrow))
        elif not is_encoder(model.config):
            per_row = math.ceil(scored / rows)
            hooks.enter_context(head_at(model, torch.zeros(rows, per_row, dtype=torch.long)))
        # bitsandbytes' 8-bit layers keep their input (0.50.2, `MatMul8bitLt.forward`).
        for layer in _frozen_linear(model) if recipe.model.load_in_8bit else ():
            handle = layer.register_forward_pre_hook(lambda module, args: kept.append(args[0]))
            hooks.callback(handle.remove)
        model.train()
        living.ignore(weights.values(), inputs.values())
        # As in training.train
        with counter, living, disable_input_dtype_casting(model, active=dtype != torch.float32):
            torch.func.functional_call(_Step(model, scored, dtype), weights, (inputs,))
    cost = StepCost(counter.get_total_flops(), living.peak)
    if not recipe.training.activation_checkpointing:
        return cost
    # It keeps each layer's input and one layer's tensors, and runs the forward pass twice (Chen et al. 2016). With a frozen base
    # model a forward pass is about half of the products, because the backward pass computes no gradients of its weights; otherwise
    # it is a third.
    layers, body = model.config.num_hidden_layers, at_head[0]
    inputs_bytes = layers * rows * length * model.config.hidden_size * dtype.itemsize
    flops = cost.flops * 3 // 2 if recipe.model.use_peft else cost.flops * 4 // 3
    return StepCost(flops, cost.peak_bytes - body + body // layers + inputs_bytes)


def _trained_dtype(recipe: Recipe) -> torch.dtype:
    """What is trained is in float32; on a quantised base TRL's SFTTrainer casts an adapter to bfloat16 (1.16, sft_trainer.py)."""
    quantised = recipe.model.load_in_4bit or recipe.model.load_in_8bit
    return torch.bfloat16 if quantised and not recipe.has_head else torch.float32


def _fake_weights(model: PreTrainedModel, trained_dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Empty tensors for all parameters and buffers, by their names in [`_Step`]."""
    weights = {
        f"model.{name}": torch.empty(
            weight.shape,
            dtype=trained_dtype if weight.requires_grad else weight.dtype,
            requires_grad=weight.requires_grad,
        )
        for name, weight in model.named_parameters()
    }
    return weights | {f"model.{name}": torch.empty(it.shape, dtype=it.dtype) for name, it in model.named_buffers()}


class _Step(torch.nn.Module):
    """Forward and backward pass in one call, so that both see the fake weights."""

    def __init__(self, model: PreTrainedModel, scored: int, dtype: torch.dtype):
        super().__init__()
        self.model, self.scored, self.dtype = model, scored, dtype

    def forward(self, inputs: dict) -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.dtype != torch.float32):
            logits = self.model(**inputs).logits
            logits = logits.flatten(0, -2)[: self.scored].float()
            loss = F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long))
        loss.backward()


class LivingBytes(TorchDispatchMode):
    """Counts the bytes of live tensors created within the context: current (`now`) and `peak`. Shared storage counts once."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self._sizes: dict[int, int] = {}

    def ignore(self, *groups) -> None:
        """Do not count these tensors, which existed before."""
        for tensor in tree_leaves([list(group) for group in groups]):
            if isinstance(tensor, torch.Tensor):
                self._sizes[tensor.untyped_storage()._cdata] = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        """Run an operation and count its results."""
        made = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                self._add(tensor.untyped_storage())
        return made

    def _add(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._sizes:
            self._sizes[key] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._remove, key)

    def _remove(self, key: int) -> None:
        self.now -= self._sizes.pop(key)


def count_sizes(recipe: Recipe, model: PreTrainedModel) -> Sizes:
    """Sizes of a model from [`~training.construction.build_on_meta`], its base model quantised as in the recipe.

    Embeddings, norms and the LM head keep their dtype (Transformers, `get_keys_to_not_convert`).
    """
    four, eight = recipe.model.load_in_4bit, recipe.model.load_in_8bit
    layers = {id(layer.weight): layer.weight for layer in _frozen_linear(model)} if four or eight else {}
    packed = list(layers.values())
    others = [weight for weight in model.parameters() if not weight.requires_grad and id(weight) not in layers]
    width = _trained_dtype(recipe).itemsize
    return Sizes(
        packed=sum(-(-weight.numel() // 2) if four else weight.numel() for weight in packed),
        constants=sum(
            _four_bit_constants(weight.numel(), recipe.model.use_bnb_nested_quant) if four else 4 * weight.shape[0]
            for weight in packed
        ),
        plain=sum(weight.nbytes for weight in others),
        before=sum(weight.nbytes for weight in packed),
        unpacked=max((weight.nbytes for weight in packed), default=0),
        trained=sum(weight.numel() for weight in model.parameters() if weight.requires_grad),
        bytes_per_trained=(width, width, 2 * width),
    )


def linear_layers(model: PreTrainedModel) -> list[torch.nn.Linear]:
    """All linear layers of a model except its head."""
    heads = set(output_layer(model).modules())
    return [module for module in model.modules() if isinstance(module, torch.nn.Linear) and module not in heads]


def _frozen_linear(model: PreTrainedModel) -> list[torch.nn.Linear]:
    """The layers that bitsandbytes quantises: the linear ones of the base model."""
    return [module for module in linear_layers(model) if not module.weight.requires_grad]


def _four_bit_constants(weights: int, nested: bool) -> int:
    blocks = -(-weights // _BLOCK)
    if not nested:
        return 4 * blocks + _TABLE_BYTES
    return blocks + 4 * -(-blocks // _NESTED_BLOCK) + _TABLE_BYTES + _NESTED_TABLE_BYTES
