import csv
import gzip
import json
import os
import pickle

import openpyxl
import pytest

from radrecipes.data.sources.report_table import ReportTable
from radrecipes.data.sources.table_form import TableForm
from radrecipes.errors import InputError

INDIANA = ["uid", "MeSH", "Problems", "image", "indication", "comparison", "findings", "impression"]
SIGNED = "Normal chest. Electronically signed by Jane Doe, M.D."
ROWS = [
    [
        "1",
        "normal",
        "normal",
        "Xray Chest PA and Lateral",
        "Cough",
        "None.",
        "The lungs are clear,\nand the heart is normal.",
        SIGNED,
    ],
    ["2", "normal", "normal", "Xray Chest PA and Lateral", "", "", "", ""],
]


def read_all(source):
    assert len(pickle.dumps(source)) < 500
    other_process = pickle.loads(pickle.dumps(source))
    return [other_process.read(item) for item in source.items()]


def write_csv(path, rows, encoding="utf-8", **form):
    with path.open("w", encoding=encoding, newline="") as file:
        csv.writer(file, **form).writerows(rows)
    return path


def write_excel(path, rows):
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    book.save(path)
    return path


@pytest.mark.parametrize(
    "write",
    [
        lambda folder: write_csv(folder / "indiana_reports.csv", [INDIANA, *ROWS]),
        lambda folder: write_csv(folder / "a.csv", [INDIANA, *ROWS], "utf-16", delimiter=";"),
        lambda folder: write_excel(folder / "a.xlsx", [["Reports of 2026"], INDIANA, *ROWS]),
    ],
)
def test_a_table_with_the_usual_names_of_columns(tmp_path, write):
    source = ReportTable(write(tmp_path))
    first, second = read_all(source)
    assert (first.id, first.group) == ("1", "1")
    assert (first.findings, first.impression) == ("The lungs are clear, and the heart is normal.", "Normal chest.")
    assert second.reason == "empty_report" and source.count == 2
    assert "columns: findings 'findings', impression 'impression', id 'uid'" in source.said
    assert any(said.startswith("no column of the patient") for said in source.said)


@pytest.mark.parametrize(
    "content", ['[{"report": "x"}]\n[{"report": "y"}]', '{"report": "x"}\n{"report": "y"}\n', "[{}] x"]
)
def test_what_follows_a_json_array_is_not_lost(tmp_path, content):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(
        InputError, match=r"goes on after its first array or object; .* rename it to .jsonl if it has one"
    ):
        ReportTable(tmp_path / "a.json")
    (tmp_path / "a.json").write_text('[{"report": "No edema."}]' + " \n" * 2**20)
    assert ReportTable(tmp_path / "a.json").count == 1


def test_a_name_that_is_not_utf_8_is_recorded_as_text(tmp_path):
    source = ReportTable(write_csv(tmp_path / os.fsdecode(b"a\xe9.csv"), [["report"], ["No edema."]]))
    assert source.files[0]["file"] == r"a\xe9.csv" and read_all(source)[0].path == r"a\xe9.csv:2"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("colon", [":", ""])
def test_line_ends_of_every_system_and_headers_without_a_colon(tmp_path, end, colon):
    lines = [f"FINDINGS{colon}", "No edema.", f"IMPRESSION{colon}", "Normal.", "Electronically signed by:", "Jane Doe"]
    text = end.join(["EXAM: Chest", *lines])
    [report] = read_all(ReportTable(write_csv(tmp_path / "a.csv", [["report"], [text]])))
    assert (report.findings, report.impression, report.exam) == ("No edema.", "Normal.", "Chest")
    cells = [["findings", "impression"], [end.join(lines[:2]), end.join(lines[2:])]]
    [report] = read_all(ReportTable(write_csv(tmp_path / "b.csv", cells)))
    assert (report.findings, report.impression) == ("No edema.", "Normal.")


def test_complete_reports_are_split_and_columns_may_be_named(tmp_path):
    text = "EXAM: CT HEAD\nFINDINGS: No bleed.\nIMPRESSION: Normal.\nDictated by: J. Doe"
    path = write_csv(
        tmp_path / "a.csv", [["Nr", "MRN", "Befund", "Findings", "Procedure"], ["7", "P1", text, "x", "CT Head"]]
    )
    columns = {"report": "Befund", "id": "Nr"}
    [report] = read_all(ReportTable(path, columns=columns))
    assert (report.findings, report.impression, report.id) == ("No bleed.", "Normal.", "7")
    assert (report.group, report.exam) == ("P1", "CT Head")
    beside = write_csv(tmp_path / "b.csv", [["Impression", "Report_Text"], ["x", text]])
    assert read_all(ReportTable(beside))[0].findings == "No bleed."
    assert read_all(ReportTable(beside, columns={"impression": "Impression"}))[0].impression == "x"
    [alone] = read_all(ReportTable(path, columns={**columns, "group": ""}))
    assert alone.group == "7"
    with pytest.raises(InputError, match=r"a.csv: no column 'Befunde'; did you mean 'Befund'\?"):
        ReportTable(path, columns={"report": "Befunde"})


