"""Reads JSON objects in constant memory: one per line (JSONL), or all in one array or object."""

import io
import json
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from radrecipes.data.sources.table_rows import column_problem
from radrecipes.data.sources.text_tables import DAMAGED_GZIP, SURROGATE, json_object, text_lines
from radrecipes.errors import InputError
from radrecipes.files import MIB, ROW_LIMIT, unpacked

LINES, ARRAYS = (".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz"), (".json", ".json.gz")
# Objects whose keys are the header: a key without a value is often left out.
_FIRST = 100


def json_header(path: Path) -> list[str]:
    """The keys of the first objects, in the order in which they come."""
    first = islice(json_objects(path), _FIRST)
    header = list(dict.fromkeys(key for _, value in first if isinstance(value, dict) for key in value))
    if not header:
        raise InputError("contains no JSON object with columns as keys; give one object for each report", str(path))
    return header


def json_rows(path: Path, columns: Sequence[str], sparse: bool = True) -> Iterator[tuple[str, dict[str, str] | str]]:
    """Place of every object, and its cells by column, or what is wrong with it; without `sparse` it must have all columns."""
    for where, value in json_objects(path):
        if isinstance(value, dict):
            problem = None if sparse else column_problem(list(value), columns, "this object")
            value = problem or json_cells(value, columns)
        yield where, value


def json_objects(path: Path) -> Iterator[tuple[str, dict[str, Any] | str]]:
    """Place and content of every object, or what is wrong with it."""
    if path.name.lower().endswith(LINES):
        for number, line in enumerate(text_lines(path), start=1):
            if line.strip():
                yield f"{path}:{number}", json_object(line)
        return
    try:
        with unpacked(path) as binary, io.TextIOWrapper(binary, "utf-8-sig", errors="surrogateescape") as text:
            for number, value in enumerate(_elements(text, str(path)), start=1):
                found = value if isinstance(value, dict) else "is not an object with columns as keys"
                yield f"{path}:object {number}", found
    except DAMAGED_GZIP:
        raise InputError("is not a complete gzip file; copy it again", str(path)) from None


def json_cells(row: dict[str, Any], columns: Sequence[str]) -> dict[str, str] | str:
    """The cells of an object as texts, or what is wrong with one of them."""
    cells = {}
    for column in columns:
        value = row.get(column)
        # pandas writes NaN for an empty cell, and integers as decimals if one is missing.
        if isinstance(value, float):
            value = None if value != value else int(value) if value.is_integer() else value
        if value is None or (isinstance(value, int) and not isinstance(value, bool)):
            value = "" if value is None else str(value)
        if isinstance(value, list) and all(isinstance(part, str) for part in value):
            value = "\n".join(value)
        if not isinstance(value, str):
            return f"column {column!r} contains {type(value).__name__}, not text; name another column"
        if SURROGATE.search(value):
            return f"column {column!r} contains a broken character; save the file as UTF-8"
        cells[column] = value
    return cells


def _elements(text: io.TextIOWrapper, where: str) -> Iterator[Any]:
    """The elements of an array, the values of an object, and the elements of arrays among these."""
    decoder, buffer, position, number = json.JSONDecoder(), text.read(MIB), 0, 0
    opened = buffer.lstrip()[:1]
    if opened not in ("[", "{"):
        raise InputError(
            "does not begin with [ or {; give one JSON array of objects, or .jsonl with one per line", where
        )
    closing, key = {"[": "]", "{": "}"}[opened], opened == "{"
    position = buffer.index(opened) + 1
    while True:
        while position < len(buffer) and buffer[position] in " \t\r\n,:":
            position += 1
        if buffer[position : position + 1] == closing:
            return
        try:
            value, end = decoder.raw_decode(buffer, position)
        except (ValueError, RecursionError):
            more = text.read(MIB) if len(buffer) - position <= ROW_LIMIT else ""
            if not more:
                raise InputError(
                    f"is not valid JSON, cut off, or has an object larger than {ROW_LIMIT // MIB} MiB behind object {number};"
                    " write it again, for example as .jsonl",
                    where,
                ) from None
            buffer, position = buffer[position:] + more, 0
            continue
        position = end
        if opened == "{" and key:
            key = False
            continue
        key = opened == "{"
        for element in value if opened == "{" and isinstance(value, list) else (value,):
            number += 1
            yield element
        if position > MIB:
            buffer, position = buffer[position:], 0
