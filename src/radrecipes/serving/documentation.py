"""The OpenAPI document of a server, and a page made from it."""

import html
import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

import radrecipes

_ERRORS = {
    "400": "The body is not valid JSON in UTF-8.",
    "401": "The bearer token is missing or wrong, if the server has one.",
    "408": "The body did not arrive in time.",
    "413": "The body is too large.",
    "415": "The content type is wrong.",
    "422": "A field is wrong; `field` names it.",
    "429": "Too many requests in this minute.",
    "503": "Too many requests wait, or the server stops; send the request again.",
}


def openapi(
    order: type[BaseModel], orders: type[BaseModel], columns: pa.Schema, max_orders: int, labels: bool
) -> dict[str, Any]:
    """The OpenAPI document of a run that chooses labels, or writes texts, with the `columns` of its answers."""
    _, schema = models_json_schema(
        [(order, "validation"), (orders, "validation")], ref_template="#/components/schemas/{model}"
    )
    schemas = schema["$defs"]
    schemas["Orders"]["properties"]["orders"] |= {"minItems": 1, "maxItems": max_orders}
    kinds = {column.name: "number" if pa.types.is_floating(column.type) else "string" for column in columns}
    schemas["Answer"] = _object({name: {"type": [kind, "null"]} for name, kind in kinds.items()})
    schemas["Answers"] = _object({"answers": {"type": "array", "items": _schema("Answer")}})
    schemas["Error"] = _object({"error": {"type": "string"}, "field": {"type": ["string", "null"]}})
    schemas["Resource"] = {
        "type": "object",
        "properties": {"resourceType": {"type": "string"}},
        "required": ["resourceType"],
    }
    asked, given = (
        {"oneOf": [_schema(name) for name in names]} for names in (("Order", "Orders"), ("Answer", "Answers"))
    )
    answer = _post("The answers to one input, or to several.", "application/json", asked, given, _schema("Error"))
    paths = {"/v1/predict" if labels else "/v1/report": answer}
    if labels:
        what = "A proposal, or a task for a person, for a FHIR R4 ServiceRequest or a Bundle of them."
        resource = _schema("Resource")
        paths["/fhir/ServiceRequest"] = _post(what, "application/fhir+json", resource, resource, resource)
    for path, what, media in (
        ("/healthz", "Whether requests are answered.", "application/json"),
        ("/metrics", "Metrics for Prometheus.", "text/plain"),
        ("/openapi.json", "This document.", "application/json"),
        ("/docs", "This document as a page.", "text/html"),
    ):
        paths[path] = {"get": {"summary": what, "responses": {"200": {"description": "OK", "content": {media: {}}}}}}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "radrecipes",
            "version": radrecipes.__version__,
            "description": "Answers are drafts for review by a person; this is not a medical device.",
        },
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
        "security": [{"token": []}, {}],
    }


def _schema(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _post(what: str, media: str, asked: Any, given: Any, error: Any) -> dict[str, Any]:
    def content(schema: Any) -> dict[str, Any]:
        return {media: {"schema": schema}}

    errors = {status: {"description": why, "content": content(error)} for status, why in _ERRORS.items()}
    return {
        "post": {
            "summary": what,
            "requestBody": {"required": True, "content": content(asked)},
            "responses": {"200": {"description": "OK", "content": content(given)}, **errors},
        }
    }


def page(document: Mapping[str, Any]) -> str:
    """An OpenAPI document as HTML, without scripts and without anything from elsewhere."""
    parts = [
        f"<h1>{document['info']['title']} {document['info']['version']}</h1><p>{document['info']['description']}</p>"
    ]
    for path, methods in document["paths"].items():
        for method, facts in methods.items():
            parts.append(f"<h2>{method.upper()} {html.escape(path)}</h2><p>{html.escape(facts['summary'])}</p>")
            shown = {name: facts[name] for name in ("requestBody", "responses") if name in facts}
            parts.append(_code(shown))
    parts.append(f"<h2>Schemas</h2>{_code(document['components']['schemas'])}")
    return f"<!doctype html><html lang=en><meta charset=utf-8><title>radrecipes</title>{''.join(parts)}</html>"


def _code(value: Any) -> str:
    return f"<pre>{html.escape(json.dumps(value, indent=2, ensure_ascii=False))}</pre>"
