"""What a recipe will cost on GPUs that are not at hand: memory of each under every launch configuration, and time.

Products and tensors of a step are counted by [`planning.count_step`]; here they meet a table of GPUs and what DDP, FSDP and
ZeRO divide.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from datasets import Dataset
from peft import PeftModel
from rapidfuzz import fuzz, process
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from radrecipes.errors import InputError
from radrecipes.launch import compatibility
from radrecipes.launch.spec import Engine
from radrecipes.models import base as models
from radrecipes.planning import cpu as planning
from radrecipes.planning.gpus import Gpu, find_gpu
from radrecipes.recipe import Recipe
from radrecipes.training import trainer as training

# Share of a GPU's memory that a plan may fill: the rest is what the allocator cannot use.
USABLE = 0.95
# Share of the peak that products reach, by method. Assumed: no run of these recipes on a GPU was measured yet. Two published
# runs of bf16 LoRA lie on both sides: PEFT's method comparison (Llama-3.2-3B, L40S, 840 tokens a batch, the attention layers'
# queries and values adapted) at 24 %, NeMo AutoModel (Llama-3-8B, H100, packed rows of 4,096, kernels of its own) at 41 %.
# Unpacking 4-bit and 8-bit weights takes time beside the products.
ASSUMED_UTILISATION = {compatibility.LORA: 0.30, compatibility.INT4: 0.25, compatibility.INT8: 0.08}
# Starting the kernels of one layer, forward and backward, takes at least so long however small they are. Assumed: 250 kernels
# of 8 microseconds.
_LAUNCH_SECONDS_A_LAYER = 0.002
# DeepSpeed's defaults (deepspeed/runtime/zero/config.py): elements of its reduction buffer, and parameters that ZeRO-3 keeps
# gathered at most.
_ZERO_BUCKET, _ZERO_LIVE = 500_000_000, 1_000_000_000
_FSDP, _ZERO = (Engine.FSDP1, Engine.FSDP2), (Engine.ZERO2, Engine.ZERO3)
# Processes of several GPUs where none are named: the most of these that divide the recipe's batch.
_USUAL_PROCESSES = (8, 4, 2)


@dataclass(frozen=True)
class Units:
    """Bytes that sharding puts together again for a moment, in the compute dtype.

    Args:
        block (`int`):
            The largest layer of the base, as it is stored: what FSDP gathers at once.
        tail (`int`):
            LM head and last norm, which FSDP2 keeps from the forward to the backward pass (accelerate 1.15,
            `fsdp2_prepare_model`).
        outside (`int`):
            All that is in no layer, which FSDP1 keeps (torch, `_post_forward_reshard`).
    """

    block: int
    tail: int
    outside: int


@dataclass(frozen=True)
class GpuMemory:
    """Peak of one GPU in bytes, by what takes it.

    Args:
        base (`int`):
            This process's part of the base, packed as it is stored.
        adapter (`int`):
            Adapter, gradients, AdamW's moments, and the buffers that gradients travel in.
        gathered (`int`):
            Layers of a sharded base that are whole for a moment.
        activations (`int`):
            Tensors of the largest micro batch.
        context (`int`, *optional*):
            CUDA and its libraries.
        loading (`int`, *optional*, defaults to 0):
            What loading needs before anything else is there.
    """

    base: int
    adapter: int
    gathered: int
    activations: int
    context: int = planning.GPU_CONTEXT_BYTES
    loading: int = 0

    @property
    def total(self) -> int:
        """What the GPU must hold."""
        training_bytes = self.base + self.adapter + self.gathered + self.activations
        return max(training_bytes, self.loading) + self.context


@dataclass(frozen=True)
class Cost:
    """What one launch configuration costs.

    Args:
        configuration (`str`):
            A file of `accelerate_configs/`, without its ending.
        processes (`int`):
            GPUs.
        refused (`str`, *optional*):
            Why there is no plan; the fields below are empty then.
        batch (`int`, *optional*):
            Examples of one GPU's micro batch.
        memory ([`GpuMemory`], *optional*):
            Of each GPU.
        fits (`bool`, *optional*):
            Whether [`USABLE`] of a GPU's memory holds it.
        fitting_batch (`int`, *optional*, defaults to 0):
            Where it does not fit: the largest of the halved micro batches that does; 0 where none does.
        seconds_per_step (`float`, *optional*):
            Of an optimizer step.
        bound (`str`, *optional*):
            What decides it.
    """

    configuration: str
    processes: int
    refused: str = ""
    batch: int = 0
    memory: GpuMemory | None = None
    fits: bool = False
    fitting_batch: int = 0
    seconds_per_step: float = 0.0
    bound: str = ""


@dataclass(frozen=True)
class GpuPlan:
    """What a recipe will cost on a kind of GPU.

    Args:
        rows, steps, tokens (`int`):
            Training rows, optimizer steps of the whole training, tokens of all rows.
        epochs (`float`):
            Passes over the rows.
        trainable_parameters, total_parameters (`int`):
            Adapter, and adapter with base.
        utilisation (`float`):
            Share of the peak that products reach.
        assumed (`bool`):
            Whether that is [`ASSUMED_UTILISATION`].
        costs (`list[Cost]`):
            One for each configuration.
    """

    rows: int
    steps: int
    tokens: int
    epochs: float
    trainable_parameters: int
    total_parameters: int
    utilisation: float
    assumed: bool
    costs: list[Cost]


def make_gpu_plan(
    recipe: Recipe,
    rows: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    gpu: Gpu,
    configurations: Sequence[str] | None = None,
    processes: int | None = None,
    utilisation: float | None = None,
    config: PretrainedConfig | None = None,
) -> GpuPlan:
    """Plan a recipe for a kind of GPU under launch configurations.

    Args:
        recipe ([`Recipe`]):
            The recipe.
        rows ([`~datasets.Dataset`]):
            Columns `input_ids` and `labels`.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Names the padding token.
        gpu ([`Gpu`]):
            From [`GPUS`].
        configurations (`Sequence[str]`, *optional*):
            Names of [`compatibility.CONFIGURATIONS`]; all for GPUs where left out.
        processes (`int`, *optional*):
            GPUs of the configurations for several; where left out the most of 8, 4 and 2 that divide the recipe's batch.
        utilisation (`float`, *optional*):
            Share of the peak that products reach; [`ASSUMED_UTILISATION`] where left out.
        config ([`~transformers.PretrainedConfig`], *optional*):
            The base's; loaded where left out.

    Returns:
        [`GpuPlan`]

    Raises:
        [`InputError`]: no such configuration, or the base model's configuration cannot be loaded.
    """
    for name in configurations or ():
        if name not in compatibility.GPU_CONFIGURATIONS:
            match = process.extractOne(name, compatibility.GPU_CONFIGURATIONS, scorer=fuzz.ratio, score_cutoff=50)
            hint = f"did you mean `{match[0]}`? " if match else ""
            raise InputError(
                f"no configuration `{name}` for GPUs; {hint}({', '.join(compatibility.GPU_CONFIGURATIONS)})",
                "--config",
            )
    counter = _Counter(recipe, rows, tokenizer, config or models.load_config(recipe.model))
    steps, in_epoch = planning.count_steps(recipe, len(rows))
    share = utilisation or ASSUMED_UTILISATION[recipe.method]
    usual = next((count for count in _USUAL_PROCESSES if recipe.arguments.global_batch_size % count == 0), 2)
    costs = []
    for name in configurations or compatibility.GPU_CONFIGURATIONS:
        engine, _ = compatibility.CONFIGURATIONS[name]
        count = 1 if engine == Engine.ONE_PROCESS else processes or usual
        costs.append(_cost(counter, gpu, share, name, engine, count, in_epoch))
    sizes = counter.sizes
    return GpuPlan(
        rows=len(rows),
        steps=steps,
        tokens=sum(map(len, rows["input_ids"])),
        epochs=steps / in_epoch,
        trainable_parameters=sizes.trained,
        total_parameters=counter.model.get_nb_trainable_parameters()[1],
        utilisation=share,
        assumed=utilisation is None,
        costs=costs,
    )


def describe(plan: GpuPlan, recipe: Recipe, name: str) -> list[str]:
    """The plan for a terminal, one line each."""
    gpu, gib = find_gpu(name), 2**30
    share = plan.trainable_parameters / plan.total_parameters
    lines = [
        f"gpu          {name}: {gpu.memory_bytes / gib:.1f} GiB, {gpu.bf16_flops / 1e12:,.0f} TFLOP/s dense bfloat16, "
        f"{gpu.bytes_per_second / 1e12:.2f} TB/s ({gpu.source})",
        f"steps        {plan.steps:,} of {recipe.arguments.global_batch_size} rows, {plan.epochs:g} epochs",
        f"tokens       {plan.tokens:,} in {plan.rows:,} rows",
        f"parameters   {plan.trainable_parameters:,} of {plan.total_parameters:,} trained ({share:.2%})",
        "",
        f"GiB on each GPU    {'GPUs':>4} {'batch':>5} {'base':>6} {'adapter':>7} {'gathered':>8} {'activations':>11} "
        f"{'together':>8}   time",
    ]
    for cost in plan.costs:
        if cost.memory is None:
            lines.append(f"{cost.configuration:<18} {cost.processes:>4} refused: {cost.refused}")
            continue
        memory, seconds = cost.memory, cost.seconds_per_step
        parts = [memory.base, memory.adapter, memory.gathered, memory.activations, memory.total]
        columns = [f"{part / gib:>{width}.2f}" for part, width in zip(parts, (6, 7, 8, 11, 8), strict=True)]
        lasts = f"{seconds * plan.steps / 60:.1f} minutes, {seconds:.2f} s a step ({cost.bound})"
        lines.append(
            f"{cost.configuration:<18} {cost.processes:>4} {cost.batch:>5} {' '.join(columns)}   {lasts}; {_fit(cost)}"
        )
    return [*lines, "", "assumed      " + "\n             ".join(assumptions(plan))]


def assumptions(plan: GpuPlan) -> list[str]:
    """What the estimate takes for granted, one line each."""
    origin = "assumed, not measured on a GPU; --utilisation sets another" if plan.assumed else "from --utilisation"
    context = f"{planning.GPU_CONTEXT_BYTES / 2**30:.1f} GiB"
    return [
        f"products reach {plan.utilisation:.0%} of the peak ({origin})",
        "no step is faster than its base can be read, or sent round, twice a micro batch, nor than "
        f"{_LAUNCH_SECONDS_A_LAYER * 1000:g} ms a layer and micro batch for starting kernels (assumed)",
        "loading and saving are not counted",
        "activations: the tensors of the largest batch, counted on fake ones; checked on CPUs only",
        "adapter: with gradients, AdamW's moments and the buffers that gradients travel in",
        f"together: with {context} for CUDA (assumed); fits where {USABLE:.0%} of the memory holds it",
    ]


def _fit(cost: Cost) -> str:
    if cost.fits:
        return "fits"
    if cost.fitting_batch:
        return f"does NOT fit; --per_device_train_batch_size {cost.fitting_batch} would"
    return "does NOT fit, with no batch; shard it, quantise it, or try --activation_checkpointing true"


class _Counter:
    """Counts a recipe's largest micro batch, once for each size of it."""

    def __init__(self, recipe: Recipe, rows: Dataset, tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig):
        self.recipe, self.rows, self.tokenizer = recipe, rows, tokenizer
        # Not models.compute_dtype: that would ask this machine's processor.
        self.dtype = torch.float32 if recipe.model.dtype in (None, "auto", "float32") else torch.bfloat16
        # Nor models.attention_for, which takes eager attention on a CPU.
        eager = recipe.model.attn_implementation == "eager"
        self.model = planning.build_on_meta(recipe, config, self.dtype, eager)
        self.sizes = planning.count_sizes(recipe, self.model)
        self._counted: dict[int, tuple[planning.Layout, planning.StepCost]] = {}

    def of(self, batch: int) -> tuple[planning.Layout, planning.StepCost]:
        """Layout of an epoch in micro batches of that many examples, and the cost of the largest."""
        if batch not in self._counted:
            recipe = replace(self.recipe, training=copy.copy(self.recipe.training))
            recipe.training.per_device_train_batch_size = batch
            layout = planning.lay_out_recipe(recipe, self.rows, self.tokenizer, self.dtype)
            self._counted[batch] = layout, planning.count_largest(recipe, self.model, self.dtype, layout)
        return self._counted[batch]


