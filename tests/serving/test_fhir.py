"""FHIR resources in and out: which text is read, what is answered, and errors without a value of the request."""

import pytest
from fhir.resources.R4B.servicerequest import ServiceRequest
from fhir.resources.R4B.task import Task

from radrecipes.data.label_sets import LabelSet
from radrecipes.serving import fhir

LABELS = LabelSet.from_text(
    "name: few\nversion: 1\nlabels:\n  - {name: CT Head, loinc: 30799-1, playbook: RPID22}\n  - name: MR Knee\n"
)
SUBJECT = {"reference": "Patient/17"}
ORDER = {
    "resourceType": "ServiceRequest",
    "id": "o-1",
    "status": "active",
    "intent": "order",
    "subject": SUBJECT,
    "code": {"text": "CT of the head", "coding": [{"display": "CT head w/o contrast"}]},
    "reasonCode": [{"text": "worst headache\n of life"}, {"coding": [{"display": "Fall"}]}],
    "orderDetail": [{"text": "tonight"}],
    "note": [{"text": "r/o bleed"}, {"text": "on warfarin"}],
}


def row(decision, **more):
    return {"label": "CT Head", "probability": 0.987654, "decision": decision, **more}


def read(resource, trained=None):
    (order,) = fhir.read_orders(resource, trained)
    return order


def test_the_text_is_made_from_the_filled_elements_in_the_documented_order():
    order = read(ORDER)
    assert order.text == "CT of the head\nworst headache of life; Fall\ntonight\nr/o bleed; on warfarin"
    assert (order.id, order.reference, order.subject) == ("o-1", {"reference": "ServiceRequest/o-1"}, SUBJECT)
    only = {name: value for name, value in ORDER.items() if name not in ("code", "orderDetail", "note")}
    assert read(only).text == "worst headache of life; Fall"
    assert read({name: value for name, value in only.items() if name != "reasonCode"}).text == ""
    # As such a run was trained
    assert read(ORDER, ["note", "code"]).text == "note: r/o bleed; on warfarin\ncode: CT of the head"
    assert fhir.is_element("code.text") and not fhir.is_element("history"), "columns of a table are no elements"


def test_an_order_without_id_is_referred_to_by_its_identifier():
    named = {name: value for name, value in ORDER.items() if name != "id"}
    with pytest.raises(fhir.FhirError, match="is required") as caught:
        read(named)
    assert caught.value.path == "ServiceRequest.id"
    identifier = {"system": "urn:oid:1.2", "value": "A-17"}
    order = read(named | {"identifier": [identifier]})
    assert order.id == "A-17" and order.reference["identifier"] == identifier


def test_an_automatic_answer_is_a_draft_proposal_with_the_codes_of_the_label():
    answer = fhir.answer(read(ORDER), row("auto"), LABELS)
    again = ServiceRequest.model_validate(answer)
    assert (again.intent, again.status, again.basedOn[0].reference) == ("proposal", "draft", "ServiceRequest/o-1")
    assert answer["code"]["text"] == "CT Head" and answer["subject"] == SUBJECT
    assert answer["code"]["coding"] == [
        {"system": "http://loinc.org", "code": "30799-1"},
        {"system": "http://radlex.org", "code": "RPID22"},
    ]
    assert answer["extension"] == [{"url": fhir.PROBABILITY_URL, "valueDecimal": 0.987654}]


def test_a_subject_within_the_order_comes_with_the_answer():
    patient = {"resourceType": "Patient", "id": "p"}
    order = read(ORDER | {"contained": [patient], "subject": {"reference": "#p"}})
    for decision in ("auto", "NEEDS_REVIEW"):
        answer = fhir.answer(order, row(decision, top_1="MR Knee", top_1_probability=0.5), LABELS)
        assert answer["contained"] == [patient]
    assert "contained" not in fhir.answer(read(ORDER), row("auto"), LABELS)


