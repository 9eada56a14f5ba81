"""Runs scripts/prepare_data.py as a user does."""

import csv
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import datasets
import pytest
from conftest import REPOSITORY

from radrecipes.data.prepared import load_prepared_dataset
from radrecipes.evaluation.evaluate import label_rows
from radrecipes.tasks import TASKS, LabelTask, TaskWords, TextTask

COLUMNS = ["--text-column", "order", "--label-column", "protocol"]
LABEL_SET = "name: ours\nversion: 1\nlabels:\n  - {name: CT Head, aliases: [CT Brain]}\n  - {name: MR Brain}\n"
ORDERS = [
    [f"p{number // 2}", f"r/o number {number}\nthen {label}", label]
    for number in range(60)
    for label in ("CT Head", "MR Brain")
]


def prepare(folder, *arguments):
    return subprocess.run(
        [sys.executable, str(REPOSITORY / "scripts" / "prepare_data.py"), "protocol", *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def write_orders(path, rows, header=("patient", "order", "protocol")):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])


def contents(folder):
    """All but the token ids that a training keeps there, which are nothing of the dataset's own."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".tokenised"}


def test_own_orders_become_a_dataset_that_datasets_loads(tmp_path):
    # More spellings of one label than of the other: the derived set names each by its most frequent one.
    rows = [
        [patient, note, label.upper() if number % 3 == 0 else label]
        for number, (patient, note, label) in enumerate(ORDERS)
    ]
    write_orders(tmp_path / "orders.csv", [*rows, ["p0", "r/o number 0\nthen CT Head", "ct head"]])
    command = ["--source", "orders.csv", *COLUMNS, "--group-column", "patient", "--output", "data/ours"]
    done = prepare(tmp_path, *command)
    assert (done.returncode, done.stderr) == (0, "")
    assert "rows read                       121" in done.stdout
    assert "merged, because identical         1" in done.stdout
    assert "2 labels were derived" in done.stdout

    dataset = load_prepared_dataset(tmp_path / "data" / "ours")
    assert dataset.label_set.names == ["CT Head", "MR Brain"]
    assert dataset.access == "credentialed"
    assert dataset.manifest["source"][0]["file"] == "orders.csv"
    assert str(tmp_path) not in json.dumps(dataset.manifest)
    patients = [set(dataset.splits[split]["group"]) for split in ("train", "validation", "test")]
    assert not patients[0] & patients[1] and not patients[0] & patients[2] and not patients[1] & patients[2]
    loaded = datasets.load_dataset(str(tmp_path / "data" / "ours"), cache_dir=str(tmp_path / "cache"))
    assert {split: loaded[split].num_rows for split in loaded} == {
        split: rows.num_rows for split, rows in dataset.splits.items()
    }
    assert loaded["test"]["note"][:] == dataset.splits["test"]["note"][:]

    # A second run refuses the folder, a third replaces it with the same bytes.
    before = contents(tmp_path / "data" / "ours")
    refused = prepare(tmp_path, *command)
    assert refused.returncode == 2
    assert refused.stderr == "error: data/ours: exists; add --overwrite to replace it, or choose another --output\n"
    assert prepare(tmp_path, *command, "--overwrite").returncode == 0
    assert contents(tmp_path / "data" / "ours") == before


def test_own_label_set_and_options_are_used(tmp_path):
    (tmp_path / "labels.yaml").write_text(LABEL_SET)
    rows = [*ORDERS, ["q", "fall", "CT Brain"], ["q", "Fall", "CT Head"], ["q", "fall.", "MR Brain"], ["q", "x", "US"]]
    write_orders(tmp_path / "orders.csv", rows)
    done = prepare(
        tmp_path, "--source", "orders.csv", *COLUMNS, "--label-set", "labels.yaml", "--output", "ours",
        "--conflicts", "vote", "--on-unknown-label", "drop", "--max-dropped", "0.05", "--access", "open",
        "--license", "cc0-1.0", "--language", "de",
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    dataset = load_prepared_dataset(tmp_path / "ours")
    assert dataset.manifest["rows"]["dropped"]["outvoted_label"] == 1
    assert dataset.manifest["rows"]["dropped"]["unknown_label"] == 1
    assert (dataset.access, dataset.label_set.text) == ("open", LABEL_SET)
    card = (tmp_path / "ours" / "README.md").read_text()
    assert "license: cc0-1.0" in card and "- de\n" in card


def test_the_generator_gives_a_dataset_that_repeats(tmp_path):
    with ThreadPoolExecutor(2) as pool:
        runs = list(
            pool.map(
                lambda place: prepare(tmp_path, "--synthetic", "--seed", 3, "--rows", 1500, "--output", place),
                ("one/orders", "two/orders"),
            )
        )
    assert [(run.returncode, run.stderr) for run in runs] == [(0, "")] * 2
    assert contents(tmp_path / "one" / "orders") == contents(tmp_path / "two" / "orders")
    dataset = load_prepared_dataset(tmp_path / "one" / "orders")
    assert dataset.access == "synthetic"
    assert dataset.manifest["generator"]["seed"] == 3
    assert "no real patient text" in (tmp_path / "one" / "orders" / "README.md").read_text()


def test_the_shipped_dataset_is_complete_and_audited():
    dataset = load_prepared_dataset(REPOSITORY / "data" / "protocol_synthetic")
    assert dataset.access == "synthetic" and dataset.manifest["generator"]["seed"] == 0
    assert sum(rows.num_rows for rows in dataset.splits.values()) >= 6000
    assert len(dataset.label_set.names) >= 30
    assert dataset.label_set.text == (REPOSITORY / "data" / "label_sets" / "protocol_ct_mr.yaml").read_text("utf-8")
    scenarios = [set(dataset.splits[split]["group"]) for split in ("train", "validation", "test")]
    assert len(set.union(*scenarios)) == sum(map(len, scenarios)) >= 300
    for split in ("validation", "test"):
        audit = dataset.manifest["leakage_audit"][split]
        assert audit["near_duplicate"] == audit["shared_groups"] == 0
        assert set(dataset.splits[split]["label"]) <= set(dataset.splits["train"]["label"])
    assert sum(path.stat().st_size for path in dataset.folder.iterdir()) < 3 * 2**20


def test_the_shipped_dataset_is_what_the_generator_gives_today(tmp_path):
    assert prepare(tmp_path, "--synthetic", "--output", "protocol_synthetic").returncode == 0
    assert contents(tmp_path / "protocol_synthetic") == contents(REPOSITORY / "data" / "protocol_synthetic")


def test_the_shipped_safety_dataset_is_what_the_generator_gives_today(tmp_path):
    assert prepare(tmp_path, "--synthetic", "safety", "--output", "protocol_safety_synthetic").returncode == 0
    shipped = REPOSITORY / "data" / "protocol_safety_synthetic"
    assert contents(tmp_path / "protocol_safety_synthetic") == contents(shipped)
    dataset = load_prepared_dataset(shipped)
    assert dataset.manifest["slice_columns"] == ["rule", "pair"] and dataset.access == "synthetic"
    assert len(set(dataset.splits["validation"]["group"])) >= 30
    for split in ("validation", "test"):
        audit = dataset.manifest["leakage_audit"][split]
        assert audit["near_duplicate"] == audit["shared_groups"] == 0
        assert set(dataset.splits[split]["label"]) == set(dataset.label_set.names)
    assert sum(path.stat().st_size for path in shipped.iterdir()) < 3 * 2**20


def test_the_test_split_can_be_in_another_style(tmp_path):
    done = prepare(tmp_path, "--synthetic", "--rows", 1500, "--test-style", "second", "--output", "second")
    assert (done.returncode, done.stderr) == (0, "")
    assert prepare(tmp_path, "--synthetic", "--rows", 1500, "--output", "first").returncode == 0
    first, second = (load_prepared_dataset(tmp_path / name) for name in ("first", "second"))
    for split in ("train", "validation"):
        assert contents(tmp_path / "first")[f"{split}.parquet"] == contents(tmp_path / "second")[f"{split}.parquet"]
    for column in ("group", "label"):
        assert set(first.splits["test"][column]) == set(second.splits["test"][column])
    assert not set(first.splits["test"]["note"]) & set(second.splits["test"]["note"])
    rows = second.manifest["rows"]
    assert rows["kept"] == sum(split.num_rows for split in second.splits.values())
    assert rows["read"] == rows["kept"] + rows["merged_duplicates"]
    assert second.manifest["leakage_audit"]["test"]["rows"] == second.splits["test"].num_rows
    assert "another hospital's style" in (tmp_path / "second" / "README.md").read_text()
    refused = prepare(tmp_path, "--synthetic", "safety", "--test-style", "second", "--output", "third")
    assert refused.returncode == 2 and refused.stderr == "error: --test-style second: safety has no other style\n"


def test_columns_to_slice_by_are_kept_and_named_in_the_manifest(tmp_path):
    rows = [[*row, ("north", "south  wing", "")[place % 3]] for place, row in enumerate(ORDERS)]
    write_orders(tmp_path / "orders.csv", rows, ("patient", "order", "protocol", "site"))
    command = ["--source", "orders.csv", *COLUMNS, "--group-column", "patient", "--output", "ours"]
    done = prepare(tmp_path, *command, "--slice-column", "site")
    assert (done.returncode, done.stderr) == (0, "")
    dataset = load_prepared_dataset(tmp_path / "ours")
    assert dataset.manifest["slice_columns"] == ["site"]
    assert dataset.manifest["columns"] == ["id", "group", "note", "label", "site"]
    assert {site for split in dataset.splits.values() for site in split["site"]} == {"north", "south wing", ""}


@pytest.mark.parametrize(
    ("header", "column", "says"),
    [
        (
            "order_no",
            "order_no",
            "error: --slice-column order_no: has 120 different values, more than 50; slice by a column",
        ),
        (
            "label",
            "label",
            "error: a slice column cannot be named 'label', as a column of the dataset is; rename it in the table",
        ),
        ("site", "sit", "error: orders.csv: "),
    ],
)
def test_a_column_that_cannot_be_sliced_by_is_refused(tmp_path, header, column, says):
    rows = [[*row, f"n{place}"] for place, row in enumerate(ORDERS)]
    write_orders(tmp_path / "orders.csv", rows, ("patient", "order", "protocol", header))
    done = prepare(tmp_path, "--source", "orders.csv", *COLUMNS, "--output", "ours", "--slice-column", column)
    assert done.returncode == 2 and done.stderr.startswith(says) and done.stderr.count("\n") == 1
    assert not (tmp_path / "ours").exists()


def test_labels_that_are_acceptable_for_a_row_count_in_its_evaluation(tmp_path):
    labels = sorted({label for _, _, label in ORDERS})
    rows = [[*row, f" {labels[0].upper()};{labels[1]}; " if place % 2 else ""] for place, row in enumerate(ORDERS)]
    write_orders(tmp_path / "orders.csv", rows, ("patient", "order", "protocol", "also"))
    command = ["--source", "orders.csv", *COLUMNS, "--output", "ours", "--acceptable-column", "also"]
    done = prepare(tmp_path, *command)
    assert (done.returncode, done.stderr) == (0, "")
    dataset = load_prepared_dataset(tmp_path / "ours")
    assert dataset.manifest["columns"] == ["id", "group", "note", "label", "acceptable"]
    assert "| `acceptable` | text |" in (tmp_path / "ours" / "README.md").read_text("utf-8")
    found = label_rows(TASKS["protocol"], dataset, dataset.label_set, "test", None)
    expected = {str(number): {row[2], *(labels[:2] if row[3] else ())} for number, row in enumerate(rows, 1)}
    assert [set(names) for names in found.accepted] == [expected[row_id] for row_id in dataset.splits["test"]["id"]]

    rows[3][3] = "CT Haed"
    write_orders(tmp_path / "orders.csv", rows, ("patient", "order", "protocol", "also"))
    refused = prepare(tmp_path, *command, "--overwrite")
    assert refused.returncode == 2 and refused.stderr.startswith(
        "error: orders.csv:8: the label set 'ours' does not know"
    )
    assert "did you mean 'CT Head'?" in refused.stderr and refused.stderr.count("\n") == 1
    assert prepare(tmp_path, *command, "--overwrite", "--on-unknown-label", "drop").returncode == 0


def test_rows_without_a_cell_are_skipped_and_broken_ones_can_be_dropped(tmp_path):
    rows = [
        *ORDERS,
        ["", "", ""],
        ["", "", "", ""],
        ["p", "a", "CT Head", "more"],
        ["p", "b", "-"],
        ["p", "c", "NULL"],
    ]
    write_orders(tmp_path / "orders.csv", rows)
    command = ["--source", "orders.csv", *COLUMNS, "--output", "ours", "--max-dropped", "0.1"]
    assert "orders.csv:244: the row has 4 fields" in prepare(tmp_path, *command).stderr
    done = prepare(tmp_path, *command, "--on-bad-row", "drop")
    assert (done.returncode, done.stderr) == (0, "")
    facts = json.loads((tmp_path / "ours" / "manifest.json").read_text())
    assert facts["rows"]["read"] == len(ORDERS) + 3
    assert {name: count for name, count in facts["rows"]["dropped"].items() if count} == {
        "empty_label": 2,
        "unreadable_row": 1,
    }
    assert sorted(facts["labels"]) == ["CT Head", "MR Brain"]
    assert "dropped: the row cannot be read" in done.stdout


def test_a_name_that_is_not_utf_8_is_recorded_as_text(tmp_path):
    write_orders(tmp_path / os.fsdecode(b"a\xe9.csv"), ORDERS)
    done = prepare(tmp_path, "--source", os.fsdecode(b"a\xe9.csv"), *COLUMNS, "--output", "ours")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads((tmp_path / "ours" / "manifest.json").read_text())["source"][0]["file"] == r"a\xe9.csv"


def broken_rows(*rows):
    return "".join([*(f"{','.join(row)}\n" for row in (["patient", "order", "protocol"], *rows))]).encode()


GOOD_ROWS = [
    [f"p{number}", f"note {number} {label}", label] for number in range(30) for label in ("CT Head", "MR Brain")
]

# What is wrong: (content of orders.csv, more arguments, how the line on stderr continues after "error: ", and what it contains)
BAD_INPUT = {
    "missing column": (broken_rows(*GOOD_ROWS), ["--text-column", "ordr"], "orders.csv: ", "did you mean 'order'?"),
    "missing group column": (
        broken_rows(*GOOD_ROWS),
        ["--group-column", "mrn"],
        "orders.csv: ",
        "no column 'mrn' among the 3 of the first line",
    ),
    "missing file": (None, [], "orders.csv: ", "no such file"),
    "empty file": (b"", [], "orders.csv: ", "the file is empty"),
    "header only": (broken_rows(), [], "orders.csv: ", "no rows"),
    "too many fields": (broken_rows(["p", "a", "b", "c"]), [], "orders.csv:2: ", "4 fields, the header 3"),
    "open quote": (broken_rows(["p", "a", "b"], ["p", '"a', "b"]), [], "orders.csv:3: ", "quote is not closed"),
    "NUL": (broken_rows(["p", "a\0", "b"]), [], "orders.csv:2: ", "NUL"),
    "not UTF-8": (broken_rows(["p", "é", "b"]) + b"p,\xe9,b\n", [], "orders.csv:3: ", "not UTF-8"),
    "empty note": (broken_rows(*GOOD_ROWS, ["p", " ", "CT Head"]), [], "orders.csv:62: ", "the note is empty"),
    "empty label": (broken_rows(*GOOD_ROWS, ["p", "a", ""]), [], "orders.csv:62: ", "the label is empty"),
    "unknown label": (
        broken_rows(*GOOD_ROWS, ["p", "a", "CT Hed"]),
        ["--label-set", "labels.yaml"],
        "orders.csv:62: ",
        "did you mean 'CT Head'?",
    ),
    "wrong label set": (
        broken_rows(*GOOD_ROWS),
        ["--label-set", "wrong.yaml"],
        "wrong.yaml:4: ",
        "did you mean 'aliases'",
    ),
    "repeated id": (
        broken_rows(*GOOD_ROWS),
        ["--id-column", "patient"],
        "orders.csv:3: ",
        "the identifier is already used in orders.csv:2",
    ),
    "single class": (broken_rows(*GOOD_ROWS[::2]), [], "orders.csv: ", "at least two labels"),
    "many conflicts": (
        broken_rows(*GOOD_ROWS, ["p", "x", "CT Head"], ["p", "X", "MR Brain"]),
        [],
        "orders.csv:62: ",
        "2 of 62 rows (3.23%) would be dropped",
    ),
    "too few groups": (broken_rows(*GOOD_ROWS[:2]), [], "orders.csv: ", "too few for a validation split"),
    "impossible threshold": (broken_rows(*GOOD_ROWS), ["--near-duplicate-threshold", "3"], "", "threshold is 3.0"),
    "a column without name, names that are usual": (
        broken_rows(*GOOD_ROWS),
        ["--label-column", ""],
        "orders.csv: ",
        "--label-column is missing; name the column: the table has 'order' and 'protocol'",
    ),
    "a label in the text": (broken_rows(*GOOD_ROWS), ["--text-column", "protocol"], "", "'protocol' is named twice"),
    "an encoding that does not exist": (broken_rows(*GOOD_ROWS), ["--encoding", "utf-9"], "--encoding: ", "no such"),
    "a slice column twice": (
        broken_rows(*GOOD_ROWS),
        ["--slice-column", "patient", "patient"],
        "--slice-column: ",
        "column 'patient' is named twice",
    ),
    "a seed of nothing": (broken_rows(*GOOD_ROWS), ["--seed", "0"], "", "--seed has no effect with --source; remove"),
    "a column of nothing": (
        None,
        ["--synthetic", "--label-column", "a"],
        "",
        "--label-column has no effect with --syn",
    ),
    "an encoding of nothing": (
        None,
        ["--synthetic", "--encoding", "utf-8"],
        "",
        "--encoding has no effect with --syn",
    ),
    "a missing file and column": (None, ["--label-column", ""], "orders.csv: ", "no such file"),
    "no rows to generate": (None, ["--synthetic", "--rows", "0"], "", "must be at least 1, not 0"),
}


@pytest.fixture(scope="module")
def refusals(tmp_path_factory):
    """Every bad input once, two at a time because starting Python takes longest."""

    def refuse(name):
        content, arguments, _, _ = BAD_INPUT[name]
        folder = tmp_path_factory.mktemp("bad")
        (folder / "labels.yaml").write_text(LABEL_SET)
        (folder / "wrong.yaml").write_text(LABEL_SET.replace("aliases", "alias"))
        if content is not None:
            (folder / "orders.csv").write_bytes(content)
        source = [] if "--synthetic" in arguments else ["--source", "orders.csv", *COLUMNS]
        before = sorted(os.listdir(folder))
        done = prepare(folder, *source, *arguments, "--output", "made/ours")
        return done, before, sorted(os.listdir(folder))

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(BAD_INPUT, pool.map(refuse, BAD_INPUT), strict=True))


@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input_gets_one_line_and_nothing_is_written(refusals, name):
    done, before, after = refusals[name]
    _, _, where, said = BAD_INPUT[name]
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(f"error: {where}")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1 and done.stderr.endswith("\n")
    assert after == before


def test_help_teaches_by_example(tmp_path):
    text = prepare(tmp_path, "--help").stdout
    assert "--source orders.csv --text-column order_text --label-column protocol" in text
    assert "--synthetic --seed 0 --output data/protocol_synthetic" in text


class Urgency(LabelTask):
    name = "urgency"
    input_column = "request"
    instruction = "How urgent is it?"
    words = TaskWords(title="Urgency", summary="Rates urgency.", example="fall", rows="requests", answer="urgency")


class Summary(TextTask):
    name = "summary"
    input_column = "dictation"
    target_column = "summary"
    instruction = "Summarise."
    words = TaskWords(title="Summaries", summary="Summarises.", example="fall", rows="dictations", answer="summary")


def test_every_task_whose_data_are_a_table_has_a_subcommand(tmp_path, monkeypatch, call):
    for task in (Urgency(), Summary()):
        monkeypatch.setitem(TASKS, task.name, task)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scripts").symlink_to(REPOSITORY / "scripts")
    write_orders(tmp_path / "orders.csv", ORDERS)
    source = ("--source", "orders.csv", "--text-column", "order", "--group-column", "patient")

    done = call("prepare_data", "urgency", *source, "--label-column", "protocol", "--output", "urgency")
    assert done.code == 0, done.stderr
    dataset = load_prepared_dataset(tmp_path / "urgency")
    assert (dataset.task, dataset.label_set.names) == ("urgency", ["CT Head", "MR Brain"])
    assert dataset.manifest["columns"] == ["id", "group", "request", "label"]
    Urgency().check_dataset(dataset)
    assert "Requests, each with its urgency." in (tmp_path / "urgency" / "README.md").read_text("utf-8")

    done = call("prepare_data", "summary", *source, "--target-column", "protocol", "--output", "summary")
    assert done.code == 0, done.stderr
    dataset = load_prepared_dataset(tmp_path / "summary")
    assert (dataset.task, dataset.label_set, dataset.access) == ("summary", None, "credentialed")
    assert dataset.manifest["columns"] == ["id", "group", "dictation", "summary"]
    assert dataset.splits["test"]["dictation"][0].startswith("r/o number")
    Summary().check_dataset(dataset)
    missing = call("prepare_data", "summary", *source, "--output", "other")
    assert (missing.code, missing.stderr) == (
        2, "error: orders.csv: --target-column is missing; name the column: the table has 'order' and 'protocol'\n"
    )  # fmt: skip
    # Only a task with a generator has --synthetic, and only labels have a label set.
    assert "--synthetic" not in call("prepare_data", "urgency", "--help").stdout
    assert "--label-set" not in call("prepare_data", "summary", "--help").stdout
    assert "--synthetic" in call("prepare_data", "protocol", "--help").stdout


def test_an_export_with_several_columns_becomes_one_text_and_one_label(tmp_path):
    # As a German Excel writes it: semicolons, cp1252, a title, a total.
    lines = ["Anforderungen im Mai", "", "Patient;exam;Indikation;eGFR;protocol;iv contrast"]
    for number in range(120):
        exam, protocol = (("CT", "CT Head"), ("MR", "MR Brain"))[number % 2]
        egfr = ("", "54,5")[number % 3 > 0]
        lines.append(
            f"p{number // 2};{exam} Schädel;Übelkeit, Fall {number};{egfr};{protocol};{('yes', 'no')[number % 4 // 2]}"
        )
    (tmp_path / "orders.csv").write_bytes("\r\n".join([*lines, "Gesamt;120;;;;"]).encode("cp1252"))
    done = prepare(
        tmp_path, "--source", "orders.csv", "--text-column", "exam", "Indikation", "eGFR", "--label-column", "protocol",
        "--label-column", "iv contrast", "--group-column", "Patient", "--output", "ours",
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("orders.csv: separated by ;, cp1252, header in line 3, 1 footer row left out\n")
    dataset = load_prepared_dataset(tmp_path / "ours")
    (source,) = dataset.manifest["source"]
    assert (source["rows"], source["delimiter"], source["encoding"], source["header_line"]) == (120, ";", "cp1252", 3)
    assert dataset.manifest["input_columns"] == ["exam", "Indikation", "eGFR"]
    assert dataset.label_set.names == [
        f"{name} | iv contrast: {answer}" for name in ("CT Head", "MR Brain") for answer in ("no", "yes")
    ]
    parts = dataset.manifest["label_parts"]["MR Brain | iv contrast: no"]
    assert parts == {"protocol": "MR Brain", "iv contrast": "no"}
    texts = {row["id"]: row["note"] for split in dataset.splits.values() for row in split}
    assert texts["1"] == "exam: CT Schädel\nIndikation: Übelkeit, Fall 0"
    assert texts["2"] == "exam: MR Schädel\nIndikation: Übelkeit, Fall 1\neGFR: 54,5"
