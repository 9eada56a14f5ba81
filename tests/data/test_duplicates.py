import functools
import random

import numpy as np
import pytest
from conftest import slow_after
from hypothesis import given
from hypothesis import strategies as st

from radrecipes.data.duplicates import largest_similarity, near_duplicate_groups, shingles

# Every text is compared with every other one.
shingles_of = functools.cache(shingles)


def naive_similarity(one, other):
    left, right = shingles_of(one), shingles_of(other)
    return len(left & right) / len(left | right)


def naive_groups(notes, threshold):
    group = list(range(len(notes)))
    for i in range(len(notes)):
        for j in range(i):
            if naive_similarity(notes[i], notes[j]) >= threshold and group[i] != group[j]:
                old, new = group[i], group[j]
                group = [new if number == old else number for number in group]
    return group


def partition(groups):
    members = {}
    for position, group in enumerate(groups):
        members.setdefault(group, []).append(position)
    return sorted(members.values())


def similar_notes(count, seed, length):
    """Notes of a few templates with some words exchanged, so that similarities fall on both sides of a threshold."""
    generator = random.Random(seed)
    words = [f"word{number}" for number in range(40)]
    templates = [[generator.choice(words) for _ in range(length)] for _ in range(max(1, count // 8))]
    notes = []
    for _ in range(count):
        note = list(generator.choice(templates))
        for _ in range(generator.randint(0, 2)):
            note[generator.choice([0, 1, -1, -2])] = generator.choice(words)
        notes.append(" ".join(note + ["end"] * generator.randint(0, 2)))
    return notes


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8, 0.9, 1.0])
@pytest.mark.parametrize("length", slow_after(3, [3, 6, 14, 40]))
def test_groups_are_those_of_all_pairs(threshold, length):
    notes = similar_notes(160, seed=length, length=length)
    groups = near_duplicate_groups(notes, threshold)
    assert partition(groups) == partition(naive_groups(notes, threshold))


@given(st.lists(st.lists(st.sampled_from("abc"), max_size=12).map(" ".join), max_size=12), st.floats(0.05, 1))
def test_groups_are_those_of_all_pairs_for_any_notes(notes, threshold):
    assert partition(near_duplicate_groups(notes, threshold)) == partition(naive_groups(notes, threshold))


def test_pairs_on_both_sides_of_the_threshold_were_tested():
    notes = similar_notes(160, seed=14, length=14)
    found = [naive_similarity(one, other) for i, one in enumerate(notes) for other in notes[:i]]
    assert sum(0.8 <= value < 1 for value in found) > 20
    assert sum(0.6 <= value < 0.8 for value in found) > 20
    # A similarity of exactly the threshold counts, whatever floating point makes of it.
    nine, ten = " ".join("abcdefgh"), " ".join("abcdefghi")
    assert naive_similarity(nine, ten) == 0.8
    assert len(set(near_duplicate_groups([nine, ten], 0.8))) == 1


def test_case_punctuation_and_short_notes():
    groups = near_duplicate_groups(["R/O PE", "r o pe", "r/o PE?", "r/o SAH", "", "!"])
    assert partition(groups) == [[0, 1, 2], [3], [4, 5]]


@pytest.mark.parametrize("length", [3, 14])
def test_largest_similarity_is_that_of_all_pairs(length):
    notes, others = similar_notes(60, seed=1, length=length), similar_notes(90, seed=2, length=length)
    notes += [*others[:5], "something else altogether that no other note says"]
    expected = [max(naive_similarity(note, other) for other in others) for note in notes]
    np.testing.assert_allclose(largest_similarity(notes, others), expected)
    assert expected[-1] == 0 and max(expected) == 1


def test_nothing_to_compare():
    assert largest_similarity([], ["a"]).tolist() == []
    assert largest_similarity(["a"], []).tolist() == [0]
    assert near_duplicate_groups([]).tolist() == []
