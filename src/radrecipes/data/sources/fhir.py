"""FHIR resources, one JSON object per line: what is at a path in them.

fhir.resources 8.3 was measured and not used: it has one class per FHIR version, which refuses the fields of the others, vendors'
fields, local times and empty texts, and it needs 0.29 ms a report, 25 times as much as JSON alone.
"""

import re
from collections.abc import Mapping
from typing import Any

from radrecipes.data.sources.text_tables import SURROGATE, json_object

# Type and id in a reference: `https://host/Patient/P1/_history/2` is the same resource as `Patient/P1`.
_TYPE_AND_ID = re.compile(r"(?:\A|/)([A-Z][A-Za-z]+/[A-Za-z0-9.-]+)(?:/_history/[^/]+)?/?\Z")


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
    # R5 has a concept or a reference within what was a concept.
    for part in (value, value.get("concept"), value.get("reference")):
        if isinstance(part, dict):
            codings = part.get("coding") if isinstance(part.get("coding"), list) else []
            names = [coding.get("display") for coding in codings if isinstance(coding, dict)]
            for text in (part.get("text"), *names, _referenced(part), part.get("display"), part.get("value")):
                if isinstance(text, str) and text.strip():
                    return text
    return ""


def _referenced(value: dict) -> str:
    """What a reference refers to: type and id of a resource, else system and value of an identifier."""
    reference, identifier = value.get("reference"), value.get("identifier")
    if isinstance(reference, str) and reference.strip():
        found = _TYPE_AND_ID.search(reference.strip())
        return found[1] if found else reference
    parts = (identifier.get(name) for name in ("system", "value")) if isinstance(identifier, dict) else ("", "")
    system, number = ("" if isinstance(part, dict) else " ".join(_text_of(part).split()) for part in parts)
    return f"{system}|{number}" if system and number else number


def parsed(line: str) -> dict[str, Any] | str:
    """The resource in a line, or what is wrong with it."""
    if SURROGATE.search(line):
        return "is not UTF-8; save the file as UTF-8"
    resource = json_object(line)
    return resource if isinstance(resource, dict) else "write one resource per line"
