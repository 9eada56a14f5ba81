"""Geometry of the confusion matrix."""

import math
from collections import Counter
from dataclasses import asdict

from hypothesis import given
from hypothesis import strategies as st

from radrecipes.data.label_sets import Label
from radrecipes.reporting.confusion_matrix import NO_LABEL, confusion_matrix


def facts(name, **known):
    """A label as `metrics.json` describes it."""
    return asdict(Label(name, **known))


LABELS = [
    facts("MRI Knee", modality="MR", body_region="knee"),
    facts("CT Head", modality="CT", body_region="head"),
    facts("CT Chest", modality="CT", body_region="chest"),
    facts("CT Head Trauma", modality="CT", body_region="head"),
    facts("CT Never", modality="CT", body_region="head"),
]
NAMES = [label["name"] for label in LABELS[:4]]


@given(st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from([*NAMES, None])), min_size=1, max_size=50))
def test_cells_contain_every_row_once(rows):
    references, predictions = zip(*rows, strict=True)
    matrix = confusion_matrix(references, predictions, LABELS)
    counted = Counter({(cell.expected, cell.answered): cell.count for cell in matrix.cells})
    assert counted == Counter((reference, prediction or NO_LABEL) for reference, prediction in rows)
    for cell in matrix.cells:
        assert matrix.names[cell.row] == cell.expected
        assert (
            cell.column == len(matrix.names)
            if cell.answered == NO_LABEL
            else matrix.names[cell.column] == cell.answered
        )
        assert math.isclose(cell.count / cell.share, references.count(cell.expected))


def test_order_is_by_modality_and_region_and_unused_labels_are_left_out():
    matrix = confusion_matrix(NAMES, NAMES, LABELS)
    assert matrix.names == ["CT Chest", "CT Head", "CT Head Trauma", "MRI Knee"]
    assert matrix.blocks == [("CT chest", 0, 1), ("CT head", 1, 2), ("MR knee", 3, 1)]
    assert matrix.left_out == 0


def test_labels_without_modality_make_one_untitled_block():
    matrix = confusion_matrix(["a", "b"], ["b", "b"], [facts("b"), facts("a")])
    assert matrix.names == ["b", "a"]
    assert matrix.blocks == [("", 0, 2)]


def test_a_large_label_set_keeps_the_labels_with_errors():
    labels = [facts(f"label {number:03d}") for number in range(200)]
    names = [label["name"] for label in labels]
    predictions = [*names[:150], *reversed(names[150:])]
    matrix = confusion_matrix(names, predictions, labels)
    assert len(matrix.names) == 60
    assert matrix.left_out == 140
    assert set(names[150:]) <= set(matrix.names)
