"""No message quotes what a file of patients contains: it names the place, and what to do."""

import json
import re

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from report_trees import write_mimic

from radrecipes.data.label_sets import LabelSet
from radrecipes.data.preparation import derive_label_set, prepare_rows
from radrecipes.data.report_preparation import ReportOptions, prepare_reports
from radrecipes.data.sources.mimic_cxr import MimicCxr
from radrecipes.data.sources.report_pairs import ReportPairs
from radrecipes.data.sources.tables import read_examples
from radrecipes.errors import InputError
from radrecipes.inference.prediction_stream import iterate_inputs, write_rejects
from radrecipes.tasks import TASKS

# Every cell of the files below contains it.
CLOSED = "Zyxwv"
TABLES = {
    "without a header": ("a.csv", f"{CLOSED}1,{CLOSED} has a cough,{CLOSED} CT\n", {}),
    "without a header, one column": ("a.csv", f"{CLOSED} has a cough; and a rash\n", {}),
    "a stray quote": ("a.csv", f'id,note,label\n1,"{CLOSED}" x,{CLOSED}\n', {}),
    "a row too long": ("a.csv", f"id,note,label\n1,{CLOSED},{CLOSED},{CLOSED}\n", {}),
    "repeated id": ("a.csv", f"id,note,label\n{CLOSED},x,a\n{CLOSED},y,b\n", {"id_column": "id"}),
    "no label": ("a.csv", f"id,note,label\n1,{CLOSED},a\n2,{CLOSED},\n", {}),
    "one label": ("a.csv", f"id,note,label\n1,{CLOSED} 1,{CLOSED}\n2,{CLOSED} 2,{CLOSED}\n", {}),
    "a label of signs": ("a.csv", f"id,note,label\n1,{CLOSED},***\n", {"signs": "***"}),
    "a note as label": ("a.csv", f"id,note,label\n1,x,{CLOSED * 50}\n", {}),
    "notes as labels": ("a.csv", "id,note,label\n" + "".join(f"{n},{n},{CLOSED} {n}\n" for n in range(30)), {}),
    "unknown label": ("a.csv", f"id,note,label\n1,x,{CLOSED}\n", {"label_set": True}),
    "a JSON key": ("a.jsonl", json.dumps({CLOSED: CLOSED, "note": CLOSED}), {}),
    "broken JSON": ("a.jsonl", f'{{"note": "{CLOSED}", "label": \\{CLOSED}}}', {}),
    "a JSON list": ("a.jsonl", json.dumps({"note": [CLOSED], "label": CLOSED}), {}),
    "half a character": ("a.jsonl", json.dumps({"note": f"{CLOSED}\ud800", "label": CLOSED}), {}),
    "no gzip": ("a.csv.gz", f"{CLOSED},{CLOSED}\n", {"signs": CLOSED[:2]}),
    "no Parquet": ("a.parquet", CLOSED, {}),
}


@pytest.mark.parametrize("name", TABLES)
def test_no_error_of_a_table_quotes_a_cell(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file, content, options = TABLES[name]
    (tmp_path / file).write_text(content, encoding="utf-8")
    columns = {"inputs": {"note": "note"}, "target": "label", "id_column": options.get("id_column")}
    with pytest.raises(InputError) as caught:
        examples = read_examples(file, **columns)
        labels = LabelSet.from_text("name: x\nversion: 1\nlabels: [{name: CT}, {name: MR}]")
        label_set = labels if "label_set" in options else derive_label_set(examples, "x", file)
        prepare_rows(examples, input_column="note", target_column="label", label_set=label_set)
    assert str(caught.value).startswith(file)
    assert CLOSED not in str(caught.value) and options.get("signs", CLOSED) not in str(caught.value)


def test_a_parquet_file_of_patients_shows_no_name_of_a_column(tmp_path):
    pd.DataFrame({"note": [{CLOSED: CLOSED}]}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"column 'note' contains struct, not text"):
        read_examples(tmp_path / "a.parquet", inputs={"note": "note"})
    pq.write_table(pa.table({"note": pa.array([10**13], pa.timestamp("s"))}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"a.parquet: not readable as Parquet"):
        read_examples(tmp_path / "a.parquet", inputs={"note": "note"})
    pd.DataFrame([[CLOSED, CLOSED]], columns=[f"{CLOSED} has a cough", "2"]).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(InputError, match="no column 'note' among the 2 of the schema") as caught:
        read_examples(tmp_path / "a.parquet", inputs={"note": "note"})
    assert CLOSED not in str(caught.value)


@pytest.mark.parametrize("value", [1.0, 1e5])
def test_a_column_of_decimal_numbers_is_named_with_the_remedy(value, tmp_path):
    pd.DataFrame({"note": ["x"], "mrn": [value]}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"a.parquet:row 1: column 'mrn' contains decimal numbers, as pandas"):
        read_examples(tmp_path / "a.parquet", inputs={"note": "note"}, group_column="mrn")


@pytest.mark.parametrize("text", [f"{CLOSED}: positive", CLOSED, f"Edema: {CLOSED}", f"Edema: 1; {CLOSED}: 0"])
def test_a_request_is_rejected_without_a_word_of_it(text, tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text(json.dumps({"observations": text}) + "\n", encoding="utf-8")
    write_rejects(iterate_inputs(path, TASKS["report"], "observations", None), iter(()), tmp_path / "rejects.csv")
    said = (tmp_path / "rejects.csv").read_text("utf-8")
    assert re.search(r'\n1,"?pair ', said) and CLOSED not in said

    path.write_text(json.dumps({"prompt": text, "completion": "x"}) + "\n", encoding="utf-8")
    source = ReportPairs(path)
    [rejected] = [source.read(item) for item in source.items()]
    assert rejected.hint.startswith("pair ") and CLOSED not in rejected.hint


def test_no_error_of_a_folder_of_reports_names_a_patient(tmp_path):
    # The names of files and folders are ids of patients and studies.
    study = write_mimic(tmp_path, patients=2, studies=2)[0][2]
    study.write_bytes(b"\xff")
    with pytest.raises(InputError, match="would be dropped") as caught:
        prepare_reports(MimicCxr(tmp_path), ReportOptions(), rejected_path=tmp_path / "rejected.csv")
    assert not re.search(r"[ps]\d{2}", str(caught.value).replace(str(tmp_path), ""))
    assert study.name in (tmp_path / "rejected.csv").read_text("utf-8")
