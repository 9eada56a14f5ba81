"""The environment of a run: package versions, code version, hardware, peak memory and determinism."""

import contextlib
import functools
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from radrecipes import __version__
from radrecipes.files import file_sha256

# Packages that affect a result: training, preparation, prompts and metrics.
_PACKAGES = """
    accelerate datasets evaluate huggingface-hub jinja2 numpy openpyxl pandas peft pyarrow rapidfuzz rouge-score
    sacrebleu sacremoses safetensors scikit-learn scipy sentence-transformers tokenizers torch transformers trl
""".split()  # noqa: SIM905  (one package per line would be long)
# These affect a result only if installed and used.
_OPTIONAL_PACKAGES = ("bitsandbytes", "deepspeed", "flash-attn", "kernels", "radeval", "triton", "vllm")
# With these values of `CUBLAS_WORKSPACE_CONFIG` cuBLAS is deterministic even with several streams (cuBLAS documentation).
_DETERMINISTIC_WORKSPACES = (":4096:8", ":16:8")


def packages() -> dict[str, str]:
    """Versions of Python and of the packages that affect a result; optional ones only if installed."""
    found = {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}}
    for name in _OPTIONAL_PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def constraints_sha256() -> str | None:
    """sha256 of the checkout's `constraints.txt` (what should be installed); `None` outside a checkout."""
    source = Path(__file__).resolve().parents[1]
    file = source.parent / "constraints.txt"
    return file_sha256(file) if source.name == "src" and file.is_file() else None


def hardware() -> dict[str, Any]:
    """Processor, memory and threads, and GPUs if this process uses one; the instruction set decides the last bits of sums."""
    import psutil
    import torch

    capabilities = torch.cpu.get_capabilities()
    # Clouds give many CPUs one name, and matrix products block by cache size.
    version_fields = ("cpu family", "model", "stepping", "cache size")
    facts: dict[str, Any] = {
        "processor": _of_processor("model name") or platform.processor() or platform.machine(),
        "processor_version": ", ".join(f"{name} {found}" for name in version_fields if (found := _of_processor(name))),
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
        drivers = _output_of("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
        facts["driver"] = drivers.split()[0] if drivers else None
    return facts


def describe_processor(facts: Mapping[str, Any], processes: int = 1, on_cpu: bool = False) -> str:
    """What computes on a machine with these facts of [`hardware`]: `"AMD EPYC 9V74, 2 threads"`, `"4 × NVIDIA H100"`.

    `on_cpu` is for a computation that uses no GPU.
    """
    if facts.get("gpus") and not on_cpu:
        return f"{processes} × {facts['gpus'][0]}" if processes > 1 else facts["gpus"][0]
    threads = processes * facts["threads"]
    return f"{facts['processor']}, {threads} thread{'s' if threads > 1 else ''}"


def determinism() -> dict[str, Any]:
    """What is deterministic in this process as currently configured, and what is not, one sentence each.

    Sources: PyTorch's notes on reproducibility and the documentation of `torch.use_deterministic_algorithms` and
    `torch.nn.functional.scaled_dot_product_attention`; tests of interrupted runs confirm it on a CPU.
    """
    import torch

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
        "closely on the same machine with the same versions, threads and processes; bit-identical results are not guaranteed"
    )
    workspace = os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    facts["cublas_workspace"] = workspace
    if not deterministic:
        facts["not_deterministic"].append(
            "CUDA operations that add with atomics, such as the gradients of indexing and of scatter, sum in a different order "
            "in each run."
        )
    if workspace not in _DETERMINISTIC_WORKSPACES:
        facts["not_deterministic"].append(
            "cuBLAS may sum in a different order with several streams; CUBLAS_WORKSPACE_CONFIG was not set to prevent it."
        )
    if not torch.backends.cudnn.deterministic:
        facts["not_deterministic"].append(
            "Attention may use cuDNN algorithms with non-deterministic gradients; torch.backends.cudnn.deterministic was off."
        )
    return facts


def code_version() -> dict[str, Any]:
    """`commit` of the checkout and whether it has uncommitted changes (`changed`); outside a git checkout both are `None`.

    There the `version` says which code it was. Documents and result files do not count as changes: recording one result writes
    both, and would mark the next as made by changed code.
    """
    git = functools.partial(_output_of, "git", "-C", str(Path(__file__).parent))
    root = git("rev-parse", "--show-toplevel")
    if root is None or Path(root).resolve() != Path(__file__).resolve().parents[2]:
        return {"commit": None, "changed": None, "version": __version__}  # also within another project's repository
    written_by_recording = (":(top,exclude)*.md", ":(top,exclude)*.results.json")
    status = git("status", "--porcelain", "--untracked-files=no", "--", ":(top)", *written_by_recording)
    return {"commit": git("rev-parse", "HEAD"), "changed": None if status is None else bool(status)}


def peak_memory_gib() -> float:
    """Peak resident memory of this process in GiB; on a GPU the peak that torch allocated there."""
    if _on_gpu():
        import torch

        return round(torch.cuda.max_memory_allocated() / 2**30, 3)
    if sys.platform == "win32":  # has no `resource`
        import psutil

        return round(psutil.Process().memory_info().peak_wset / 2**30, 3)
    import resource

    unit = 2**30 if sys.platform == "darwin" else 2**20  # bytes there, KiB on Linux
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 3)


def _on_gpu() -> bool:
    """Whether this process computes on a GPU: one is available, and the launcher did not choose the CPU."""
    import torch
    from accelerate.utils import parse_flag_from_env

    return torch.cuda.is_available() and not parse_flag_from_env("ACCELERATE_USE_CPU")


def _output_of(*command: str) -> str | None:
    """What a command prints; `None` if it cannot be run or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _of_processor(field: str) -> str:
    """A field of the first CPU in Linux's `/proc/cpuinfo`; empty if there is none."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    values = (line.split(":", 1)[1].strip() for line in lines if line.partition(":")[0].strip() == field)
    return next(values, "")
