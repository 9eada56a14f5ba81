"""The systems of a label task: what each answered, with a temperature if it scores every label."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from radrecipes.data.label_sets import LabelSet
from radrecipes.inference.abstention import decide
from radrecipes.inference.answers import SystemOutput
from radrecipes.inference.calibration import calibration_metrics, fit_temperature, label_probabilities
from radrecipes.inference.selective import ConfidentAnswers

ADAPTER = "adapter"
BASE = "base"


@dataclass(frozen=True)
class EvaluationRows:
    """The rows that every system answers, in one order: inputs, correct labels, and the values of columns to slice by.

    `accepted` are the labels that count as acceptable answers to each row; `None` if only the correct one does.
    """

    ids: Sequence[str]
    groups: Sequence[str]
    notes: Sequence[str]
    references: Sequence[str]
    slices: Mapping[str, Sequence[str]] = field(default_factory=dict)
    accepted: Sequence[Collection[str]] | None = None


@dataclass(frozen=True)
class System:
    """What a system answered.

    Args:
        outputs: The answers to the evaluated rows.
        validation: The answers to the validation rows; without them it gets no thresholds and is not recommended.
        facts: More entries of `metrics.json`: `calibration`, `cost`, `settings`.
    """

    outputs: Sequence[SystemOutput]
    validation: Sequence[SystemOutput] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


def scored_system(
    label_set: LabelSet,
    validation: EvaluationRows,
    validation_scores: np.ndarray,
    rows: EvaluationRows,
    scores: np.ndarray,
    **facts: Any,
) -> System:
    """A system that gives every label a score, with a temperature fitted on validation.

    Scores are of shape `(rows, labels)` in the order of the label set, log-probabilities up to a constant per row and the
    temperature.
    """
    places = {name: index for index, name in enumerate(label_set.names)}
    right, right_of_validation = (
        np.array([places[label] for label in asked.references]) for asked in (rows, validation)
    )
    temperature = fit_temperature(validation_scores, right_of_validation)
    outputs, outputs_of_validation = (
        decide(label_probabilities(found, temperature), label_set.names, None, label_set.always_review)
        for found in (scores, validation_scores)
    )
    calibration = {
        "temperature": temperature,
        "before": calibration_metrics(label_probabilities(scores), right),
        "after": calibration_metrics(label_probabilities(scores, temperature), right),
        "fitted_on": {"split": "validation", "rows": len(validation.ids), "groups": len(set(validation.groups))},
    }
    return System(outputs, outputs_of_validation, {"calibration": calibration, **facts})


def correct(rows: EvaluationRows, outputs: Sequence[SystemOutput]) -> np.ndarray:
    """Mask of the rows that a system answered with the right label."""
    return np.array([output.label == reference for output, reference in zip(outputs, rows.references, strict=True)])


def acceptable(rows: EvaluationRows, outputs: Sequence[SystemOutput]) -> np.ndarray:
    """Mask of the rows that a system answered with an acceptable label."""
    accepted = rows.accepted or [(reference,) for reference in rows.references]
    return np.array([output.label in labels for output, labels in zip(outputs, accepted, strict=True)])


def confident_answers(
    rows: EvaluationRows, outputs: Sequence[SystemOutput], count_acceptable: bool = False
) -> ConfidentAnswers | None:
    """What selective prediction needs of a system's answers; `None` if an answer has no confidence."""
    if any(output.confidence is None for output in outputs):
        return None
    confidences = np.array([output.confidence for output in outputs], dtype=np.float64)
    right = (acceptable if count_acceptable else correct)(rows, outputs)
    return ConfidentAnswers([output.label for output in outputs], confidences, right, rows.groups)
