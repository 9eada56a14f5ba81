import random
from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from radrecipes.data.example import Example
from radrecipes.data.label_sets import LabelSet
from radrecipes.data.normalise import matching_key, normalise_note
from radrecipes.data.preparation import derive_label_set, prepare_rows
from radrecipes.data.prepared import SPLITS
from radrecipes.errors import InputError

LABELS = LabelSet.from_text(
    "name: three\nversion: 1\nlabels: [{name: CT Head, aliases: [CT Brain]}, {name: MR Brain}, {name: CT Chest}]\n"
)
LENIENT = {"on_bad_row": "drop", "on_unknown_label": "drop", "max_dropped": 1.0}


def prepare(examples, **options):
    return prepare_rows(examples, input_column="note", target_column="label", label_set=LABELS, **options)


def examples_of(rows):
    """Rows are (note, label) or (note, label, group)."""
    return [
        Example(str(line), row[2] if len(row) > 2 else str(line), {"note": row[0]}, row[1], f"orders.csv:{line}")
        for line, row in enumerate(rows, start=2)
    ]


FILLER = [(f"order {number} of {label}", label) for number in range(20) for label in ("CT Head", "MR Brain")]


def kept_of(preparation, fillers=FILLER):
    known = {note for note, _ in fillers}
    rows = [row for split in SPLITS for row in preparation[0][split] if row["note"] not in known]
    return sorted((row["note"], row["label"]) for row in rows)


notes = st.sampled_from(["", " ", "r/o PE", "R/O PE", "r/o  PE", "head ache", "fall", "mass", "?"])
labels = st.sampled_from(["CT Head", "ct-brain", "MR Brain", "CT Chest", "XR Foot", "", " "])
groups = st.sampled_from(["p1", "p2", "p3", "p4", ""])


@given(st.lists(st.tuples(notes, labels, groups), max_size=25), st.sampled_from(["drop", "vote"]))
def test_every_row_is_accounted_for_and_nothing_leaks(rows, conflicts):
    filler = [(f"{note} {label}", label, f"f{number}") for number, (note, label) in enumerate(FILLER)]
    preparation = prepare(examples_of(rows + filler), conflicts=conflicts, **LENIENT)
    counted = preparation[1]["rows"]
    assert counted["read"] == len(rows) + len(filler)
    assert counted["read"] == counted["kept"] + counted["merged_duplicates"] + sum(counted["dropped"].values())
    kept = [row for split in SPLITS for row in preparation[0][split]]
    assert counted["kept"] == len(kept) == sum(preparation[1]["splits"][split]["rows"] for split in SPLITS)
    assert counted["kept"] == sum(sum(of_label.values()) for of_label in preparation[1]["labels"].values())
    assert len({(row["note"], row["label"]) for row in kept}) == len(kept)

    split_of = {row["id"]: split for split in SPLITS for row in preparation[0][split]}
    splits_of_key, splits_of_patient, labels_of_key = defaultdict(set), defaultdict(set), defaultdict(set)
    for example in examples_of(rows + filler):
        if example.id in split_of:
            splits_of_key[matching_key(example.inputs["note"])].add(split_of[example.id])
            splits_of_patient[example.group].add(split_of[example.id])
    for row in kept:
        labels_of_key[matching_key(row["note"])].add(row["label"])
        assert row["label"] in LABELS.names and normalise_note(row["note"]) == row["note"] != ""
    assert all(len(found) == 1 for found in (*splits_of_key.values(), *splits_of_patient.values()))
    assert all(len(found) == 1 for found in labels_of_key.values())
    for split in ("validation", "test"):
        found = preparation[1]["leakage_audit"][split]
        assert found["verbatim"] == found["normalised"] == found["near_duplicate"] == found["shared_groups"] == 0
        assert found["labels_missing_from_training"] == []


def test_identical_notes_merge_and_tie_the_groups_that_share_them():
    shared = [("same words", "CT Head", "p1"), ("same   words", "ct brain", "p2")]
    others = [(f"only {patient} number {n}", "MR Brain", patient) for patient in ("p1", "p2") for n in range(3)]
    filler = [(note, label, f"f{number}") for number, (note, label) in enumerate(FILLER)]
    preparation = prepare(examples_of(shared + others + filler))
    assert preparation[1]["rows"]["merged_duplicates"] == 1
    assert preparation[1]["groups_joined"] == 1
    rows = [(split, row) for split in SPLITS for row in preparation[0][split]]
    assert len({split for split, row in rows if "only p" in row["note"] or row["note"] == "same words"}) == 1
    assert {row["group"] for _, row in rows if "only p" in row["note"]} == {"p1"}
    # The first row of the file represents both.
    assert [row["id"] for _, row in rows if row["note"] == "same words"] == ["2"]


CONFLICT = [("r/o bleed", "CT Head"), ("R/O bleed", "CT Brain"), ("r/o  Bleed", "MR Brain"), ("fall", "CT Chest")]


