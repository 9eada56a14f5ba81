"""What a recipe costs on GPUs that need not be available: time, and memory per GPU, under every launch configuration."""

import copy
import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from radrecipes.errors import InputError
from radrecipes.launch import compatibility
from radrecipes.launch.spec import Engine
from radrecipes.models.classification_head import output_layer
from radrecipes.models.compute_dtype import compute_dtype
from radrecipes.planning import counting
from radrecipes.planning.basis import Basis
from radrecipes.planning.gpus import CONTEXT_BYTES, Gpu, did_you_mean, find_gpu
from radrecipes.recipe import HEAD, Recipe
from radrecipes.training.construction import build_on_meta
from radrecipes.training.trainer import collator_for, divide_batch

# Fraction of a GPU's memory that a plan may fill; the allocator cannot use the rest.
USABLE = 0.95
# Fraction of the peak that matrix products reach, by method. Assumed: no run of these recipes on a GPU has been measured yet. Two
# published runs of bf16 LoRA are below and above it: PEFT's method comparison (Llama-3.2-3B, L40S, 840 tokens per batch, query
# and value projections adapted) at 24 %, NeMo AutoModel (Llama-3-8B, H100, packed rows of 4,096, custom kernels) at 41 %.
# Unpacking 4-bit and 8-bit weights takes additional time.
ASSUMED_UTILISATION = {
    compatibility.FULL: 0.30,
    compatibility.LORA: 0.30,
    compatibility.INT4: 0.25,
    compatibility.INT8: 0.08,
}
# Launching the kernels of one layer, forward and backward, takes at least this long. Assumed: 250 kernels of 8 microseconds.
_KERNEL_LAUNCH_SECONDS_PER_LAYER = 0.002
# DeepSpeed's defaults (deepspeed/runtime/zero/config.py): elements of its reduction buffer, and maximum number of parameters that
# ZeRO-3 keeps gathered.
_ZERO_BUCKET, _ZERO_LIVE = 500_000_000, 1_000_000_000
_FSDP = (Engine.FSDP1, Engine.FSDP2)
# Default number of GPUs: the first of these that divides the recipe's batch.
_USUAL_PROCESSES = (8, 4, 2)


@dataclass(frozen=True)
class Units:
    """Bytes that sharding gathers temporarily, in the compute dtype."""

    block: int  # the largest layer of the base model as it is stored; FSDP gathers one at a time
    tail: int  # LM head and last norm, which FSDP2 keeps until the backward pass (accelerate 1.15, `fsdp2_prepare_model`)
    outside: int  # everything outside the layers, which FSDP1 keeps (torch, `_post_forward_reshard`)


@dataclass(frozen=True)
class GpuMemory:
    """Peak memory of one GPU in bytes, by use."""

    base: int  # this process's part of the base model, packed as it is stored
    adapter: int  # of what is trained: weights, gradients, AdamW's moments, and communication buffers for gradients
    gathered: int  # layers of a sharded base model that are temporarily complete
    activations: int  # tensors of the largest micro batch
    loading: int = 0  # what loading needs before anything else exists
    context: int = CONTEXT_BYTES

    @property
    def total(self) -> int:
        """What must fit on the GPU."""
        training_bytes = self.base + self.adapter + self.gathered + self.activations
        return max(training_bytes, self.loading) + self.context


@dataclass(frozen=True)
class Cost:
    """The cost of one launch configuration."""

    configuration: str  # a file of `accelerate_configs/`, without its suffix
    processes: int
    refused: str = ""  # why there is no plan; the fields below are then empty
    batch: int = 0  # examples per micro batch of one GPU
    memory: GpuMemory | None = None
    fitting_batch: int = (
        0  # the micro batch, or its largest halving that fits into `USABLE` of the memory; 0 if none does
    )
    seconds_per_step: float = 0.0  # of an optimizer step
    bound: str = ""  # what limits it

    @property
    def fits(self) -> bool:
        """Whether the recipe's micro batch fits."""
        return 0 < self.batch == self.fitting_batch


@dataclass(frozen=True)
class GpuPlan(counting.Workload):
    """What a recipe costs on one kind of GPU, with one cost per launch configuration."""

    utilisation: float  # fraction of the peak that matrix products reach
    assumed: bool  # whether it is from `ASSUMED_UTILISATION`
    costs: list[Cost]


