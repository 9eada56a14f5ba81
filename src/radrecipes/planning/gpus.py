"""Data sheets of GPUs."""

from collections.abc import Collection
from dataclasses import dataclass

from radrecipes.errors import InputError, nearest

# CUDA context and libraries of one process in bytes: assumed, not measured.
CONTEXT_BYTES = 2**30


@dataclass(frozen=True)
class Gpu:
    """One kind of GPU, according to its data sheet."""

    memory_bytes: int
    bf16_flops: float  # dense peak (NVIDIA's data sheets print twice as much, with sparsity)
    bytes_per_second: float  # memory bandwidth
    link_bytes_per_second: float  # to its neighbours, in one direction (data sheets print the sum of both)
    source: str


GPUS = {
    "h100": Gpu(80 * 10**9, 989e12, 3.35e12, 450e9, "NVIDIA's data sheet, H100 SXM"),
    "h100-pcie": Gpu(80 * 10**9, 756e12, 2.0e12, 64e9, "NVIDIA's data sheet, H100 PCIe"),
    "h200": Gpu(141 * 10**9, 989e12, 4.8e12, 450e9, "NVIDIA's data sheet, H200 SXM"),
    "a100-80gb": Gpu(80 * 10**9, 312e12, 2.039e12, 300e9, "NVIDIA's data sheet, A100 80GB SXM"),
    "a100-40gb": Gpu(40 * 10**9, 312e12, 1.555e12, 300e9, "NVIDIA's data sheet, A100 40GB SXM"),
    "l40s": Gpu(48 * 10**9, 362e12, 0.864e12, 32e9, "NVIDIA's data sheet, L40S"),
    "l4": Gpu(24 * 10**9, 121e12, 0.3e12, 32e9, "NVIDIA's data sheet, L4"),
    "rtx-4090": Gpu(24 * 10**9, 165e12, 1.008e12, 32e9, "NVIDIA's Ada whitepaper, GeForce RTX 4090"),
}


def find_gpu(name: str) -> Gpu:
    """The GPU of that name; an [`InputError`] if there is none."""
    if name.lower() in GPUS:
        return GPUS[name.lower()]
    raise InputError(f"unknown GPU `{name}`; {did_you_mean(name.lower(), GPUS)}", "--gpu")


def did_you_mean(name: str, known: Collection[str]) -> str:
    """The end of a message on an unknown name: the most similar known one, if any is similar, and all of them."""
    near = nearest(name, known, 50)
    return f"{f'did you mean `{near}`? ' if near else ''}({', '.join(known)})"
