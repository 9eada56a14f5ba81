"""From log-likelihoods of labels to probabilities that mean what they say, and how far they do."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

TEMPERATURE_RANGE = (0.05, 20.0)

# What a right label of probability 0 counts as: one such row must not make the log loss of all others infinite.
_SMALLEST_LOG_PROBABILITY = np.log(1e-12)


def fit_temperature(log_likelihoods: np.ndarray, reference_index: np.ndarray) -> float:
    """The temperature under which the right labels are most probable (Guo et al., 2017, section 4.2).

    Dividing by one number changes no ranking, so accuracy stays as it is. The search runs over the logarithm of the
    temperature, where the mean negative log-likelihood has a single valley. Rows whose right label was left out
    (`-inf`) say nothing about the temperature and are passed over.

    Args:
        log_likelihoods (`np.ndarray` of shape `(rows, labels)`):
            Log-likelihood of each label; `-inf` for a label that was left out.
        reference_index (`np.ndarray` of shape `(rows,)`):
            Index of the right label of each row.

    Returns:
        `float`: between 0.05 and 20; above 1 where the model is too sure of itself. 1.0 where no row says anything.

    Raises:
        ValueError: The shapes do not fit, there are no rows, a value is not a number, or a row has no finite value.
    """
    log_likelihoods = _checked_rows(log_likelihoods)
    reference_index = _checked_references(reference_index, log_likelihoods)
    likelihood_of_reference = log_likelihoods[np.arange(len(log_likelihoods)), reference_index]
    informative = np.isfinite(likelihood_of_reference)
    if not informative.any():
        return 1.0
    log_likelihoods, reference_index = log_likelihoods[informative], reference_index[informative]
    rows = np.arange(len(log_likelihoods))

    def mean_log_loss(log_temperature: float) -> float:
        return -float(np.mean(log_softmax(log_likelihoods / np.exp(log_temperature), axis=1)[rows, reference_index]))

    found = minimize_scalar(
        mean_log_loss, bounds=tuple(np.log(TEMPERATURE_RANGE)), method="bounded", options={"xatol": 1e-6}
    )
    return float(np.exp(found.x))


def label_probabilities(log_likelihoods: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Probabilities over the label set.

    Args:
        log_likelihoods (`np.ndarray` of shape `(rows, labels)`):
            Log-likelihood of each label; `-inf` for a label that was left out, which gets probability 0.
        temperature (`float`, *optional*, defaults to 1.0):
            As of [`fit_temperature`].

    Returns:
        `np.ndarray` of shape `(rows, labels)`: float64; each row adds up to 1.

    Raises:
        ValueError: The temperature is not above 0, a value is not a number, or a row has no finite value.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, not {temperature}")
    return np.exp(log_softmax(_checked_rows(log_likelihoods) / temperature, axis=1))


def reliability_bins(
    confidences: Sequence[float] | np.ndarray, correct: Sequence[bool] | np.ndarray, bins: int = 15
) -> list[dict[str, Any]]:
    """How often the answers of each band of confidence are right: the rows of a reliability diagram.

    Args:
        confidences (`Sequence[float]` or `np.ndarray` of shape `(rows,)`):
            Probability of the predicted label, 0 to 1.
        correct (`Sequence[bool]` or `np.ndarray` of shape `(rows,)`):
            Whether the predicted label is right.
        bins (`int`, *optional*, defaults to 15):
            Number of bands of equal width. A band holds its upper end, the first one also 0 (Guo et al., 2017).

    Returns:
        `list[dict]`: from low to high `low`, `high`, `count`, and the means `confidence` and `accuracy`, `None` in an
        empty band.

    Raises:
        ValueError: There are no rows, the lengths differ, or a confidence is outside 0 to 1.
    """
    confidences, correct = np.asarray(confidences, dtype=np.float64), np.asarray(correct, dtype=bool)
    if confidences.ndim != 1 or confidences.shape != correct.shape or not len(confidences):
        raise ValueError("confidences and correct must be two rows of one length, at least 1")
    # Rounding may leave a probability a hair above 1; anything else outside 0 to 1 is no probability.
    if not np.all((confidences >= 0) & (confidences <= 1 + 1e-9)):
        raise ValueError("a confidence must be between 0 and 1")
    edges = np.linspace(0, 1, bins + 1)
    bin_of_row = np.clip(np.searchsorted(edges, confidences, side="left") - 1, 0, bins - 1)
    table = []
    for index in range(bins):
        inside = bin_of_row == index
        count = int(inside.sum())
        table.append(
            {
                "low": float(edges[index]),
                "high": float(edges[index + 1]),
                "count": count,
                "confidence": float(confidences[inside].mean()) if count else None,
                "accuracy": float(correct[inside].mean()) if count else None,
            }
        )
    return table


def expected_calibration_error(
    confidences: Sequence[float] | np.ndarray, correct: Sequence[bool] | np.ndarray, bins: int = 15
) -> float:
    """Mean distance of confidence and accuracy over the bands, weighted by their rows (Guo et al., 2017, equation 3).

    Args:
        confidences (`Sequence[float]` or `np.ndarray` of shape `(rows,)`):
            Probability of the predicted label, 0 to 1.
        correct (`Sequence[bool]` or `np.ndarray` of shape `(rows,)`):
            Whether the predicted label is right.
        bins (`int`, *optional*, defaults to 15):
            Number of bands of equal width.

    Returns:
        `float`: 0 (what it says is what it keeps) to 1.

    Raises:
        ValueError: As for [`reliability_bins`].
    """
    return _calibration_error(reliability_bins(confidences, correct, bins))


def brier_score(probabilities: np.ndarray, reference_index: np.ndarray) -> float:
    """Mean over the rows of the squared distance to the right label, summed over all labels (Brier, 1950).

    Args:
        probabilities (`np.ndarray` of shape `(rows, labels)`):
            Each row adds up to 1.
        reference_index (`np.ndarray` of shape `(rows,)`):
            Index of the right label of each row.

    Returns:
        `float`: 0 (sure and right) to 2 (sure and wrong).

    Raises:
        ValueError: The shapes do not fit, or there are no rows.
    """
    probabilities = _checked_rows(probabilities)
    distance = probabilities.copy()
    distance[np.arange(len(distance)), _checked_references(reference_index, probabilities)] -= 1
    return float(np.mean(np.sum(distance**2, axis=1)))


def calibration_figures(probabilities: np.ndarray, reference_index: np.ndarray, bins: int = 15) -> dict[str, Any]:
    """Everything about the probabilities that `metrics.json` holds.

    Args:
        probabilities (`np.ndarray` of shape `(rows, labels)`):
            Each row adds up to 1.
        reference_index (`np.ndarray` of shape `(rows,)`):
            Index of the right label of each row.
        bins (`int`, *optional*, defaults to 15):
            Number of bands of the reliability diagram.

    Returns:
        `dict`: `expected_calibration_error`, `brier_score`, `log_loss` (mean negative natural logarithm of the right
        label's probability, which counts as at least 1e-12) and `bins` (as of [`reliability_bins`]).

    Raises:
        ValueError: As for [`brier_score`] and [`reliability_bins`].
    """
    probabilities = _checked_rows(probabilities)
    reference_index = _checked_references(reference_index, probabilities)
    table = reliability_bins(probabilities.max(axis=1), probabilities.argmax(axis=1) == reference_index, bins)
    with np.errstate(divide="ignore"):
        log_probability = np.log(probabilities[np.arange(len(probabilities)), reference_index])
    return {
        "expected_calibration_error": _calibration_error(table),
        "brier_score": brier_score(probabilities, reference_index),
        "log_loss": -float(np.mean(np.maximum(log_probability, _SMALLEST_LOG_PROBABILITY))),
        "bins": table,
    }


def _calibration_error(table: list[dict[str, Any]]) -> float:
    filled = [band for band in table if band["count"]]
    rows = sum(band["count"] for band in filled)
    return float(sum(band["count"] * abs(band["confidence"] - band["accuracy"]) for band in filled) / rows)


def _checked_rows(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(f"expected values of shape (rows, labels), at least one of each, not {values.shape}")
    if np.isnan(values).any() or (values == np.inf).any() or not np.isfinite(values).any(axis=1).all():
        raise ValueError("every row needs a finite value, and no value may be `nan` or `inf`")
    return values


def _checked_references(reference_index: np.ndarray, values: np.ndarray) -> np.ndarray:
    reference_index = np.asarray(reference_index)
    if reference_index.shape != (len(values),) or not np.issubdtype(reference_index.dtype, np.integer):
        raise ValueError("reference_index must hold one whole number per row")
    if reference_index.min() < 0 or reference_index.max() >= values.shape[1]:
        raise ValueError("reference_index points outside the labels")
    return reference_index
