"""Which wrong answers are costly."""

import numpy as np
import pytest

from radrecipes.data.label_sets import LabelSet
from radrecipes.evaluation.confusions import costly_kinds, costly_rows

LABELS = LabelSet.from_text("""\
name: costly
version: 1
labels:
  - {name: CT Head, modality: CT, body_region: head, contrast: none}
  - {name: CT Head with Contrast, modality: CT, body_region: head, contrast: with}
  - {name: CT Head Multiphase, modality: CT, body_region: head, contrast: without and with}
  - {name: CT Sinus, modality: CT, body_region: face, contrast: none}
  - {name: MR Brain, modality: MR, body_region: head, contrast: with}
  - {name: MR Knee Left, modality: MR, body_region: knee, contrast: none}
  - {name: MR Knee RIGHT, modality: MR, body_region: knee, contrast: none}
  - {name: MR Knee Bright Field, modality: MR, body_region: knee, contrast: none}
  - {name: Something}
  - {name: CT No Contrast Said, modality: CT, body_region: head}
costly_confusions: [[CT Sinus, Something]]
""")


@pytest.mark.parametrize(
    ("one", "other", "kinds"),
    [
        ("CT Head", "CT Head with Contrast", {"contrast"}),
        ("CT Head", "CT Head Multiphase", {"contrast"}),
        # Both have contrast, once or twice over: the patient gets the injection anyway.
        ("CT Head with Contrast", "CT Head Multiphase", set()),
        ("CT Head", "MR Brain", set()),
        ("CT Head", "CT Sinus", {"region"}),
        ("CT Head with Contrast", "CT Sinus", {"region"}),
        ("MR Knee Left", "MR Knee RIGHT", {"side"}),
        ("MR Knee Left", "MR Knee Bright Field", set()),
        ("CT Sinus", "Something", {"listed"}),
        ("CT Head", "Something", set()),
        ("CT Head with Contrast", "CT No Contrast Said", set()),
        ("CT Head", "CT Head", set()),
    ],
)
def test_kinds_do_not_depend_on_the_direction(one, other, kinds):
    assert costly_kinds(LABELS, one, other) == kinds
    assert costly_kinds(LABELS, other, one) == kinds


def test_a_listed_pair_keeps_its_other_kinds():
    listed = LabelSet.from_text(LABELS.text.replace("[CT Sinus, Something]", "[CT Head, CT Sinus]"))
    assert costly_kinds(listed, "CT Sinus", "CT Head") == {"listed", "region"}


def test_rows_of_each_kind_and_answers_that_are_not_a_label():
    references = ["CT Head", "CT Head", "CT Sinus", "MR Knee Left", "CT Head"]
    predictions = ["CT Head", "CT Head Multiphase", "CT Head", "MR Knee RIGHT", None]
    rows = costly_rows(LABELS, references, predictions)
    assert {kind: np.flatnonzero(mask).tolist() for kind, mask in rows.items()} == {
        "contrast": [1],
        "side": [3],
        "region": [2],
        "listed": [],
        "any": [1, 2, 3],
    }
