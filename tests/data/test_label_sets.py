from collections import Counter

import pytest

from radrecipes.data.label_sets import LabelSet
from radrecipes.errors import InputError

GOOD = """\
name: example
version: 2
labels:
  - name: CT Dedicated Kidney
    aliases: [CT Renal Mass Protocol, CT kidney w wo]
    modality: CT
    body_region: abdomen
    contrast: without and with
    playbook: RPID1
  - name: MR Brain
"""
# The same set with everything that is optional; the pairs begin in line 14.
MARKED = (
    GOOD
    + """\
    always_review: true
  - {name: CT Head, always_review: false}
costly_confusions:
  - [CT Dedicated Kidney, CT Head]
  - [MR Brain, CT Head]
"""
)


@pytest.fixture
def write(tmp_path):
    def write_text(text):
        path = tmp_path / "labels.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write_text


def test_every_spelling_leads_to_the_canonical_name(write):
    labels = LabelSet.load(write(GOOD))
    assert (labels.name, labels.version, labels.names) == ("example", 2, ["CT Dedicated Kidney", "MR Brain"])
    for spelling in ("CT Dedicated Kidney", "ct renal-mass protocol", "CT kidney w/wo"):
        assert labels.canonical(spelling) == "CT Dedicated Kidney"
    assert labels.canonical("CT Kidney") is None
    assert labels.suggest("CT Dedicated Kidny") == "CT Dedicated Kidney"
    assert labels.suggest("zzz") is None
    assert labels.label("CT Dedicated Kidney").contrast == "without and with"
    assert labels.label("MR Brain").modality is None


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("    modality: CT", "    modalty: CT", 6, "did you mean 'modality'"),
        ("version: 2", "version: 2\nversion: 3", 3, "'version' occurs twice"),
        ("    body_region: abdomen", "    body_region: abdomen\n    body_region: pelvis", 8, "occurs twice"),
        ("name: example\n", "", 1, "lacks the key 'name'"),
        ("  - name: MR Brain", "  - aliases: [MR Brain]", 10, "lacks the key 'name'"),
        ("version: 2", "version: two", 2, "an integer"),
        ("name: MR Brain", "name: 12", 10, "put it in quotes: '12'"),
        ("name: MR Brain", "name: Yes", 10, "put it in quotes: 'Yes'"),
        ("name: MR Brain", "name: '??'", 10, "no letter or digit"),
        ("name: MR Brain", 'name: "MR \\e[31mBrain"', 10, "contains a control character"),
        ("name: MR Brain", "name: MR Brain<end_of_turn>", 10, "contains <end_of_turn>, a control token"),
        ("CT kidney w wo]", "CT <|any_word|>]", 5, "contains <|…|>, a control token"),
        ("name: MR Brain", "name: ct Kidney, W-wo", 10, "in line 5"),
        ("CT kidney w wo]", "ct-renal mass protocol]", 5, "occurs twice"),
        ("aliases: [CT Renal Mass Protocol, CT kidney w wo]", "aliases: CT kidney", 5, "must be a list"),
        ("modality: CT", "modality: ct", 6, "choose one of: CT, MR"),
        ("contrast: without and with", "contrast: both", 8, "choose one of: none, with"),
        ("playbook: RPID1", "playbook: [RPID1]", 9, "must be text"),
        ("version: 2", "version: [2", 3, "not valid YAML"),
        ("name: MR Brain", "name: !!python/name:os.system x", 10, "must be text"),
    ],
)
def test_a_wrong_label_set_is_refused_with_its_line(write, old, new, line, said):
    assert old in GOOD
    path = write(GOOD.replace(old, new, 1))
    with pytest.raises(InputError) as caught:
        LabelSet.load(path)
    assert str(caught.value).startswith(f"{path}:{line}: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_labels_can_be_marked_for_review_and_pairs_as_costly(write):
    labels = LabelSet.load(write(MARKED))
    assert labels.always_review == {"MR Brain"}
    assert labels.costly_confusions == (("CT Dedicated Kidney", "CT Head"), ("MR Brain", "CT Head"))
    without = LabelSet.load(write(GOOD))
    assert (without.always_review, without.costly_confusions) == (frozenset(), ())


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("always_review: true", "always_reviewed: true", 11, "did you mean 'always_review'"),
        ("always_review: true", "always_review: yes", 11, "must be true or false"),
        ("always_review: true", "always_review: 'true'", 11, "must be true or false"),
        ("costly_confusions:", "costly_confusion:", 13, "did you mean 'costly_confusions'"),
        ("[MR Brain, CT Head]", "[MR Brian, CT Head]", 15, "did you mean 'MR Brain'?"),
        ("[MR Brain, CT Head]", "[MR Brain, CT Renal Mass Protocol]", 15, "did you mean 'CT Dedicated Kidney'?"),
        ("[MR Brain, CT Head]", "[MR Brain, Echo]", 15, "no label is named 'Echo'; write the name of a label"),
        ("[MR Brain, CT Head]", "[MR Brain]", 15, "list of two label names"),
        ("[MR Brain, CT Head]", "MR Brain", 15, "list of two label names"),
        ("[MR Brain, CT Head]", "[MR Brain, MR Brain]", 15, "paired with itself"),
        ("[MR Brain, CT Head]", "[CT Head, CT Dedicated Kidney]", 15, "occurs twice (first in line 14"),
        ("[MR Brain, CT Head]", "[MR Brain, 7]", 15, "put it in quotes: '7'"),
        ("\n  - [CT Dedicated Kidney, CT Head]\n  - [MR Brain, CT Head]", " CT Head", 13, "must be a list of pairs"),
    ],
)
def test_a_wrong_mark_or_pair_is_refused_with_its_line(write, old, new, line, said):
    assert old in MARKED
    path = write(MARKED.replace(old, new, 1))
    with pytest.raises(InputError) as caught:
        LabelSet.load(path)
    assert str(caught.value).startswith(f"{path}:{line}: ")
    assert said in str(caught.value)


