"""What a recipe will cost, found without its weights: steps, tokens, parameters, memory and time.

The model is built on the meta device, and one training step of its largest batch runs on fake tensors, which have shapes
but no values ([`torch._subclasses.FakeTensorMode`]). That step is counted, not guessed: every matrix product by PyTorch's
own FLOP formulas (`torch.utils.flop_counter`), and every tensor by its storage for as long as it lives. The plan for GPUs
that are not at hand, in `gpu_planning.py`, is made from the same counts.
"""

import copy
import math
import time
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, replace

import psutil
import torch
import torch.nn.functional as F  # noqa: N812  (the field's usual name)
from datasets import Dataset
from peft import PeftModel, get_peft_model
from peft.helpers import disable_input_dtype_casting
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedTokenizerBase

from radrecipes.errors import InputError
from radrecipes.models import base as models
from radrecipes.models.convert import DEFAULT_BASE
from radrecipes.planning.base_shapes import shape_of
from radrecipes.recipe import Recipe
from radrecipes.training import data as inspection
from radrecipes.training import trainer as training
from radrecipes.training.collators import IGNORED

# Share of a step that is matrix products; the rest is norms, softmax, casts, optimizer and Python. Measured with the
# default recipe on 2 cores: 0.44 to 0.47 of six steps, each beside its own measurement of products.
PRODUCT_SHARE = 0.45
# Growth of a CPU process's heap over the tensors that live at once: a share of them for freed blocks that no later tensor fits,
# and oneDNN's kernels, which it keeps for every shape of a batch. Fitted to runs of the default recipes of 8 steps to 515
# (benchmarks/README.md). A GPU's allocator returns its blocks.
CPU_HEAP_SHARE, CPU_KERNEL_BYTES_A_SHAPE, CPU_KERNEL_BYTES = 0.15, 40 * 2**20, 2**29
# Context and libraries of one process on a GPU, in bytes: a guess until one was measured. On a CPU the planning process is
# measured instead.
GPU_CONTEXT_BYTES = 2**30
# bitsandbytes 0.50.2, functional.py: a float32 constant for 64 weights; nested, a byte for 64 and a float32 for 64 x 256; and a
# table of 16 for each layer, nested one of 256 and an offset more. 8-bit: a float32 for each output row.
_BLOCK, _NESTED_BLOCK = 64, 256
_TABLE_BYTES, _NESTED_TABLE_BYTES = 16 * 4, 256 * 4 + 4


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
        peak_bytes (`int`):
            Bytes of all tensors that live at the same time at most, weights and inputs not counted.
    """

    flops: int
    peak_bytes: int


@dataclass(frozen=True)
class Sizes:
    """Bytes of a base, and parameters of its adapter.

    Args:
        packed (`int`):
            Weights of quantised layers; 0 where nothing is quantised.
        constants (`int`):
            What unpacks them.
        plain (`int`):
            The rest of the base in its dtype: embeddings, norms, LM head; the whole base where nothing is quantised.
        before (`int`):
            The quantised layers as they are loaded, before they are packed; 0 where nothing is quantised.
        unpacked (`int`):
            The largest quantised weight in the compute dtype: the backward pass unpacks one after the other.
        trained (`int`):
            Parameters of the adapter.
        bytes_per_trained (`tuple[int, int, int]`):
            Of each: itself, its gradient, and AdamW's two moments.
    """

    packed: int
    constants: int
    plain: int
    before: int
    unpacked: int
    trained: int
    bytes_per_trained: tuple[int, int, int]

    @property
    def base(self) -> int:
        """Bytes of the whole base."""
        return self.packed + self.constants + self.plain


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
            Python with its libraries; on a CPU also what quantising the base leaves in the heap.
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


@dataclass(frozen=True)
class Basis:
    """What a plan is made from.

    Args:
        rows ([`~datasets.Dataset`]):
            Training rows, with columns `input_ids` and `labels`.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            What counted their tokens.
        config ([`~transformers.PretrainedConfig`]):
            The base's, or its sizes.
        note (`str`):
            What stands in for files that are not on this machine, and how to get them; empty where nothing does.
    """

    rows: Dataset
    tokenizer: PreTrainedTokenizerBase
    config: PretrainedConfig
    note: str = ""


def load_basis(recipe: Recipe) -> Basis:
    """Training rows and configuration of a recipe's base, without its weights.

    Where the files of a base are not on this machine and its sizes are known ([`~base_shapes.SHAPES`]), these and the default
    base's tokenizer stand in, and nothing is downloaded.

    Args:
        recipe ([`Recipe`]):
            The recipe.

    Returns:
        [`Basis`]

    Raises:
        [`InputError`]: dataset, tokenizer or configuration cannot be loaded.
    """
    model_id = recipe.model.model_name_or_path
    shape = shape_of(model_id)
    if shape is None or inspection.tokenizer_is_local(recipe):
        data = inspection.load_training_data(recipe)
        return Basis(data.rows.rows, data.tokenizer, models.load_config(recipe.model))
    # This project's own templates belong to the tokenizer that is not here.
    other = replace(recipe, model=copy.copy(recipe.model), training=copy.copy(recipe.training))
    other.model.model_name_or_path, other.model.model_revision = DEFAULT_BASE, None
    other.training.chat_template_path = None
    files = " ".join(f"--include '{pattern}'" for pattern in ("*.json", "tokenizer*", "*.txt", "*.jinja"))
    revision = f" --revision {recipe.model.model_revision}" if recipe.model.model_revision else ""
    fetch = f"`hf download {model_id}{revision} {files}` gets them"
    if not inspection.tokenizer_is_local(other):
        raise InputError(
            f"the tokenizer of {model_id} is not on this machine ({fetch}), nor that of {DEFAULT_BASE}, which could stand in "
            "(`make model`)",
            str(recipe.path),
        )
    data = inspection.load_training_data(other, max_dropped_fraction=1.0)
    note = f"configuration and tokenizer of {model_id} are not on this machine: known sizes, and lengths by {DEFAULT_BASE}'s"
    return Basis(data.rows.rows, data.tokenizer, shape, f"{note} tokenizer; {fetch}")


def make_plan(
    recipe: Recipe,
    rows: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    measure_seconds: float = 1.0,
    config: PretrainedConfig | None = None,
) -> Plan:
    """Plan a recipe for one process of this machine.

    Args:
        recipe ([`Recipe`]):
            The recipe; [`~training.divide_batch`] has been applied.
        rows ([`~datasets.Dataset`]):
            Columns `input_ids` and `labels`.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Names the padding token.
        measure_seconds (`float`, *optional*, defaults to `1.0`):
            How long products are timed.
        config ([`~transformers.PretrainedConfig`], *optional*):
            The base's; loaded where left out.

    Returns:
        [`Plan`]

    Raises:
        [`InputError`]: the base model's configuration cannot be loaded.
    """
    dtype = models.compute_dtype(recipe.model.dtype)
    args = recipe.training
    layout = lay_out_recipe(recipe, rows, tokenizer, dtype)
    # Only "eager" keeps the attention matrix; every fused kernel keeps about what SDPA does.
    eager = models.attention_for(recipe.model, training.longest_row(recipe)) == "eager"
    model = build_on_meta(recipe, config or models.load_config(recipe.model), dtype, eager)
    cost, sizes = count_largest(recipe, model, dtype, layout), count_sizes(recipe, model)

    on_gpu = torch.cuda.is_available()
    living = cost.peak_bytes + sizes.unpacked
    steps, steps_per_epoch = count_steps(recipe, len(rows))
    shapes = len({batch[:2] for batch in layout.batches})
    kernels = min(living, shapes * CPU_KERNEL_BYTES_A_SHAPE, CPU_KERNEL_BYTES)
    growth = 0.0 if on_gpu else CPU_HEAP_SHARE * living + kernels
    # Layers are packed one after the other; what they were before stays in a CPU's heap, in 8 bit a float16 copy as well
    # (bitsandbytes 0.50.2). Measured: 0.39 GiB behind an 8-bit SmolLM2-135M, 0.18 behind a 4-bit one.
    left = sizes.before * (2 if recipe.model.load_in_8bit else 1)
    largest_rows, largest_length, _ = layout.largest
    tokens = largest_rows * largest_length
    return Plan(
        rows=len(rows),
        steps=steps,
        epochs=steps / steps_per_epoch,
        tokens=sum(map(len, rows["input_ids"])),
        computed_tokens=layout.tokens,
        padded_tokens=count_padded_tokens(rows, args.per_device_train_batch_size, args.seed),
        trainable_parameters=sizes.trained,
        total_parameters=model.get_nb_trainable_parameters()[1],
        weights_bytes=sizes.base,
        adapter_bytes=sum(sizes.bytes_per_trained) * sizes.trained,
        activation_bytes=round(living + growth),
        framework_bytes=GPU_CONTEXT_BYTES if on_gpu else psutil.Process().memory_info().rss + left,
        flops_per_step=cost.flops / tokens * layout.tokens / steps_per_epoch,
        flops_per_second=measure_products(dtype, tokens, largest_linear_shape(model), measure_seconds),
        compute_dtype=str(dtype).removeprefix("torch."),
    )


def assumptions(plan: Plan) -> list[str]:
    """What the estimate takes for granted, one line each."""
    on_gpu = torch.cuda.is_available()
    heap = f", {CPU_HEAP_SHARE:.0%} and up to {CPU_KERNEL_BYTES / 2**30:g} GiB more for a CPU's heap"
    place = (
        "GPU context"
        if on_gpu
        else "this process as it stands, its libraries loaded, and what quantising a base leaves in the heap"
    )
    return [
        f"products at {plan.flops_per_second / 1e9:,.0f} GFLOP/s in {plan.compute_dtype}, as just measured here; "
        "other work on the machine makes it slower",
        f"products take {PRODUCT_SHARE:.0%} of a step (default recipe, 2 cores); loading and saving are not counted",
        f"one process; activations are the tensors of the largest batch, counted on fake ones{'' if on_gpu else heap}",
        f"{plan.adapter_bytes // plan.trainable_parameters} bytes a trained parameter: itself, its gradient, two AdamW moments",
        f"framework: {place}",
    ]


def describe(plan: Plan, recipe: Recipe) -> list[str]:
    """The plan for a terminal, one line each."""
    share, gib = plan.trainable_parameters / plan.total_parameters, 2**30
    ratio = plan.padded_tokens / plan.computed_tokens
    return [
        f"steps        {plan.steps:,} of {recipe.arguments.global_batch_size} rows, {plan.epochs:g} epochs",
        f"tokens       {plan.tokens:,} in {plan.rows:,} rows; computed an epoch: {plan.computed_tokens:,} as",
        f"             {recipe.arguments.batch_layout}, {plan.padded_tokens:,} as TRL pads ({ratio:.2f} times as many)",
        f"parameters   {plan.trainable_parameters:,} of {plan.total_parameters:,} trained ({share:.2%})",
        f"memory       {plan.memory_bytes / gib:.1f} GiB: weights {plan.weights_bytes / gib:.2f}, adapter with "
        f"gradients and AdamW {plan.adapter_bytes / gib:.2f}, activations {plan.activation_bytes / gib:.2f}, "
        f"framework {plan.framework_bytes / gib:.2f}",
        f"time         {plan.seconds / 60:.1f} minutes, {plan.seconds_per_step:.2f} s a step",
        "assumed      " + "\n             ".join(assumptions(plan)),
    ]


def count_steps(recipe: Recipe, rows: int) -> tuple[int, int]:
    """Optimizer steps of the whole training, and of an epoch.

    Args:
        recipe ([`Recipe`]):
            Epochs, or steps at most.
        rows (`int`):
            Training rows.
    """
    args, in_epoch = recipe.training, math.ceil(rows / recipe.arguments.global_batch_size)
    return (args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * in_epoch)), in_epoch


def lay_out_recipe(recipe: Recipe, rows: Dataset, tokenizer: PreTrainedTokenizerBase, dtype: torch.dtype) -> Layout:
    """[`lay_out`] by a recipe's own batch, layout and seed; [`~training.divide_batch`] has been applied."""
    collator = training.collator_for(recipe.arguments.batch_layout, tokenizer, dtype)
    return lay_out(rows, collator, recipe.training.per_device_train_batch_size, recipe.training.seed)


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


