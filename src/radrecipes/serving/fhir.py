"""FHIR R4: a ServiceRequest, or a Bundle of them, and the proposal or review task that answers each.

Resources are read and written with the R4B classes of fhir.resources; R4B has the R4 definitions of those used here.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from fhir.resources.R4B.operationoutcome import OperationOutcome
from fhir.resources.R4B.servicerequest import ServiceRequest
from fhir.resources.R4B.task import Task
from pydantic import BaseModel, ValidationError

from radrecipes.data.label_sets import LabelSet
from radrecipes.data.sources.fhir import text_at
from radrecipes.data.sources.tables import render_cells
from radrecipes.errors import InputError
from radrecipes.inference.abstention import AUTO
from radrecipes.serving import ORDER_ID

MEDIA_TYPE = "application/fhir+json"
# The elements that make the text of an order, in this order, each on a line.
TEXT_ELEMENTS = ("code", "reasonCode", "orderDetail", "note")
# Orders that want a protocol; others are withdrawn, done or a mistake.
_ANSWERED = ("draft", "active", "on-hold")
PROBABILITY_URL = "urn:radrecipes:probability"
_LOINC, _RADLEX = "http://loinc.org", "http://radlex.org"


class FhirOrder(NamedTuple):
    """A ServiceRequest with its place in the request, for errors."""

    path: str
    id: str
    text: str
    reference: dict[str, Any]
    subject: dict[str, Any]
    contained: list[dict[str, Any]]  # the subject, if the order contains it


class FhirError(InputError):
    """A resource that cannot be used; `path` is the element, as in `OperationOutcome.issue.expression`."""

    def __init__(self, message: str, path: str):
        super().__init__(message)
        self.path = path


def read_orders(body: Any, trained_columns: Sequence[str] | None) -> list[FhirOrder]:
    """The orders in a ServiceRequest or Bundle, of which other resources, and withdrawn and completed orders, are left out.

    A run that was trained on several elements of ServiceRequests gets the same ones, with their names as in training. Raises a
    [`FhirError`], which contains no value of the request.
    """
    kind = body.get("resourceType") if isinstance(body, dict) else None
    if kind == "ServiceRequest":
        _validate(ServiceRequest, body, "ServiceRequest")
        if element := _unwanted(body):
            raise FhirError(
                f"is not that of an order to be done; answered are those of status {', '.join(_ANSWERED)}",
                f"ServiceRequest.{element}",
            )
        return [_read_order(body, "ServiceRequest", trained_columns)]
    if kind != "Bundle":
        raise FhirError("must be ServiceRequest or Bundle", "resourceType")
    entries = body.get("entry")
    orders = []
    for number, entry in enumerate(entries if isinstance(entries, list) else ()):
        resource = entry.get("resource") if isinstance(entry, dict) else None
        if isinstance(resource, dict) and resource.get("resourceType") == "ServiceRequest":
            path = f"Bundle.entry[{number}].resource"
            _validate(ServiceRequest, resource, path)
            if not _unwanted(resource):
                orders.append(_read_order(resource, path, trained_columns))
    if not orders:
        raise FhirError(f"must contain a ServiceRequest with a status of {', '.join(_ANSWERED)}", "Bundle.entry")
    return orders


def is_element(column: str) -> bool:
    """Whether a column of a table can be an element of a ServiceRequest: `reasonCode`, `code.text`."""
    return column.partition(".")[0] in ServiceRequest.model_fields


def _unwanted(resource: dict[str, Any]) -> str | None:
    """The element that says that an order is not to be done."""
    if resource.get("status") not in _ANSWERED:
        return "status"
    return "doNotPerform" if resource.get("doNotPerform") else None


def _read_order(resource: dict[str, Any], path: str, trained_columns: Sequence[str] | None) -> FhirOrder:
    if resource.get("modifierExtension"):
        raise FhirError("is not supported, and it may change what the order means", f"{path}.modifierExtension")
    identifiers = resource.get("identifier") or [{}]
    if order_id := resource.get("id"):
        reference = {"reference": f"ServiceRequest/{order_id}"}
    elif order_id := identifiers[0].get("value"):
        reference = {"type": "ServiceRequest", "identifier": identifiers[0]}
    else:
        raise FhirError("is required, or an identifier with a value, to which the answer refers", f"{path}.id")
    if not ORDER_ID.fullmatch(order_id):
        raise FhirError("has more than 200 characters or a control character", f"{path}.identifier[0].value")
    cells = {name: text_at(resource, name) for name in (trained_columns or TEXT_ELEMENTS)}
    text = render_cells(cells) if trained_columns else "\n".join(filter(None, cells.values()))
    subject = resource["subject"]
    inner = (subject.get("reference") or "")[1:] if (subject.get("reference") or "").startswith("#") else None
    contained = [it for it in resource.get("contained", ()) if inner and it.get("id") == inner]
    return FhirOrder(path, order_id, text, reference, subject, contained)


def _validate(kind: type[BaseModel], resource: dict[str, Any], path: str) -> None:
    try:
        kind.model_validate(resource)
    except ValidationError as error:
        found = error.errors(include_input=False, include_url=False, include_context=False)[0]
        place = list(found["loc"])
        unknown = found["type"] == "extra_forbidden"
        if unknown or place[-1:] == ["root"]:  # an unknown name is the client's own text
            place.pop()
        path += "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)
        wrong = "is required" if found["type"].endswith("missing") else "does not have the form that FHIR R4 defines"
        raise FhirError("has an element that FHIR R4 does not define" if unknown else wrong, path) from None
    except Exception:  # of fhir.resources, for example a KeyError for an unknown kind of contained resource
        raise FhirError("does not have the form that FHIR R4 defines", path) from None


def answer(order: FhirOrder, row: Mapping[str, Any], label_set: LabelSet) -> dict[str, Any]:
    """A ServiceRequest that proposes the label, or a Task for a person if it needs review."""
    shared = {"intent": "proposal", "authoredOn": datetime.now(UTC).isoformat(timespec="seconds")}
    shared |= {"contained": order.contained} if order.contained else {}
    if row.get("decision") == AUTO:
        proposal = shared | {
            "resourceType": "ServiceRequest",
            "status": "draft",
            "basedOn": [order.reference],
            "subject": order.subject,
            "code": _concept(row["label"], label_set),
            "extension": [_probability(row["probability"])],
        }
        return _as_json(ServiceRequest, proposal)
    best = [(row.get(f"top_{place}"), row.get(f"top_{place}_probability")) for place in (1, 2, 3)]
    if not best[0][0]:  # a run that generates labels has no probabilities
        best = [(row["label"], None)]
    task = shared | {
        "resourceType": "Task",
        "status": "requested",
        "code": {"text": "Choose the protocol"},
        "statusReason": {"text": row.get("reason") or "no probability"},
        "focus": order.reference,
        "for": order.subject,
        "input": [
            {"type": {"text": f"probable protocol {place}"}, "valueCodeableConcept": _concept(label, label_set)}
            | ({} if probability is None else {"extension": [_probability(probability)]})
            for place, (label, probability) in enumerate(best, start=1)
            if label
        ],
    }
    return _as_json(Task, task if task["input"] else {name: task[name] for name in task if name != "input"})


def _concept(name: str, label_set: LabelSet) -> dict[str, Any]:
    label = label_set.label(name)
    codes = [(_LOINC, label.loinc), (_RADLEX, label.playbook)]
    coding = [{"system": system, "code": code} for system, code in codes if code]
    return {"text": name} | ({"coding": coding} if coding else {})


def _probability(value: float) -> dict[str, Any]:
    return {"url": PROBABILITY_URL, "valueDecimal": value}


def _as_json(kind: type[BaseModel], resource: dict[str, Any]) -> dict[str, Any]:
    kind.model_validate(resource)
    return resource


def outcome(message: str, path: str | None, code: str) -> dict[str, Any]:
    """An OperationOutcome with one error; `code` is of the value set issue-type."""
    issue = {"severity": "error", "code": code, "diagnostics": message} | ({"expression": [path]} if path else {})
    return _as_json(OperationOutcome, {"resourceType": "OperationOutcome", "issue": [issue]})


def bundle(resources: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The answers to a Bundle, in the order of its ServiceRequests."""
    return {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": it} for it in resources]}
