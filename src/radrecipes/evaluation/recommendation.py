"""Paired comparisons of the systems of a label task, the best baseline, and the system to use."""

from collections.abc import Mapping, Sequence
from typing import Any

from radrecipes.evaluation.label_baselines import BASELINES
from radrecipes.evaluation.label_systems import ADAPTER, EvaluationRows, System, correct
from radrecipes.inference.answers import SystemOutput
from radrecipes.statistics import bootstrap_interval, mcnemar_exact, mean_statistic


def best_baseline(validation: EvaluationRows, systems: Mapping[str, System]) -> dict[str, Any] | None:
    """`name` and `validation_accuracy` of the most accurate baseline on validation, ties to the first of `BASELINES`.

    `None` without answers to the validation rows. A selection on test rows would profit from chance.
    """
    accuracies = {
        name: float(correct(validation, systems[name].validation).mean())
        for name in BASELINES
        if name in systems and systems[name].validation
    }
    if not accuracies:
        return None
    name = max(accuracies, key=accuracies.get)
    return {"name": name, "validation_accuracy": accuracies[name]}


def compare(
    rows: EvaluationRows,
    first: Sequence[SystemOutput],
    second: Sequence[SystemOutput],
    names: tuple[str, str],
    draws: Mapping[str, int],
) -> dict[str, Any]:
    """The paired comparison of two systems: an exact McNemar test, and the difference in exact accuracy with its interval."""
    ours, theirs = correct(rows, first), correct(rows, second)
    difference = mean_statistic(ours.astype(float) - theirs)
    return {
        "first": names[0],
        "second": names[1],
        **mcnemar_exact(ours, theirs),
        "difference_in_exact_accuracy": bootstrap_interval(difference, rows.groups, **draws),
    }


def is_significant(comparison: Mapping[str, Any]) -> bool:
    """Whether p < 0.05 and the interval of the difference excludes 0: the test ignores groups, the interval does not."""
    difference = comparison["difference_in_exact_accuracy"]
    return comparison["p_value"] < 0.05 and not difference["low"] <= 0 <= difference["high"]


def recommendation(
    rows: EvaluationRows, validation: EvaluationRows, systems: Mapping[str, System], draws: Mapping[str, int]
) -> dict[str, Any] | None:
    """Which system to use: the most accurate on validation, of equals the fastest.

    Returns:
        `system`; `other`, the next accurate one; their comparison `on_validation` and `on_test`; `as_accurate`, the fastest of
        the systems that are faster than the recommended one and that validation cannot tell from it, or `None`. `None` unless the
        adapter and a baseline answered the validation rows.
    """
    asked = {name: systems[name] for name in (ADAPTER, *BASELINES) if name in systems and systems[name].validation}
    if ADAPTER not in asked or len(asked) < 2:
        return None
    accuracies = {name: correct(validation, system.validation).mean() for name, system in asked.items()}

    def speed(name: str) -> float:
        return asked[name].facts["cost"]["rows_per_second"]

    def on_validation(first: str, second: str) -> dict[str, Any]:
        return compare(validation, asked[first].validation, asked[second].validation, (first, second), draws)

    system, other = sorted(asked, key=lambda name: (accuracies[name], speed(name)), reverse=True)[:2]
    faster = sorted((name for name in asked if speed(name) > speed(system)), key=speed, reverse=True)
    return {
        "system": system,
        "other": other,
        "as_accurate": next((name for name in faster if not is_significant(on_validation(system, name))), None),
        "on_validation": on_validation(system, other),
        "on_test": compare(rows, asked[system].outputs, asked[other].outputs, (system, other), draws),
    }