def make_gpu_plan(
    recipe: Recipe,
    basis: Basis,
    gpu: Gpu,
    configurations: Sequence[str] | None = None,
    processes: int | None = None,
    utilisation: float | None = None,
) -> GpuPlan:
    """Plan a recipe for a kind of GPU under launch configurations.

    Args:
        configurations: Names in [`~launch.compatibility.GPU_CONFIGURATIONS`]; all by default.
        processes: GPUs of multi-GPU configurations; by default the most of 8, 4 and 2 that divide the recipe's batch.
        utilisation: Fraction of the peak that matrix products reach; [`ASSUMED_UTILISATION`] by default.
    """
    known = compatibility.GPU_CONFIGURATIONS
    for name in configurations or ():
        if name not in known:
            raise InputError(f"no configuration `{name}` for GPUs; {did_you_mean(name, known)}", "--config")
    reached = utilisation or ASSUMED_UTILISATION[recipe.method.removesuffix(HEAD)]
    planner = _Planner(recipe, basis, gpu, reached)
    usual = next((count for count in _USUAL_PROCESSES if recipe.arguments.global_batch_size % count == 0), 2)
    costs = [planner.cost(name, processes or usual) for name in configurations or known]
    return GpuPlan(**vars(planner.workload), utilisation=reached, assumed=utilisation is None, costs=costs)


def describe(plan: GpuPlan, recipe: Recipe, name: str) -> list[str]:
    """The plan for the terminal, one string per line."""
    gpu, gib = find_gpu(name), 2**30
    steps, parameters = plan.describe(recipe)
    lines = [
        f"gpu          {name}: {gpu.memory_bytes / gib:.1f} GiB, {gpu.bf16_flops / 1e12:,.0f} TFLOP/s dense bfloat16, "
        f"{gpu.bytes_per_second / 1e12:.2f} TB/s ({gpu.source})",
        steps,
        f"tokens       {plan.tokens:,} in {plan.rows:,} rows",
        parameters,
        "",
        f"GiB per GPU        {'GPUs':>4} {'batch':>5} {'base':>6} {'adapter':>7} {'gathered':>8} {'activations':>11} "
        f"{'total':>8}   time",
    ]
    for cost in plan.costs:
        if cost.memory is None:
            lines.append(f"{cost.configuration:<18} {cost.processes:>4} refused: {cost.refused}")
            continue
        memory, seconds = cost.memory, cost.seconds_per_step
        parts = [memory.base, memory.adapter, memory.gathered, memory.activations, memory.total]
        columns = [f"{part / gib:>{width}.2f}" for part, width in zip(parts, (6, 7, 8, 11, 8), strict=True)]
        duration = f"{seconds * plan.steps / 60:.1f} minutes, {seconds:.2f} s per step ({cost.bound})"
        lines.append(
            f"{cost.configuration:<18} {cost.processes:>4} {cost.batch:>5} {' '.join(columns)}   {duration}; {_fit(cost)}"
        )
    return [*lines, "", "assumed      " + "\n             ".join(assumptions(plan))]


def assumptions(plan: GpuPlan) -> list[str]:
    """What the estimate assumes, one string per line."""
    origin = "assumed, not measured on a GPU; --utilisation sets another" if plan.assumed else "from --utilisation"
    return [
        f"products reach {plan.utilisation:.0%} of the peak ({origin})",
        "a step takes at least the time to read, or to communicate, the base model twice per micro batch, and "
        f"{_KERNEL_LAUNCH_SECONDS_PER_LAYER * 1000:g} ms per layer and micro batch to launch kernels (assumed)",
        "loading and saving are not included",
        "activations: the tensors of the largest batch, counted with fake tensors; verified on CPUs only",
        "adapter, or all that is trained: with gradients, AdamW's moments and communication buffers for gradients",
        f"total: with {CONTEXT_BYTES / 2**30:.1f} GiB for CUDA (assumed); fits if it is at most {USABLE:.0%} of the memory",
    ]


def _fit(cost: Cost) -> str:
    if cost.fits:
        return "fits"
    if cost.fitting_batch:
        return f"does NOT fit; --per_device_train_batch_size {cost.fitting_batch} would"
    return "does NOT fit with any batch; shard it, quantise it, or try --activation_checkpointing true"


