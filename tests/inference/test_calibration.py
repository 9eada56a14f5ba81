"""Temperature, probabilities and calibration figures against slow, obvious versions and known values."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import brier_score_loss, log_loss

from radrecipes.inference.calibration import (
    calibration_metrics,
    expected_calibration_error,
    fit_temperature,
    label_probabilities,
    reliability_bins,
)

log_likelihood_rows = arrays(np.float64, st.tuples(st.integers(1, 8), st.integers(1, 6)), elements=st.floats(-200, 0))


def drawn_from(log_likelihoods, temperature, seed=0):
    generator = np.random.default_rng(seed)
    probabilities = label_probabilities(log_likelihoods, temperature)
    return np.array([generator.choice(len(row), p=row) for row in probabilities])


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_the_temperature_that_made_the_answers_is_found_again(temperature):
    log_likelihoods = np.random.default_rng(3).normal(scale=3, size=(6000, 12))
    references = drawn_from(log_likelihoods, temperature)
    found = fit_temperature(log_likelihoods, references)
    assert found == pytest.approx(temperature, rel=0.06)
    assert found == fit_temperature(log_likelihoods, references)


def test_no_temperature_of_a_fine_grid_is_better():
    log_likelihoods = np.random.default_rng(4).normal(scale=5, size=(300, 7))
    references = drawn_from(log_likelihoods, 1.7)

    def loss(temperature):
        return log_loss(references, label_probabilities(log_likelihoods, temperature), labels=range(7))

    best_of_grid = min(loss(temperature) for temperature in np.geomspace(0.05, 20, 400))
    assert loss(fit_temperature(log_likelihoods, references)) <= best_of_grid + 1e-9


def test_temperature_stays_in_its_range_and_passes_over_left_out_references():
    always_right = np.array([[0.0, -1.0], [-1.0, 0.0]])
    assert fit_temperature(always_right, np.array([0, 1])) == pytest.approx(0.05, rel=0.01)
    assert fit_temperature(always_right, np.array([1, 0])) == pytest.approx(20, rel=0.01)
    log_likelihoods = np.random.default_rng(5).normal(scale=3, size=(200, 5))
    references = drawn_from(log_likelihoods, 1.5)
    left_out = np.array([[0.0, -2.0, -3.0, -np.inf, -4.0]] * 20)
    with_left_out = fit_temperature(np.vstack([log_likelihoods, left_out]), np.append(references, [3] * 20))
    assert with_left_out == fit_temperature(log_likelihoods, references)
    assert fit_temperature(left_out, np.array([3] * 20)) == 1.0


@given(log_likelihood_rows, st.floats(0.05, 20))
def test_probabilities_add_up_to_one_and_keep_the_ranking(log_likelihoods, temperature):
    probabilities = label_probabilities(log_likelihoods, temperature)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-12)
    best = log_likelihoods.argmax(axis=1)
    assert (probabilities[np.arange(len(best)), best] == probabilities.max(axis=1)).all()


def test_a_left_out_label_gets_no_probability():
    np.testing.assert_allclose(label_probabilities(np.array([[0.0, -np.inf, 0.0]]), 2.0), [[0.5, 0.0, 0.5]])


confidence_rows = st.lists(
    st.tuples(st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.2, 0.6, 1.0])), st.booleans()),
    min_size=1,
    max_size=40,
)


@settings(max_examples=60)
@given(confidence_rows, st.integers(1, 20))
def test_bands_equal_a_naive_loop(rows, bins):
    confidences, correct = map(list, zip(*rows, strict=True))
    edges = np.linspace(0, 1, bins + 1)
    error = 0.0
    for index, band in enumerate(reliability_bins(confidences, correct, bins)):
        inside = [row for row in rows if (edges[index] < row[0] <= edges[index + 1]) or (index == 0 and row[0] == 0)]
        assert band["count"] == len(inside)
        if inside:
            confidence = sum(row[0] for row in inside) / len(inside)
            accuracy = sum(row[1] for row in inside) / len(inside)
            assert (band["confidence"], band["accuracy"]) == pytest.approx((confidence, accuracy))
            error += len(inside) / len(rows) * abs(confidence - accuracy)
        else:
            assert band["confidence"] is None and band["accuracy"] is None
    assert expected_calibration_error(reliability_bins(confidences, correct, bins)) == pytest.approx(error)


def test_known_calibration_errors():
    assert expected_calibration_error(reliability_bins([1.0, 1.0], [True, True])) == 0
    assert expected_calibration_error(reliability_bins([1.0, 1.0], [False, False])) == 1
    assert expected_calibration_error(reliability_bins([0.9] * 4, [True, True, True, False])) == pytest.approx(0.15)


def test_brier_and_log_loss_equal_sklearn():
    log_likelihoods = np.random.default_rng(6).normal(scale=2, size=(80, 2))
    references = drawn_from(log_likelihoods, 1.0)
    probabilities = label_probabilities(log_likelihoods)
    figures = calibration_metrics(probabilities, references)
    # For two labels scikit-learn counts one of the two equal squares.
    assert figures["brier_score"] == pytest.approx(2 * brier_score_loss(references, probabilities[:, 1]))
    assert figures["log_loss"] == pytest.approx(log_loss(references, probabilities))
    assert sum(band["count"] for band in figures["bins"]) == 80
    confidences, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == references
    assert figures["expected_calibration_error"] == expected_calibration_error(reliability_bins(confidences, correct))


def test_ends_of_the_brier_score_and_a_finite_log_loss():
    sure = np.array([[1.0, 0.0, 0.0]])
    assert calibration_metrics(sure, np.array([0]))["brier_score"] == 0
    assert calibration_metrics(sure, np.array([2]))["brier_score"] == 2
    assert calibration_metrics(sure, np.array([2]))["log_loss"] == pytest.approx(-np.log(1e-12))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_cannot_be_meant_is_refused(value):
    for measure in (fit_temperature, calibration_metrics):
        with pytest.raises(ValueError, match="every row needs a finite value"):
            measure(np.array([[value, -np.inf]]), np.array([0]))


def test_confidences_that_are_not_probabilities_are_refused():
    with pytest.raises(ValueError, match="between 0 and 1"):
        reliability_bins([1.3], [True])
    with pytest.raises(ValueError, match="temperature"):
        label_probabilities(np.zeros((1, 2)), 0)
