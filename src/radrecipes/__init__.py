"""Recipes that fine-tune open language models for radiology text, and the parts that the scripts share."""

import os

# The one place that turns library telemetry off: every script and test imports this package before any library.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"
