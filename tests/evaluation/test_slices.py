"""Which rows belong to which part, and how each system does on it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from radrecipes.data.audit import audit_leakage
from radrecipes.data.label_sets import LabelSet
from radrecipes.evaluation.slices import NOT_STATED, column_masks, slice_masks, slice_metrics, unseen_masks

LABELS = LabelSet.from_text("""\
name: parts
version: 1
labels:
  - {name: CT Head, modality: CT, body_region: head}
  - {name: MR Knee, modality: MR, body_region: knee}
  - {name: Something}
""")
BARE = LabelSet.from_text("{name: bare, version: 1, labels: [{name: CT Head}, {name: MR Knee}, {name: Something}]}")


def words(number):
    return " ".join(f"word{place}" for place in range(number))


def masks_of(notes, references, train_notes, train_labels, label_set=LABELS):
    return {
        (name, value): mask.tolist()
        for name, value, mask in slice_masks(notes, references, train_notes, train_labels, label_set)
    }


def test_bands_meet_without_gap_at_19_20_and_99_100_training_rows():
    train_labels = ["CT Head"] * 100 + ["MR Knee"] * 99 + ["Something"] * 19
    found = masks_of([words(1)] * 3, LABELS.names, [words(1)] * len(train_labels), train_labels)
    assert found["label frequency", "common (100 or more training rows)"] == [True, False, False]
    assert found["label frequency", "medium (20 to 99 training rows)"] == [False, True, False]
    assert found["label frequency", "rare (under 20 training rows)"] == [False, False, True]
    medium = masks_of([words(1)], ["Something"], [words(1)] * 20, ["Something"] * 20)
    assert medium["label frequency", "medium (20 to 99 training rows)"] == [True]


def test_lengths_are_split_at_the_thirds_of_training():
    train = [words(number) for number in range(1, 31)]
    found = masks_of([words(10), words(11), words(20), words(21)], ["CT Head"] * 4, train, ["CT Head"] * 30)
    assert found["note length", "short (up to 10 words)"] == [True, False, False, False]
    assert found["note length", "medium (11 to 20 words)"] == [False, True, True, False]
    assert found["note length", "long (over 20 words)"] == [False, False, False, True]


def test_near_duplicates_are_those_that_the_leakage_audit_counts():
    train = [f"{words(12)} end{number}" for number in range(5)]
    notes = [train[0], f"{words(12)} other", "nothing alike at all in here", words(3)]
    yes = masks_of(notes, ["CT Head"] * 4, train, ["CT Head"] * 5)["near-duplicate in training", "yes"]
    rows = [{"note": note, "group": str(place), "label": "CT Head"} for place, note in enumerate(notes)]
    train_rows = [{"note": note, "group": "t", "label": "CT Head"} for note in train]
    audit = audit_leakage({"train": train_rows, "validation": [], "test": rows}, 0.8, "note", "label")
    assert sum(yes) == audit["test"]["near_duplicate"] == 2


def test_modality_and_region_follow_the_reference_if_a_label_states_them():
    found = masks_of([words(1)] * 3, LABELS.names, [words(1)], ["CT Head"])
    assert found["modality", "CT"] == [True, False, False]
    assert found["body region", "knee"] == [False, True, False]
    assert found["modality", NOT_STATED] == found["body region", NOT_STATED] == [False, False, True]
    bare = masks_of([words(1)] * 3, LABELS.names, [words(1)], ["CT Head"], BARE)
    assert {name for name, _ in bare} == {"label frequency", "note length", "near-duplicate in training"}


@given(
    st.lists(st.tuples(st.integers(1, 9), st.sampled_from(LABELS.names)), min_size=1, max_size=30),
    st.lists(st.tuples(st.integers(1, 9), st.sampled_from(LABELS.names)), min_size=1, max_size=30),
)
def test_every_row_is_in_one_value_of_each_slice(rows, train):
    parts = slice_masks(
        [words(number) for number, _ in rows],
        [label for _, label in rows],
        [words(number) for number, _ in train],
        [label for _, label in train],
        LABELS,
    )
    for name in {name for name, _, _ in parts}:
        assert np.sum([mask for part, _, mask in parts if part == name], axis=0).tolist() == [1] * len(rows), name


@pytest.mark.parametrize(("rows", "too_few"), [(19, True), (20, False)])
def test_a_small_part_says_so_instead_of_a_figure(rows, too_few):
    mask = np.arange(40) < rows
    right = np.arange(40) % 2 == 0
    figure = slice_metrics([("modality", "CT", mask)], [str(row) for row in range(40)], {"adapter": right}, 200)[0]
    assert (figure["rows"], figure["groups"], figure["too_few"]) == (rows, rows, too_few)
    accuracy = figure["systems"]["adapter"]
    if too_few:
        assert accuracy is None
    else:
        assert accuracy["value"] == pytest.approx(0.5)
        assert accuracy["low"] < 0.5 < accuracy["high"]


def test_a_part_of_one_group_has_no_interval_and_an_empty_one_no_rows():
    masks = [("modality", "CT", np.ones(40, dtype=bool)), ("modality", "MR", np.zeros(40, dtype=bool))]
    one_group, empty = slice_metrics(masks, ["the only one"] * 40, {"adapter": np.ones(40, dtype=bool)}, 200)
    assert (one_group["too_few"], one_group["groups"], one_group["systems"]) == (True, 1, {"adapter": None})
    assert (empty["too_few"], empty["rows"], empty["groups"]) == (True, 0, 0)


def test_a_text_is_unseen_if_training_does_not_have_it_whatever_its_input():
    training = ["big heart", "clear lungs"], ["Cardiomegaly.", "No acute disease."]
    inputs = ["Big heart!", "other", "clear lungs", "other"]
    targets = ["cardiomegaly", "NO ACUTE DISEASE", "Nothing acute.", "Edema."]
    masks = unseen_masks(inputs, targets, *training)
    # Spelling apart, the first stands in training as a pair, the second as a text; the third repeats only an input.
    assert {name: mask.tolist() for name, mask in masks.items()} == {
        "text": [False, False, True, True],
        "pair": [False, True, True, True],
    }
    # One slice if both have the same rows.
    assert list(unseen_masks(["a", "b"], ["x", "y"], ["a"], ["x"])) == ["text"]


def test_stated_columns_are_sliced_by_each_of_their_values():
    masks = column_masks({"site": ["north", "", "south", "north"], "scanner": ["A"] * 4})
    assert [(name, value, mask.tolist()) for name, value, mask in masks] == [
        ("site", "north", [True, False, False, True]),
        ("site", NOT_STATED, [False, True, False, False]),
        ("site", "south", [False, False, True, False]),
        ("scanner", "A", [True] * 4),
    ]