def build_on_meta(recipe: Recipe, config: PretrainedConfig, dtype: torch.dtype, eager: bool) -> PeftModel:
    """The base with a fresh adapter, on the meta device: every shape, no memory.

    Args:
        recipe ([`Recipe`]):
            Its adapter.
        config ([`~transformers.PretrainedConfig`]):
            The base's, from [`~models.load_config`].
        dtype (`torch.dtype`):
            Of the base; that of quantised layers too.
        eager (`bool`):
            Whether attention keeps its matrix.

    Raises:
        [`InputError`]: the base lacks a layer that the recipe adapts.
    """
    with torch.device("meta"):
        base = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="eager" if eager else "sdpa")
        training.check_targets(recipe, base)
        return get_peft_model(base, training.lora_config(recipe), low_cpu_mem_usage=True)


def count_largest(recipe: Recipe, model: PeftModel, dtype: torch.dtype, layout: Layout) -> StepCost:
    """[`count_step`] of a recipe's largest batch."""
    return count_step(
        model,
        dtype,
        *layout.largest,
        own_mask=recipe.arguments.batch_layout == "shared_prefix",
        adapter_dtype=_adapter_dtype(recipe),
        keeps_inputs=recipe.model.load_in_8bit,
        checkpointing=recipe.training.activation_checkpointing,
    )