def test_what_needs_review_is_a_task_with_the_most_probable_labels():
    best = {"top_1": "MR Knee", "top_1_probability": 0.5, "top_2": "CT Head", "top_2_probability": 0.4, "top_3": None}
    answer = fhir.answer(read(ORDER), row("NEEDS_REVIEW", reason="below threshold", **best), LABELS)
    again = Task.model_validate(answer)
    assert (again.status, again.intent, again.focus.reference) == ("requested", "proposal", "ServiceRequest/o-1")
    assert answer["statusReason"]["text"] == "below threshold" and answer["for"] == SUBJECT
    found = [(it["valueCodeableConcept"]["text"], it["extension"][0]["valueDecimal"]) for it in answer["input"]]
    assert found == [("MR Knee", 0.5), ("CT Head", 0.4)]
    assert "coding" not in answer["input"][0]["valueCodeableConcept"]
    # A run that generates its labels
    generated = fhir.answer(read(ORDER), {"label": "MR Knee", "answer": "knee"}, LABELS)
    assert [it["valueCodeableConcept"]["text"] for it in generated["input"]] == ["MR Knee"]
    assert "input" not in fhir.answer(read(ORDER), {"label": None, "answer": "?"}, LABELS)


SECRET = "qzvmark"


@pytest.mark.parametrize(
    ("body", "path"),
    [
        (SECRET, "resourceType"),
        ([], "resourceType"),
        ({"resourceType": SECRET}, "resourceType"),
        ({**ORDER, SECRET: 1}, "ServiceRequest"),
        ({**ORDER, "code": {"text": "x", SECRET: 1}}, "ServiceRequest.code"),
        ({**ORDER, "code": SECRET}, "ServiceRequest.code"),
        ({**ORDER, "note": [{"text": "a"}, {"text": {SECRET: 1}}]}, "ServiceRequest.note[1].text"),
        ({**ORDER, "authoredOn": SECRET}, "ServiceRequest.authoredOn"),
        ({**ORDER, "contained": [{"resourceType": SECRET}]}, "ServiceRequest"),
        ({name: value for name, value in ORDER.items() if name != "subject"}, "ServiceRequest.subject"),
        ({name: value for name, value in ORDER.items() if name != "status"}, "ServiceRequest.status"),
        ({**ORDER, "status": "revoked"}, "ServiceRequest.status"),
        ({**ORDER, "status": "entered-in-error"}, "ServiceRequest.status"),
        ({**ORDER, "doNotPerform": True}, "ServiceRequest.doNotPerform"),
        (
            {**ORDER, "modifierExtension": [{"url": f"urn:{SECRET}", "valueBoolean": True}]},
            "ServiceRequest.modifierExtension",
        ),
        (
            {
                **{name: value for name, value in ORDER.items() if name != "id"},
                "identifier": [{"value": f"{SECRET}\r9"}],
            },
            "ServiceRequest.identifier[0].value",
        ),
        ({"resourceType": "Bundle", "entry": [{"resource": {**ORDER, "status": "completed"}}]}, "Bundle.entry"),
        ({"resourceType": "Bundle"}, "Bundle.entry"),
        ({"resourceType": "Bundle", "entry": SECRET}, "Bundle.entry"),
        ({"resourceType": "Bundle", "entry": [SECRET, {"resource": {"resourceType": SECRET}}]}, "Bundle.entry"),
        (
            {"resourceType": "Bundle", "entry": [{}, SECRET, {"resource": {**ORDER, "intent": [SECRET]}}]},
            "Bundle.entry[2].resource.intent",
        ),
    ],
)
def test_an_error_names_the_element_and_no_value(body, path):
    with pytest.raises(fhir.FhirError) as caught:
        fhir.read_orders(body, None)
    assert caught.value.path == path and SECRET not in f"{caught.value}{caught.value.path}"
    issue = fhir.outcome(str(caught.value), path, "invalid")["issue"][0]
    assert issue["expression"] == [path] and issue["severity"] == "error"


def test_the_orders_of_a_bundle_keep_their_places_and_other_resources_are_left_out():
    patient = {"resource": {"resourceType": "Patient", "id": "17"}}
    second = {"resource": ORDER | {"id": "o-2"}}
    withdrawn = [{"resource": ORDER | more} for more in ({"status": "revoked"}, {"doNotPerform": True})]
    entries = [patient, {"resource": ORDER}, second, *withdrawn]
    orders = fhir.read_orders({"resourceType": "Bundle", "entry": entries}, None)
    assert [(order.path, order.id) for order in orders] == [
        ("Bundle.entry[1].resource", "o-1"),
        ("Bundle.entry[2].resource", "o-2"),
    ]
