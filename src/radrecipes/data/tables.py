"""Reading a table of any origin (CSV, TSV, JSONL, Parquet) into examples, by the names of its columns."""

import csv
import gzip
import io
import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rapidfuzz import fuzz, process

from radrecipes.data.example import Example
from radrecipes.errors import InputError

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_SUFFIXES = ".csv, .tsv, .jsonl (each also with .gz) or .parquet"


def read_examples(
    path: str | Path,
    *,
    inputs: Mapping[str, str],
    target: str | None = None,
    id_column: str | None = None,
    group_column: str | None = None,
) -> list[Example]:
    """Read a table and hand over each row as an example, as it stands in the file.

    Args:
        path (`str` or `Path`):
            A `.csv`, `.tsv` or `.jsonl` file in UTF-8, also gzipped, or a `.parquet` file.
        inputs (`Mapping[str, str]`):
            Column of the file for each input of the task, for example `{"note": "order_text"}`.
        target (`str`, *optional*):
            Column that holds the label; without it every target is empty, as for rows that wait for a prediction.
        id_column (`str`, *optional*):
            Column that identifies a row; without it rows are numbered from 1.
        group_column (`str`, *optional*):
            Column of what a split must not tear apart; without it each row stands for itself.

    Returns:
        `list[Example]`: One per row, in file order, empty cells as empty text. `where` is `file:line`, the line on
        which the row starts in a text editor, or `file:row` for Parquet.

    Raises:
        InputError: The file is missing, empty or broken, or a column is missing. Names the line.
    """
    path = Path(path)
    columns = list(dict.fromkeys(column for column in (*inputs.values(), target, id_column, group_column) if column))
    suffixes = [suffix.lower() for suffix in path.suffixes]
    compressed = suffixes[-1:] == [".gz"]
    kind = (suffixes[:-1] if compressed else suffixes)[-1:]
    if not path.is_file():
        raise InputError("no such file; check the path", where=str(path))
    if not os.access(path, os.R_OK):
        raise InputError("may not be read; check its permissions", where=str(path))
    if path.stat().st_size == 0:
        raise InputError("the file is empty; give a table with a header and rows", where=str(path))
    if kind == [".parquet"] and not compressed:
        rows = _parquet_rows(path, columns)
    elif kind == [".jsonl"]:
        rows = _json_rows(path, _text_lines(path, compressed), columns)
    elif kind and kind[0] in _DELIMITERS:
        rows = _delimited_rows(path, _text_lines(path, compressed), columns, _DELIMITERS[kind[0]])
    else:
        raise InputError(f"cannot tell the format from the name; it must end with {_SUFFIXES}", where=str(path))

    examples = []
    for number, (where, row) in enumerate(rows, start=1):
        row_id = row[id_column].strip() if id_column else str(number)
        examples.append(
            Example(
                id=row_id,
                group=row[group_column].strip() if group_column else row_id,
                inputs={name: row[column] for name, column in inputs.items()},
                target=row[target] if target else "",
                where=where,
            )
        )
    if not examples:
        raise InputError("the file has no rows below its header; give a table with rows", where=str(path))
    return examples


def _text_lines(path: Path, compressed: bool) -> Iterator[str]:
    # Undecodable bytes become lone surrogates, so that the line that holds them can be named.
    with (
        gzip.open(path, "rb") if compressed else path.open("rb") as binary,
        io.TextIOWrapper(binary, "utf-8-sig", errors="surrogateescape", newline="") as lines,
    ):
        number = 0
        try:
            for number, line in enumerate(lines, start=1):
                if not line.isascii():
                    line.encode("utf-8")
                if "\0" in line:
                    raise InputError("holds a NUL byte; save the file as UTF-8 text", where=f"{path}:{number}")
                yield line
        except UnicodeEncodeError:
            raise InputError("is not UTF-8; save the file as UTF-8", where=f"{path}:{number}") from None
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise InputError(f"is not a whole gzip file ({error}); copy it again", f"{path}:{number + 1}") from None


def _delimited_rows(
    path: Path, lines: Iterator[str], columns: Sequence[str], delimiter: str
) -> Iterator[tuple[str, dict[str, str]]]:
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    header: list[str] | None = None
    while True:
        # A row may span lines; it is found in an editor by the line that it starts on.
        first_line = reader.line_num + 1
        where = f"{path}:{first_line}"
        try:
            fields = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            mend = (
                "a quote is not closed in the row that starts here; close it"
                if "unexpected end of data" in str(error) or "field larger" in str(error)
                else f"the row that starts here is broken ({error}); quote its fields and double the quotes inside"
            )
            raise InputError(mend, where=where) from None
        if not fields:
            continue
        if header is None:
            header = [name.strip() for name in fields]
            _check_columns(path, header, columns)
            positions = {column: header.index(column) for column in columns}
            continue
        if len(fields) != len(header):
            raise InputError(
                f"the row has {len(fields)} fields, the header {len(header)}; quote fields that hold the separator",
                where=where,
            )
        yield where, {column: fields[position] for column, position in positions.items()}
    if header is None:
        raise InputError("the file is empty; give a table with a header and rows", where=str(path))


def _json_rows(path: Path, lines: Iterator[str], columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    for number, line in enumerate(lines, start=1):
        where = f"{path}:{number}"
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply"
            raise InputError(f"not valid JSON ({reason}); write one object per line", where=where) from None
        if not isinstance(row, dict):
            raise InputError("must be a JSON object with the columns as keys", where=where)
        _check_columns(where, list(row), columns)
        yield where, {column: _cell(row[column], column, where) for column in columns}


def _parquet_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    try:
        with pq.ParquetFile(path) as file:
            _check_columns(path, file.schema_arrow.names, columns)
            number = 0
            for batch in file.iter_batches(columns=list(columns)):
                for row in batch.to_pylist():
                    number += 1
                    where = f"{path}:row {number}"
                    yield where, {column: _cell(row[column], column, where) for column in columns}
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"not readable as Parquet ({reason}); write it again", where=str(path)) from None


def _cell(value: Any, column: str, where: str) -> str:
    if value is None:
        return ""
    # Identifiers are often whole numbers; anything else is more likely the wrong column than a text.
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, str):
        # JSON can spell half of a surrogate pair, which no file in UTF-8 can hold.
        if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
            raise InputError(f"column {column!r} holds a broken Unicode character; remove it", where=where)
        return value
    raise InputError(f"column {column!r} holds {type(value).__name__}, not text; name another column", where=where)


def _check_columns(where: Path | str, present: Sequence[str], columns: Sequence[str]) -> None:
    for column in columns:
        if present.count(column) > 1:
            raise InputError(f"column {column!r} stands twice in the header; rename one", where=str(where))
        if column in present:
            continue
        near = process.extractOne(column, present, processor=str.lower, scorer=fuzz.ratio, score_cutoff=60)
        hint = f"did you mean {near[0]!r}? " if near else ""
        if len(present) == 1 and ";" in present[0]:
            hint = "the fields are separated by semicolons: save the file with commas. "
        listed = ", ".join(" ".join(name.split()) for name in present[:20]) + (", …" if len(present) > 20 else "")
        raise InputError(f"no column {column!r}; {hint}columns: {listed}", where=str(where))
