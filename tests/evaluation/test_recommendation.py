"""Paired comparisons, the best baseline, and the system that is recommended: chosen on validation, never on test."""

import numpy as np
import pytest

from radrecipes.evaluation.label_baselines import EMBEDDING, ENCODER, MAJORITY, SVM
from radrecipes.evaluation.label_systems import ADAPTER, BASE, EvaluationRows, System
from radrecipes.evaluation.recommendation import best_baseline, compare, is_significant, recommendation
from radrecipes.inference.answers import SystemOutput

DRAWS = {"resamples": 300, "seed": 0}
IDS = [str(number) for number in range(400)]
ROWS = EvaluationRows(IDS, IDS, IDS, ["a", "b"] * 200)
SPEEDS = {ADAPTER: 10.0, ENCODER: 300.0, EMBEDDING: 310.0, SVM: 3000.0, MAJORITY: 1e6}


def outputs(accuracy, seed=0):
    """Answers of which exactly this fraction is right, the same rows for the same seed."""
    order = np.random.default_rng(seed).permutation(400)
    right = np.zeros(400, dtype=bool)
    right[order[: round(accuracy * 400)]] = True
    other = {"a": "b", "b": "a"}
    labels = [label if good else other[label] for label, good in zip(ROWS.references, right, strict=True)]
    return [SystemOutput(label, label, confidence=0.9) for label in labels]


def systems(**accuracies):
    """Each system with its accuracy on validation, and another one on test."""
    return {
        name: System(outputs(0.5), outputs(accuracy), {"cost": {"rows_per_second": SPEEDS[name]}})
        for name, accuracy in accuracies.items()
    }


def recommended(**accuracies):
    found = recommendation(ROWS, ROWS, systems(**accuracies), DRAWS)
    return found["system"], found["other"], found["as_accurate"]


def test_the_best_baseline_is_the_most_accurate_on_validation_of_equals_the_simpler_one():
    assert best_baseline(ROWS, systems(adapter=1.0)) is None
    found = best_baseline(ROWS, systems(adapter=1.0, majority=0.1, words_characters_svm=0.8, fine_tuned_encoder=0.8))
    assert found == {"name": SVM, "validation_accuracy": 0.8}
    assert best_baseline(ROWS, {SVM: System(outputs(0.9))}) is None


def test_a_comparison_counts_rows_and_its_difference_is_that_of_the_accuracies():
    pair = compare(ROWS, outputs(0.9), outputs(0.8), ("x", "y"), DRAWS)
    assert (pair["first"], pair["second"], pair["n10"], pair["n01"]) == ("x", "y", 40, 0)
    assert pair["difference_in_exact_accuracy"]["value"] == pytest.approx(0.1) and is_significant(pair)
    assert not is_significant(compare(ROWS, outputs(0.9), outputs(0.9, seed=1), ("x", "y"), DRAWS))


def test_a_difference_is_significant_only_by_test_and_interval():
    few_groups = EvaluationRows(IDS, ["g1"] * 200 + ["g2"] * 200, IDS, ROWS.references)
    first, second = ROWS.references, ["x"] * 40 + ROWS.references[40:]
    answers = [[SystemOutput(label, label) for label in labels] for labels in (first, second)]
    assert is_significant(compare(ROWS, *answers, ("x", "y"), DRAWS))
    # All differences are in one of two groups, so they could be chance.
    pair = compare(few_groups, *answers, ("x", "y"), DRAWS)
    assert pair["p_value"] < 0.001 and not is_significant(pair)


def test_the_most_accurate_is_recommended():
    assert recommended(adapter=0.95, words_characters_svm=0.8, majority=0.1) == (ADAPTER, SVM, None)
    assert recommended(adapter=0.8, words_characters_svm=0.85, fine_tuned_encoder=0.95) == (ENCODER, SVM, None)
    assert recommended(adapter=0.95, fine_tuned_encoder=0.95, words_characters_svm=0.5) == (ENCODER, ADAPTER, None)


def test_the_fastest_of_those_that_validation_cannot_tell_from_it_is_named():
    close = {"adapter": 0.95, "fine_tuned_encoder": 0.9475, "words_characters_svm": 0.945}
    assert recommended(**close) == (ADAPTER, ENCODER, SVM)
    assert recommended(**(close | {"words_characters_svm": 0.8})) == (ADAPTER, ENCODER, ENCODER)
    assert recommended(**(close | {"words_characters_svm": 0.955})) == (SVM, ADAPTER, None)


def test_it_shows_both_splits_and_needs_the_adapter_on_validation():
    found = recommendation(ROWS, ROWS, systems(adapter=0.95, words_characters_svm=0.8), DRAWS)
    assert found["on_validation"]["difference_in_exact_accuracy"]["value"] == pytest.approx(0.15)
    assert found["on_test"]["difference_in_exact_accuracy"]["value"] == 0
    generated = {ADAPTER: System(outputs(0.9)), **systems(words_characters_svm=0.8), BASE: System(outputs(0.1))}
    assert recommendation(ROWS, ROWS, generated, DRAWS) is None
    assert recommendation(ROWS, ROWS, systems(adapter=0.9), DRAWS) is None
