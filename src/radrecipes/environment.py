"""What a run is made in: versions, hashes of the code, hardware, memory, and what repeats there."""

import contextlib
import hashlib
import os
import platform
import resource
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import torch
from accelerate.utils import parse_flag_from_env

# Whatever trains, prepares, prompts, measures or judges.
_PACKAGES = (
    "accelerate",
    "bitsandbytes",
    "datasets",
    "evaluate",
    "huggingface-hub",
    "jinja2",
    "numpy",
    "pandas",
    "peft",
    "pyarrow",
    "rapidfuzz",
    "rouge-score",
    "sacrebleu",
    "sacremoses",
    "safetensors",
    "scikit-learn",
    "scipy",
    "sentence-transformers",
    "tokenizers",
    "torch",
    "transformers",
    "trl",
)
# Decide a result only where they are installed and used.
_OPTIONAL_PACKAGES = ("deepspeed", "flash-attn", "kernels", "radeval", "triton", "vllm")
# Values of `CUBLAS_WORKSPACE_CONFIG` with which cuBLAS repeats its sums also where several streams run (cuBLAS documentation).
_REPEATING_WORKSPACES = (":4096:8", ":16:8")


def packages() -> dict[str, str]:
    """Versions of the packages that decide a result, and of Python; optional ones only where they are installed."""
    found = {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}}
    for name in _OPTIONAL_PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def constraints_sha256() -> str | None:
    """sha256 of the checkout's `constraints.txt`, all versions to install; `None` outside a checkout.

    It says what should be installed; [`packages`] says what is.
    """
    source = Path(__file__).resolve().parents[1]
    file = source.parent / "constraints.txt"
    if source.name != "src" or not file.is_file():
        return None
    return hashlib.sha256(file.read_bytes()).hexdigest()


def hardware() -> dict[str, Any]:
    """Processor, its generation and instructions, cores, memory in GiB, torch's threads; GPUs, CUDA and driver where they are used.

    `instruction_set` is what PyTorch's own kernels run with, `bfloat16_instructions` what bfloat16 products can: both decide the
    order of sums, and so the last bits.
    """
    capabilities = torch.cpu.get_capabilities()
    facts: dict[str, Any] = {
        "processor": _of_processor("model name") or platform.processor() or platform.machine(),
        "processor_version": _processor_version(),
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
        "bfloat16_instructions": [name for name in ("amx_bf16", "avx512_bf16", "bf16") if capabilities.get(name)],
        "cores": psutil.cpu_count(logical=False) or psutil.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
    }
    if _on_gpu():
        facts["gpus"] = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        facts["gpu_memory_gib"] = round(torch.cuda.get_device_properties(0).total_memory / 2**30, 1)
        facts["cuda"] = torch.version.cuda or torch.version.hip
        facts["cudnn"] = torch.backends.cudnn.version()
        facts["driver"] = _driver_version()
    return facts


def determinism() -> dict[str, Any]:
    """What repeats to the bit and what does not, in this process as it is set up now.

    Sources: PyTorch's notes on reproducibility and the documentation of `torch.use_deterministic_algorithms` and
    `torch.nn.functional.scaled_dot_product_attention`; that a run repeats on a CPU was measured (tests of interrupted runs).

    Returns:
        `dict`: `threads` (`int`), `deterministic_algorithms` (`bool`, PyTorch's own switch), `cublas_workspace` (`str` or `None`,
        on a GPU only), `repeats` (`str`, when a second run gives the same bits) and `not_deterministic` (`list[str]`, a sentence
        for each thing that can make it differ).
    """
    deterministic = torch.are_deterministic_algorithms_enabled()
    facts: dict[str, Any] = {
        "threads": torch.get_num_threads(),
        "deterministic_algorithms": deterministic,
        "repeats": "to the bit on the same machine with the same versions, threads and processes",
        "not_deterministic": [
            "The last bits differ between processors, versions of the packages, numbers of threads and numbers of "
            "processes: sums are taken in another order."
        ],
    }
    if not _on_gpu():
        return facts
    facts["repeats"] = (
        "closely on the same machine with the same versions, threads and processes; to the bit is not promised"
    )
    workspace = os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    facts["cublas_workspace"] = workspace
    if not deterministic:
        facts["not_deterministic"].append(
            "Operations of CUDA that add with atomics, among them the gradients of indexing and of scatter, take their sums in "
            "another order in each run."
        )
    if workspace not in _REPEATING_WORKSPACES:
        facts["not_deterministic"].append(
            "cuBLAS may choose another way of summing where several streams run; CUBLAS_WORKSPACE_CONFIG was not set against it."
        )
    if not torch.backends.cudnn.deterministic:
        facts["not_deterministic"].append(
            "Attention may choose algorithms of cuDNN whose gradients do not repeat; torch.backends.cudnn.deterministic was off."
        )
    return facts


def code_version() -> dict[str, Any]:
    """Commit of the checkout and whether it was changed since; `None` outside a git checkout.

    Documentation and results do not count: recording one result writes both, and would mark the next as made by changed code.
    """
    root = Path(__file__).parent

    def git(*words: str) -> str | None:
        try:
            answer = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, timeout=10, check=True)
        except (OSError, subprocess.SubprocessError):
            return None
        return answer.stdout.strip()

    written_by_recording = (":(top,exclude)*.md", ":(top,exclude)*.results.json")
    status = git("status", "--porcelain", "--untracked-files=no", "--", ":(top)", *written_by_recording)
    return {"commit": git("rev-parse", "HEAD"), "changed": None if status is None else bool(status)}


def peak_memory_gib() -> float:
    """Peak resident memory of this process in GiB; on a GPU the peak that torch allocated there."""
    if _on_gpu():
        return round(torch.cuda.max_memory_allocated() / 2**30, 3)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 3)


def _on_gpu() -> bool:
    """Whether this process computes on a GPU: one is there, and the launcher did not choose the CPU."""
    return torch.cuda.is_available() and not parse_flag_from_env("ACCELERATE_USE_CPU")


def _driver_version() -> str | None:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.split()
    except (OSError, subprocess.SubprocessError):
        return None
    return answer[0] if answer else None


def _processor_version() -> str:
    """Generation and cache of the processor: a cloud gives many the same name, and products are blocked by the cache's size."""
    fields = ("cpu family", "model", "stepping", "cache size")
    return ", ".join(f"{name} {value}" for name in fields if (value := _of_processor(name)))


def _of_processor(field: str) -> str:
    """A field of Linux's `/proc/cpuinfo` for the first processor; empty where there is none."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    values = (line.split(":", 1)[1].strip() for line in lines if line.partition(":")[0].strip() == field)
    return next(values, "")
