"""A published result: what a recipe reached over several seeds, as one file beside the recipe."""

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scipy import stats

FIGURES = ("exact_accuracy", "macro_f1", "out_of_vocabulary_rate", "semantic_similarity")


def results_path(recipe: str | Path) -> Path:
    """Where a recipe's result stands: `recipes/<model>/<recipe>.results.json`."""
    return Path(recipe).with_suffix(".results.json")


def summarise(runs: Sequence[tuple[dict[str, Any], dict[str, Any]]], command: str) -> dict[str, Any]:
    """One result from the runs of one recipe over seeds.

    Args:
        runs (`Sequence[tuple[dict, dict]]`):
            `manifest.json` and `evaluation/metrics.json` of each run, one seed each.
        command (`str`):
            The command that made them.

    Returns:
        `dict`: per system and figure the mean, the standard deviation and the 95 % Student-t interval over seeds; one row a
        seed; hashes of base, data, prompt and recipe; versions, hardware, time and memory.

    Raises:
        `ValueError`: the runs differ in data, base or prompt, so that their mean would mean nothing.
    """
    first, metrics = runs[0]
    for manifest, _ in runs[1:]:
        for part, key in (("data", "digest"), ("base", "weights_sha256"), ("prompt", "sha256")):
            if manifest[part][key] != first[part][key]:
                raise ValueError(f"seed {manifest['training']['seed']} differs in {part}.{key}; train it anew")
    fields = {key: value for key, value in first["recipe"]["fields"].items() if key not in ("seed", "output_dir")}
    return {
        "recipe": first["recipe"]["name"],
        "fields": fields,
        "split": metrics["split"],
        "rows": metrics["rows"],
        "groups": metrics["groups"],
        "systems": {
            system: {
                figure: over_seeds(
                    [found["systems"][system][figure]["value"] for _, found in runs if system in found["systems"]]
                )
                for figure in FIGURES
            }
            for system in metrics["systems"]
        },
        "seeds": [_seed_row(manifest, found) for manifest, found in runs],
        "base": first["base"],
        "data": first["data"],
        "prompt": first["prompt"],
        "seconds": over_seeds([manifest["training"]["seconds"] for manifest, _ in runs]),
        "peak_memory_gib": max(manifest["training"]["peak_memory_gib"] for manifest, _ in runs),
        "trainable_parameters": first["training"]["trainable_parameters"],
        "packages": first["packages"],
        "hardware": first["hardware"],
        "code": first["code"],
        "command": command,
    }


def over_seeds(values: Sequence[float]) -> dict[str, float | int | None]:
    """Mean, standard deviation and 95 % Student-t interval of the mean; the last three are `None` for one seed.

    Args:
        values (`Sequence[float]`):
            One figure a seed.

    Returns:
        `dict`: `mean`, `sd`, `low`, `high`, `n`.
    """
    mean = statistics.fmean(values)
    if len(values) < 2:
        return {"mean": mean, "sd": None, "low": None, "high": None, "n": len(values)}
    deviation = statistics.stdev(values)
    half = float(stats.t.ppf(0.975, len(values) - 1)) * deviation / math.sqrt(len(values))
    return {"mean": mean, "sd": deviation, "low": mean - half, "high": mean + half, "n": len(values)}


def _seed_row(manifest: dict[str, Any], metrics: dict[str, Any]) -> dict[str, Any]:
    against = next((pair for pair in metrics["comparisons"] if pair["second"] == "tfidf_logistic_regression"), None)
    return {
        "seed": manifest["training"]["seed"],
        **{figure: metrics["systems"]["adapter"][figure]["value"] for figure in FIGURES},
        "against_linear": against,
        "mean_loss": manifest["training"]["mean_loss"],
        "seconds": manifest["training"]["seconds"],
    }
