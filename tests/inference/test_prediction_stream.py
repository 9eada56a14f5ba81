import csv
import json
import tracemalloc

import pandas as pd
import pyarrow.parquet as pq
import pytest

from radrecipes.data.example import Example
from radrecipes.data.sources.tables import RejectedRow
from radrecipes.errors import InputError
from radrecipes.inference.answers import SystemOutput
from radrecipes.inference.prediction_stream import (
    LONGEST_INPUT,
    examine_input,
    iterate_chunks,
    iterate_inputs,
    without_refused,
    write_answers,
    write_rejects,
)
from radrecipes.inference.predictors import LabelPredictor
from radrecipes.tasks import TASKS


def output(label, confidence, automatic, reason, *top):
    return SystemOutput(
        text=label, label=label, confidence=confidence, automatic=automatic, review_reason=reason, top=top
    )


def answers_table(examples, answers, decode, keep_input):
    predictor = object.__new__(LabelPredictor)
    predictor.decode, predictor.task = decode, TASKS["protocol"]
    return predictor.answers_table(examples, answers, keep_input)


EXAMPLES = [Example(row_id, row_id, {"note": note}, "") for row_id, note in (("7", "knee,\npain"), ("x", "stroke é"))]
ANSWERS = [
    output("MR Knee", 0.98765432, True, None, ("MR Knee", 0.98765432), ("CT Head", 0.01)),
    output("MR Brain", 0.5, False, "below threshold", ("MR Brain", 0.5), ("CT Head", 0.4), ("MR Knee", 0.1)),
]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_every_format_contains_the_same_answers_in_order(tmp_path, suffix):
    parts = [tmp_path / "0.parquet", tmp_path / "1.parquet"]
    for part, example, answer in zip(parts, EXAMPLES, ANSWERS, strict=True):
        pq.write_table(answers_table([example], [answer], "score", True), part)
    path = tmp_path / f"out{suffix}"
    counted = write_answers(parts, path, suffix, "decision")
    assert counted == {"auto": 1, "NEEDS_REVIEW": 1}
    read = {
        ".csv": lambda: pd.read_csv(path, dtype={"id": str}),
        ".jsonl": lambda: pd.DataFrame(map(json.loads, path.read_text("utf-8").splitlines())),
        ".parquet": lambda: pd.read_parquet(path),
    }[suffix]()
    expected = pd.DataFrame(
        {
            "id": ["7", "x"],
            "note": ["knee,\npain", "stroke é"],
            "label": ["MR Knee", "MR Brain"],
            "probability": [0.987654, 0.5],
            "decision": ["auto", "NEEDS_REVIEW"],
            "reason": [None, "below threshold"],
            "top_1": ["MR Knee", "MR Brain"],
            "top_1_probability": [0.987654, 0.5],
            "top_2": ["CT Head", "CT Head"],
            "top_2_probability": [0.01, 0.4],
            "top_3": [None, "MR Knee"],
            "top_3_probability": [None, 0.1],
        }
    )
    assert list(read.columns) == list(expected.columns)
    assert read.astype(object).where(read.notna(), None).values.tolist() == (
        expected.astype(object).where(expected.notna(), None).values.tolist()
    )
    if suffix == ".csv":
        assert path.read_text("utf-8").count("0.500000") == 2


def test_without_a_threshold_every_answer_needs_review_and_notes_are_left_out_by_default():
    table = answers_table(EXAMPLES[:1], [output("MR Knee", 0.9, None, None)], "score", False)
    assert table["decision"].to_pylist() == ["NEEDS_REVIEW"] and "note" not in table.column_names


def test_generated_answers_have_no_probability(tmp_path):
    answers = [SystemOutput("MR Knee", "MR Knee"), SystemOutput("no idea", None)]
    pq.write_table(answers_table(EXAMPLES, answers, "generate", False), tmp_path / "0.parquet")
    assert write_answers([tmp_path / "0.parquet"], tmp_path / "out.csv", ".csv", "label")[None] == 1
    with (tmp_path / "out.csv").open(newline="") as stream:
        assert list(csv.reader(stream)) == [
            ["id", "label", "answer"],
            ["7", "MR Knee", "MR Knee"],
            ["x", "", "no idea"],
        ]


