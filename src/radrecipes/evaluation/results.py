"""A recorded result: what a recipe achieved over several seeds, in one file next to the recipe."""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scipy import stats

from radrecipes.data.prepared import MADE_BY
from radrecipes.errors import InputError
from radrecipes.evaluation.label_systems import ADAPTER
from radrecipes.inference.selective import DEFAULT_TARGET
from radrecipes.tasks import TASKS, HeadlineMetric, LabelTask, Task, metric_value
from radrecipes.training.identity import NOT_OF_RESULT, without

# In a release
RESULTS_FILE = "results.json"
# What the manifests of all runs of one result share, in addition to the recipe.
_SAME_IN_ALL_RUNS = (("data", "digest"), ("base", "weights_sha256"), ("prompt", "sha256"))
_FIRST_SEED = 42
# Metrics of automatic answers that are reproduced in addition to the headline metrics.
_DECIDED = (
    HeadlineMetric("coverage", f"coverage at {100 * DEFAULT_TARGET:g} % target accuracy"),
    HeadlineMetric("accuracy", "selective accuracy"),
)


def task_of(document: Mapping[str, Any]) -> Task:
    """The task of a `metrics.json` or a `*.results.json`; an [`InputError`] if an older version wrote it."""
    if document.get("task") not in TASKS:
        raise InputError("metrics.json names no task: an older version wrote it; evaluate again with --restart")
    return TASKS[document["task"]]


def results_path(recipe: str | Path) -> Path:
    """`recipes/<model>/<recipe>.results.json`."""
    return Path(recipe).with_suffix(".results.json")


def seeds_to_record(count: int) -> list[int]:
    """The first `count` of the seeds that results are recorded with: 42, 1, 2, 3, 4, …"""
    return [_FIRST_SEED, *(seed for seed in range(1, count + 1) if seed != _FIRST_SEED)][:count]


def results_fit(manifest: Mapping[str, Any], results: Mapping[str, Any]) -> bool:
    """Whether the run with this manifest is one of the seeds of a recipe's result."""
    return (
        results["fields"] == _decisive_fields(manifest)
        and manifest["training"]["seed"] in [row["seed"] for row in results["seeds"]]
        and all(results[part][key] == manifest[part][key] for part, key in _SAME_IN_ALL_RUNS)
    )


def summarise(runs: Sequence[tuple[dict[str, Any], dict[str, Any]]], command: str) -> dict[str, Any]:
    """One result from the runs of one recipe over seeds.

    `runs` are `manifest.json` and `evaluation/metrics.json` of each run, one seed each; `command` is what made them. Raises an
    [`InputError`] if they differ in recipe, data, base model or prompt, because their mean would be meaningless.

    Returns:
        Per system and headline metric the mean, the standard deviation and the 95 % Student-t interval over seeds; one row per
        seed; hashes of base model, data, prompt and recipe; versions and memory; `best_baseline` on validation. Label tasks:
        `costs` per system, `calibration` and, per system, `decisions`, each `None` for generated answers, which have no
        probability. Text tasks: `system_rows` of systems that wrote fewer rows than the others, and the same figures on
        `unseen` texts.
    """
    first, metrics = runs[0]
    fields = _decisive_fields(first)
    for manifest, _ in runs[1:]:
        differing = [f"{part}.{key}" for part, key in _SAME_IN_ALL_RUNS if manifest[part][key] != first[part][key]]
        differing += [] if _decisive_fields(manifest) == fields else ["recipe"]
        if differing:
            raise InputError(
                f"seed {manifest['training']['seed']} differs in {', '.join(differing)}; train it from scratch"
            )
    task, metrics_of_seeds = task_of(metrics), [found for _, found in runs]
    seeds = [_seed_row(manifest, found, task) for manifest, found in runs]
    recipe = first["recipe"]
    return {
        "recipe": recipe["name"],
        "fields": fields,
        "resolved": without(recipe["resolved"], NOT_OF_RESULT),
        "task": metrics["task"],
        "split": metrics["split"],
        "rows": metrics["rows"],
        "groups": metrics["groups"],
        "systems": {
            system: {
                metric.name: _headline_over_seeds(metrics_of_seeds, system, metric.name)
                for metric in task.measured(metrics)
            }
            for system in metrics["systems"]
        },
        "best_baseline": metrics.get("best_baseline"),
        **(
            _about_labels(metrics_of_seeds, seeds)
            if isinstance(task, LabelTask)
            else _about_texts(metrics_of_seeds, task)
        ),
        **({"slices_by_column": slices} if (slices := _slices_over_seeds(metrics_of_seeds)) else {}),
        "seeds": seeds,
        "base": first["base"],
        "data": {**first["data"], **_command_for(first["data"].get("folder"))},
        "prompt": first["prompt"],
        "peak_memory_gib": max(manifest["training"]["peak_memory_gib"] for manifest, _ in runs),
        "trainable_parameters": first["training"]["trainable_parameters"],
        "packages": first["packages"],
        "hardware": first["hardware"],
        **{key: first[key] for key in ("constraints_sha256", "determinism")},
        "code": first["code"],
        "command": command,
    }