# Two acceptable answers for the first label, in line 10; the reverse does not hold.
ACCEPTING = (
    GOOD.replace("    playbook: RPID1\n", "    playbook: RPID1\n    acceptable: [CT Head, MR Brain]\n")
    + "  - name: CT Head\n"
)


def test_acceptable_answers_are_those_of_a_label_and_itself(write):
    accepted = LabelSet.load(write(ACCEPTING)).accepted
    assert accepted["CT Dedicated Kidney"] == {"CT Dedicated Kidney", "CT Head", "MR Brain"}
    assert accepted["CT Head"] == {"CT Head"} and accepted["MR Brain"] == {"MR Brain"}


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ("[CT Head, CT Head]", "'CT Head' is the label itself or occurs twice; remove it"),
        ("[CT Dedicated Kidney]", "is the label itself or occurs twice"),
        ("[CT Renal Mass Protocol]", "did you mean 'CT Dedicated Kidney'?"),
        ("[Echo]", "no label is named 'Echo'"),
        ("CT Head", "acceptable must be a list of label names"),
    ],
)
def test_a_wrong_acceptable_answer_is_refused_with_its_line(write, names, said):
    path = write(ACCEPTING.replace("[CT Head, MR Brain]", names))
    with pytest.raises(InputError) as caught:
        LabelSet.load(path)
    assert str(caught.value).startswith(f"{path}:10: ") and said in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [("", "is empty"), ("- a", "must be a mapping"), ("name: a\nversion: 1\nlabels: []", "at least one")],
)
def test_what_is_not_a_label_set_is_refused(write, text, said):
    with pytest.raises(InputError, match=said):
        LabelSet.load(write(text))


def test_a_missing_or_binary_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="not found"):
        LabelSet.load(tmp_path / "absent.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="UTF-8"):
        LabelSet.load(tmp_path / "binary.yaml")


def test_a_derived_set_joins_spellings_under_the_commonest_and_reads_back():
    labels = LabelSet.derive("ours", Counter({"CT Head": 5, "ct-head": 6, "NO": 1, "12": 1}), "orders.csv")
    assert labels.names == ["12", "NO", "ct-head"]
    assert labels.canonical("CT HEAD") == "ct-head"
    assert LabelSet.from_text(labels.text) == labels
    with pytest.raises(InputError, match=r"orders\.csv: a label has no letter"):
        LabelSet.derive("ours", Counter({"--": 1}), "orders.csv")