def test_conflicts_are_dropped_or_put_to_the_vote():
    dropped = prepare(examples_of(CONFLICT + FILLER), max_dropped=0.1)
    assert dropped[1]["rows"]["dropped"]["conflicting_labels"] == 3
    assert kept_of(dropped) == [("fall", "CT Chest")]
    voted = prepare(examples_of(CONFLICT + FILLER), conflicts="vote", max_dropped=0.1)
    assert voted[1]["rows"]["dropped"]["outvoted_label"] == 1
    assert kept_of(voted) == [("R/O bleed", "CT Head"), ("fall", "CT Chest"), ("r/o bleed", "CT Head")]
    tied = prepare(examples_of(CONFLICT[1:] + FILLER), conflicts="vote", max_dropped=0.1)
    assert tied[1]["rows"]["dropped"]["conflicting_labels"] == 2


@pytest.mark.parametrize(
    ("rows", "where", "said"),
    [
        ([("", "CT Head")], "orders.csv:2", "the note is empty"),
        ([("fall", " ")], "orders.csv:2", "the label is empty"),
        ([("fall", "CT Head", "")], "orders.csv:2", "the group is empty"),
        (
            [("fall", "CT <|im_\u200bend|> Head"), ("x", "MR Brain [/INST] x")],
            "orders.csv:2",
            "the label contains a control token of a chat format, <|im_end|>, in 2 of 42 rows",
        ),
        (
            [("fall", "CT Hed"), ("x", "XR Foot")],
            "orders.csv:2",
            "of 42 rows: orders.csv:2 (did you mean 'CT Head'?), orders.csv:3; add",
        ),
        (CONFLICT, "orders.csv:2", "3 of 44 rows (6.82%) would be dropped, more than the 0.50% allowed"),
        (CONFLICT, "orders.csv:2", "or keep the majority label with --conflicts vote"),
    ],
)
def test_bad_rows_are_refused_with_their_line(rows, where, said):
    with pytest.raises(InputError) as caught:
        prepare(examples_of(rows + FILLER))
    assert str(caught.value).startswith(f"{where}: ")
    assert said in str(caught.value)


def test_rows_whose_answer_contains_a_control_token_can_be_dropped():
    rows = [("fall", "CT Head</s>"), ("a </s> b", "CT Head"), *FILLER]
    derived = derive_label_set(examples_of(rows), "ours", "orders.csv")
    assert derived.names == ["CT Head", "MR Brain"]
    prepared = prepare(examples_of(rows), on_bad_row="drop", max_dropped=0.1)
    assert prepared[1]["rows"]["dropped"]["control_token"] == 1
    assert kept_of(prepared) == [("a </s> b", "CT Head")]  # a text is kept: rendering breaks the token


def test_repeated_and_empty_identifiers_are_refused():
    examples = examples_of(FILLER)
    with pytest.raises(InputError, match=r"orders.csv:2: the identifier is already used in orders.csv:2"):
        prepare([*examples, examples[0]])
    with pytest.raises(InputError, match="identifier is empty"):
        prepare([Example("", "g", {"note": "x"}, "CT Head", "orders.csv:2")])


def test_a_single_class_or_too_few_groups_are_refused():
    with pytest.raises(InputError, match=r"orders.csv: at least two labels are needed, found one"):
        prepare(examples_of([row for row in FILLER if row[1] == "CT Head"]))
    with pytest.raises(InputError, match="found none"):
        prepare(examples_of([("x", "XR Foot")]), **LENIENT)
    with pytest.raises(
        InputError, match=r"orders.csv: 2 groups of rows are too few[^;]*; give more rows or a finer group column$"
    ):
        prepare(examples_of([(*row, row[1]) for row in FILLER]))


FORM = "please perform the study named below and call the ward when it is done thank you "


def test_a_column_of_notes_is_not_taken_for_labels():
    notes = examples_of([(note, note) for note, _ in FILLER])
    with pytest.raises(
        InputError, match=r"orders.csv: 40 different labels in 40 rows cannot be learned; name the column"
    ):
        derive_label_set(notes, "x", "orders.csv")
    with pytest.raises(
        InputError, match=r"orders.csv:2: the label has 240 characters, more than 200; name the column"
    ):
        derive_label_set(examples_of([("x", "long" * 60)]), "x", "orders.csv")


