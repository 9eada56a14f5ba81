"""Risk-coverage figures, and what a threshold of validation gives on other rows."""

import numpy as np
import pytest

from radrecipes.inference.abstention import area_under_risk_coverage, choose_threshold
from radrecipes.inference.selective import CURVE_POINTS, ConfidentAnswers, choose_thresholds, selective_metrics


def answers(rows=600, seed=0, rows_of_group=1):
    """Answers that are right as often as their confidence says."""
    generator = np.random.default_rng(seed)
    confidences = np.sqrt(generator.random(rows))
    correct = generator.random(rows) < confidences
    labels = generator.choice(["CT", "MR", "US"], rows).tolist()
    groups = [f"group-{row // rows_of_group}" for row in range(rows)]
    return ConfidentAnswers(labels, confidences, correct, groups)


def figures(test, choices=(), costly=None, **options):
    costly = np.zeros(len(test.labels), dtype=bool) if costly is None else costly
    return selective_metrics(test, costly, choices, resamples=200, **options)


def test_figures_of_a_threshold_equal_a_plain_count():
    validation, test = answers(seed=1), answers(seed=2, rows_of_group=3)
    costly = ~test.correct & (np.arange(600) % 2 == 0)
    choices = choose_thresholds(validation, [0.7, 0.999])
    chosen, impossible = figures(test, choices, costly)["thresholds"]
    automatic = [row for row in range(600) if test.confidences[row] >= chosen["threshold"]]
    wrong = [row for row in automatic if not test.correct[row]]
    assert 0 < len(wrong) < len(automatic) < 600
    assert chosen["test"]["automatic_rows"] == len(automatic)
    assert chosen["test"]["errors"] == len(wrong)
    assert chosen["test"]["costly_errors"] == sum(row % 2 == 0 for row in wrong)
    assert chosen["test"]["coverage"]["value"] == pytest.approx(len(automatic) / 600)
    accuracy = chosen["test"]["accuracy"]
    assert accuracy["value"] == pytest.approx(1 - len(wrong) / len(automatic))
    assert accuracy["low"] < accuracy["value"] < accuracy["high"]
    assert chosen["validation"]["automatic_rows"] == (validation.confidences >= chosen["threshold"]).sum()
    # A target that validation cannot support: nothing is automatic, and the file says what could be.
    assert (impossible["threshold"], impossible["test"]["automatic_rows"], impossible["test"]["accuracy"]) == (
        None,
        0,
        None,
    )
    assert impossible["test"]["coverage"] == {"value": 0, "low": 0, "high": 0}
    assert 0.7 <= impossible["best_supported"] < 0.999


def test_an_answer_exactly_as_sure_as_the_threshold_is_automatic():
    same = answers()
    choice = choose_thresholds(same, [0.7])[0]
    assert choice.threshold in same.confidences
    assert figures(same, [choice])["thresholds"][0]["test"]["automatic_rows"] == choice.automatic_rows


def test_a_label_that_is_always_reviewed_is_never_automatic_and_decides_no_threshold():
    validation, test = answers(seed=1), answers(seed=2)
    kept = np.array([label != "CT" for label in validation.labels])
    choice = choose_thresholds(validation, [0.7], always_review={"CT"})[0]
    alone = choose_threshold(
        validation.confidences[kept], validation.correct[kept], np.asarray(validation.groups)[kept], 0.7
    )
    assert choice == alone
    assert choice.rows == kept.sum()
    row = figures(test, [choice], always_review={"CT"})["thresholds"][0]
    sure = test.confidences >= choice.threshold
    assert row["test"]["automatic_rows"] == sum(sure & np.array([label != "CT" for label in test.labels]))
    assert row["test"]["automatic_rows"] < sure.sum()


def test_where_no_answer_may_be_automatic_there_is_no_threshold():
    unreadable = ConfidentAnswers([None, "CT"], np.array([0.9, 0.8]), np.array([False, True]), ["a", "b"])
    choice = choose_thresholds(unreadable, [0.9], always_review={"CT"})[0]
    assert (choice.threshold, choice.rows, choice.best_supported) == (None, 0, 0)
    assert figures(unreadable, [choice])["thresholds"][0]["test"]["automatic_rows"] == 0
    # An answer that is not a label is never automatic, however sure.
    low = choose_thresholds(answers(), [0.5])[0]
    assert figures(unreadable, [low])["thresholds"][0]["test"]["automatic_rows"] == 1


def test_the_area_is_that_of_the_rows_and_its_interval_is_a_plain_bootstrap():
    test = answers(rows=120, rows_of_group=4)
    area = figures(test)["area_under_risk_coverage"]
    assert area["value"] == pytest.approx(area_under_risk_coverage(test.confidences, test.correct))
    generator = np.random.default_rng(5)
    draws = []
    for _ in range(400):
        rows = np.concatenate([np.arange(4) + 4 * group for group in generator.integers(0, 30, 30)])
        draws.append(area_under_risk_coverage(test.confidences[rows], test.correct[rows]))
    low, high = np.quantile(draws, [0.025, 0.975])
    assert (area["low"], area["high"]) == pytest.approx((low, high), abs=0.3 * (high - low))


@pytest.mark.parametrize("rows", [3, 5000])
def test_the_curve_is_thinned_and_keeps_its_ends(rows):
    test = answers(rows=rows)
    curve = figures(test)["curve"]
    assert len(curve["coverage"]) == len(curve["accuracy"]) == min(rows, CURVE_POINTS)
    assert curve["coverage"] == sorted(curve["coverage"])
    assert curve["coverage"][0] == pytest.approx(1 / rows)
    assert (curve["coverage"][-1], curve["accuracy"][-1]) == (1, pytest.approx(test.correct.mean()))


def test_automatic_answers_without_an_error_are_not_certain():
    test = answers()
    test = ConfidentAnswers(
        test.labels, test.confidences, np.ones(600, dtype=bool), [str(row // 60) for row in range(600)]
    )
    accuracy = figures(test, choose_thresholds(test, [0.7]))["thresholds"][0]["test"]["accuracy"]
    assert accuracy == {"value": 1, "low": pytest.approx(0.025 ** (1 / 10)), "high": 1}


def test_only_what_counts_as_an_error_is_a_costly_error():
    test = answers()
    (choice,) = choose_thresholds(test, [0.7])
    # Every answer is a costly confusion, some of them an acceptable one
    (found,) = figures(test, [choice], costly=np.ones(600, dtype=bool))["thresholds"]
    assert found["test"]["costly_errors"] == found["test"]["errors"] > 0