def figures_to_compare(document: Mapping[str, Any]) -> list[HeadlineMetric]:
    """The headline metrics of a `metrics.json` or a result; for label tasks also the metrics of automatic answers."""
    task = task_of(document)
    return [*task.measured(document), *(_DECIDED if isinstance(task, LabelTask) else ())]


def figures_of_metrics(metrics: Mapping[str, Any]) -> dict[str, float | None]:
    """The values of [`figures_to_compare`] in a `metrics.json`; `None` for missing ones, for example without automatic answers."""
    system = metrics["systems"][task_of(metrics).main_system]
    decided = _decisions_of(metrics, ADAPTER) if "selective" in system else {}
    return {
        metric.name: decided.get(metric.name) if metric in _DECIDED else metric_value(system.get(metric.name))
        for metric in figures_to_compare(metrics)
    }


def figures_of_seed(results: Mapping[str, Any], seed: int) -> dict[str, float | None]:
    """The values of [`figures_to_compare`] of one recorded seed."""
    row = next(row for row in results["seeds"] if row["seed"] == seed)
    decided = (row.get("decisions") or {}).get(ADAPTER, {})
    return {
        metric.name: decided.get(metric.name) if metric in _DECIDED else row.get(metric.name)
        for metric in figures_to_compare(results)
    }


def figures_over_seeds(results: Mapping[str, Any]) -> dict[str, dict[str, Any] | None]:
    """The values of [`figures_to_compare`] over all recorded seeds, each as [`over_seeds`] returns it."""
    system = results["systems"][task_of(results).main_system]
    decided = ((results.get("decisions") or {}).get("systems") or {}).get(ADAPTER, {})
    return {
        metric.name: (decided if metric in _DECIDED else system).get(metric.name)
        for metric in figures_to_compare(results)
    }


def code_of_seeds(results: Mapping[str, Any]) -> dict[str, list[str]]:
    """For each commit, followed by `(changed)` if the checkout had other changes, what it did, for example `"training of 42"`.

    More than one commit means that the seeds were not all made by the same code.
    """
    done: dict[str, list[str]] = {}
    for row in results["seeds"]:
        for step in ("training", "evaluation"):
            code = row[f"{step}_code"]
            name = (code.get("commit") or "unknown")[:12] + (" (changed)" if code.get("changed") else "")
            done.setdefault(name, []).append(f"{step} of {row['seed']}")
    return done


def over_seeds(values: Sequence[float]) -> dict[str, float | int | None]:
    """`mean`, `sd`, `low` and `high` of the mean's 95 % Student-t interval, and `n`; for one seed only `mean` and `n`."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return {"mean": mean, "sd": None, "low": None, "high": None, "n": len(values)}
    deviation = statistics.stdev(values)
    half = float(stats.t.ppf(0.975, len(values) - 1)) * deviation / math.sqrt(len(values))
    return {"mean": mean, "sd": deviation, "low": mean - half, "high": mean + half, "n": len(values)}


def _decisive_fields(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe of a run without the fields that may differ between seeds."""
    return without(manifest["recipe"]["fields"], NOT_OF_RESULT)


def _over_some(values: Sequence[float | None]) -> dict[str, float | int | None] | None:
    """[`over_seeds`] of the seeds that have the metric; `None` if none does."""
    known = [value for value in values if value is not None]
    return over_seeds(known) if known else None


def _headline_over_seeds(
    metrics_of_seeds: Sequence[dict[str, Any]], system: str, metric: str
) -> dict[str, Any] | None:
    """A headline metric of a system over the seeds that evaluated it."""
    systems = [metrics["systems"] for metrics in metrics_of_seeds]
    return _over_some([metric_value(found[system].get(metric)) for found in systems if found.get(system)])


def _seed_row(manifest: dict[str, Any], metrics: dict[str, Any], task: Task) -> dict[str, Any]:
    system = metrics["systems"][task.main_system]
    training = manifest["training"]
    return {
        "seed": training["seed"],
        **{metric.name: metric_value(system[metric.name]) for metric in task.measured(metrics)},
        "comparisons": metrics["comparisons"],
        **(_choices_of_seed(metrics) if isinstance(task, LabelTask) else {"guard": _outcomes(system["guard"])}),
        "mean_loss": training["mean_loss"],
        "first_losses": training["first_losses"],
        "seconds": training["seconds"],
        "hardware": manifest["hardware"],
        "adapter_sha256": metrics.get("adapter_sha256"),
        "training_code": manifest["code"],
        "evaluation_code": metrics["code"],
    }


