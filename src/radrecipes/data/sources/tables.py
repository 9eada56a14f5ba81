"""Reads any table (CSV, TSV, JSONL, Parquet) into examples, by the names of its columns."""

import csv
import gzip
import io
import json
import os
import re
import zlib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from rapidfuzz import fuzz, process

from radrecipes.data.csv_cells import unguarded
from radrecipes.data.example import Example
from radrecipes.data.parquet import iterate_rows, open_parquet
from radrecipes.errors import InputError
from radrecipes.files import MIB, ROW_LIMIT, bounded_lines, open_regular, unpacked

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
# A cell may span lines; without a limit one open quote takes the rest of the file, for each row again.
_LINES_OF_A_ROW = 5000
_MOST_REPEATED = 16 * MIB  # characters that are read again after rows with an open quote
_TOO_LONG = "the row is too long"
_SURROGATE = re.compile("[\ud800-\udfff]")
# A column that is named in an error is as similar as this to the one that the user wrote.
_NEAR = 80
_SUFFIXES = ".csv, .tsv, .jsonl (each also with .gz) or .parquet"
# The place of a row, and its cells by column or what is wrong with it.
_Row = tuple[str, dict[str, str] | str]


@dataclass(frozen=True)
class RejectedRow:
    """A row that cannot be read; `reason` says what is wrong and how to fix it, and never quotes a cell."""

    where: str
    reason: str

    @property
    def line(self) -> str:
        """`17`, or `row 17` for Parquet."""
        return self.where.rpartition(":")[2]


def read_examples(path: str | Path, **columns: Any) -> list[Example]:
    """Read a complete table with columns as for [`iterate_examples`]; a rejected row is an [`InputError`]."""
    examples = []
    for row in iterate_examples(path, **columns):
        if isinstance(row, RejectedRow):
            raise InputError(row.reason, where=row.where)
        examples.append(row)
    if not examples:
        raise InputError("the file has no rows below its header; give a table with rows", where=str(path))
    return examples


def iterate_examples(
    path: str | Path,
    *,
    inputs: Mapping[str, str],
    target: str | None = None,
    id_column: str | None = None,
    group_column: str | None = None,
) -> Iterator[Example | RejectedRow]:
    """Read a table row by row in constant memory, and continue after a row that cannot be read.

    A CSV row with a broken quote is rejected with the line that it starts on, and reading continues with the next
    line, so that an open quote cannot swallow the rows below it. The next lines may be the rest of that row, so they
    are rejected too as long as they have the wrong number of fields or an odd number of quotes. A row with the wrong
    number of fields but intact quotes is rejected with all lines that it spans.

    Without `target` every target is empty; without `id_column` all rows, also rejected ones, are numbered from 1;
    without `group_column` each row is its own group. Empty cells are empty text. `where` is
    `file:line`, with the line on which the row starts in a text editor, or `file:row number` for Parquet. The apostrophe before
    a formula in a cell of a CSV file, see [`~data.csv_cells.guarded`], is not part of it.

    Args:
        path: A `.csv`, `.tsv` or `.jsonl` file in UTF-8, also gzipped, or a `.parquet` file.
        inputs: Column of the file for each input of the task, for example `{"note": "order_text"}`.
    """
    path = Path(path)
    columns = list(dict.fromkeys(column for column in (*inputs.values(), target, id_column, group_column) if column))
    for number, (where, cells) in enumerate(_rows(path, columns), start=1):
        if isinstance(cells, str):
            yield RejectedRow(where, cells)
            continue
        row_id = cells[id_column].strip() if id_column else str(number)
        yield Example(
            id=row_id,
            group=cells[group_column].strip() if group_column else row_id,
            inputs={name: cells[column] for name, column in inputs.items()},
            target=cells[target] if target else "",
            where=where,
        )


