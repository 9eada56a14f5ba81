"""Predictors that load finished runs: one for each family of tasks."""

from pathlib import Path
from typing import Any

from radrecipes.errors import InputError
from radrecipes.inference.predictors.label_predictor import LabelPredictor
from radrecipes.inference.predictors.predictor import Predictor
from radrecipes.inference.predictors.text_predictor import TextPredictor
from radrecipes.tasks import LabelTask
from radrecipes.training.run_folder import run_of

__all__ = ["LabelPredictor", "Predictor", "TextPredictor", "load_predictor"]


def load_predictor(
    folder: str | Path, allow_other_weights: bool = False, engine: str = "transformers", **options: Any
) -> Predictor:
    """The predictor of a finished run, by the family of its task; other arguments as for [`Predictor`].

    `options` are further arguments of [`LabelPredictor`] or [`TextPredictor`]; `None` counts as not given. Raises an
    [`InputError`] for an option that the task does not use.
    """
    task = run_of(folder)[2]
    kind = LabelPredictor if isinstance(task, LabelTask) else TextPredictor
    given = {name: value for name, value in options.items() if value is not None}
    for name in given.keys() - kind.OPTIONS:
        raise InputError(
            f"the task {task.name} {kind.DOES} and does not take this option; remove it",
            f"--{name.replace('_', '-')}",
        )
    return kind(folder, allow_other_weights, engine, **given)
