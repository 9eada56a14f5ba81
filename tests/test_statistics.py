"""Bootstrap intervals and McNemar's test against slow, obvious versions and known values."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest, f_oneway, t
from sklearn.metrics import accuracy_score, f1_score

from radrecipes.statistics import (
    bootstrap_interval,
    clopper_pearson_lower_bound,
    effective_rows,
    intraclass_correlation,
    macro_f1_statistic,
    mcnemar_exact,
    mean_statistic,
    point_value,
    proportion_interval,
)

LABELS = ["ct head", "ct chest", "mri brain", "mri knee"]
ANSWERS = [*LABELS, None, "free text"]
pairs = st.lists(st.tuples(st.sampled_from(LABELS), st.sampled_from(ANSWERS)), min_size=1, max_size=40)


def sklearn_macro_f1(references, predictions):
    written = ["" if prediction is None else prediction for prediction in predictions]
    present = sorted(set(references))
    return f1_score(references, written, labels=present, average="macro", zero_division=0)


def made_up_rows(rows, groups, seed=0):
    generator = np.random.default_rng(seed)
    references = generator.choice(LABELS, rows).tolist()
    predictions = [r if generator.random() < 0.7 else ANSWERS[generator.integers(6)] for r in references]
    return references, predictions, [f"g{index}" for index in generator.integers(0, groups, rows)]


@given(pairs)
def test_point_values_equal_sklearn(rows):
    references, predictions = zip(*rows, strict=True)
    correct = [reference == prediction for reference, prediction in rows]
    written = ["" if prediction is None else prediction for prediction in predictions]
    accuracy = point_value(mean_statistic(correct), len(rows))
    assert accuracy == pytest.approx(accuracy_score(references, written))
    macro_f1 = point_value(macro_f1_statistic(references, predictions), len(rows))
    assert macro_f1 == pytest.approx(sklearn_macro_f1(references, predictions), abs=1e-6)


@pytest.mark.parametrize(
    ("rows", "groups"),
    [(60, 100_000), (60, 12), (8, 100_000)],
    ids=["a group per row", "few groups", "so few rows that labels are missing from resamples"],
)
def test_intervals_equal_a_naive_bootstrap_over_groups(rows, groups):
    references, predictions, group_of_row = made_up_rows(rows, groups, seed=1)
    names = sorted(set(group_of_row))
    members = {name: [row for row, group in enumerate(group_of_row) if group == name] for name in names}
    generator = np.random.default_rng(7)
    naive_accuracy, naive_f1 = [], []
    for _ in range(200):
        drawn = [row for place in generator.integers(0, len(names), len(names)) for row in members[names[place]]]
        drawn_references = [references[row] for row in drawn]
        drawn_predictions = [predictions[row] for row in drawn]
        naive_accuracy.append(np.mean([references[row] == predictions[row] for row in drawn]))
        naive_f1.append(sklearn_macro_f1(drawn_references, drawn_predictions))
    correct = [reference == prediction for reference, prediction in zip(references, predictions, strict=True)]
    for statistic, naive in [
        (mean_statistic(correct), naive_accuracy),
        (macro_f1_statistic(references, predictions), naive_f1),
    ]:
        interval = bootstrap_interval(statistic, group_of_row, resamples=200, seed=7)
        expected = np.quantile(naive, [0.025, 0.975])
        assert [interval["low"], interval["high"]] == pytest.approx(expected, abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(pairs, st.randoms(use_true_random=False))
def test_intervals_do_not_depend_on_the_order_of_the_rows(rows, random):
    numbered = [(f"g{place}", *row) for place, row in enumerate(rows)]
    shuffled = numbered.copy()
    random.shuffle(shuffled)
    figures = []
    for version in (numbered, shuffled):
        groups, references, predictions = zip(*version, strict=True)
        figures.append(bootstrap_interval(macro_f1_statistic(references, predictions), groups, resamples=50))
    assert figures[0] == pytest.approx(figures[1])


@given(st.lists(st.booleans(), min_size=1, max_size=60))
@settings(max_examples=50, deadline=None)
def test_accuracy_is_in_its_own_interval(correct):
    groups = [str(row) for row in range(len(correct))]
    interval = bootstrap_interval(mean_statistic(correct), groups, resamples=500)
    assert 0 <= interval["low"] <= interval["value"] <= interval["high"] <= 1


def test_interval_of_a_share_is_close_to_the_binomial():
    correct = np.arange(1000) < 800
    interval = bootstrap_interval(mean_statistic(correct), [str(row) for row in range(1000)])
    low, high = binom.ppf([0.025, 0.975], 1000, 0.8) / 1000
    assert [interval["low"], interval["high"]] == pytest.approx([low, high], abs=0.004)


@pytest.mark.parametrize(
    ("value", "low", "high"), [(True, 0.025 ** (1 / 10), 1.0), (False, 0.0, 1 - 0.025 ** (1 / 10))]
)
def test_a_proportion_of_rows_that_are_all_alike_has_an_interval_of_its_groups(value, low, high):
    groups = [str(row // 3) for row in range(30)]
    interval = proportion_interval(mean_statistic([value] * 30), groups, resamples=50)
    assert interval == {"value": float(value), "low": pytest.approx(low), "high": pytest.approx(high)}
    mixed = mean_statistic(np.arange(30) < 20)
    assert proportion_interval(mixed, groups, resamples=50) == bootstrap_interval(mixed, groups, resamples=50)


def test_rows_that_are_copies_of_each_other_do_not_narrow_the_interval():
    correct = np.arange(100) < 70
    once = bootstrap_interval(mean_statistic(correct), [str(row) for row in range(100)])
    ten_times = bootstrap_interval(mean_statistic(np.repeat(correct, 10)), [str(row // 10) for row in range(1000)])
    assert ten_times["high"] - ten_times["low"] == pytest.approx(once["high"] - once["low"], abs=0.03)


def test_same_seed_same_interval_other_seed_other_interval():
    references, predictions, groups = made_up_rows(80, 1000)
    statistic = macro_f1_statistic(references, predictions)
    assert bootstrap_interval(statistic, groups, seed=3) == bootstrap_interval(statistic, groups, seed=3)
    assert bootstrap_interval(statistic, groups, seed=3) != bootstrap_interval(statistic, groups, seed=4)


def test_many_rows_are_drawn_in_blocks_of_bounded_size():
    correct = np.random.default_rng(0).random(30_000) < 0.9
    largest = []

    def statistic(counts):
        largest.append(counts.size)
        return mean_statistic(correct)(counts)

    interval = bootstrap_interval(statistic, [str(row) for row in range(30_000)], resamples=300)
    assert len(largest) > 2
    assert max(largest) <= 4_000_000
    assert interval["high"] - interval["low"] == pytest.approx(2 * 1.96 * np.sqrt(0.09 / 30_000), rel=0.15)


def test_two_thousand_resamples_of_a_thousand_rows_take_little_time():
    references, predictions, groups = made_up_rows(1000, 100_000)
    started = time.perf_counter()
    bootstrap_interval(macro_f1_statistic(references, predictions), groups, resamples=2000)
    # 0.1 s when nothing else runs.
    assert time.perf_counter() - started < 5


def test_no_rows_is_an_error():
    with pytest.raises(ValueError, match="at least one row"):
        bootstrap_interval(mean_statistic([]), [])


@pytest.mark.parametrize(
    ("only_first", "only_second", "p_value"),
    [
        (0, 0, 1.0),
        (5, 5, 1.0),
        (6, 0, 2 * 0.5**6),
        # Sum of the binomial tail, by hand: 2 * (C(10,0) + C(10,1)) / 2**10.
        (9, 1, 22 / 1024),
        (1, 9, 22 / 1024),
    ],
)
def test_mcnemar_known_values(only_first, only_second, p_value):
    first = [True] * only_first + [False] * only_second + [True, True, False]
    second = [False] * only_first + [True] * only_second + [True, True, False]
    result = mcnemar_exact(first, second)
    assert (result["n10"], result["n01"]) == (only_first, only_second)
    assert result["p_value"] == pytest.approx(p_value)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_mcnemar_equals_the_summed_binomial_tail_and_is_symmetric(rows):
    first, second = zip(*rows, strict=True)
    result = mcnemar_exact(first, second)
    smaller, discordant = min(result["n10"], result["n01"]), result["n10"] + result["n01"]
    expected = min(1.0, 2 * sum(binom.pmf(k, discordant, 0.5) for k in range(smaller + 1)))
    assert result["p_value"] == pytest.approx(expected)
    mirrored = mcnemar_exact(second, first)
    assert mirrored["p_value"] == pytest.approx(result["p_value"])
    assert (mirrored["n10"], mirrored["n01"]) == (result["n01"], result["n10"])


@pytest.mark.parametrize(("right", "rows"), [(0, 5), (1, 1), (44, 45), (300, 310)])
def test_lower_bound_equals_the_exact_one_of_scipy(right, rows):
    exact = binomtest(right, rows, alternative="greater").proportion_ci(0.9, "exact").low
    assert clopper_pearson_lower_bound(right, rows, 0.9) == pytest.approx(exact)


def test_correlation_inside_groups_follows_from_the_f_statistic():
    generator = np.random.default_rng(2)
    values = generator.normal(size=(12, 7)) + generator.normal(size=(12, 1))
    f_value = f_oneway(*values).statistic
    expected = (f_value - 1) / (f_value + 6)
    groups = np.repeat([f"g{index}" for index in range(12)], 7)
    assert intraclass_correlation(values.ravel(), groups) == pytest.approx(expected)


def test_correlation_of_unequal_groups_is_found_again():
    generator = np.random.default_rng(3)
    sizes = generator.integers(1, 30, 3000)
    groups = np.repeat(np.arange(3000), sizes)
    correct = generator.random(len(groups)) < np.repeat(generator.beta(2.7, 0.3, 3000), sizes)
    assert intraclass_correlation(correct, groups) == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize(
    ("correct", "groups", "expected"),
    [
        ([1, 1, 0, 0], "aabb", 1.0),
        ([1, 0, 1, 0], "aabb", 0.0),
        ([1, 1, 1, 1], "aabb", 0.0),
        ([1, 0, 1, 1], "aaaa", 0.0),
        ([1, 0, 1, 1], "abcd", 0.0),
    ],
    ids=["all in the group", "none in the group", "nothing differs", "one group", "a group per row"],
)
def test_correlation_at_its_ends(correct, groups, expected):
    assert intraclass_correlation(correct, list(groups)) == expected


@given(st.lists(st.booleans(), min_size=2, max_size=60))
def test_rows_with_a_group_each_count_in_full(correct):
    assert effective_rows(correct, list(range(len(correct))), 0.9) == pytest.approx(len(correct))
    assert effective_rows(correct, list(range(len(correct))), 0.9, least_correlation=0.5) == pytest.approx(
        len(correct)
    )


def test_rows_that_are_all_alike_inside_groups_count_as_groups():
    correct = np.repeat([True] * 30 + [False] * 10, 5)
    groups = np.repeat(np.arange(40), 5)
    few_groups = (t.ppf(0.9, 199) / t.ppf(0.9, 39)) ** 2
    # 200 / 5 groups, and each of the two variances has its own correction for degrees of freedom.
    assert effective_rows(correct, groups, 0.9) == pytest.approx(200 / 5 * (39 / 40) * (200 / 199) * few_groups)
    # No error shows any clustering: then what is known from elsewhere counts.
    nothing_seen = effective_rows([True] * 200, groups, 0.9)
    assert nothing_seen == pytest.approx(200 * few_groups)
    assert effective_rows([True] * 200, groups, 0.9, least_correlation=0.25) == pytest.approx(nothing_seen / 2)


def test_one_group_counts_as_one_row_and_no_rows_are_refused():
    assert effective_rows([True, True, False], ["a"] * 3, 0.9) == 1.0
    with pytest.raises(ValueError):
        effective_rows([], [], 0.9)
