"""Risk against coverage, the threshold and what it promises, decisions, and the policy file."""

import dataclasses
import json
import math

import numpy as np
import pytest
from conftest import slow_after
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from radrecipes.errors import InputError
from radrecipes.inference.abstention import (
    ALWAYS_REVIEWED,
    BELOW_THRESHOLD,
    POLICY_FILE,
    DecisionPolicy,
    area_under_risk_coverage,
    choose_threshold,
    decide,
    risk_coverage,
)
from radrecipes.statistics import clopper_pearson_lower_bound, effective_rows, intraclass_correlation

answers = st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=12)


@given(answers)
def test_risk_coverage_equals_a_naive_loop(rows):
    confidences, correct = map(np.array, zip(*rows, strict=True))
    curve = risk_coverage(confidences, correct)
    thresholds = sorted(set(confidences), reverse=True)
    for coverage, accuracy, threshold in zip(curve["coverage"], curve["accuracy"], thresholds, strict=True):
        inside = [right for confidence, right in rows if confidence >= threshold]
        assert coverage == pytest.approx(len(inside) / len(rows))
        assert accuracy == pytest.approx(sum(inside) / len(inside))
    assert curve["coverage"][-1] == 1


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=1, max_size=6))
def test_the_area_is_the_mean_over_the_orders_of_equal_answers(rows):
    confidences, correct = map(np.array, zip(*rows, strict=True))
    generator = np.random.default_rng(0)
    areas = []
    for _ in range(3000):
        order = np.lexsort((generator.random(len(rows)), -confidences))
        wrong = ~correct[order]
        areas.append(np.mean(np.cumsum(wrong) / np.arange(1, len(rows) + 1)))
    assert area_under_risk_coverage(confidences, correct) == pytest.approx(np.mean(areas), abs=0.03)


def test_known_areas():
    correct = np.array([True, True, True, False])
    assert area_under_risk_coverage(np.array([4, 3, 2, 1]), correct) == pytest.approx(1 / 16)
    assert area_under_risk_coverage(np.ones(4), correct) == pytest.approx(1 / 4)
    assert area_under_risk_coverage(np.array([0.1, 0.9]), correct[:2]) == 0


def independent(rows):
    return [f"patient {index}" for index in range(rows)]


def test_rows_with_a_group_each_get_the_plain_clopper_pearson_bound():
    confidences = np.linspace(1, 0, 400)
    correct = np.ones(400, dtype=bool)
    correct[[50, 100, 150]] = False
    choice = choose_threshold(confidences, correct, independent(400), target_accuracy=0.95)
    inside = correct[confidences >= choice.threshold]
    exact = binomtest(int(inside.sum()), len(inside), alternative="greater").proportion_ci(0.9, "exact").low
    assert choice.lower_bound == pytest.approx(exact)
    assert (choice.automatic_rows, choice.effective_rows) == (400, pytest.approx(400))
    assert choice.accuracy == pytest.approx(397 / 400)
    # What it says it can support it does, and no thousandth more.
    best = choice.best_supported
    assert choose_threshold(confidences, correct, independent(400), best).threshold is not None
    above = choose_threshold(confidences, correct, independent(400), best + 0.001)
    assert above.threshold is None and above.best_supported == best


def test_the_walk_stops_where_the_errors_begin():
    confidences = np.linspace(1, 0, 1000)
    correct = np.arange(1000) < 600
    choice = choose_threshold(confidences, correct, independent(1000), target_accuracy=0.95)
    assert choice.automatic_rows == 600 and choice.accuracy == 1
    assert choose_threshold(confidences, correct, independent(1000), 0.9).automatic_rows == 650


def test_the_walk_does_not_leap_over_a_threshold_that_failed():
    correct = np.ones(1000, dtype=bool)
    correct[300:340] = False
    choice = choose_threshold(np.linspace(1, 0, 1000), correct, independent(1000), target_accuracy=0.95)
    # 1000 rows with 40 errors would pass at 0.95, but 350 rows with 40 errors do not.
    assert clopper_pearson_lower_bound(960, 1000, 0.9) > 0.95
    assert choice.automatic_rows == 300


