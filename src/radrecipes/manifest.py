"""What a run was made of: versions, hashes, hardware, time, memory."""

import platform
import resource
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch

_PACKAGES = (
    "accelerate",
    "bitsandbytes",
    "datasets",
    "evaluate",
    "huggingface-hub",
    "numpy",
    "peft",
    "scikit-learn",
    "sentence-transformers",
    "tokenizers",
    "torch",
    "transformers",
    "trl",
)


def packages() -> dict[str, str]:
    """Versions of the packages that decide a result, and of Python."""
    return {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}}


def hardware() -> dict[str, Any]:
    """Processor, cores, memory in GiB, threads that torch uses, and the GPUs."""
    facts: dict[str, Any] = {
        "processor": _processor_name(),
        "cores": psutil.cpu_count(logical=False) or psutil.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
    }
    if torch.cuda.is_available():
        facts["gpus"] = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return facts


def code_version() -> dict[str, Any]:
    """Commit of the checkout and whether it was changed since; `None` outside a git checkout."""
    root = Path(__file__).parent

    def git(*words: str) -> str | None:
        try:
            answer = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, timeout=10, check=True)
        except (OSError, subprocess.SubprocessError):
            return None
        return answer.stdout.strip()

    status = git("status", "--porcelain", "--untracked-files=no")
    return {"commit": git("rev-parse", "HEAD"), "changed": None if status is None else bool(status)}


def peak_memory_gib() -> float:
    """Peak resident memory of this process in GiB; on a GPU the peak that torch allocated there."""
    if torch.cuda.is_available():
        return round(torch.cuda.max_memory_allocated() / 2**30, 3)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 3)


def _processor_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
