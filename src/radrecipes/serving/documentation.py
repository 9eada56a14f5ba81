"""The OpenAPI document of a server, and a page made from it."""

import html
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

import radrecipes

STYLE = (
    ":root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;margin:0}main{max-width:50rem;margin:auto;padding:1rem}"
    "h2{font-size:1.1rem;margin:2rem 0 .25rem}p{margin:.25rem 0}pre{overflow-x:auto;padding:.75rem;border:1px solid}"
    "table{border-collapse:collapse}th,td{text-align:left;vertical-align:top;padding:.25rem 1rem .25rem 0;border-bottom:1px solid}"
)
FHIR_EXAMPLE = {
    "resourceType": "ServiceRequest", "id": "a1", "status": "active", "intent": "order",
    "subject": {"reference": "Patient/1"}, "reasonCode": [{"text": "your order"}],
}  # fmt: skip
_ERRORS = {
    "400": "not JSON in UTF-8",
    "401": "token missing or wrong",
    "404": "not a route of this run",
    "405": "wrong method",
    "408": "body too slow",
    "413": "body too large",
    "415": "wrong content type",
    "422": "a wrong field",
    "429": "too many requests in this minute",
    "503": "too many requests wait, or the server cannot answer at present: send it again",
}
_SEEN = {
    "/healthz": ("Whether requests are answered; needs no token.", "application/json"),
    "/metrics": ("Metrics for Prometheus.", "text/plain"),
    "/openapi.json": ("This document.", "application/json"),
    "/docs": ("This document as a page.", "text/html"),
}


def openapi(
    order: type[BaseModel], orders: type[BaseModel], columns: pa.Schema, max_orders: int, labels: bool
) -> dict[str, Any]:
    """The OpenAPI document of a run that chooses labels, or writes texts, with the `columns` of its answers."""
    template = "#/components/schemas/{model}"
    schemas = models_json_schema([(order, "validation"), (orders, "validation")], ref_template=template)[1]["$defs"]
    schemas["Orders"]["properties"]["orders"] |= {"minItems": 1, "maxItems": max_orders}
    kinds = {column.name: "number" if pa.types.is_floating(column.type) else "string" for column in columns}
    schemas["Answer"] = _object({name: {"type": [kind, "null"]} for name, kind in kinds.items()})
    schemas["Answers"] = _object({"answers": {"type": "array", "items": _schema("Answer")}})
    schemas["Error"] = _object({"error": {"type": "string"}, "field": {"type": ["string", "null"]}})
    schemas["Resource"] = _object({"resourceType": {"type": "string"}})
    asked = {"oneOf": [_schema("Order"), _schema("Orders")]}
    given = {"oneOf": [_schema("Answer"), _schema("Answers")]}
    what = "Answers to one input, or to several: all are answered or none."
    posts = {"/v1/predict" if labels else "/v1/report": (what, "application/json", asked, given, _schema("Error"))}
    if labels:
        what = "For a FHIR R4 ServiceRequest, or a Bundle of them: a proposal, or a task for a person."
        posts["/fhir/ServiceRequest"] = (what, "application/fhir+json", *[_schema("Resource")] * 3)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "radrecipes",
            "version": radrecipes.__version__,
            "description": "Answers are drafts for review by a person; this is not a medical device.",
        },
        "paths": {path: {"post": _post(*facts)} for path, facts in posts.items()}
        | {path: {"get": {"summary": what, "responses": _ok(media, {})}} for path, (what, media) in _SEEN.items()},
        "components": {"schemas": schemas, "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
        "security": [{"token": []}, {}],
    }


def _schema(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _ok(media: str, schema: Any) -> dict[str, Any]:
    return {"200": {"description": "OK", "content": {media: {"schema": schema}}}}


def _post(what: str, media: str, asked: Any, given: Any, error: Any) -> dict[str, Any]:
    body = {"required": True, "content": {media: {"schema": asked}}}
    meanings = ", ".join(f"{status} {meaning}" for status, meaning in _ERRORS.items())
    errors = {"default": {"description": meanings, "content": {media: {"schema": error}}}}
    return {"summary": what, "requestBody": body, "responses": _ok(media, given) | errors}


def page(document: Mapping[str, Any]) -> str:
    """An OpenAPI document as HTML, without scripts and without anything from elsewhere."""
    info, schemas = document["info"], document["components"]["schemas"]
    parts = [f"<h1>radrecipes {info['version']}</h1><p>{info['description']}</p>"]
    for path, methods in document["paths"].items():
        for method, facts in methods.items():
            parts.append(f"<h2>{method.upper()} {path}</h2><p>{facts['summary']}</p>")
            if "requestBody" in facts:
                (media,) = facts["requestBody"]["content"]
                parts.append(f"<pre>{html.escape(_curl(path, media))}</pre>")
    parts.append(f"<h2>Errors</h2>{_table(('status', 'meaning'), _ERRORS.items())}")
    for name, schema in schemas.items():
        needed = schema.get("required", ())
        fields = (
            (field, "yes" if field in needed else "no", _kind(facts)) for field, facts in schema["properties"].items()
        )
        parts.append(f"<h2>{name}</h2>{_table(('field', 'required', 'type'), fields)}")
    parts.append("<p>Complete and for programs: <a href=/openapi.json>openapi.json</a></p>")
    head = f"<meta charset=utf-8><meta name=viewport content='width=device-width'><style>{STYLE}</style>"
    return f"<!doctype html><html lang=en>{head}<title>radrecipes</title><main>{''.join(parts)}</main></html>"


def _curl(path: str, media: str) -> str:
    """A request to try, for a server on this machine without a token."""
    body = FHIR_EXAMPLE if "fhir" in media else {"text": "your order"}
    return f"curl -H 'Content-Type: {media}' -d '{json.dumps(body)}' localhost:PORT{path}"


def _kind(schema: Mapping[str, Any]) -> str:
    """The type of a field, with its limits."""
    if branches := schema.get("anyOf"):
        return " or ".join(map(_kind, branches))
    if "$ref" in schema:
        return schema["$ref"].rpartition("/")[2]
    kind = schema.get("type", "any")
    if kind == "array":
        return f"list of {schema.get('minItems', 0)} to {schema.get('maxItems', 'any')} {_kind(schema['items'])}"
    kind = kind if isinstance(kind, str) else " or ".join(kind)
    longest = schema.get("maxLength")
    return f"{kind}, at most {longest:,} characters" if longest else kind


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    cells = (("th", head), *(("td", row) for row in rows))
    lines = ("".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row) for tag, row in cells)
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"
