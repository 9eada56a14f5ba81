"""One sentence on the system to use for a label task's data, from `recommendation` of `metrics.json`."""

from collections.abc import Mapping
from typing import Any

from radrecipes.evaluation.results import task_of
from radrecipes.reporting.label_tables import duration, processors, speed
from radrecipes.reporting.result_tables import difference_with_interval, metric_with_interval
from radrecipes.tasks import HeadlineMetric

_ACCURACY = HeadlineMetric("exact_accuracy", "exact accuracy")


def recommended_system(metrics: Mapping[str, Any], titles: Mapping[str, str] | None = None) -> str | None:
    """Which system to use, why, and what it costs; `None` for a text task.

    `titles` names the systems, which otherwise have their names in `metrics.json`.
    """
    if "recommendation" not in metrics:
        return None
    chosen, rows = metrics["recommendation"], task_of(metrics).words.rows
    if chosen is None:
        return "No system is recommended, because the answers of the model were not measured on validation."
    named = {key: (titles or {}).get(name, name) for key, name in chosen.items() if isinstance(name, str)}
    figures, figures_of_other = (metrics["systems"][chosen[key]] for key in ("system", "other"))
    difference = difference_with_interval(chosen["on_validation"]["difference_in_exact_accuracy"])
    faster = (
        f"; {named['as_accurate']} is faster, and validation cannot tell it from the first"
        if chosen["as_accurate"]
        else ""
    )
    return (
        f"Use {named['system']} for these {rows}: it is the most accurate one on validation ({difference} against "
        f"{named['other']}); {_ACCURACY.title} on {metrics['split']} is {metric_with_interval(figures, _ACCURACY)} against "
        f"{metric_with_interval(figures_of_other, _ACCURACY)}; {_costs(figures['cost'], figures_of_other['cost'], rows)}{faster}."
    )


def _costs(cost: Mapping[str, Any], of_other: Mapping[str, Any], rows: str) -> str:
    """Training time and speed of two systems; the processor once if all were measured on the same one."""
    same = processors([cost, of_other])

    def on(name: str) -> str:
        return f" ({name})" if len(same) > 1 else ""

    training, answers = (
        [f"{number(part[key])}{on(part[processor])}" for part in (cost, of_other)]
        for key, number, processor in (
            ("training_seconds", duration, "trained_on"),
            ("rows_per_second", speed, "answered_on"),
        )
    )
    return (
        f"it was trained in {training[0]} and answers {answers[0]} {rows} per second, the other {training[1]} and "
        f"{answers[1]}" + (f" ({same[0]})" if len(same) == 1 else "")
    )
