"""What a recipe will cost, found without its weights: steps, tokens, parameters, memory and time.

The model is built on the meta device, and one training step of its largest batch runs on fake tensors, which have shapes
but no values ([`torch._subclasses.FakeTensorMode`]). That step is counted, not guessed: every matrix product by PyTorch's
own FLOP formulas (`torch.utils.flop_counter`), and every tensor that autograd keeps for the backward pass by its storage.
"""

import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

import psutil
import torch
import torch.nn.functional as F  # noqa: N812  (the field's usual name)
from datasets import Dataset
from peft import PeftModel, get_peft_model
from torch._subclasses import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedTokenizerBase

from radrecipes import models, training
from radrecipes.batching import IGNORED
from radrecipes.recipe import Recipe

# Share of a step that is matrix products; the rest is norms, softmax, casts, optimizer and Python. Measured with the
# default recipe on 2 cores: 0.44 to 0.47 of six steps, each beside its own measurement of products.
PRODUCT_SHARE = 0.45
# Growth of a CPU process's heap over what autograd keeps: temporaries, and freed blocks that no later tensor fits.
# Measured with the default recipe's model at two batch shapes: 1.6 and 1.7. A GPU's allocator returns its blocks whole.
CPU_HEAP_GROWTH = 1.65
# Context and libraries of one process on a GPU, in bytes; on a CPU the planning process is measured instead.
_GPU_CONTEXT_BYTES = 700 * 2**20
# Bytes for each trained parameter in float32: itself, its gradient, and AdamW's two moments (Rajbhandari et al. 2020,
# ZeRO, section 3.1, without the 16-bit copies, which LoRA under autocast does not keep).
_BYTES_PER_TRAINED = 4 + 4 + 8


@dataclass(frozen=True)
class Layout:
    """Sizes of one epoch's micro batches.

    Args:
        batches (`list[tuple[int, int, int]]`):
            Rows, row length in tokens, and scored tokens of each.
    """

    batches: list[tuple[int, int, int]]

    @property
    def tokens(self) -> int:
        """Tokens computed in the epoch, padding included."""
        return sum(rows * length for rows, length, _ in self.batches)

    @property
    def largest(self) -> tuple[int, int, int]:
        """The batch with the most tokens."""
        return max(self.batches, key=lambda batch: (batch[0] * batch[1], batch))


@dataclass(frozen=True)
class StepCost:
    """One forward and backward pass of a micro batch.

    Args:
        flops (`int`):
            Operations of all matrix products, a multiplication and an addition counting as two.
        saved_bytes (`int`):
            Bytes that autograd keeps for the backward pass, weights not counted.
    """

    flops: int
    saved_bytes: int


@dataclass(frozen=True)
class Plan:
    """What a recipe will cost on this machine.

    Args:
        rows (`int`):
            Training rows.
        steps (`int`):
            Optimizer steps of the whole training.
        epochs (`float`):
            Passes over the rows.
        tokens (`int`):
            Tokens of all rows, without padding.
        computed_tokens (`int`):
            Tokens computed in an epoch with the recipe's layout.
        padded_tokens (`int`):
            Tokens computed in an epoch with one padded example a row, as TRL does.
        trainable_parameters, total_parameters (`int`):
            Adapter, and adapter with base.
        weights_bytes, adapter_bytes, activation_bytes, framework_bytes (`int`):
            Memory of the base, of the adapter with gradients and AdamW states, of what the largest batch needs, and of
            Python with its libraries.
        flops_per_step (`float`):
            Matrix products of a mean optimizer step.
        flops_per_second (`float`):
            Measured on this machine in the compute dtype.
        compute_dtype (`str`):
            `"bfloat16"` or `"float32"`.
    """

    rows: int
    steps: int
    epochs: float
    tokens: int
    computed_tokens: int
    padded_tokens: int
    trainable_parameters: int
    total_parameters: int
    weights_bytes: int
    adapter_bytes: int
    activation_bytes: int
    framework_bytes: int
    flops_per_step: float
    flops_per_second: float
    compute_dtype: str

    @property
    def memory_bytes(self) -> int:
        """Estimated peak."""
        return self.weights_bytes + self.adapter_bytes + self.activation_bytes + self.framework_bytes

    @property
    def seconds_per_step(self) -> float:
        """Products at the measured rate, divided by their share of a step."""
        return self.flops_per_step / self.flops_per_second / PRODUCT_SHARE

    @property
    def seconds(self) -> float:
        """The whole training, loading not counted."""
        return self.steps * self.seconds_per_step


