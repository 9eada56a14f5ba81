"""What a recipe costs in one process of this machine: memory, and time at a measured rate of matrix products."""

import math
from dataclasses import dataclass

import psutil
import torch
from transformers import PreTrainedModel

from radrecipes.launch.compatibility import OTHER_DEVICES
from radrecipes.models.base import attention_for
from radrecipes.models.classification_head import output_layer
from radrecipes.models.compute_dtype import compute_dtype, measure_products
from radrecipes.planning import counting
from radrecipes.planning.basis import Basis
from radrecipes.planning.gpus import CONTEXT_BYTES
from radrecipes.recipe import Recipe
from radrecipes.training.construction import build_on_meta
from radrecipes.training.trainer import collator_for, longest_row

# Fraction of a step that is matrix products; the rest is norms, softmax, casts, optimizer and Python. Measured on 2 cores: 0.44
# to 0.47 in six steps of the default recipe in bfloat16 (AMD EPYC with AVX512-BF16), 0.60 over 90 steps of
# smollm2-135m/impression_lora_openi in float32, whose products are slower (AMD EPYC with AVX2).
PRODUCT_FRACTIONS = {"bfloat16": 0.45, "float32": 0.60}
# Growth of a CPU process's heap in addition to the live tensors: a fraction of them for freed blocks that fit no later tensor,
# and oneDNN's kernels, which it caches for every batch shape. Fitted to runs of the default recipes with 8 to 515 steps
# (benchmarks/README.md). A GPU's allocator reuses its blocks.
HEAP_FRACTION, KERNEL_BYTES_PER_SHAPE, MAX_KERNEL_BYTES = 0.15, 40 * 2**20, 2**29


@dataclass(frozen=True)
class MachinePlan(counting.Workload):
    """What a recipe costs on this machine; tokens are per epoch."""

    computed_tokens: int  # with the recipe's layout
    padded_tokens: int  # with one padded example per row, as in TRL
    weights_bytes: int  # of what is frozen: the base model under an adapter
    adapter_bytes: int  # of what is trained, with gradients and AdamW states
    activation_bytes: int  # for the largest batch
    framework_bytes: int  # Python with its libraries; on a CPU also what quantising the base model leaves in the heap
    flops_per_step: float  # matrix products of an average optimizer step
    flops_per_second: float  # measured on this machine in the compute dtype
    compute_dtype: str

    @property
    def memory_bytes(self) -> int:
        """Estimated peak memory."""
        return self.weights_bytes + self.adapter_bytes + self.activation_bytes + self.framework_bytes

    @property
    def seconds_per_step(self) -> float:
        """Time of the matrix products at the measured rate, divided by their fraction of a step."""
        return self.flops_per_step / self.flops_per_second / self.product_fraction

    @property
    def product_fraction(self) -> float:
        """Fraction of a step that is matrix products."""
        return PRODUCT_FRACTIONS.get(self.compute_dtype, PRODUCT_FRACTIONS["bfloat16"])

    @property
    def seconds(self) -> float:
        """Time of the complete training without loading."""
        return self.steps * self.seconds_per_step