class _Planner:
    """Plans a recipe for one kind of GPU; counts the largest micro batch once per batch size."""

    def __init__(self, recipe: Recipe, basis: Basis, gpu: Gpu, utilisation: float):
        recipe, self.texts = counting.as_trained(recipe)
        self.recipe, self.basis, self.gpu, self.utilisation = recipe, basis, gpu, utilisation
        self.dtype = compute_dtype(recipe.model.dtype)
        # `attention_for` would depend on this machine.
        eager = recipe.model.attn_implementation == "eager"
        self.model = build_on_meta(recipe, basis.config, self.dtype, "eager" if eager else "sdpa")
        self.sizes = counting.count_sizes(recipe, self.model)
        self.units = count_units(recipe, self.model, self.dtype)
        self.workload = counting.count_workload(recipe, basis.rows, self.model)
        self.counted = functools.cache(self._count)

    def cost(self, configuration: str, processes: int) -> Cost:
        """The cost of a launch configuration on `processes` GPUs, or on one if it is for one."""
        engine, _ = compatibility.CONFIGURATIONS[configuration]
        processes = 1 if engine == Engine.ONE_PROCESS else processes
        recipe = replace(self.recipe, training=copy.copy(self.recipe.training))
        try:
            compatibility.check(recipe, configuration)
            divide_batch(recipe, processes)
        except InputError as error:
            return Cost(configuration, processes, refused=str(error).partition(": ")[2])

        def memory(size: int) -> GpuMemory:
            activations = self.counted(size)[1].peak_bytes + self.sizes.unpacked
            return memory_per_gpu(self.sizes, self.units, engine, processes, activations)

        batch, usable = recipe.training.per_device_train_batch_size, USABLE * self.gpu.memory_bytes
        halvings = (batch // 2**times for times in range(batch.bit_length()) if batch % 2**times == 0)
        fitting = next((size for size in halvings if memory(size).total <= usable), 0)
        layout, step = self.counted(batch)
        rows, length, _ = layout.largest
        seconds, bound = seconds_per_step(
            step.flops / (rows * length) * layout.tokens / self.workload.steps_per_epoch,
            recipe.training.gradient_accumulation_steps,
            self.model.config.num_hidden_layers,
            # All weights are trained, if none is frozen.
            self.sizes.base or self.sizes.trained * self.dtype.itemsize,
            self.gpu,
            engine,
            processes,
            self.utilisation,
        )
        return Cost(configuration, processes, "", batch, memory(batch), fitting, seconds, bound)

    def _count(self, batch: int) -> tuple[counting.Layout, counting.StepCost]:
        """Layout of an epoch in micro batches of that many examples, and the cost of the largest."""
        recipe, basis = self.recipe, self.basis
        collator = collator_for(recipe, basis.tokenizer, self.dtype)
        layout = counting.lay_out(basis.rows, collator, batch, recipe.training.seed, self.texts)
        return layout, counting.count_step(recipe, self.model, self.dtype, *layout.largest)


def count_units(recipe: Recipe, model: PreTrainedModel, dtype: torch.dtype) -> Units:
    """What sharding gathers for a model from [`~training.construction.build_on_meta`] in its compute dtype."""
    head = output_layer(model)
    wrapped = (model.get_base_model() if isinstance(model, PeftModel) else model)._no_split_modules or ()
    blocks = [module for module in model.modules() if type(module).__name__ in wrapped]
    inside = {id(weight) for block in blocks for weight in block.parameters()}
    outside = sum(weight.nbytes for weight in model.parameters() if id(weight) not in inside)
    per_weight = 0.5 if recipe.model.load_in_4bit else dtype.itemsize

    def stored(block: torch.nn.Module) -> float:
        return sum(
            weight.numel() * (per_weight if weight.dim() > 1 else dtype.itemsize) for weight in block.parameters()
        )

    largest = max(map(stored, blocks), default=0)
    return Units(block=round(largest), tail=sum(weight.nbytes for weight in head.parameters()), outside=outside)


def memory_per_gpu(sizes: counting.Sizes, units: Units, engine: Engine, processes: int, activations: int) -> GpuMemory:
    """Memory of each GPU; `sizes` are unsharded, `activations` in bytes of the largest micro batch of one process.

    FSDP and ZeRO-3 shard the base model (Rajbhandari et al. 2020, ZeRO, section 5). accelerate keeps trained parameters in
    float32 under FSDP. Per trained parameter DeepSpeed counts 4 bytes and 16 sharded under ZeRO-2, 18 sharded under ZeRO-3 (its
    documentation, memory.rst). DDP copies the gradients into buckets.
    """
    quantised, trained = sizes.packed > 0, sizes.trained
    # Constants count as unsharded, and so do packed weights under ZeRO-3, as there is no evidence that it shards them.
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
        # The current layer, and the prefetched one.
        Engine.FSDP1: 2 * units.block + units.outside,
        Engine.FSDP2: 2 * units.block + units.tail,
        Engine.ZERO3: min(sizes.plain or 2 * trained, 2 * _ZERO_LIVE),
    }.get(engine, 0)
    return GpuMemory(
        base=packed + sizes.constants + plain,
        adapter=adapter,
        gathered=gathered,
        activations=activations,
        # Each process first quantises the complete base model (bitsandbytes#1249).
        loading=sizes.base if quantised and engine in (Engine.FSDP1, Engine.ZERO3) else 0,
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
    """Seconds of an optimizer step, and which of four overlapping things limits them.

    The limit is `"products"`, `"reading"`, `"sending"` or `"starting kernels"`. `flops` are of the matrix products of the step
    over all processes, `micro_batches` are per process and step, `base_bytes` of the base model as it is stored.
    """
    others = (processes - 1) / processes if engine in (*_FSDP, Engine.ZERO3) else 0.0
    times = {
        "products": flops / processes / gpu.bf16_flops / utilisation,
        "reading": 2 * micro_batches * base_bytes / gpu.bytes_per_second,
        "sending": 2 * micro_batches * base_bytes * others / gpu.link_bytes_per_second,
        "starting kernels": micro_batches * layers * _KERNEL_LAUNCH_SECONDS_PER_LAYER,
    }
    bound = max(times, key=lambda name: times[name])
    return times[bound], bound
