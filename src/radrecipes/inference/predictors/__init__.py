"""Finished runs that answer: one predictor for tasks that choose a label, one for tasks that write a report."""

from pathlib import Path
from typing import Any

from radrecipes.errors import InputError
from radrecipes.inference.predictors.label_predictor import LabelPredictor
from radrecipes.inference.predictors.predictor import ENGINES, Predictor, is_reference, run_of
from radrecipes.inference.predictors.report_predictor import ReportPredictor

__all__ = ["ENGINES", "LabelPredictor", "Predictor", "ReportPredictor", "is_reference", "load_predictor", "run_of"]


def load_predictor(
    folder: str | Path, allow_other_weights: bool = False, engine: str = "transformers", **options: Any
) -> Predictor:
    """The predictor of a finished run, by what its task writes.

    Args:
        folder, allow_other_weights, engine:
            As for [`Predictor`].
        options (`Any`):
            More arguments of [`LabelPredictor`] or [`ReportPredictor`]; `None` counts as left out.

    Raises:
        [`InputError`]: as the predictors, or an option that the task has no use for.
    """
    task = run_of(folder)[2]
    kind = LabelPredictor if task.writes == "label" else ReportPredictor
    given = {name: value for name, value in options.items() if value is not None}
    for name in given.keys() - kind.OPTIONS:
        raise InputError(
            f"the task {task.name} has no use for it, because it writes a {task.writes}; leave it out",
            f"--{name.replace('_', '-')}",
        )
    return kind(folder, allow_other_weights, engine, **given)
