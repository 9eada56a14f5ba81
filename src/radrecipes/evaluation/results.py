"""A published result: what a recipe reached over several seeds, as one file beside the recipe."""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scipy import stats

from radrecipes.errors import InputError
from radrecipes.evaluation.label_metrics import ADAPTER
from radrecipes.inference.selective import DEFAULT_TARGET
from radrecipes.tasks.headline_figures import HEADLINES, HeadlineFigure, figure_value, task_of, writes_text
from radrecipes.training.identity import NOT_OF_RESULT, without

# In a release
RESULTS_FILE = "results.json"
DECISION_FIGURES = ("coverage", "accuracy", "area_under_risk_coverage")
# What of a manifest the runs of one result have in common, beside the recipe.
_SAME_IN_ALL_RUNS = (("data", "digest"), ("base", "weights_sha256"), ("prompt", "sha256"))
_FIRST_SEED = 42
# What is reproduced of automatic answers, beside the headline figures.
_DECIDED = (
    HeadlineFigure("coverage", f"settled alone at {100 * DEFAULT_TARGET:g} %"),
    HeadlineFigure("accuracy", "of these right"),
)


def results_path(recipe: str | Path) -> Path:
    """Where a recipe's result stands: `recipes/<model>/<recipe>.results.json`."""
    return Path(recipe).with_suffix(".results.json")


def seeds_to_record(count: int) -> list[int]:
    """The first `count` of the seeds that results are recorded with: 42, 1, 2, 3, 4, …"""
    return [_FIRST_SEED, *(seed for seed in range(1, count + 1) if seed != _FIRST_SEED)][:count]


def results_fit(manifest: Mapping[str, Any], results: Mapping[str, Any]) -> bool:
    """Whether a run is one of the seeds that a recipe's result tells of.

    Args:
        manifest (`Mapping[str, Any]`):
            `manifest.json` of the run.
        results (`Mapping[str, Any]`):
            Content of a `*.results.json`.
    """
    return (
        results["fields"] == _decisive_fields(manifest)
        and manifest["training"]["seed"] in [row["seed"] for row in results["seeds"]]
        and all(results[part][key] == manifest[part][key] for part, key in _SAME_IN_ALL_RUNS)
    )


def summarise(runs: Sequence[tuple[dict[str, Any], dict[str, Any]]], command: str) -> dict[str, Any]:
    """One result from the runs of one recipe over seeds.

    Args:
        runs (`Sequence[tuple[dict, dict]]`):
            `manifest.json` and `evaluation/metrics.json` of each run, one seed each.
        command (`str`):
            The command that made them.

    Returns:
        `dict`: per system and headline figure the mean, the standard deviation and the 95 % Student-t interval over
        seeds; one row a seed, with the adapter's sha256, the losses of its first steps, the code that trained it and that
        evaluated it, its time and hardware; hashes of base, data, prompt and recipe; versions and memory. Where labels are
        chosen the same for `calibration` (`temperature` and `expected_calibration_error` behind it) and for `decisions`
        (`coverage` and `accuracy` at the threshold for 95 %, `area_under_risk_coverage`; per system), each `None` where
        the answers were generated and have no probability. Where text is written `system_rows` for systems
        that wrote fewer rows than the others.

    Raises:
        [`InputError`]: the runs differ in recipe, data, base or prompt, so that their mean would mean nothing.
    """
    first, metrics = runs[0]
    fields = _decisive_fields(first)
    for manifest, _ in runs[1:]:
        differing = [f"{part}.{key}" for part, key in _SAME_IN_ALL_RUNS if manifest[part][key] != first[part][key]]
        differing += [] if _decisive_fields(manifest) == fields else ["recipe"]
        if differing:
            raise InputError(f"seed {manifest['training']['seed']} differs in {', '.join(differing)}; train it anew")
    metrics_of_seeds = [found for _, found in runs]
    return {
        "recipe": first["recipe"]["name"],
        "fields": fields,
        **({"resolved": _resolved(first)} if "resolved" in first["recipe"] else {}),
        "task": metrics["task"],
        "split": metrics["split"],
        "rows": metrics["rows"],
        "groups": metrics["groups"],
        "systems": {
            system: {
                figure.name: _over_some(
                    [
                        figure_value(found["systems"][system][figure.name])
                        for found in metrics_of_seeds
                        if system in found["systems"]
                    ]
                )
                for figure in HEADLINES[task_of(metrics)].figures
            }
            for system in metrics["systems"]
        },
        **(_about_texts(metrics) if writes_text(metrics) else _about_choices(metrics_of_seeds)),
        "seeds": [_seed_row(manifest, found) for manifest, found in runs],
        "base": first["base"],
        "data": first["data"],
        "prompt": first["prompt"],
        "peak_memory_gib": max(manifest["training"]["peak_memory_gib"] for manifest, _ in runs),
        "trainable_parameters": first["training"]["trainable_parameters"],
        "packages": first["packages"],
        "hardware": first["hardware"],
        # Manifests of older runs lack these.
        **{key: first[key] for key in ("constraints_sha256", "determinism") if key in first},
        "code": first["code"],
        "command": command,
    }


