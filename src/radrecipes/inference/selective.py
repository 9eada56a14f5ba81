"""Selective prediction metrics: risk-coverage curve, and what thresholds chosen on validation achieve on other rows."""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from radrecipes.inference.abstention import ThresholdChoice, area_under_risk_coverage, choose_threshold, risk_coverage
from radrecipes.statistics import Statistic, bootstrap_interval, mean_statistic, proportion_interval

CURVE_POINTS = 200
_CHOICE_FACTS = ("target_accuracy", "threshold", "best_supported", "confidence_level")
_VALIDATION_FACTS = ("rows", "groups", "automatic_rows", "accuracy", "lower_bound", "effective_rows")
TARGETS = (0.90, 0.95, 0.98)
DEFAULT_TARGET = 0.95


@dataclass(frozen=True)
class ConfidentAnswers:
    """The answers of one system to the rows of one split, with confidences on any scale."""

    labels: Sequence[str | None]
    confidences: np.ndarray
    correct: np.ndarray
    groups: Sequence[str]  # patient, order or scenario

    def may_be_automatic(self, always_review: Collection[str]) -> np.ndarray:
        """Mask of the answers that are labels, and not ones that are always reviewed."""
        return np.array([label is not None and label not in always_review for label in self.labels], dtype=bool)


def choose_thresholds(
    validation: ConfidentAnswers, targets: Sequence[float], always_review: Collection[str] = ()
) -> list[ThresholdChoice]:
    """The threshold for each target accuracy, chosen on the answers that may be automatic at all."""
    kept = validation.may_be_automatic(always_review)
    kept_answers = validation.confidences[kept], validation.correct[kept], np.asarray(validation.groups)[kept]
    return [choose_threshold(*kept_answers, target) for target in targets]


def selective_metrics(
    test: ConfidentAnswers,
    costly: np.ndarray,
    choices: Sequence[ThresholdChoice],
    always_review: Collection[str] = (),
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """The risk-coverage curve of a system, the area under it, and the result of each threshold.

    `costly` is a mask of costly confusions; `choices` are thresholds that were chosen on other rows.

    Returns:
        `area_under_risk_coverage` with its interval, `curve` (`coverage` and `accuracy` at up to 200 points, `always_review`
        ignored) and `thresholds`: per target the choice with its `validation` statistics, and `test` (`automatic_rows`,
        `coverage`, `accuracy`, `errors`, `costly_errors`, those of them that are costly). The interval of `accuracy` resamples the
        groups that have automatic rows; it is `None` without any.
    """

    draws = {"resamples": resamples, "seed": seed}
    curve = risk_coverage(test.confidences, test.correct)
    points = np.unique(np.linspace(0, len(curve["coverage"]) - 1, CURVE_POINTS).round().astype(int))
    allowed = test.may_be_automatic(always_review)
    groups = np.asarray(test.groups)
    thresholds = []
    for choice in choices:
        automatic = allowed & (test.confidences >= (np.inf if choice.threshold is None else choice.threshold))
        facts = asdict(choice)
        right = mean_statistic(test.correct[automatic])
        accuracy = proportion_interval(right, groups[automatic], **draws) if automatic.any() else None
        thresholds.append(
            {
                **{key: facts[key] for key in _CHOICE_FACTS},
                "validation": {key: facts[key] for key in _VALIDATION_FACTS},
                "test": {
                    "automatic_rows": int(automatic.sum()),
                    "coverage": bootstrap_interval(mean_statistic(automatic), groups, **draws),
                    "accuracy": accuracy,
                    "errors": int((automatic & ~test.correct).sum()),
                    "costly_errors": int((automatic & costly & ~test.correct).sum()),
                },
            }
        )
    return {
        "area_under_risk_coverage": bootstrap_interval(
            _area_statistic(test.confidences, test.correct), groups, **draws
        ),
        "curve": {key: values[points].tolist() for key, values in curve.items()},
        "thresholds": thresholds,
    }


def _area_statistic(confidences: np.ndarray, correct: np.ndarray) -> Statistic:
    def statistic(counts: np.ndarray) -> np.ndarray:
        samples = (np.repeat(np.arange(len(confidences)), resample.astype(int)) for resample in counts)
        return np.array([area_under_risk_coverage(confidences[rows], correct[rows]) for rows in samples])

    return statistic