REXGRADIENT = {
    "id": "a",
    "PatientID": 17.0,
    "Indication": "Cough",
    "Findings": "Clear.",
    "Impression": None,
    "split": "valid",
}
CHEXPERT = {
    "path_to_image": "x",
    "deid_patient_id": "p2",
    "report": "x",
    "section_findings": "",
    "section_impression": "Edema.",
    "split": "Dev",
}


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.json.gz", "keyed.json", "inner.json"])
@pytest.mark.parametrize(
    ("row", "found"), [(REXGRADIENT, ("a", "17", "Clear.", "")), (CHEXPERT, ("row 1", "p2", "", "Edema."))]
)
def test_json_keeps_the_stated_split(tmp_path, name, row, found):
    rows = [row, {**row, "split": "train", "id": "b"}, {**row, "split": "fold 3", "id": "c"}]
    lines = "\n".join(map(json.dumps, rows))
    keyed = json.dumps({f"key {place}": row for place, row in enumerate(rows)})
    content = {"a.jsonl": lines, "keyed.json": keyed, "inner.json": json.dumps({"reports": rows})}.get(
        name, json.dumps(rows, indent=1)
    )
    path = tmp_path / name
    path.write_bytes(gzip.compress(content.encode()) if name.endswith(".gz") else content.encode())
    first, second, third = read_all(ReportTable(path, official_split=True))
    assert (first.id, first.group, first.findings, first.impression) == found
    assert (first.split, second.split) == ("validation", "train")
    assert (third.reason, third.hint) == ("no_split", "column 'split' says neither train, validation nor test")
    unused = ReportTable(path)
    assert read_all(unused)[0].split is None
    assert "the split in column 'split' is not used; keep it with --split official" in unused.said


def test_a_large_array_is_read_in_pieces(tmp_path):
    rows = [{"findings": f"Row {number}. " + "x" * 5000, "impression": "y"} for number in range(700)]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    reports = read_all(ReportTable(tmp_path / "a.json"))
    assert [report.findings.split(".")[0] for report in reports] == [f"Row {number}" for number in range(700)]
    assert (reports[16].path, reports[16].id) == ("a.json:object 17", "17")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.csv",
            "x,y\n1,2\n",
            "none of the 2 columns has a usual name for findings, impression or complete reports; name them",
        ),
        ("a.csv", "findings\n", "the file has no rows below its header"),
        ("a.json", "[]", "contains no JSON object with columns as keys"),
        ("a.json", '"text"', r"does not begin with \[ or {"),
        (
            "a.json",
            '[{"findings": "x"}, {"findings": ',
            "is not valid JSON, cut off, or has an object larger than 16 MiB behind object 1",
        ),
        ("a.jsonl", "1\n", "contains no JSON object"),
        ("a.doc", "x", "the format is not clear from the name"),
    ],
)
def test_a_file_without_reports_is_refused_with_the_mend(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        ReportTable(tmp_path / name)
    with pytest.raises(InputError, match=r"no such file"):
        ReportTable(tmp_path / f"none-{name}")


def test_a_row_that_cannot_be_read_is_named_by_its_place(tmp_path):
    (tmp_path / "a.jsonl").write_text(
        '{"findings": "x", "mrn": "1"}\n{"findings": ["y", "z"], "mrn": " "}\n{"findings": {}, "mrn": "1"}\n{\n'
    )
    good, *rejected = read_all(ReportTable(tmp_path / "a.jsonl"))
    assert good.findings == "x"
    assert [(report.path, report.reason) for report in rejected] == [
        ("a.jsonl:2", "empty_group"),
        ("a.jsonl:3", "unreadable_row"),
        ("a.jsonl:4", "unreadable_row"),
    ]
    (tmp_path / "a.csv").write_text("findings;mrn\nx;1\ny\nz;2\n")
    found = read_all(ReportTable(tmp_path / "a.csv", form=TableForm(delimiter=";")))
    assert [report.path for report in found] == ["a.csv:2", "a.csv:3", "a.csv:4"] and found[
        1
    ].reason == "unreadable_row"
    with pytest.raises(
        InputError, match="no column states a split; name it with --split-column, or choose --split patient"
    ):
        ReportTable(tmp_path / "a.csv", official_split=True)