def test_notes_are_normalised_and_what_cannot_be_predicted_is_rejected_with_its_line(tmp_path):
    path = tmp_path / "orders.csv"
    long = "word " * (LONGEST_INPUT // 5 + 1)
    path.write_text(f'note,key\n  knee\u00a0 pain ,a\n" \n",b\n{long},c\nstroke,d,e\nfall,f\n', encoding="utf-8")
    rows = list(iterate_inputs(path, TASKS["protocol"], "note", "key"))
    assert [(row.id, row.inputs["note"]) for row in rows if isinstance(row, Example)] == [
        ("a", "knee pain"),
        ("f", "fall"),
    ]
    rejected = [row for row in rows if isinstance(row, RejectedRow)]
    assert [row.line for row in rejected] == ["3", "5", "6"]
    for row, said in zip(rejected, ("empty", "the limit is 20000", "3 fields, the header 2"), strict=True):
        assert said in row.reason
    facts = examine_input(path, TASKS["protocol"], "note", "key")
    assert (facts.rows, facts.rejected) == (2, 3)
    # The last row that can be read is too long for the model.
    *_, last = (row for row in rows if isinstance(row, Example))
    _, refused = without_refused([last], ["too long"])
    assert write_rejects(iter(rows), iter(refused), tmp_path / "rejects.csv") == 4
    with (tmp_path / "rejects.csv").open(newline="") as stream:
        assert [row["line"] for row in csv.DictReader(stream)] == sorted(
            ["3", "5", "6", last.where.rpartition(":")[2]]
        )
    assert "word" not in (tmp_path / "rejects.csv").read_text()


def test_an_input_without_any_good_row_is_refused_with_its_first_fault(tmp_path):
    path = tmp_path / "orders.jsonl"
    path.write_text('\n{"nte": "x"}\n{"note": ""}\n')
    with pytest.raises(InputError, match=r"orders.jsonl:2: no column 'note'; did you mean 'nte'\?.*none of the rows"):
        examine_input(path, TASKS["protocol"], "note", None)
    path.write_text("\n")
    with pytest.raises(InputError, match="no rows"):
        examine_input(path, TASKS["protocol"], "note", None)


@pytest.mark.parametrize("rows", [1, 4, 8, 9])
def test_chunks_contain_every_good_row_once_in_order(rows):
    examples = [Example(str(number), "", {}, "") for number in range(rows)]
    stream = [RejectedRow("f:0", "")] + [row for example in examples for row in (example, RejectedRow("f:1", ""))]
    chunks = list(iterate_chunks(iter(stream), 4))
    assert [row for chunk in chunks for row in chunk] == examples
    assert [len(chunk) for chunk in chunks[:-1]] == [4] * (len(chunks) - 1) and 1 <= len(chunks[-1]) <= 4


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_memory_does_not_grow_with_the_table(tmp_path, kind):
    def peak(rows):
        path = tmp_path / f"{rows}.{kind}"
        frame = pd.DataFrame({"note": [f"{number} knee pain" * 20 for number in range(rows)]})
        if kind == "csv":
            frame.to_csv(path, index=False)
        elif kind == "jsonl":
            frame.to_json(path, orient="records", lines=True)
        else:
            frame.to_parquet(path)
        del frame
        tracemalloc.start()
        parts = []
        for number, chunk in enumerate(iterate_chunks(iterate_inputs(path, TASKS["protocol"], "note", None), 100)):
            answers = [output("MR Knee", 0.9, True, None, ("MR Knee", 0.9))] * len(chunk)
            parts.append(tmp_path / f"{rows}-{number}.parquet")
            pq.write_table(answers_table(chunk, answers, "score", True), parts[-1])
        write_answers(parts, tmp_path / "out.csv", ".csv", "decision")
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    # Small first: what libraries allocate once must not count.
    peak(1000)
    small, large = peak(2000), peak(8000)
    assert large < small * 1.2, f"{small:,} to {large:,} bytes"