def test_orders_on_one_form_become_one_group_and_the_way_out_is_named():
    same_form = [(f"{FORM}{note}", label) for note, label in FILLER]
    others = [(f"order {number} of {label}", label) for number in range(100, 160) for label in ("CT Head", "MR Brain")]
    said = []
    prepare(examples_of(same_form + others), near_duplicate_threshold=0.4, warn=said.append)
    assert said == [
        "warning: one group has 40 of 160 rows (25%), and a group stays in one split; near-identical texts, such as those that "
        "share a form, joined 39 groups with others: raise --near-duplicate-threshold from 0.4 if they are not the same text"
    ]
    with pytest.raises(
        InputError, match=r"too few for a .* joined 39 groups .*raise --near-duplicate-threshold from 0.4"
    ):
        prepare(examples_of(same_form), near_duplicate_threshold=0.4)
    # Patients who share a short order: no text of an order, no id of a patient.
    shared = [("knee pain", "MR Brain", f"p{number}") for number in range(200, 260)]
    said.clear()
    prepare(
        examples_of(shared + [(f"{note} {label}", label, "p200") for note, label in FILLER] + others), warn=said.append
    )
    assert "one group has 41 of 161 rows" in said[0] and "p200" not in said[0] and "knee" not in said[0]
    said.clear()
    prepare(examples_of(others), warn=said.append)
    assert said == []


@pytest.mark.parametrize("options", [{"near_duplicate_threshold": 0}, {"max_dropped": 2}, {"split_seed": -1}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(InputError):
        prepare(examples_of(FILLER), **options)


def test_labels_too_rare_to_be_evaluated_are_reported():
    preparation = prepare(examples_of([("fall from height", "CT Chest"), *FILLER]))
    assert preparation[1]["labels_only_in_training"] == ["CT Chest"]
    assert preparation[1]["labels"]["CT Chest"] == {"train": 1, "validation": 0, "test": 0}


def test_the_split_seed_decides_and_repeats():
    rows = list(FILLER)
    random.Random(0).shuffle(rows)
    one, again, other = (prepare(examples_of(rows), split_seed=seed) for seed in (1, 1, 2))
    assert one == again
    assert one[0]["test"] != other[0]["test"]


def test_a_derived_label_set_ignores_empty_labels():
    derived = derive_label_set(examples_of([("x", "CT\n Head"), ("y", "ct head"), ("z", " ")]), "ours", "orders.csv")
    assert derived.names == ["CT Head"]
    missing = [("x", label) for label in ("NULL", "nan", "N/A", "-")]
    derived = derive_label_set(examples_of([("x", "none"), ("y", "with"), *missing]), "ours", "orders.csv")
    assert derived.names == ["none", "with"]
    with pytest.raises(InputError, match="every label is empty"):
        derive_label_set(examples_of([("x", "")]), "ours", "orders.csv")


def test_what_exports_write_into_empty_cells_is_empty_unless_the_label_set_has_it():
    rows = [("fall", "NULL"), ("nan", "CT Head"), ("head ache", "N/A"), *FILLER]
    assert prepare(examples_of(rows), on_bad_row="drop", max_dropped=0.1)[1]["rows"]["dropped"] | {
        "empty_group": 0
    } == {
        **dict.fromkeys(("empty_group", "unknown_label", "conflicting_labels", "outvoted_label"), 0),
        "empty_note": 1,
        "empty_label": 2,
    }
    text = LABELS.text.replace("CT Chest", "N/A")
    options = {"input_column": "note", "target_column": "label", "label_set": LabelSet.from_text(text)}
    assert prepare_rows(examples_of([("head ache", "N/A"), *FILLER]), **options)[1]["rows"]["kept"] == len(FILLER) + 1


def test_free_text_targets_are_cleaned_merged_and_split_by_group_without_labels():
    rows = [(f"findings {number}", f"so  {number}\n\nseen ", f"p{number % 20}") for number in range(60)]
    repeated = [rows[0], (rows[0][0], "another summary", "p0"), ("findings 60", " ", "p0")]
    examples = [
        Example(str(line), group, {"findings": text}, target, f"reports.csv:{line}")
        for line, (text, target, group) in enumerate(rows + repeated, start=2)
    ]
    options = {"input_column": "findings", "target_column": "summary"}
    splits, facts = prepare_rows(examples, **options, on_bad_row="drop", max_dropped=0.1)
    assert facts["rows"] == {
        "read": 63,
        "kept": 61,
        "merged_duplicates": 1,
        "dropped": {"empty_findings": 0, "empty_summary": 1, "empty_group": 0},
    }
    kept = [row for split in SPLITS for row in splits[split]]
    assert set(kept[0]) == {"id", "group", "findings", "summary"}
    assert {row["summary"] for row in kept} == {"another summary", *(f"so {number}\nseen" for number in range(60))}
    assert len({(split, row["group"]) for split in SPLITS for row in splits[split]}) == 20
    assert not {"labels", "labels_only_in_training", "labels_without_rows"} & set(facts)
    assert set(facts["options"]) & {"conflicts", "on_unknown_label"} == set()
    assert facts["leakage_audit"]["test"]["shared_groups"] == facts["leakage_audit"]["test"]["verbatim"] == 0
    with pytest.raises(InputError, match=r"reports.csv:64: the summary is empty"):
        prepare_rows(examples, **options)