def _cost(
    counter: _Counter, gpu: Gpu, utilisation: float, name: str, engine: Engine, processes: int, steps_per_epoch: int
) -> Cost:
    recipe = replace(counter.recipe, training=copy.copy(counter.recipe.training))
    try:
        compatibility.check(recipe, name)
        training.divide_batch(recipe, processes)
    except InputError as error:
        return Cost(name, processes, refused=str(error).partition(": ")[2])
    batch, accumulation = recipe.training.per_device_train_batch_size, recipe.training.gradient_accumulation_steps
    units = count_units(recipe, counter.model, counter.dtype)

    def needs(size: int) -> GpuMemory:
        activations = counter.of(size)[1].peak_bytes + counter.sizes.unpacked
        return memory_per_gpu(counter.sizes, units, engine, processes, activations)

    def holds(size: int) -> bool:
        return needs(size).total <= USABLE * gpu.memory_bytes

    smaller = [batch // 2**times for times in range(1, batch.bit_length()) if batch % 2**times == 0]
    fits = holds(batch)
    layout, cost = counter.of(batch)
    rows, length, _ = layout.largest
    flops = cost.flops / (rows * length) * layout.tokens / steps_per_epoch
    layers = counter.model.config.num_hidden_layers
    seconds, bound = seconds_per_step(
        flops, accumulation, layers, counter.sizes.base, gpu, engine, processes, utilisation
    )
    return Cost(
        configuration=name,
        processes=processes,
        batch=batch,
        memory=needs(batch),
        fits=fits,
        fitting_batch=0 if fits else next((size for size in smaller if holds(size)), 0),
        seconds_per_step=seconds,
        bound=bound,
    )


def count_units(recipe: Recipe, model: PeftModel, dtype: torch.dtype) -> Units:
    """What sharding gathers of a model on the meta device.

    Args:
        recipe ([`Recipe`]):
            What is quantised.
        model ([`~peft.PeftModel`]):
            From [`planning.build_on_meta`].
        dtype (`torch.dtype`):
            Compute dtype.
    """
    head = model.get_output_embeddings()
    wrapped = model.get_base_model()._no_split_modules or ()
    blocks = [module for module in model.modules() if type(module).__name__ in wrapped]
    inside = {id(weight) for block in blocks for weight in block.parameters()}
    outside = sum(weight.nbytes for weight in model.parameters() if id(weight) not in inside)
    per_weight = 0.5 if recipe.model.load_in_4bit else dtype.itemsize

    def stored(block: torch.nn.Module) -> float:
        return sum(
            weight.numel() * (per_weight if weight.dim() > 1 else dtype.itemsize) for weight in block.parameters()
        )

    largest = max(map(stored, blocks), default=0)
    return Units(block=round(largest), tail=head.weight.nbytes, outside=outside)


def memory_per_gpu(sizes: planning.Sizes, units: Units, engine: Engine, processes: int, activations: int) -> GpuMemory:
    """Memory of each GPU.

    FSDP and ZeRO-3 divide the base (Rajbhandari et al. 2020, ZeRO, section 5). accelerate keeps trained parameters in
    float32 under FSDP. DeepSpeed counts 4 bytes a trained parameter and 16 divided under ZeRO-2, 18 divided under ZeRO-3
    (its documentation, memory.rst). DDP copies the gradients into buckets.

    Args:
        sizes ([`planning.Sizes`]):
            Undivided.
        units ([`Units`]):
            What is gathered.
        engine ([`~launch_promise.Engine`]):
            What divides.
        processes (`int`):
            GPUs.
        activations (`int`):
            Bytes of the largest micro batch of one process.
    """
    quantised, trained = sizes.packed > 0, sizes.trained
    # Constants count as whole. That ZeRO-3 divides packed weights was seen nowhere, so that they count as whole there.
    packed = sizes.packed // processes if engine in _FSDP else sizes.packed
    plain = sizes.plain // processes if engine in (*_FSDP, Engine.ZERO3) else sizes.plain
    adapter = {
        Engine.ONE_PROCESS: trained * sum(sizes.bytes_per_trained),
        Engine.DDP: trained * (sum(sizes.bytes_per_trained) + sizes.bytes_per_trained[1]),
        Engine.FSDP1: trained * 16 // processes,
        Engine.FSDP2: trained * 16 // processes,
        Engine.ZERO2: trained * 4 + trained * 16 // processes + 2 * _ZERO_BUCKET,
        Engine.ZERO3: trained * 18 // processes + 2 * _ZERO_BUCKET,
    }[engine]
    gathered = {
        # The layer at work, and the one that is fetched meanwhile.
        Engine.FSDP1: 2 * units.block + units.outside,
        Engine.FSDP2: 2 * units.block + units.tail,
        Engine.ZERO3: min(sizes.plain, 2 * _ZERO_LIVE),
    }.get(engine, 0)
    shards_packed = quantised and engine in (Engine.FSDP1, Engine.ZERO3)
    return GpuMemory(
        base=packed + sizes.constants + plain,
        adapter=adapter,
        gathered=gathered,
        activations=activations,
        loading=sizes.base if shards_packed else 0,  # each process quantises the whole base first (bitsandbytes#1249)
    )


def seconds_per_step(
    flops: float,
    micro_batches: int,
    layers: int,
    base_bytes: int,
    gpu: Gpu,
    engine: Engine,
    processes: int,
    utilisation: float,
) -> tuple[float, str]:
    """Time of an optimizer step: its products, but no faster than other things go; all overlap.

    Args:
        flops (`float`):
            Products of the step over all processes.
        micro_batches (`int`):
            Of one process and step.
        layers (`int`):
            Of the base.
        base_bytes (`int`):
            The base as it lies in memory.
        gpu ([`Gpu`]):
            Its rates.
        engine ([`~launch_promise.Engine`]):
            Whether the base is sent round.
        processes (`int`):
            GPUs.
        utilisation (`float`):
            Share of the peak that products reach.

    Returns:
        `tuple[float, str]`: seconds, and what decides them: `"products"`, `"reading"`, `"sending"` or `"starting kernels"`.
    """
    others = (processes - 1) / processes if engine in (*_FSDP, Engine.ZERO3) else 0.0
    times = {
        "products": flops / processes / gpu.bf16_flops / utilisation,
        "reading": 2 * micro_batches * base_bytes / gpu.bytes_per_second,
        "sending": 2 * micro_batches * base_bytes * others / gpu.link_bytes_per_second,
        "starting kernels": micro_batches * layers * _LAUNCH_SECONDS_A_LAYER,
    }
    bound = max(times, key=lambda name: times[name])
    return times[bound], bound
