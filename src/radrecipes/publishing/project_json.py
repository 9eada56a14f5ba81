"""Checks the JSON of a release against its schema: which values are typed, and which are free text and so may name a person."""

import functools
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from radrecipes.data.dataset_folder import MANIFEST_FILE
from radrecipes.evaluation.results import RESULTS_FILE
from radrecipes.inference.abstention import POLICY_FILE

METRICS_FILE = "metrics.json"
_SCHEMA_OF_FILE = {
    METRICS_FILE: "metrics",
    RESULTS_FILE: "results",
    POLICY_FILE: "policy",
    "tokenizer_config.json": "tokenizer_config",
    "generation_config.json": "generation_config",
    "config.json": "model_config",
}
_TOKEN = re.compile(r'[{}\[\],:]|"(?:[^"\\]|\\.)*"|[^\s{}\[\],:"]+')
# Character by character, so that offsets and lines stay the same.
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))")
_SHORTEST_DIGEST = 40


def unescaped(text: str) -> str:
    """JSON with escapes decoded, and a line break or half a surrogate pair as a space."""

    def plain(match: re.Match[str]) -> str:
        character = chr(int(match[1], 16)) if match[1] else " " if match[2] in "bfnrt" else match[2]
        return " " if character.isspace() or "\ud800" <= character <= "\udfff" else character

    return _ESCAPE.sub(plain, text)


def schema_of(file: str, kind: str) -> str | None:
    """The name of a file's schema in schemas.yaml; `None` if this project does not write the file."""
    if file == MANIFEST_FILE:
        return "dataset_manifest" if kind == "dataset" else "run_manifest"
    return _SCHEMA_OF_FILE.get(file)


def schema_errors(text: str, schema: str) -> list[str]:
    """Where a document does not match its schema, in the schema's words, so that no value is quoted."""
    errors = _validator({**_schemas(), "$ref": f"#/$defs/{schema}"}).iter_errors(json.loads(text))
    return sorted({"/".join(map(str, error.absolute_schema_path)) for error in errors})


def free_text(text: str, schema: str | None) -> Iterator[tuple[int, str]]:
    """Every field of a JSON text that may name a person, with its line; `"key: value"` if the schema does not know the key.

    Omits values that the schema types, and those that cannot identify a person: numbers with decimals, booleans and `null`.
    """
    for keys, line, token in _values(text):
        known, rules = _rules_at(schema, keys)
        key = unescaped(next((part for part in reversed(keys) if part is not None), ""))
        value, is_text = _plain(token), token[0] == '"'
        # Tables write record numbers also as `4471902.0`.
        is_integer = token[0] in "-0123456789" and float(token).is_integer()
        # A typed integer under an unknown key is searched too: `"mrn": 4471902`.
        typed = _is_typed(token, rules) and (known or is_text)
        if (is_text or is_integer) and not typed:
            yield line, value if known else f"{key}: {value}"
        elif not known:
            yield line, key


def digests(text: str, schema: str) -> Iterator[str]:
    """The hashes and commits in a document, which card and recipe repeat."""
    for keys, _, token in _values(text):
        is_long = token[0] == '"' and len(_plain(token)) >= _SHORTEST_DIGEST
        if is_long and _is_typed(token, _rules_at(schema, keys)[1]):
            yield _plain(token)


def _plain(token: str) -> str:
    """A scalar without quotes and escapes."""
    return unescaped(token[1:-1]) if token[0] == '"' else token


def _values(text: str) -> Iterator[tuple[tuple[str | None, ...], int, str]]:
    """Path (`None` for an array), line and token of each value of a JSON text: a scalar, or the start of an object or array."""
    line, end = 1, 0
    keys: list[str | None] = []
    key_follows = False
    for match in _TOKEN.finditer(text):
        line += text.count("\n", end, match.start())
        end, token = match.start(), match[0]
        if token in ("}", "]"):
            keys.pop()
        elif token == ",":
            key_follows = keys[-1] is not None
        elif key_follows:
            keys[-1], key_follows = token[1:-1], False
        elif token != ":":
            yield tuple(keys), line, token
            if token in ("{", "["):
                keys.append("" if token == "{" else None)
                key_follows = token == "{"


@functools.lru_cache(maxsize=10_000)
def _rules_at(schema: str | None, keys: tuple[str | None, ...]) -> tuple[bool, Mapping[str, Any]]:
    """Whether the schema names the last key, and its rules for the value."""
    known, rules = True, {} if schema is None else _schemas()["$defs"][schema]
    for key in keys:
        if key is None:
            rules = _resolved(rules.get("items", {}))
        else:
            known = key in rules.get("properties", {})
            rules = _resolved(rules["properties"][key] if known else rules.get("additionalProperties", {}))
    return known, rules


def _is_typed(token: str, rules: Mapping[str, Any]) -> bool:
    """Whether a value has a type that leaves no room for a name."""
    if token in ("{", "["):
        return False
    branches = map(_resolved, rules.get("anyOf", [rules]))
    typed = [branch for branch in branches if branch and (token[0] != '"' or branch.keys() & {"pattern", "enum"})]
    return any(_validator(branch).is_valid(json.loads(token)) for branch in typed)


def _validator(rules: Mapping[str, Any]) -> Any:
    from jsonschema import Draft202012Validator

    return Draft202012Validator(rules)


def _resolved(rules: Mapping[str, Any]) -> Mapping[str, Any]:
    return _schemas()["$defs"][rules["$ref"].rpartition("/")[2]] if "$ref" in rules else rules


@functools.lru_cache(maxsize=1)
def _schemas() -> dict[str, Any]:
    return yaml.safe_load(Path(__file__).with_name("schemas.yaml").read_text(encoding="utf-8"))
