"""Recipes that fine-tune open language models for radiology text, and the parts that the scripts share."""

import logging
import os
import warnings

# The only place that turns library telemetry off: every script and test imports this package before any library.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
# Waiting OpenMP threads spin 300,000 times by default: next to another busy process training takes several times as long
# (benchmarks/busy_machine.py). libgomp reads this when torch is imported.
if not os.environ.keys() & {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}:
    os.environ["GOMP_SPINCOUNT"] = "1000"

# The pinned libraries warn about each other's coming renames, which a user cannot fix.
warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|peft|trl|accelerate)\b")
# At every import on a CPU it recommends a download from the Hub; we test the built-in fallback.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

__version__ = "0.1.0"