def make_plan(recipe: Recipe, basis: Basis, measure_seconds: float = 1.0) -> MachinePlan:
    """Plan a recipe for one process of this machine; matrix products are timed for `measure_seconds`.

    [`~training.trainer.divide_batch`] must have been applied to the recipe.
    """
    recipe, texts = counting.as_trained(recipe)
    dtype, args, rows = compute_dtype(recipe.model.dtype), recipe.training, basis.rows
    collator = collator_for(recipe, basis.tokenizer, dtype)
    layout = counting.lay_out(rows, collator, args.per_device_train_batch_size, args.seed, texts)
    # Only "eager" keeps the attention matrix; every fused kernel keeps about as much as SDPA.
    eager = attention_for(recipe.model, longest_row(recipe)) == "eager"
    model = build_on_meta(recipe, basis.config, dtype, "eager" if eager else "sdpa")
    cost, sizes = counting.count_step(recipe, model, dtype, *layout.largest), counting.count_sizes(recipe, model)
    workload = counting.count_workload(recipe, rows, model)

    on_gpu = torch.cuda.is_available()
    living = cost.peak_bytes + sizes.unpacked
    shapes = len({batch[:2] for batch in layout.batches})
    kernels = min(living, shapes * KERNEL_BYTES_PER_SHAPE, MAX_KERNEL_BYTES)
    growth = 0.0 if on_gpu else HEAP_FRACTION * living + kernels
    # Layers are packed one after the other; their unpacked form stays in a CPU's heap, with 8 bits a float16 copy as well
    # (bitsandbytes 0.50.2). Measured: 0.39 GiB after loading an 8-bit SmolLM2-135M, 0.18 after a 4-bit one.
    left = sizes.before * (2 if recipe.model.load_in_8bit else 1)
    largest_rows, largest_length, _ = layout.largest
    tokens = largest_rows * largest_length
    return MachinePlan(
        **vars(workload),
        computed_tokens=layout.tokens,
        padded_tokens=counting.count_padded_tokens(rows, args.per_device_train_batch_size, args.seed, texts),
        weights_bytes=sizes.base,
        adapter_bytes=sum(sizes.bytes_per_trained) * sizes.trained,
        activation_bytes=round(living + growth),
        framework_bytes=CONTEXT_BYTES if on_gpu else psutil.Process().memory_info().rss + left,
        flops_per_step=cost.flops / tokens * layout.tokens / workload.steps_per_epoch,
        flops_per_second=measure_products(dtype, tokens, largest_linear_shape(model), measure_seconds),
        compute_dtype=str(dtype).removeprefix("torch."),
    )


def assumptions(plan: MachinePlan) -> list[str]:
    """What the estimate assumes, one string per line."""
    on_gpu = torch.cuda.is_available()
    heap = f", plus {HEAP_FRACTION:.0%} and up to {MAX_KERNEL_BYTES / 2**30:g} GiB for a CPU's heap"
    process = "this process with its libraries loaded, and what quantising a base model leaves in the heap"
    device = torch.accelerator.current_accelerator()
    unmeasured = device is not None and device.type in OTHER_DEVICES
    return [
        *(
            [f"time and memory are those of the processor: plans for {device.type} were not measured"]
            if unmeasured
            else []
        ),
        f"products at {plan.flops_per_second / 1e9:,.0f} GFLOP/s in {plan.compute_dtype}, as just measured here; "
        "other work on the machine makes it slower",
        f"products take {plan.product_fraction:.0%} of a step, as measured on 2 cores; loading and saving are not included",
        f"one process; activations are the tensors of the largest batch, counted with fake tensors{'' if on_gpu else heap}",
        f"{plan.adapter_bytes // plan.trainable_parameters} bytes per trained parameter: weight, gradient, two AdamW moments",
        f"framework: {'GPU context' if on_gpu else process}",
    ]


def describe(plan: MachinePlan, recipe: Recipe) -> list[str]:
    """The plan for the terminal, one string per line."""
    gib, ratio = 2**30, plan.padded_tokens / plan.computed_tokens
    steps, parameters = plan.describe(recipe)
    layout = counting.as_trained(recipe)[0].arguments.batch_layout
    return [
        steps,
        f"tokens       {plan.tokens:,} in {plan.rows:,} rows; computed per epoch: {plan.computed_tokens:,} as",
        f"             {layout}, {plan.padded_tokens:,} as TRL pads ({ratio:.2f} times as many)",
        parameters,
        f"memory       {plan.memory_bytes / gib:.1f} GiB: weights {plan.weights_bytes / gib:.2f}, trained with "
        f"gradients and AdamW {plan.adapter_bytes / gib:.2f}, activations {plan.activation_bytes / gib:.2f}, "
        f"framework {plan.framework_bytes / gib:.2f}",
        f"time         {plan.seconds / 60:.1f} minutes, {plan.seconds_per_step:.2f} s per step",
        "assumed      " + "\n             ".join(assumptions(plan)),
    ]


def largest_linear_shape(model: PreTrainedModel) -> tuple[int, int]:
    """Output and input features of the model's largest linear layer: most of a step's matrix products have its shape."""
    layers = counting.linear_layers(model) or [output_layer(model)]
    return max((tuple(layer.weight.shape) for layer in layers), key=math.prod)