def _rows(path: Path, columns: Sequence[str]) -> Iterator[_Row]:
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise InputError("no such file; check the path", where=str(path)) from None
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror}); check its permissions", where=str(path)) from None
    if size == 0:
        raise InputError("the file is empty; give a table with a header and rows", where=str(path))
    name = path.name.lower()
    if name.endswith(".parquet"):
        return _parquet_rows(path, columns)
    kind = Path(name.removesuffix(".gz")).suffix
    if kind == ".jsonl":
        lines = ((f"{path}:{number}", line) for number, line in enumerate(text_lines(path), start=1))
        return ((where, _json_cells(line, columns)) for where, line in lines if line.strip())
    if kind in _DELIMITERS:
        return _delimited_rows(path, columns, _DELIMITERS[kind])
    raise InputError(f"the format is not clear from the name; it must end with {_SUFFIXES}", where=str(path))


def text_lines(path: Path) -> Iterator[str]:
    """Lines of a file in UTF-8, also gzipped, each with its line end."""
    # Undecodable bytes become lone surrogates, so that their line can be named.
    with (
        unpacked(path) as binary,
        io.TextIOWrapper(binary, "utf-8-sig", errors="surrogateescape", newline="") as lines,
    ):
        number = 0
        try:
            for number, line in enumerate(bounded_lines(lines, str(path)), start=1):  # noqa: B007 (named in the error)
                yield line
        except (gzip.BadGzipFile, EOFError, zlib.error):
            raise InputError("is not a complete gzip file; copy it again", f"{path}:{number + 1}") from None


def _line_problem(line: str) -> str | None:
    if _SURROGATE.search(line):
        return "is not UTF-8; save the file as UTF-8"
    return "contains a NUL byte; save the file as UTF-8 text" if "\0" in line else None


class RowLines:
    """Lines for a CSV reader that can go back to the second line of the current row.

    A row with more than `_LINES_OF_A_ROW` lines or [`ROW_LIMIT`] characters is a [`csv.Error`]: its quote is never closed.
    """

    def __init__(self, lines: Iterator[str]):
        self._lines = lines
        self._again: deque[str] = deque()
        self._repeated = 0
        self.next_number = 1
        self.begin_row()

    def __iter__(self) -> "RowLines":
        """These lines."""
        return self

    def __next__(self) -> str:
        """The next line of the current row."""
        line = self._again.popleft() if self._again else next(self._lines)
        self.row.append(line)
        self.next_number += 1
        self._characters += len(line)
        if len(self.row) > _LINES_OF_A_ROW or self._characters > ROW_LIMIT:
            raise csv.Error(_TOO_LONG)
        return line

    def begin_row(self) -> None:
        """Count the lines of the next row."""
        self.row: list[str] = []
        self._characters = 0

    def read_rest_again(self, where: str) -> None:
        """Return the current row's lines again, except for the first; an [`InputError`] if that happens too often."""
        self._repeated += self._characters
        if self._repeated > _MOST_REPEATED:
            raise InputError("too many rows with a quote that is not closed; write the file again", where=where)
        self._again.extendleft(reversed(self.row[1:]))
        self.next_number -= len(self.row) - 1


