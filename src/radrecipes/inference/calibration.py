"""Temperature scaling of label log-likelihoods, and calibration metrics."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

TEMPERATURE_RANGE = (0.05, 20.0)

# Clips the probability of the correct label: a single row with probability 0 would make the log loss infinite.
_SMALLEST_LOG_PROBABILITY = np.log(1e-12)


def fit_temperature(log_likelihoods: np.ndarray, reference_index: np.ndarray) -> float:
    """The temperature, 0.05 to 20, that minimises the log loss (Guo et al., 2017, section 4.2); above 1 means overconfidence.

    `log_likelihoods` are of shape `(rows, labels)`, `reference_index` contains the correct label of each row. The search runs over
    the logarithm of the temperature, in which the log loss is unimodal. Rows whose correct label was pruned (`-inf`) are
    ignored; 1.0 if there are no others.
    """
    log_likelihoods = _validated_rows(log_likelihoods)
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
    """Softmax of the log-likelihoods divided by the temperature, shape `(rows, labels)`; a label of `-inf` gets 0."""
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, not {temperature}")
    return np.exp(log_softmax(_validated_rows(log_likelihoods) / temperature, axis=1))


def reliability_bins(
    confidences: Sequence[float] | np.ndarray, correct: Sequence[bool] | np.ndarray, bins: int = 15
) -> list[dict[str, Any]]:
    """The bins of a reliability diagram: equal width, upper edge included, the first one also with 0 (Guo et al., 2017).

    Each has `low`, `high`, `count`, and the means `confidence` and `accuracy`, `None` in an empty bin. Raises a `ValueError`
    for confidences outside 0 to 1.
    """
    confidences, correct = np.asarray(confidences, dtype=np.float64), np.asarray(correct, dtype=bool)
    # Rounding may leave a probability slightly above 1.
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


def expected_calibration_error(bins: list[dict[str, Any]]) -> float:
    """Expected calibration error (Guo et al., 2017, equation 3), 0 to 1, from [`reliability_bins`]."""
    filled = [entry for entry in bins if entry["count"]]
    rows = sum(entry["count"] for entry in filled)
    return float(sum(entry["count"] * abs(entry["confidence"] - entry["accuracy"]) for entry in filled) / rows)


def calibration_metrics(probabilities: np.ndarray, reference_index: np.ndarray) -> dict[str, Any]:
    """The calibration metrics of `metrics.json`, from probabilities of shape `(rows, labels)` and indices of correct labels.

    `brier_score` is the multiclass one (Brier, 1950), 0 to 2: the squared distance to the correct label, summed over labels.
    `log_loss` uses the natural logarithm of probabilities clipped at 1e-12; `bins` are from [`reliability_bins`].
    """
    probabilities = _validated_rows(probabilities)
    reference = np.arange(len(probabilities)), reference_index
    bins = reliability_bins(probabilities.max(axis=1), probabilities.argmax(axis=1) == reference_index)
    distance = probabilities.copy()
    distance[reference] -= 1
    with np.errstate(divide="ignore"):
        log_probability = np.log(probabilities[reference])
    return {
        "expected_calibration_error": expected_calibration_error(bins),
        "brier_score": float(np.mean(np.sum(distance**2, axis=1))),
        "log_loss": -float(np.mean(np.maximum(log_probability, _SMALLEST_LOG_PROBABILITY))),
        "bins": bins,
    }


def _validated_rows(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if np.isnan(values).any() or (values == np.inf).any() or not np.isfinite(values).any(axis=1).all():
        raise ValueError("every row needs a finite value, and no value may be NaN or infinite")
    return values