def make_plan(recipe: Recipe, rows: Dataset, tokenizer: PreTrainedTokenizerBase, measure_seconds: float = 1.0) -> Plan:
    """Plan a recipe on one process of this machine.

    Args:
        recipe ([`Recipe`]):
            The recipe; [`~training.divide_batch`] has been applied.
        rows ([`~datasets.Dataset`]):
            Columns `input_ids` and `labels`.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Names the padding token.
        measure_seconds (`float`, *optional*, defaults to `1.0`):
            How long products are timed.

    Returns:
        [`Plan`]

    Raises:
        [`InputError`]: the base model's configuration cannot be loaded.
    """
    dtype = models.compute_dtype(recipe.model.dtype)
    args = recipe.training
    collator = training.collator_for(recipe.arguments.batch_layout, tokenizer, dtype)
    layout = lay_out(rows, collator, args.per_device_train_batch_size, args.seed)
    padded = count_padded_tokens(rows, args.per_device_train_batch_size, args.seed)
    config = models.load_config(recipe.model)
    model = build_on_meta(recipe, config)
    trainable, total = model.get_nb_trainable_parameters()
    largest_rows, largest_length, _ = layout.largest
    cost = count_step(model, dtype, *layout.largest, own_mask=recipe.arguments.batch_layout == "shared_prefix")
    if args.activation_checkpointing:
        cost = _with_checkpointing(cost, config, largest_rows * largest_length, dtype.itemsize)

    steps_per_epoch = math.ceil(len(rows) / recipe.arguments.global_batch_size)
    steps = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * steps_per_epoch)
    flops_per_token = cost.flops / (largest_rows * largest_length)
    return Plan(
        rows=len(rows),
        steps=steps,
        epochs=steps / steps_per_epoch,
        tokens=sum(map(len, rows["input_ids"])),
        computed_tokens=layout.tokens,
        padded_tokens=padded,
        trainable_parameters=trainable,
        total_parameters=total,
        weights_bytes=_weights_bytes(model, recipe),
        adapter_bytes=_BYTES_PER_TRAINED * trainable,
        activation_bytes=round(cost.saved_bytes * (1.0 if torch.cuda.is_available() else CPU_HEAP_GROWTH)),
        framework_bytes=_GPU_CONTEXT_BYTES
        if torch.cuda.is_available()
        else psutil.Process(os.getpid()).memory_info().rss,
        flops_per_step=flops_per_token * layout.tokens / steps_per_epoch,
        flops_per_second=measure_products(
            dtype, largest_rows * largest_length, largest_linear_shape(model), measure_seconds
        ),
        compute_dtype=str(dtype).removeprefix("torch."),
    )


def assumptions(plan: Plan) -> list[str]:
    """What the estimate takes for granted, one line each."""
    place = "GPU context" if torch.cuda.is_available() else "this process as it stands, its libraries loaded"
    return [
        f"products at {plan.flops_per_second / 1e9:,.0f} GFLOP/s in {plan.compute_dtype}, as just measured here; "
        "other work on the machine makes it slower",
        f"products take {PRODUCT_SHARE:.0%} of a step (default recipe, 2 cores); loading and saving are not counted",
        "one process; activations are what autograd keeps in the largest batch, counted on fake tensors"
        + ("" if torch.cuda.is_available() else f", times {CPU_HEAP_GROWTH} for a CPU's heap"),
        f"{_BYTES_PER_TRAINED} bytes a trained parameter: float32 adapter, gradient, two AdamW moments",
        f"framework: {place}",
    ]


def lay_out(rows: Dataset, collator, batch_size: int, seed: int) -> Layout:
    """Micro batch sizes of one epoch over shuffled rows.

    Args:
        rows ([`~datasets.Dataset`]):
            Columns `input_ids` and `labels`.
        collator ([`SharedPrefixCollator`] or [`PaddedCollator`]):
            Lays out a batch.
        batch_size (`int`):
            Examples a batch.
        seed (`int`):
            Seed of the order; any order gives nearly the same sizes.

    Returns:
        [`Layout`]
    """
    batches = []
    for examples in _shuffled_batches(rows.to_list(), batch_size, seed):
        batch = collator(examples)
        batches.append((*batch["input_ids"].shape, int((batch["labels"] != IGNORED).sum())))
    return Layout(batches)


def count_padded_tokens(rows: Dataset, batch_size: int, seed: int) -> int:
    """Tokens of one epoch with one example a row, each batch padded to its longest, as TRL's collator does."""
    lengths = [len(ids) for ids in rows["input_ids"]]
    return sum(max(batch) * len(batch) for batch in _shuffled_batches(lengths, batch_size, seed))


def _shuffled_batches(items: list, batch_size: int, seed: int) -> Iterator[list]:
    order = torch.randperm(len(items), generator=torch.Generator().manual_seed(seed)).tolist()
    for start in range(0, len(order), batch_size):
        yield [items[index] for index in order[start : start + batch_size]]


def build_on_meta(recipe: Recipe, config: PretrainedConfig) -> PeftModel:
    """The base with a fresh adapter, on the meta device: every shape, no memory.

    Raises:
        [`InputError`]: the base lacks a layer that the recipe adapts.
    """
    dtype = models.compute_dtype(recipe.model.dtype)
    # Only "eager" keeps the attention matrix; every fused kernel keeps about what SDPA does.
    eager = models.attention_for(recipe.model, training.longest_row(recipe)) == "eager"
    with torch.device("meta"):
        base = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="eager" if eager else "sdpa")
        training.check_targets(recipe, base)
        return get_peft_model(base, training.lora_config(recipe), low_cpu_mem_usage=True)


