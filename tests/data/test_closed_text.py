"""No message quotes what a file of patients contains: it names the place, and what to do."""

import json
import re
from collections import defaultdict

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from report_trees import write_mimic

from radrecipes.data.label_sets import LabelSet
from radrecipes.data.preparation import derive_label_set, prepare_rows
from radrecipes.data.report_preparation import ReportOptions, prepare_reports
from radrecipes.data.sources.mimic_cxr import MimicCxr
from radrecipes.data.sources.registry import REPORT_SOURCES
from radrecipes.data.sources.report_pairs import ReportPairs
from radrecipes.data.sources.report_source import RejectedReport
from radrecipes.data.sources.tables import ExampleTable
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
        examples = ExampleTable(file, **columns).read()
        labels = LabelSet.from_text("name: x\nversion: 1\nlabels: [{name: CT}, {name: MR}]")
        label_set = labels if "label_set" in options else derive_label_set(examples, "x", file)
        prepare_rows(examples, input_column="note", target_column="label", label_set=label_set)
    assert str(caught.value).startswith(file)
    assert CLOSED not in str(caught.value) and options.get("signs", CLOSED) not in str(caught.value)


def test_a_parquet_file_of_patients_shows_no_name_of_a_column(tmp_path):
    pd.DataFrame({"note": [{CLOSED: CLOSED}]}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"column 'note' contains struct, not text"):
        ExampleTable(tmp_path / "a.parquet", inputs={"note": "note"}).read()
    pq.write_table(pa.table({"note": pa.array([10**13], pa.timestamp("s"))}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"a.parquet: not readable as Parquet"):
        ExampleTable(tmp_path / "a.parquet", inputs={"note": "note"}).read()
    pd.DataFrame([[CLOSED, CLOSED]], columns=[f"{CLOSED} has a cough", "2"]).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(InputError, match="no column 'note' among the 2 of the schema") as caught:
        ExampleTable(tmp_path / "a.parquet", inputs={"note": "note"}).read()
    assert CLOSED not in str(caught.value)


@pytest.mark.parametrize("value", [1.0, 1e5])
def test_a_column_of_decimal_numbers_is_named_with_the_remedy(value, tmp_path):
    pd.DataFrame({"note": ["x"], "mrn": [value]}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"a.parquet:row 1: column 'mrn' contains decimal numbers, as pandas"):
        ExampleTable(tmp_path / "a.parquet", inputs={"note": "note"}, group_column="mrn").read()


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


_HL7 = f"MSH|^~\\&|{CLOSED}\rPID|1||{CLOSED}\rOBR|1||{CLOSED}|{CLOSED}\rOBX|1|TX|{CLOSED}||{CLOSED} has a cough"
REPORT_FILES = {
    "table without a header": ("table", "a.csv", f"{CLOSED} has a cough;{CLOSED}\n{CLOSED};{CLOSED}\n"),
    "table, a name nearly right": ("table", "a.csv", f"finding_s,{CLOSED}\n{CLOSED},{CLOSED}\n"),
    "table, a broken row": ("table", "a.csv", f'findings,mrn\n{CLOSED},1\n"{CLOSED},{CLOSED}'),
    "JSON cut off": ("table", "a.json", f'[{{"findings": "{CLOSED}"}}, {{"findings": "{CLOSED}'),
    "JSON with other types": ("table", "a.jsonl", json.dumps({"findings": {CLOSED: CLOSED}, CLOSED: CLOSED})),
    "JSON lines broken": ("table", "a.jsonl", f'{{"findings": "x"}}\n{{"findings": "{CLOSED}" {CLOSED}'),
    "pairs with other columns": ("jsonl", "a.jsonl", json.dumps({CLOSED: CLOSED})),
    "HL7 in no encoding": ("hl7", f"{CLOSED}/{CLOSED}.hl7", f"{_HL7} \udc81\udcff"),
    "HL7 without a text": ("hl7", f"{CLOSED}/{CLOSED}.hl7", _HL7.partition("OBX")[0]),
    "HL7 with an empty text": ("hl7", f"{CLOSED}/{CLOSED}.hl7", f"{_HL7.partition(CLOSED + ' has')[0]}..."),
    "FHIR broken": (
        "fhir",
        f"{CLOSED}/{CLOSED}.ndjson",
        f'{{"resourceType": "DiagnosticReport", "id": "{CLOSED}", {CLOSED}',
    ),
    "FHIR cut gzip": ("fhir", f"{CLOSED}/{CLOSED}.ndjson.gz", "\x1f" + CLOSED),
    "text in no encoding": ("text", f"{CLOSED}/{CLOSED}.txt", f"{CLOSED} \udc81\udcff"),
    "no text files": ("text", f"{CLOSED}/{CLOSED}.doc", CLOSED),
}


@pytest.mark.parametrize("name", REPORT_FILES)
def test_no_error_of_a_reader_of_reports_quotes_a_file(name, tmp_path):
    source, file, content = REPORT_FILES[name]
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content.encode(errors="surrogateescape"))
    root = tmp_path if "/" in file else path
    options = defaultdict(
        lambda: None, prompt_column="prompt", completion_column="completion", label_source="prompt", split="patient"
    )
    try:
        reader = REPORT_SOURCES[source].open(root, options)
        said = [
            *reader.said,
            *(report.hint for report in map(reader.read, reader.items()) if isinstance(report, RejectedReport)),
        ]
    except InputError as error:
        said = [str(error)]
    assert said and CLOSED not in " ".join(said).replace(str(tmp_path / file) if root == path else "", "")