def figures_to_compare(document: Mapping[str, Any]) -> list[HeadlineFigure]:
    """What a run is compared by: the headline figures of its task, and what it settles alone where it chooses labels.

    Args:
        document (`Mapping[str, Any]`):
            Content of a `metrics.json` or of a `*.results.json`.
    """
    return [*HEADLINES[task_of(document)].figures, *(() if writes_text(document) else _DECIDED)]


def figures_of_metrics(metrics: Mapping[str, Any]) -> dict[str, float | None]:
    """The values of [`figures_to_compare`] in a `metrics.json`; `None` where there is none, as without any automatic answer."""
    system = metrics["systems"][HEADLINES[task_of(metrics)].system]
    decided = _decisions_of(metrics, ADAPTER) if "selective" in system else {}
    return {
        figure.name: decided.get(figure.name) if figure in _DECIDED else figure_value(system[figure.name])
        for figure in figures_to_compare(metrics)
    }


def figures_of_seed(results: Mapping[str, Any], seed: int) -> dict[str, float | None]:
    """The same of one recorded seed.

    Args:
        results (`Mapping[str, Any]`):
            Content of a `*.results.json`.
        seed (`int`):
            One of its seeds.
    """
    row = next(row for row in results["seeds"] if row["seed"] == seed)
    decided = (row.get("decisions") or {}).get(ADAPTER, {})
    return {
        figure.name: decided.get(figure.name) if figure in _DECIDED else row[figure.name]
        for figure in figures_to_compare(results)
    }


def figures_over_seeds(results: Mapping[str, Any]) -> dict[str, dict[str, Any] | None]:
    """The same over all recorded seeds, each as [`over_seeds`] gives it.

    Args:
        results (`Mapping[str, Any]`):
            Content of a `*.results.json`.
    """
    system = results["systems"][HEADLINES[task_of(results)].system]
    decided = ((results.get("decisions") or {}).get("systems") or {}).get(ADAPTER, {})
    return {
        figure.name: (decided if figure in _DECIDED else system).get(figure.name)
        for figure in figures_to_compare(results)
    }


def code_of_seeds(results: Mapping[str, Any]) -> dict[str, list[str]]:
    """Which code trained and evaluated the seeds of a result.

    Args:
        results (`Mapping[str, Any]`):
            Content of a `*.results.json`.

    Returns:
        `dict[str, list[str]]`: by commit, with `(changed)` behind it where the checkout held other changes, what it did:
        `"training of 42"`. More than one commit means that the seeds were not made by the same code.
    """
    done: dict[str, list[str]] = {}
    for row in results["seeds"]:
        for step in ("training", "evaluation"):
            # Older results do not say it.
            code = row.get(f"{step}_code") or {}
            name = (code.get("commit") or "unknown")[:12] + (" (changed)" if code.get("changed") else "")
            done.setdefault(name, []).append(f"{step} of {row['seed']}")
    return done


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


