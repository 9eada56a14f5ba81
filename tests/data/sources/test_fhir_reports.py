import base64
import json
import pickle

import pytest

from radrecipes.data.sources.fhir_reports import FhirReports
from radrecipes.data.sources.report_source import LARGEST_REPORT
from radrecipes.errors import InputError

TEXT = (
    "EXAM: Chest\nFINDINGS:\nThe lungs are clear.\nIMPRESSION:\nNormal chest.\nElectronically signed by: Jane Doe, MD"
)

BROKEN = TEXT.replace("\n", "<br/>")


def form(text, kind="text/plain", encoding="utf-8"):
    return {"contentType": kind, "data": base64.b64encode(text.encode(encoding)).decode()}


def resource(number=1, **fields):
    return {
        "resourceType": "DiagnosticReport",
        "id": f"r{number}",
        "status": "final",
        "code": {"coding": [{"system": "http://loinc.org", "code": "36643-5", "display": "XR Chest 2 Views"}]},
        "subject": {"reference": f"Patient/{number}"},
        "epicThing": 1,
        **fields,
    }


def open_reports(path, *rows):
    path.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8"
    )
    return FhirReports(path)


def read_all(path, *rows):
    source = open_reports(path, *rows)
    other_process = pickle.loads(pickle.dumps(source))
    assert len(pickle.dumps(source)) < 200
    return [other_process.read(item) for item in source.items()]


@pytest.mark.parametrize(
    "fields",
    [
        {"presentedForm": [{"contentType": "application/pdf", "data": "JVBERi0="}, form(TEXT)], "conclusion": "x"},
        {"presentedForm": [form(TEXT, "text/plain; charset=utf-16", "utf-16")]},
        {"presentedForm": [form(f"<html><p>{TEXT.replace(chr(10), '</p><p>')}</p></html>", "text/html")]},
        {"contained": [{"resourceType": "Observation", "code": {"text": name}, "valueString": text}
                       for name, text in (("Findings", "The lungs are clear."), ("Impression", "Normal chest."))]},
        {"text": {"status": "additional", "div": f"<div xmlns='http://www.w3.org/1999/xhtml'>{BROKEN}</div>"}},
        {"presentedForm": [form("The lungs are clear.")], "conclusion": " Normal\nchest. "},
        {"presentedForm": [form(f"<![if x]>{BROKEN}<![endif]><![x[y]]><![ z", "text/html")]},
    ],
)  # fmt: skip
def test_a_report_is_found_where_systems_put_it(tmp_path, fields):
    patient = {"resourceType": "Patient", "id": "1"}
    [report] = read_all(tmp_path / "a.ndjson", patient, resource(**fields))
    assert (report.findings, report.impression) == ("The lungs are clear.", "Normal chest.")
    assert (report.id, report.group, report.exam, report.path) == ("r1", "Patient/1", "XR Chest 2 Views", "a.ndjson:2")


def test_what_has_no_report_is_left_out_by_reason(tmp_path):
    rows = [
        resource(1, conclusion="Normal."),
        resource(
            2, text={"status": "generated", "div": "<div>Generated for Jane</div>"}, conclusion="Edema.", subject=None
        ),
        resource(3, presentedForm=[{"contentType": "text/plain", "data": "%%%"}]),
        resource(4),
        resource(5, conclusion="Edema.", status="entered-in-error"),
        json.dumps(resource(6))[:-9],
        resource(7, conclusion="\ud800 edema."),
    ]
    first, second, *rejected = read_all(tmp_path / "a.ndjson", *rows)
    assert (first.findings, first.impression) == ("", "Normal.")
    assert (second.findings, second.impression, second.group) == ("", "Edema.", "r2")
    reasons = ["unreadable_json", "empty_report", "empty_report", "unreadable_json", "not_utf8"]
    assert [report.reason for report in rejected] == reasons
    with pytest.raises(InputError, match=r"no DiagnosticReport resource here; give .ndjson files"):
        read_all(tmp_path / "b.ndjson", {"resourceType": "Patient"})


def test_a_patient_is_one_group_however_a_report_names_it(tmp_path):
    same = [
        {"reference": f"{base}Patient/P1{version}"}
        for base in ("", "https://host/fhir/")
        for version in ("", "/_history/2")
    ]
    identified = {"identifier": {"system": "urn:mrn", "value": "P0"}, "display": "Jane Doe"}
    other_system = {"identifier": {"system": "urn:other", "value": "P0"}}
    subjects = [
        *same,
        identified,
        identified,
        other_system,
        {"identifier": {"value": "P0"}},
        {"reference": "urn:uuid:1"},
    ]
    rows = [resource(number, subject=subject, conclusion="Normal.") for number, subject in enumerate(subjects)]
    source = open_reports(tmp_path / "a.ndjson", *rows)
    groups = [source.read(item).group for item in source.items()]
    assert groups == ["Patient/P1"] * 4 + ["urn:mrn|P0"] * 2 + ["urn:other|P0", "P0", "urn:uuid:1"]
    assert source.said == ()
    nameless = [resource(1, subject=None), resource(2, subject={"identifier": {"system": "urn:mrn"}}), resource(3)]
    source = open_reports(tmp_path / "b.ndjson", *nameless)
    assert source.said == ["2 reports name no patient (subject): each counts as a patient of its own"]


def test_references_within_references_are_no_patient(tmp_path):
    deep = "x"
    for _ in range(150):
        deep = {"identifier": {"system": deep}}
    [report] = read_all(tmp_path / "a.ndjson", resource(1, subject=deep, conclusion="Normal."))
    assert report.group == "r1"


def test_a_report_with_an_image_in_its_text_is_not_cut(tmp_path):
    image = f"<img src='data:image/png;base64,{'A' * LARGEST_REPORT}'>"
    pages = [f"<p>FINDINGS: Clear.</p>{one}<p>IMPRESSION: Normal.</p>" for one in (image, "")]
    rows = [resource(number, presentedForm=[form(page, "text/html")]) for number, page in enumerate(pages)]
    refused, report = read_all(tmp_path / "a.ndjson", *rows)
    assert refused.reason == "too_large" and report.impression == "Normal."
