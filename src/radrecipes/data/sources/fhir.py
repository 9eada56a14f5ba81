"""FHIR resources, one JSON object per line: what is at a path in them.

fhir.resources 8.3 was measured and not used: it has one class per FHIR version, which refuses the fields of the others, vendors'
fields, local times and empty texts, and it needs 0.29 ms a report, 25 times as much as JSON alone.
"""

from collections.abc import Mapping
from typing import Any

from radrecipes.data.sources.text_tables import SURROGATE, json_object


def text_at(resource: Mapping[str, Any], path: str) -> str:
    """The text at a dotted path, of a list all joined by `; `: of a CodeableConcept its text or the first name of its codes."""
    values: list[Any] = [resource]
    for name in path.split("."):
        inner = (value.get(name) for value in values if isinstance(value, dict))
        values = [item for value in inner for item in (value if isinstance(value, list) else [value])]
    texts = (_text_of(value) for value in values)
    return "; ".join(dict.fromkeys(" ".join(text.split()) for text in texts if text.strip()))


def _text_of(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, dict):
        return ""
    codings = value.get("coding") if isinstance(value.get("coding"), list) else []
    names = [coding.get("display") for coding in codings if isinstance(coding, dict)]
    for text in (value.get("text"), *names, value.get("reference"), value.get("display"), value.get("value")):
        if isinstance(text, str) and text.strip():
            return text
    # R5 has a concept or a reference within what was a concept.
    return next((_text_of(value[name]) for name in ("concept", "reference") if isinstance(value.get(name), dict)), "")


def parsed(line: str) -> dict[str, Any] | str:
    """The resource in a line, or what is wrong with it."""
    if SURROGATE.search(line):
        return "is not UTF-8; save the file as UTF-8"
    resource = json_object(line)
    return resource if isinstance(resource, dict) else "write one resource per line"
