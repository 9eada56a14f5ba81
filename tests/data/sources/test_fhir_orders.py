import json

import pytest

from radrecipes.data.sources.table_form import TableForm
from radrecipes.data.sources.tables import ExampleTable, RejectedRow, named_columns
from radrecipes.errors import InputError


def request(number, **fields):
    return {
        "resourceType": "ServiceRequest",
        "id": f"s{number}",
        "code": {"coding": [{"code": "24725-4", "display": "CT Head"}]},
        "subject": {"reference": "Patient/7"},
        "reasonCode": [{"text": "Headache"}, {"coding": [{"display": "Vomiting"}]}],
        "note": [{"text": "Worse since\nyesterday."}],
        "orderDetail": [{"text": "CT Head without Contrast"}],
        **fields,
    }


def write(path, *rows):
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return path


def test_service_requests_are_orders(tmp_path):
    r5 = {"code": {"concept": {"text": "CT Head"}}, "reasonCode": None, "note": []}
    path = write(
        tmp_path / "a.ndjson", request(1), {"resourceType": "Patient"}, request(2, **r5), "{", request(3, id="\ud800")
    )
    columns = {"inputs": {"note": named_columns(["code", "reasonCode", "note"])}, "target": "orderDetail"}
    first, second, *broken = ExampleTable(path, **columns, id_column="id", group_column="subject")
    assert first.inputs == {"note": "code: CT Head\nreasonCode: Headache; Vomiting\nnote: Worse since yesterday."}
    assert (first.id, first.group, first.target) == ("s1", "Patient/7", "CT Head without Contrast")
    assert second.inputs == {"note": "code: CT Head"} and second.where.endswith("a.ndjson:3")
    assert [row.line for row in broken if isinstance(row, RejectedRow)] == ["4", "5"]


def test_the_orders_of_a_patient_are_one_group_however_they_name_it(tmp_path):
    subjects = [
        {"reference": "https://host/Patient/7/_history/2"},
        {"identifier": {"system": "urn:mrn", "value": "7"}},
    ]
    rows = [request(number, subject=subject) for number, subject in enumerate(subjects)]
    orders = ExampleTable(write(tmp_path / "a.ndjson", *rows), inputs={"note": "code"}, group_column="subject")
    assert [order.group for order in orders] == ["Patient/7", "urn:mrn|7"]


def test_a_path_without_a_text_and_a_file_without_requests_are_refused(tmp_path):
    path = write(tmp_path / "a.ndjson", request(1))
    with pytest.raises(
        InputError, match="no text at 'reasoncode' in the first resources; a column is a path such as code,"
    ):
        ExampleTable(path, inputs={"note": "reasoncode"})
    with pytest.raises(InputError, match="FHIR does not take --delimiter"):
        ExampleTable(path, inputs={"note": "code"}, form=TableForm(delimiter=";"))
    with pytest.raises(InputError, match="no ServiceRequest resource here"):
        ExampleTable(write(tmp_path / "b.ndjson", {"resourceType": "Patient"}), inputs={"note": "code"})
    with pytest.raises(InputError, match="cannot be read"):
        ExampleTable(tmp_path / "none.ndjson", inputs={"note": "code"})
