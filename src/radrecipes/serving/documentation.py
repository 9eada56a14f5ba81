"""The OpenAPI document of a server, and a page made from it."""

import html
import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

import radrecipes

_ERRORS = (
    "400 not JSON in UTF-8, 401 token missing or wrong, 404 not a route of this run, 405 wrong method, 408 body too slow, "
    "413 body too large, 415 wrong content type, 422 a wrong field, 429 too many requests in this minute, "
    "503 too many requests wait, or the server cannot answer at present: send it again"
)
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
    errors = {"default": {"description": _ERRORS, "content": {media: {"schema": error}}}}
    return {"summary": what, "requestBody": body, "responses": _ok(media, given) | errors}


def page(document: Mapping[str, Any]) -> str:
    """An OpenAPI document as HTML, without scripts and without anything from elsewhere."""
    parts = [f"<h1>radrecipes {document['info']['version']}</h1><p>{document['info']['description']}</p>"]
    routes = {
        f"{method.upper()} {path}": it for path, all_of in document["paths"].items() for method, it in all_of.items()
    }
    for title, content in {**routes, "Schemas": document["components"]["schemas"]}.items():
        shown = html.escape(json.dumps(content, indent=2))
        parts.append(f"<h2>{title}</h2><p>{content.get('summary', '')}</p><pre>{shown}</pre>")
    return f"<!doctype html><html lang=en><meta charset=utf-8><title>radrecipes</title>{''.join(parts)}</html>"