def _command_for(folder: str | None) -> dict[str, str]:
    """What makes a dataset that the repository may not contain."""
    return {"made_by": MADE_BY[folder]} if folder in MADE_BY else {}


def _about_texts(metrics_of_seeds: Sequence[dict[str, Any]], task: Task) -> dict[str, Any]:
    first = metrics_of_seeds[0]
    return {
        "system_rows": _rows_of_fewer(first),
        "unseen": {
            name: {
                **{key: found[key] for key in ("rows", "groups")},
                "system_rows": _rows_of_fewer(found),
                "systems": {
                    system: figures
                    and {
                        metric.name: _headline_over_seeds(
                            [m["unseen"][name] for m in metrics_of_seeds], system, metric.name
                        )
                        for metric in task.measured(found)
                    }
                    for system, figures in found["systems"].items()
                },
            }
            for name, found in first["unseen"].items()
        },
    }


def _rows_of_fewer(measured: Mapping[str, Any]) -> dict[str, int]:
    """How many rows the systems wrote that wrote fewer than all."""
    rows = {name: system["rows"] for name, system in measured["systems"].items() if system}
    return {name: count for name, count in rows.items() if count < measured["rows"]}


def _outcomes(guard: Mapping[str, Any]) -> dict[str, int]:
    return {outcome: count for outcome, count in guard.items() if outcome != "reasons"}


def _choices_of_seed(metrics: dict[str, Any]) -> dict[str, Any]:
    best = (metrics.get("best_baseline") or {}).get("name")
    found = metrics["systems"][ADAPTER].get("calibration")
    # The adapter and the best baseline, if their answers have a confidence
    deciding = [name for name in (ADAPTER, best) if "selective" in metrics["systems"].get(name, {})]
    return {
        "calibration": {"temperature": found["temperature"], "expected_calibration_error": _calibration_error(found)}
        if found
        else None,
        "decisions": {system: _decisions_of(metrics, system) for system in deciding} or None,
    }


def _calibration_error(calibration: Mapping[str, Any] | None) -> float | None:
    return calibration["after"]["expected_calibration_error"] if calibration else None


def _about_labels(metrics_of_seeds: Sequence[dict[str, Any]], seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Costs, and means over what [`_choices_of_seed`] returned for the seeds."""
    calibrations = [seed["calibration"] for seed in seeds if seed["calibration"]]
    decided: dict[str, list[dict[str, Any]]] = {}
    for seed in seeds:
        for system, figures in (seed["decisions"] or {}).items():
            decided.setdefault(system, []).append(figures)
    systems = {system: _each_over_some(rows) for system, rows in decided.items()}
    return {
        "costs": {
            name: _cost_over_seeds([found["systems"][name] for found in metrics_of_seeds if name in found["systems"]])
            for name in metrics_of_seeds[0]["systems"]
        },
        "calibration": _each_over_some(calibrations) if calibrations else None,
        "decisions": {"target_accuracy": DEFAULT_TARGET, "systems": systems} if systems else None,
    }


def _cost_over_seeds(systems: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means of training time and speed, and the processors of the first seed."""
    costs = [system["cost"] for system in systems]
    figures = {key: _over_some([cost[key] for cost in costs]) for key in ("training_seconds", "rows_per_second")}
    return figures | {key: costs[0][key] for key in ("trained_on", "answered_on")}


def _slices_over_seeds(metrics_of_seeds: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Exact accuracy of every system by the columns that the dataset states; `None` for slices with too few rows."""
    by_seed = [metrics.get("slices_by_column", []) for metrics in metrics_of_seeds]
    return [
        {
            **{key: rows[0][key] for key in ("slice", "value", "rows", "groups")},
            "systems": {
                system: _over_some([metric_value(row["systems"].get(system)) for row in rows])
                for system in rows[0]["systems"]
            },
        }
        for rows in zip(*by_seed, strict=True)
    ]


def _each_over_some(rows: Sequence[Mapping[str, float | None]]) -> dict[str, Any]:
    return {key: _over_some([row[key] for row in rows]) for key in rows[0]}


def _decisions_of(metrics: dict[str, Any], system: str) -> dict[str, float | None]:
    selective = metrics["systems"][system]["selective"]
    # If validation could not support the target, nothing is automatic, so there is neither coverage nor accuracy.
    on_test = next((row["test"] for row in selective["thresholds"] if row["target_accuracy"] == DEFAULT_TARGET), None)
    accuracy = on_test["accuracy"] if on_test else None
    return {
        "coverage": on_test["coverage"]["value"] if on_test else None,
        "accuracy": accuracy["value"] if accuracy else None,
        "area_under_risk_coverage": selective["area_under_risk_coverage"]["value"],
        "expected_calibration_error": _calibration_error(metrics["systems"][system].get("calibration")),
    }