def count_step(
    model: PeftModel, dtype: torch.dtype, rows: int, length: int, scored: int, own_mask: bool = True
) -> StepCost:
    """Run one training step on fake tensors and count it.

    Args:
        model ([`~peft.PeftModel`]):
            On the meta device.
        dtype (`torch.dtype`):
            Compute dtype; below float32 the step runs under autocast, as in training.
        rows, length (`int`):
            Shape of the micro batch.
        scored (`int`):
            Positions that the LM head sees.
        own_mask (`bool`, *optional*, defaults to `True`):
            Whether the batch brings its additive mask of shape `(rows, 1, length, length)`.

    Returns:
        [`StepCost`]
    """
    saved: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage()._cdata] = tensor  # views share their storage: count it once
        return tensor

    counter = FlopCounterMode(display=False)
    with FakeTensorMode():
        weights = {
            name: torch.empty(
                weight.shape,
                dtype=torch.float32 if weight.requires_grad else weight.dtype,
                requires_grad=weight.requires_grad,
            )
            for name, weight in model.named_parameters()
        }
        weights |= {name: torch.empty(buffer.shape, dtype=buffer.dtype) for name, buffer in model.named_buffers()}
        inputs = {
            "input_ids": torch.zeros(rows, length, dtype=torch.long),
            "position_ids": torch.zeros(rows, length, dtype=torch.long),
            "use_cache": False,
        }
        if own_mask:
            inputs["attention_mask"] = torch.zeros(rows, 1, length, length, dtype=dtype)
        head = model.get_output_embeddings()
        filled = -(-scored // training.SCORED_ROUND_TO) * training.SCORED_ROUND_TO
        handle = head.register_forward_pre_hook(lambda module, args: (args[0].flatten(0, 1)[:filled],))
        autocast = torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype != torch.float32)
        model.train()
        try:
            with counter:
                with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), autocast:
                    logits = torch.func.functional_call(model, weights, (), inputs).logits
                    loss = F.cross_entropy(logits[:scored].float(), torch.zeros(scored, dtype=torch.long))
                loss.backward()
        finally:
            handle.remove()
        own = {weight.untyped_storage()._cdata for weight in weights.values()}
        saved_bytes = sum(tensor.untyped_storage().nbytes() for key, tensor in saved.items() if key not in own)
    return StepCost(counter.get_total_flops(), saved_bytes)


def largest_linear_shape(model: PeftModel) -> tuple[int, int]:
    """Output and input features of the largest linear layer inside the model: most of a step's products have its shape."""
    head = model.get_output_embeddings()
    shapes = [
        tuple(module.weight.shape)
        for module in model.modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    ]
    return max(shapes, key=math.prod, default=tuple(head.weight.shape))


def measure_products(dtype: torch.dtype, tokens: int, shape: tuple[int, int], seconds: float = 1.0) -> float:
    """Matrix products of this machine in operations a second.

    The rate is that of the fastest twentieth: what the machine does while nothing else runs on it.

    Args:
        dtype (`torch.dtype`):
            Compute dtype.
        tokens (`int`):
            Rows of the activations.
        shape (`tuple[int, int]`):
            Output and input features of the layer.
        seconds (`float`, *optional*, defaults to `1.0`):
            How long to measure.

    Returns:
        `float`
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    left = torch.randn(tokens, shape[1], device=device).to(dtype)
    right = torch.randn(*shape, device=device).to(dtype)
    times: list[float] = []
    deadline = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < deadline:
        began = time.perf_counter()
        F.linear(left, right)
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return 2 * tokens * math.prod(shape) / sorted(times)[len(times) // 20]


def _with_checkpointing(cost: StepCost, config: PretrainedConfig, tokens: int, itemsize: int) -> StepCost:
    """Checkpointing keeps each layer's input and one layer's tensors, and runs the forward pass twice (Chen et al. 2016).

    With a frozen base a forward pass is about half of the products: the backward pass makes no gradients of its weights.
    """
    layers = config.num_hidden_layers
    return StepCost(cost.flops * 3 // 2, cost.saved_bytes // layers + layers * tokens * config.hidden_size * itemsize)


def _weights_bytes(model: PeftModel, recipe: Recipe) -> int:
    """Bytes of the base; quantised linear layers as in Dettmers et al. 2023, QLoRA, section 3.

    4-bit: half a byte, and one float32 constant for 64 parameters (0.5 bit each; 0.127 bit with nested quantisation).
    8-bit: one byte. Embeddings, norms and the LM head keep their dtype.
    """
    if recipe.model.load_in_4bit:
        per_quantised = (4 + (0.127 if recipe.model.use_bnb_nested_quant else 0.5)) / 8
    else:
        per_quantised = 1.0 if recipe.model.load_in_8bit else None
    head = model.get_output_embeddings()
    linear = {
        id(module.weight)
        for module in model.modules()
        if isinstance(module, torch.nn.Linear) and module is not head and not module.weight.requires_grad
    }
    total = 0.0
    for weight in model.parameters():
        if not weight.requires_grad:
            quantised = per_quantised is not None and id(weight) in linear
            total += weight.numel() * (per_quantised if quantised else weight.element_size())
    return round(total)
