"""The dtype that a model computes in: the recipe's, or the faster one of the machine, and how fast its matrix products are."""

import contextlib
import functools
import math
import time
from collections.abc import Iterator

import torch
import torch.nn.functional as F  # noqa: N812  (the field's usual name)

AUTO = "auto"
# Rows of activations, output and input features: like those of a small model's batch.
_SHAPE = 512, 1024, 1024


def compute_dtype(dtype: str | None) -> torch.dtype:
    """The dtype that a recipe states, or for `"auto"` the faster one, see [`faster_dtype`]; float32 by default, as in TRL."""
    if dtype == AUTO:
        dtype = faster_dtype()
    return {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(dtype, torch.float32)


def faster_dtype() -> str:
    """`"bfloat16"` on a GPU; on a CPU `"float32"` or `"bfloat16"`, whichever had the faster products, see [`measured_rates`]."""
    if torch.cuda.is_available():
        return "bfloat16"
    rates = measured_rates()
    return max(rates, key=rates.get)


@functools.cache
def measured_rates(seconds: float = 0.5) -> dict[str, float]:
    """Operations per second of matrix products in float32 and bfloat16, measured once per process.

    A processor's name or instructions do not tell which is faster: Sapphire Rapids without AMX has bfloat16 instructions, and
    float32 is faster there.
    """
    rounds, rates = 4, {"float32": 0.0, "bfloat16": 0.0}
    for _ in range(rounds):  # alternating, because other work on the machine comes and goes
        for name in rates:
            rate = measure_products(getattr(torch, name), _SHAPE[0], _SHAPE[1:], seconds / rounds / len(rates))
            rates[name] = max(rates[name], rate)
    return rates


def describe_choice(dtype: str) -> str:
    """Why `"auto"` is this dtype."""
    if torch.cuda.is_available():
        return f"{dtype}, as always on a GPU"
    rates = " and ".join(f"{rate / 1e9:,.0f} GFLOP/s in {name}" for name, rate in measured_rates().items())
    why = "" if dtype == faster_dtype() else ", as this run began"
    return f"{dtype}{why}; matrix products run here at {rates}"


@contextlib.contextmanager
def linear_weights_cast(model: torch.nn.Module) -> Iterator[None]:
    """Linear layers with their float32 weights in autocast's dtype, which otherwise casts them in every forward pass.

    The model computes the same bits. Generation of a text is hundreds of passes, each with few rows: it takes less than half the
    time. Does nothing outside autocast, and leaves quantised weights as they are. Not for a model that is sharded.
    """
    device = next(model.parameters()).device.type
    replaced = {}
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        for module in model.modules():
            weight = module._parameters.get("weight") if isinstance(module, torch.nn.Linear) else None
            if type(weight) is torch.nn.Parameter and weight.dtype == torch.float32:  # not one of bitsandbytes
                replaced[module] = weight
                # Not in place, because an embedding may share it
                module._parameters["weight"] = torch.nn.Parameter(weight.detach().to(dtype), requires_grad=False)
    try:
        yield
    finally:
        for module, weight in replaced.items():
            module._parameters["weight"] = weight


def measure_products(dtype: torch.dtype, tokens: int, shape: tuple[int, int], seconds: float = 1.0) -> float:
    """Matrix products of this machine in operations per second: the rate of the fastest 5 %, as on an idle machine.

    `tokens` are the rows of the activations, `shape` the output and input features of the layer.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    # Not random, because the caller's random numbers must not depend on a measurement.
    left = torch.linspace(-1, 1, tokens * shape[1], device=device).reshape(tokens, shape[1]).to(dtype)
    right = torch.linspace(-1, 1, math.prod(shape), device=device).reshape(shape).to(dtype)
    times: list[float] = []
    deadline = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < deadline:
        began = time.perf_counter()
        F.linear(left, right)
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return 2 * tokens * math.prod(shape) / sorted(times)[len(times) // 20]