def _adapter_dtype(recipe: Recipe) -> torch.dtype:
    """PEFT widens an adapter to float32; on a quantised base TRL's SFTTrainer casts it to bfloat16 (1.16, sft_trainer.py)."""
    return torch.bfloat16 if recipe.model.load_in_4bit or recipe.model.load_in_8bit else torch.float32


def count_step(
    model: PeftModel,
    dtype: torch.dtype,
    rows: int,
    length: int,
    scored: int,
    own_mask: bool = True,
    adapter_dtype: torch.dtype = torch.float32,
    keeps_inputs: bool = False,
    checkpointing: bool = False,
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
        adapter_dtype (`torch.dtype`, *optional*, defaults to `torch.float32`):
            Of the adapter's weights.
        keeps_inputs (`bool`, *optional*, defaults to `False`):
            Whether frozen layers keep their input, as bitsandbytes' 8-bit ones do (0.50.2, `MatMul8bitLt.forward`).
        checkpointing (`bool`, *optional*, defaults to `False`):
            Whether activations are checkpointed.

    Returns:
        [`StepCost`]
    """
    kept: list[torch.Tensor] = []
    at_head: list[int] = []
    counter, living = FlopCounterMode(display=False), LivingBytes()
    with FakeTensorMode():
        weights = {
            f"model.{name}": torch.empty(
                weight.shape,
                dtype=adapter_dtype if weight.requires_grad else weight.dtype,
                requires_grad=weight.requires_grad,
            )
            for name, weight in model.named_parameters()
        }
        weights |= {f"model.{name}": torch.empty(it.shape, dtype=it.dtype) for name, it in model.named_buffers()}
        inputs = {
            "input_ids": torch.zeros(rows, length, dtype=torch.long),
            "position_ids": torch.zeros(rows, length, dtype=torch.long),
            "use_cache": False,
        }
        if own_mask:
            inputs["attention_mask"] = torch.zeros(rows, 1, length, length, dtype=dtype)
        head = model.get_output_embeddings()
        filled = -(-scored // training.SCORED_ROUND_TO) * training.SCORED_ROUND_TO

        def narrow(module: torch.nn.Module, args: tuple) -> tuple:
            at_head.append(living.now)
            return (args[0].flatten(0, 1)[:filled],)

        handles = [head.register_forward_pre_hook(narrow)]
        if keeps_inputs:
            for layer in _frozen_linear(model):
                handles.append(layer.register_forward_pre_hook(lambda module, args: kept.append(args[0])))
        model.train()
        living.ignore(weights.values(), inputs.values())
        try:
            # As in training.train
            with counter, living, disable_input_dtype_casting(model, active=dtype != torch.float32):
                torch.func.functional_call(_Step(model, scored, dtype), weights, (inputs,))
        finally:
            for handle in handles:
                handle.remove()
    cost = StepCost(counter.get_total_flops(), living.peak)
    if not checkpointing:
        return cost
    config = model.config
    inputs_bytes = config.num_hidden_layers * rows * length * config.hidden_size * dtype.itemsize
    return _with_checkpointing(cost, at_head[0], config.num_hidden_layers, inputs_bytes)


class _Step(torch.nn.Module):
    """Forward and backward pass in one call, so that both see the fake weights."""

    def __init__(self, model: PeftModel, scored: int, dtype: torch.dtype):
        super().__init__()
        self.model, self.scored, self.dtype = model, scored, dtype

    def forward(self, inputs: dict) -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.dtype != torch.float32):
            logits = self.model(**inputs).logits
            loss = F.cross_entropy(logits[: self.scored].float(), torch.zeros(self.scored, dtype=torch.long))
        loss.backward()


class LivingBytes(TorchDispatchMode):
    """Within the context, how many bytes of tensors that were made there live now, and lived at the same time at most.

    Attributes:
        now, peak (`int`):
            Bytes; tensors that share their storage count once.
    """

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self._sizes: dict[int, int] = {}

    def ignore(self, *groups) -> None:
        """Count these tensors as nothing: they were there before."""
        for tensor in tree_leaves([list(group) for group in groups]):
            if isinstance(tensor, torch.Tensor):
                self._sizes[tensor.untyped_storage()._cdata] = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        """Run an operation and note what it made."""
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


def _with_checkpointing(cost: StepCost, body: int, layers: int, inputs: int) -> StepCost:
    """Checkpointing keeps each layer's input and one layer's tensors, and runs the forward pass twice (Chen et al. 2016).

    With a frozen base a forward pass is about half of the products: the backward pass makes no gradients of its weights.
    `body` is what lives when the LM head begins.
    """
    return StepCost(cost.flops * 3 // 2, cost.peak_bytes - body + body // layers + inputs)


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


def count_sizes(recipe: Recipe, model: PeftModel) -> Sizes:
    """Sizes of a model on the meta device, its base quantised as the recipe says.

    Args:
        recipe ([`Recipe`]):
            What is quantised; embeddings, norms and the LM head keep their dtype (Transformers, `get_keys_to_not_convert`).
        model ([`~peft.PeftModel`]):
            From [`build_on_meta`].

    Returns:
        [`Sizes`]
    """
    four, eight = recipe.model.load_in_4bit, recipe.model.load_in_8bit
    layers = {id(layer.weight): layer.weight for layer in _frozen_linear(model)} if four or eight else {}
    packed = list(layers.values())
    others = [weight for weight in model.parameters() if not weight.requires_grad and id(weight) not in layers]
    width = _adapter_dtype(recipe).itemsize
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


def _frozen_linear(model: PeftModel) -> list[torch.nn.Linear]:
    """The layers that bitsandbytes quantises: all linear ones of the base but the LM head."""
    head = model.get_output_embeddings()
    linear = [module for module in model.modules() if isinstance(module, torch.nn.Linear) and module is not head]
    return [module for module in linear if not module.weight.requires_grad]


def _four_bit_constants(weights: int, nested: bool) -> int:
    blocks = -(-weights // _BLOCK)
    if not nested:
        return 4 * blocks + _TABLE_BYTES
    return blocks + 4 * -(-blocks // _NESTED_BLOCK) + _TABLE_BYTES + _NESTED_TABLE_BYTES