def test_errors_below_the_threshold_tell_how_those_above_cluster():
    groups = np.tile(np.arange(36), 18)
    confidences = np.linspace(1, 0, 648)
    late = np.arange(648) >= 389
    clustered = choose_threshold(confidences, ~(late & (groups < 18)), groups, 0.97)
    scattered = choose_threshold(confidences, ~(late & (np.arange(648) // 36 % 2 == groups % 2)), groups, 0.97)
    # The same rows are automatic, all of them right: only the errors below the threshold differ.
    assert clustered.automatic_rows == scattered.automatic_rows == 389
    assert clustered.effective_rows < 0.9 * scattered.effective_rows


def test_equal_answers_are_let_through_together():
    confidences = [0.9] * 70 + [0.5] * 30
    choice = choose_threshold(confidences, [True] * 100, independent(100), target_accuracy=0.9)
    assert (choice.threshold, choice.automatic_rows) == (0.5, 100)
    choice = choose_threshold(confidences, [True] * 70 + [False] * 30, independent(100), target_accuracy=0.9)
    assert (choice.threshold, choice.automatic_rows) == (0.9, 70)


def test_few_rows_start_where_they_can_pass_and_fewer_never_pass():
    # Without an error 45 rows support 0.95 at a level of 0.9, and 44 do not: 0.95 ** 45 < 0.1 < 0.95 ** 44.
    fifty = choose_threshold(np.linspace(1, 0, 50), [True] * 50, independent(50), 0.95)
    assert fifty.automatic_rows == 50
    few = choose_threshold(np.linspace(1, 0, 44), [True] * 44, independent(44), 0.95)
    assert (few.threshold, few.automatic_rows, few.accuracy, few.lower_bound) == (None, 0, None, None)
    assert few.best_supported == math.floor(0.1 ** (1 / 44) * 1000) / 1000


def test_clustered_rows_start_where_they_can_pass():
    # Most of three groups is wrong, and unsure of it: such errors make the surest 30 % worth too few rows for a bound of 0.95.
    groups = np.repeat(np.arange(36), 18)
    correct = (groups >= 3) | (np.arange(648) % 6 == 0)
    confidences = np.random.default_rng(0).random(648) + correct
    surest = confidences >= np.sort(confidences)[-195]
    worth = effective_rows(np.ones(195), groups[surest], 0.9, intraclass_correlation(correct, groups))
    assert correct[surest].all() and clopper_pearson_lower_bound(worth, worth, 0.9) < 0.95
    choice = choose_threshold(confidences, correct, groups, 0.95)
    assert choice.automatic_rows > 583 and choice.accuracy > 0.97


def test_rows_of_one_group_count_for_less():
    generator = np.random.default_rng(0)
    wrong_groups = generator.permutation(36) < 2
    correct = np.repeat(~wrong_groups, 18)
    confidences = generator.random(648)
    groups = np.repeat([f"scenario {index}" for index in range(36)], 18)
    assert choose_threshold(confidences, correct, independent(648), 0.9).threshold is not None
    clustered = choose_threshold(confidences, correct, groups, 0.9)
    assert clustered.threshold is None and clustered.best_supported < 0.9
    one_group = choose_threshold(confidences, [True] * 648, ["one"] * 648, 0.9)
    assert one_group.threshold is None and one_group.best_supported < 0.2


def test_no_answer_is_right():
    choice = choose_threshold(np.linspace(0, 1, 60), [False] * 60, independent(60), 0.95)
    assert (choice.threshold, choice.best_supported) == (None, 0.0)


def test_the_choice_does_not_hang_on_the_order_of_the_rows():
    confidences, correct, groups = clustered_answers(np.random.default_rng(1), 36, 0.2, 0.9, 2.0)
    order = np.random.default_rng(2).permutation(len(confidences))
    first = choose_threshold(confidences, correct, groups, 0.95)
    second = choose_threshold(confidences[order], correct[order], groups[order], 0.95)
    assert first.threshold == second.threshold is not None
    assert first.lower_bound == pytest.approx(second.lower_bound)


def clustered_answers(generator, group_count, correlation, accuracy, signal, rows=18):
    """Beta-binomial errors, and confidences that know of the single answer and of its group."""
    spread = (1 - correlation) / correlation
    group_accuracy = generator.beta(accuracy * spread, (1 - accuracy) * spread, size=(group_count, 1))
    correct = generator.random((group_count, rows)) < group_accuracy
    of_group = 0.5 * generator.normal(size=(group_count, 1)) + signal * (group_accuracy - accuracy)
    confidences = signal * correct + of_group + generator.normal(size=(group_count, rows))
    return confidences.ravel(), correct.ravel(), np.repeat(np.arange(group_count), rows)


@pytest.mark.parametrize(
    ("correlation", "accuracy", "signal", "least_coverage"),
    slow_after(1, [(0.1, 0.8, 1.5, 0.3), (0.4, 0.8, 1.5, 0.15), (0.4, 0.89, 0.0, 0.0)]),
    ids=["informative", "informative, groups alike", "uninformative, a hair below the target"],
)
def test_the_accuracy_above_the_threshold_holds_as_often_as_stated(correlation, accuracy, signal, least_coverage):
    target, draws = 0.9, 150
    world = clustered_answers(np.random.default_rng(99), 10_000, correlation, accuracy, signal)
    confidence_of_world, correct_in_world, _ = world
    generator = np.random.default_rng(7)
    failed, coverage = 0, 0.0
    for _ in range(draws):
        choice = choose_threshold(*clustered_answers(generator, 36, correlation, accuracy, signal), target)
        if choice.threshold is not None:
            automatic = confidence_of_world >= choice.threshold
            failed += correct_in_world[automatic].mean() < target
            coverage += automatic.mean() / draws
    # At most 10 %, and three standard errors of 150 draws on top.
    assert failed / draws <= 0.10 + 3 * math.sqrt(0.1 * 0.9 / draws)
    assert coverage >= least_coverage


@pytest.mark.parametrize(
    ("confidences", "correct", "groups", "target"),
    [
        ([0.1], [True, False], ["a"], 0.9),
        ([0.1, math.nan], [True, False], ["a", "b"], 0.9),
        ([0.1, 0.2], [True, False], ["a"], 0.9),
        ([0.1, 0.2], [True, False], ["a", "b"], 95),
    ],
)
def test_invalid_arguments_are_refused(confidences, correct, groups, target):
    with pytest.raises(ValueError):
        choose_threshold(confidences, correct, groups, target)


NAMES = ["ct head", "ct chest", "mri brain", "mri knee"]


def test_decisions():
    probabilities = np.array([[0.1, 0.7, 0.15, 0.05], [0.4, 0.1, 0.1, 0.4], [0.0, 0.1, 0.9, 0.0], [0, 0, 0.5, 0.5]])
    sure, unsure, reviewed, both = decide(probabilities, NAMES, 0.7, {"mri brain"})
    assert (sure.label, sure.confidence, sure.automatic, sure.review_reason) == ("ct chest", 0.7, True, None)
    assert sure.top == (("ct chest", 0.7), ("mri brain", 0.15), ("ct head", 0.1))
    assert (unsure.automatic, unsure.review_reason) == (False, BELOW_THRESHOLD)
    assert unsure.top == (("ct head", 0.4), ("mri knee", 0.4), ("ct chest", 0.1))
    assert (reviewed.automatic, reviewed.review_reason, reviewed.confidence) == (False, ALWAYS_REVIEWED, 0.9)
    assert (both.label, both.review_reason) == ("mri brain", ALWAYS_REVIEWED)


def test_decisions_over_two_labels_and_of_no_rows():
    assert decide(np.array([[0.2, 0.8]]), ["a", "b"], 0.5)[0].top == (("b", 0.8), ("a", 0.2))
    assert decide(np.zeros((0, 2)), ["a", "b"], 0.5) == []
    with pytest.raises(ValueError):
        decide(np.array([[0.2, 0.8]]), ["a"], 0.5)
    with pytest.raises(ValueError):
        decide(np.array([[0.2, math.nan]]), ["a", "b"], 0.5)


@pytest.fixture
def policy():
    confidences = np.linspace(1, 0.3, 200)
    correct = np.arange(200) < 150
    thresholds = tuple(choose_threshold(confidences, correct, independent(200), t) for t in (0.9, 0.95, 0.999))
    return DecisionPolicy(1.3, thresholds, 0.95, "a" * 64, "b" * 64, "c" * 64, "d" * 64, 200, 200)


def test_a_policy_comes_back_as_it_was_written(policy, tmp_path):
    path = policy.save(tmp_path)
    assert path.name == POLICY_FILE and json.loads(path.read_text())["format"] == 1
    assert [entry.name for entry in tmp_path.iterdir()] == [POLICY_FILE]
    assert DecisionPolicy.load(tmp_path, "a" * 64, "c" * 64) == policy


def test_thresholds_of_a_policy(policy):
    assert policy.threshold_for(0.95) == policy.thresholds[1].threshold
    assert policy.threshold_for(0.9) <= policy.threshold_for(0.95)
    with pytest.raises(InputError, match=r"0\.97 was not fitted; choose one of 0\.9, 0\.95, 0\.999"):
        policy.threshold_for(0.97)
    best = policy.thresholds[2].best_supported
    assert 0.95 < best < 0.999
    with pytest.raises(InputError, match=rf"0\.999 is more than the 200 validation rows .* at most {best:g}$"):
        policy.threshold_for(0.999)


@pytest.mark.parametrize(
    ("hashes", "field"),
    [(("0" * 64, "c" * 64), "adapter_sha256"), (("a" * 64, "0" * 64), "prompt_sha256")],
)
def test_a_policy_of_another_model_is_refused(policy, tmp_path, hashes, field):
    policy.save(tmp_path)
    with pytest.raises(InputError, match=f"{field}.*evaluate_model.py --run ... --restart"):
        DecisionPolicy.load(tmp_path, *hashes)


def changed(**fields):
    return lambda content: {**content, **fields}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed(format=2), "`format` is not 1"),
        (lambda content: [], "must contain one JSON object"),
        (lambda content: {key: value for key, value in content.items() if key != "rows"}, "exactly the keys"),
        (changed(note="x"), "exactly the keys"),
        (changed(temperature="warm"), "`temperature` is 'warm'"),
        (changed(temperature=0.0), "`temperature` is 0.0"),
        (changed(temperature=math.nan), "`temperature` is nan"),
        (changed(thresholds={}), "`thresholds` is {}"),
        (changed(thresholds=[{"threshold": 0.5}]), r"thresholds\[0\]: expected exactly the keys"),
    ],
)
def test_a_broken_policy_is_refused_with_its_fix(policy, tmp_path, change, message):
    path = policy.save(tmp_path)
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(InputError, match=rf"{POLICY_FILE}.*{message}.*--restart"):
        DecisionPolicy.load(tmp_path, "a" * 64, "c" * 64)


def test_a_missing_or_damaged_policy_is_refused_with_its_fix(policy, tmp_path):
    with pytest.raises(InputError, match=r"no such file.*--restart"):
        DecisionPolicy.load(tmp_path, "a" * 64, "c" * 64)
    path = policy.save(tmp_path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match=r"not valid JSON.*--restart"):
        DecisionPolicy.load(tmp_path, "a" * 64, "c" * 64)


def test_a_policy_contains_only_plain_values(policy):
    assert all(type(value) in (float, int, type(None)) for c in policy.thresholds for value in dataclasses.astuple(c))
