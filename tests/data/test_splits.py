import random
from collections import Counter, defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from radrecipes.data.splits import FRACTIONS, merge_groups, split_by_group

rows_of_groups_and_labels = st.lists(
    st.tuples(st.integers(0, 25).map(str), st.sampled_from(["CT", "MR", "US", "XR"])), max_size=80
)


@given(rows_of_groups_and_labels, st.integers(0, 5))
def test_no_group_is_in_two_splits_and_every_held_out_label_is_in_training(rows, seed):
    groups, labels = [row[0] for row in rows], [row[1] for row in rows]
    splits = split_by_group(groups, labels, seed=seed)
    assert len(splits) == len(rows) and set(splits) <= set(FRACTIONS)
    splits_of_group = defaultdict(set)
    for group, split in zip(groups, splits, strict=True):
        splits_of_group[group].add(split)
    assert all(len(of_group) == 1 for of_group in splits_of_group.values())
    trained = {label for label, split in zip(labels, splits, strict=True) if split == "train"}
    assert set(labels) <= trained


@given(rows_of_groups_and_labels, st.integers(0, 5), st.randoms(use_true_random=False))
def test_the_same_seed_gives_the_same_splits_in_any_row_order(rows, seed, generator):
    shuffled = list(rows)
    generator.shuffle(shuffled)
    one, other = (
        dict(zip([row[0] for row in order], split_by_group(*zip(*order, strict=True), seed=seed), strict=True))
        for order in (rows or [("0", "CT")], shuffled or [("0", "CT")])
    )
    assert one == other


@pytest.mark.parametrize("labels_per_group", [1, 3])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_labels_and_rows_come_in_the_wanted_proportions(labels_per_group, seed):
    generator = random.Random(seed)
    rows = []
    for group in range(600):
        of_group = generator.sample(range(20), labels_per_group)
        rows += [(f"g{group}", f"label {generator.choice(of_group)}") for _ in range(generator.randint(3, 15))]
    groups, labels = zip(*rows, strict=True)
    splits = split_by_group(groups, labels, seed=seed)
    totals = Counter(splits)
    for split, fraction in FRACTIONS.items():
        assert abs(totals[split] / len(rows) - fraction) < 0.01
    per_label = Counter(zip(labels, splits, strict=True))
    for label, count in Counter(labels).items():
        for split, fraction in FRACTIONS.items():
            # Keeping groups together may cost one group of 15 rows more or less than wanted.
            assert abs(per_label[label, split] - fraction * count) <= 16


def test_many_rare_labels_do_not_starve_the_small_splits():
    labels = [f"label {number // 3}" for number in range(90)]
    splits = Counter(split_by_group([str(number) for number in range(90)], labels))
    assert 60 <= splits["train"] <= 72
    assert 5 <= splits["validation"] <= 11
    assert 11 <= splits["test"] <= 20


def test_proportions_never_take_a_label_away_from_training():
    # By proportions alone the smaller group would go to test, and label D with it.
    counts = {("0", "A"): 1, ("0", "B"): 10, ("0", "D"): 3, ("1", "A"): 10, ("1", "B"): 30, ("1", "C"): 1}
    rows = [row for row, count in counts.items() for _ in range(count)]
    assert set(split_by_group(*zip(*rows, strict=True))) == {"train"}


def test_another_seed_gives_other_splits():
    groups, labels = [str(number) for number in range(200)], ["CT", "MR"] * 100
    assert split_by_group(groups, labels, seed=0) != split_by_group(groups, labels, seed=1)


@given(st.lists(st.tuples(st.integers(0, 8).map(str), st.integers(0, 8)), max_size=25))
def test_merged_groups_are_the_coarsest_that_both_groupings_demand(rows):
    merged = merge_groups([row[0] for row in rows], [row[1] for row in rows])
    reached = {position: {position} for position in range(len(rows))}
    changed = True
    while changed:
        changed = False
        for position in reached:
            joined = {
                other
                for member in reached[position]
                for other in range(len(rows))
                if rows[member][0] == rows[other][0] or rows[member][1] == rows[other][1]
            }
            changed |= joined != reached[position]
            reached[position] = joined
    for position, component in reached.items():
        assert {other for other in range(len(rows)) if merged[other] == merged[position]} == component
        assert merged[position] == min(rows[other][0] for other in component)
