"""Reads JSON objects in constant memory: one per line (JSONL), or all in one array or object."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from radrecipes.data.sources.text_tables import (
    DAMAGED_GZIP,
    NOT_IN,
    UTF_8,
    codec,
    json_object,
    line_problem,
    text_lines,
)
from radrecipes.errors import InputError
from radrecipes.files import MIB, ROW_LIMIT, unpacked

_LINES = (".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz")


def json_objects(path: Path, encoding: str = UTF_8) -> Iterator[tuple[str, dict[str, Any] | str]]:
    """Place and content of every object, or what is wrong with it."""
    if path.name.lower().endswith(_LINES):
        for number, line in enumerate(text_lines(path, encoding), start=1):
            if line.strip():
                yield f"{path}:{number}", line_problem(line, encoding) or json_object(line)
        return
    try:
        with unpacked(path) as binary, io.TextIOWrapper(binary, codec(encoding), errors="surrogateescape") as text:
            for number, value in enumerate(_elements(text, str(path)), start=1):
                found = value if isinstance(value, dict) else "is not an object with columns as keys"
                yield f"{path}:object {number}", found
    except DAMAGED_GZIP:
        raise InputError("is not a complete gzip file; copy it again", str(path)) from None
    except UnicodeError:
        raise InputError(NOT_IN.format(encoding), str(path)) from None


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
            return _refuse_more(buffer[position + 1 :], text, where)
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


def _refuse_more(rest: str, text: io.TextIOWrapper, where: str) -> None:
    """Raise an [`InputError`] if anything but blanks follows the array or object."""
    while not rest.strip() and (rest := text.read(MIB)):
        pass
    if rest.strip():
        raise InputError(
            "goes on after its first array or object; write one JSON array of objects, or rename it to .jsonl if it has one"
            " object per line",
            where,
        )