def _decisive_fields(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe of a run without what differs from seed to seed."""
    return without(manifest["recipe"]["fields"], NOT_OF_RESULT)


def _resolved(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The same with defaults written out."""
    return without(manifest["recipe"]["resolved"], NOT_OF_RESULT)


def _over_some(values: Sequence[float | None]) -> dict[str, float | int | None] | None:
    """The same where some seeds, or all, have no such figure."""
    known = [value for value in values if value is not None]
    return over_seeds(known) if known else None


def _seed_row(manifest: dict[str, Any], metrics: dict[str, Any]) -> dict[str, Any]:
    headlines = HEADLINES[task_of(metrics)]
    system = metrics["systems"][headlines.system]
    return {
        "seed": manifest["training"]["seed"],
        **{figure.name: figure_value(system[figure.name]) for figure in headlines.figures},
        **(_texts_of_seed(metrics) if writes_text(metrics) else _choices_of_seed(metrics)),
        "mean_loss": manifest["training"]["mean_loss"],
        **{key: manifest["training"][key] for key in ("first_losses",) if key in manifest["training"]},
        "seconds": manifest["training"]["seconds"],
        "hardware": manifest["hardware"],
        "adapter_sha256": metrics.get("adapter_sha256"),
        "training_code": manifest["code"],
        "evaluation_code": metrics.get("code"),
    }


def _about_texts(metrics: dict[str, Any]) -> dict[str, Any]:
    rows = {name: system["rows"] for name, system in metrics["systems"].items()}
    fewer = {name: count for name, count in rows.items() if count < metrics["rows"]}
    return {"system_rows": fewer}


def _texts_of_seed(metrics: dict[str, Any]) -> dict[str, Any]:
    guard = metrics["systems"][HEADLINES[metrics["task"]].system]["guard"]
    return {
        "guard": {way: guard[way] for way in ("first_try", "later_try", "template")},
        "comparisons": metrics["comparisons"],
    }


def _about_choices(metrics_of_seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {"calibration": _calibration(metrics_of_seeds), "decisions": _decisions(metrics_of_seeds)}


def _choices_of_seed(metrics: dict[str, Any]) -> dict[str, Any]:
    pairs = {pair["second"]: pair for pair in metrics["comparisons"]}
    best = (metrics.get("best_baseline") or {}).get("name")
    return {
        "calibration": _calibration_of(metrics),
        "decisions": {system: _decisions_of(metrics, system) for system in _deciding_systems(metrics)} or None,
        "against_linear": pairs.get("tfidf_logistic_regression"),
        "against_best_baseline": pairs.get(best),
    }


def _calibration(metrics_of_seeds: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    rows = [row for row in map(_calibration_of, metrics_of_seeds) if row]
    return {key: over_seeds([row[key] for row in rows]) for key in rows[0]} if rows else None


def _calibration_of(metrics: dict[str, Any]) -> dict[str, float] | None:
    calibration = metrics.get("calibration")
    if not calibration:
        return None
    error = calibration["after"]["expected_calibration_error"]
    return {"temperature": calibration["temperature"], "expected_calibration_error": error}


def _decisions(metrics_of_seeds: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    systems = dict.fromkeys(system for metrics in metrics_of_seeds for system in _deciding_systems(metrics))
    if not systems:
        return None
    summary: dict[str, Any] = {"target_accuracy": DEFAULT_TARGET, "systems": {}}
    for system in systems:
        rows = [_decisions_of(metrics, system) for metrics in metrics_of_seeds if system in _deciding_systems(metrics)]
        summary["systems"][system] = {figure: _over_some([row[figure] for row in rows]) for figure in DECISION_FIGURES}
    return summary


def _deciding_systems(metrics: dict[str, Any]) -> list[str]:
    """The adapter and the best baseline, where their answers have a confidence."""
    best = (metrics.get("best_baseline") or {}).get("name")
    return [name for name in ("adapter", best) if "selective" in metrics["systems"].get(name, {})]


def _decisions_of(metrics: dict[str, Any], system: str) -> dict[str, float | None]:
    selective = metrics["systems"][system]["selective"]
    # Where validation could not support the target, nothing is automatic: no coverage, and no accuracy to speak of.
    on_test = next((row["test"] for row in selective["thresholds"] if row["target_accuracy"] == DEFAULT_TARGET), None)
    accuracy = on_test["accuracy"] if on_test else None
    return {
        "coverage": on_test["coverage"]["value"] if on_test else None,
        "accuracy": accuracy["value"] if accuracy else None,
        "area_under_risk_coverage": selective["area_under_risk_coverage"]["value"],
    }
