"""How well a system knows which of its own answers are right, and what a threshold chosen on validation gave on test."""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from radrecipes.inference.abstention import ThresholdChoice, area_under_risk_coverage, choose_threshold, risk_coverage
from radrecipes.statistics import Statistic, bootstrap_interval, mean_statistic

CURVE_POINTS = 200
_CHOICE_FACTS = ("target_accuracy", "threshold", "best_supported", "confidence_level")
_VALIDATION_FACTS = ("rows", "groups", "automatic_rows", "accuracy", "lower_bound", "effective_rows")
TARGETS = (0.90, 0.95, 0.98)
DEFAULT_TARGET = 0.95


@dataclass(frozen=True)
class ConfidentAnswers:
    """The answers of one system to the rows of one split, as far as abstaining needs them.

    Args:
        labels (`Sequence[str]` or `Sequence[None]`):
            The predicted label of each row.
        confidences (`np.ndarray` of shape `(rows,)`):
            How sure the system is of each; any scale on which more is surer.
        correct (`np.ndarray` of shape `(rows,)`):
            Whether each is right.
        groups (`Sequence[str]`):
            Patient, order or scenario of each row.
    """

    labels: Sequence[str | None]
    confidences: np.ndarray
    correct: np.ndarray
    groups: Sequence[str]

    def may_be_automatic(self, always_review: Collection[str]) -> np.ndarray:
        """Mask of shape `(rows,)` of the answers that are a label and not one that is always reviewed."""
        return np.array([label is not None and label not in always_review for label in self.labels], dtype=bool)


def choose_thresholds(
    validation: ConfidentAnswers,
    targets: Sequence[float] = TARGETS,
    always_review: Collection[str] = (),
    confidence_level: float = 0.9,
) -> list[ThresholdChoice]:
    """The threshold for each target accuracy, chosen on the answers that may be automatic at all.

    Args:
        validation ([`ConfidentAnswers`]):
            Answers to the validation split.
        targets (`Sequence[float]`, *optional*, defaults to `(0.90, 0.95, 0.98)`):
            Target accuracies.
        always_review (`Collection[str]`, *optional*, defaults to `()`):
            Labels that are never automatic. They are left out, because their answers would speak for a threshold that
            never lets them through.
        confidence_level (`float`, *optional*, defaults to 0.9):
            Confidence that the target holds.

    Returns:
        `list[ThresholdChoice]`: one per target.
    """
    kept = validation.may_be_automatic(always_review)
    if not kept.any():
        return [
            ThresholdChoice(target, None, 0, 0, 0, None, None, None, confidence_level, best_supported=0.0)
            for target in targets
        ]
    kept_answers = validation.confidences[kept], validation.correct[kept], np.asarray(validation.groups)[kept]
    return [choose_threshold(*kept_answers, target, confidence_level) for target in targets]


def selective_figures(
    test: ConfidentAnswers,
    costly: np.ndarray,
    choices: Sequence[ThresholdChoice],
    always_review: Collection[str] = (),
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """The risk-coverage curve of a system, its area, and what each threshold gave.

    Args:
        test ([`ConfidentAnswers`]):
            Answers to the rows that are evaluated.
        costly (`np.ndarray` of shape `(rows,)`):
            Whether each answer is a costly confusion.
        choices (`Sequence[ThresholdChoice]`):
            Thresholds, chosen on other rows.
        always_review (`Collection[str]`, *optional*, defaults to `()`):
            Labels that are never automatic.
        resamples (`int`, *optional*, defaults to 2000):
            Bootstrap resamples.
        seed (`int`, *optional*, defaults to 0):
            Seed of the draws.

    Returns:
        `dict`: `area_under_risk_coverage` with its interval, `curve` (`coverage` and `accuracy` at no more than 200 points, as
        if no label were always reviewed) and `thresholds`: per target `target_accuracy`, `threshold`,
        `best_supported`, `confidence_level`, `validation` (what the choice rests on) and `test` (`automatic_rows`,
        `coverage`, `accuracy`, `errors`, `costly_errors`). The interval of `accuracy` draws from the groups that have
        automatic rows; it is `None` where there are none.
    """

    def interval(statistic: Statistic, groups: Sequence[str]) -> dict[str, float]:
        return bootstrap_interval(statistic, groups, resamples=resamples, seed=seed)

    curve = risk_coverage(test.confidences, test.correct)
    points = np.unique(np.linspace(0, len(curve["coverage"]) - 1, CURVE_POINTS).round().astype(int))
    allowed = test.may_be_automatic(always_review)
    groups = np.asarray(test.groups)
    thresholds = []
    for choice in choices:
        automatic = allowed & (test.confidences >= (np.inf if choice.threshold is None else choice.threshold))
        facts = asdict(choice)
        accuracy = interval(mean_statistic(test.correct[automatic]), groups[automatic]) if automatic.any() else None
        thresholds.append(
            {
                **{key: facts[key] for key in _CHOICE_FACTS},
                "validation": {key: facts[key] for key in _VALIDATION_FACTS},
                "test": {
                    "automatic_rows": int(automatic.sum()),
                    "coverage": interval(mean_statistic(automatic), groups),
                    "accuracy": accuracy,
                    "errors": int((automatic & ~test.correct).sum()),
                    "costly_errors": int((automatic & costly).sum()),
                },
            }
        )
    return {
        "area_under_risk_coverage": interval(_area_statistic(test.confidences, test.correct), groups),
        "curve": {key: [curve[key][point] for point in points] for key in ("coverage", "accuracy")},
        "thresholds": thresholds,
    }


def _area_statistic(confidences: np.ndarray, correct: np.ndarray) -> Statistic:
    def statistic(counts: np.ndarray) -> np.ndarray:
        places = (np.repeat(np.arange(len(confidences)), drawn.astype(int)) for drawn in counts)
        return np.array([area_under_risk_coverage(confidences[drawn], correct[drawn]) for drawn in places])

    return statistic