def _delimited_rows(path: Path, columns: Sequence[str], delimiter: str) -> Iterator[_Row]:
    row_lines = RowLines(text_lines(path))
    reader = csv.reader(row_lines, delimiter=delimiter, strict=True)
    header: list[str] | None = None
    broken_line = None  # of the broken row whose rest may follow
    while True:
        # A row may span lines; an editor finds it by the line that it starts on.
        row_lines.begin_row()
        first_line = row_lines.next_number
        where, problem = f"{path}:{first_line}", None
        try:
            fields = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            fields = []
            problem = (
                "a quote is not closed in the row that starts here; close it"
                if any(words in str(error) for words in ("unexpected end of data", "field larger", _TOO_LONG))
                else f"the row that starts here is broken ({error}); quote its fields and double the quotes inside"
            )
        quotes_broken = problem is not None
        for number, line in enumerate(row_lines.row[:1] if quotes_broken else row_lines.row, start=first_line):
            if line_problem := _line_problem(line):
                where, problem = f"{path}:{number}", line_problem
                break
        if problem is None and not fields:
            continue
        if header is None:
            if problem:
                raise InputError(problem, where=where)
            header = [name.strip() for name in fields]
            if column_problem := _column_problem(header, columns, "the first line, which must be a header"):
                raise InputError(column_problem, where=str(path))
            positions = {column: header.index(column) for column in columns}
            continue
        if problem is None and len(fields) != len(header):
            spanned = f" (lines {first_line} to {row_lines.next_number - 1})" if len(row_lines.row) > 1 else ""
            problem = (
                f"the row has {len(fields)} fields, the header {len(header)}{spanned}; quote fields that contain the"
                " separator"
            )
        if broken_line and (problem or sum(line.count('"') for line in row_lines.row) % 2):
            also = f" ({problem})" if problem else ""
            problem = f"may be the rest of the broken row in line {broken_line}; fix that one{also}"
        if quotes_broken:
            broken_line = broken_line or first_line
            row_lines.read_rest_again(where)
        elif not problem:
            broken_line = None
        yield where, problem or {column: unguarded(fields[position]) for column, position in positions.items()}
    if header is None:
        raise InputError("the file is empty; give a table with a header and rows", where=str(path))


def _json_cells(line: str, columns: Sequence[str]) -> dict[str, str] | str:
    if problem := _line_problem(line):
        return problem
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        # Other than JSON's own errors: a number with thousands of digits, or brackets nested thousands deep.
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply, or a number too long"
        return f"not valid JSON ({reason}); write one object per line"
    if not isinstance(row, dict):
        return "must be a JSON object with the columns as keys"
    return _column_problem(list(row), columns, "this object") or _cells(row, columns)


def _parquet_rows(path: Path, columns: Sequence[str]) -> Iterator[_Row]:
    try:
        with open_parquet(path, columns) as file:
            if problem := _column_problem(file.schema_arrow.names, columns, "the schema"):
                raise InputError(problem, where=str(path))
            for number, row in enumerate(iterate_rows(file, columns, str(path)), start=1):
                yield f"{path}:row {number}", _cells(row, columns)
    except UnicodeDecodeError:
        raise InputError("contains text that is not UTF-8; write it again as UTF-8", where=str(path)) from None
    except (pa.ArrowException, OSError, OverflowError) as error:  # the last: a date that Python lacks
        # Messages of pyarrow can quote what the file contains.
        raise InputError(
            f"not readable as Parquet ({type(error).__name__}); write it again", where=str(path)
        ) from None


def _cells(row: Mapping[str, Any], columns: Sequence[str]) -> dict[str, str] | str:
    cells = {}
    for column in columns:
        value = "" if row[column] is None else row[column]
        # Identifiers are often integers; any other type is probably the wrong column.
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if isinstance(value, float):
            return (
                f"column {column!r} contains decimal numbers, as pandas writes integers if one is missing; write integers"
                " or text"
            )
        if not isinstance(value, str):
            return f"column {column!r} contains {type(value).__name__}, not text; name another column"
        # JSON can spell half of a surrogate pair, which no file in UTF-8 can contain.
        if _SURROGATE.search(value):
            return f"column {column!r} contains a broken Unicode character; remove it"
        cells[column] = value
    return cells


def _column_problem(present: Sequence[str], columns: Sequence[str], names: str) -> str | None:
    """What is wrong with the columns; shows no name that the user did not nearly write: without a header it is a cell."""
    for column in columns:
        if present.count(column) > 1:
            return f"column {column!r} occurs twice in the header; rename one"
        if column in present:
            continue
        if len(present) == 1 and ";" in present[0]:
            return f"no column {column!r}; the fields are separated by semicolons: save the file with commas"
        near = process.extractOne(column, present, processor=str.lower, scorer=fuzz.ratio, score_cutoff=_NEAR)
        if near:
            return f"no column {column!r}; did you mean {near[0]!r}?"
        return f"no column {column!r} among the {len(present)} of {names}; look there for the right name"
    return None
