"""Reads any table (CSV, TSV, TXT, JSON, JSONL, Excel, Parquet) row by row: cells by the names of their columns."""

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import date, time, timedelta
from decimal import Decimal
from itertools import islice
from math import isnan
from pathlib import Path
from typing import Any

from rapidfuzz import fuzz, process

from radrecipes.data.csv_cells import unguarded
from radrecipes.data.parquet import iterate_rows, open_parquet
from radrecipes.data.sources import excel
from radrecipes.data.sources.json_records import json_objects
from radrecipes.data.sources.table_form import (
    MOST_TITLE_ROWS,
    TableForm,
    check_title_rows,
    column_name,
    find_header,
    first_lines,
    named,
    without_footer,
)
from radrecipes.data.sources.text_tables import (
    SURROGATE,
    UTF_8,
    RawRow,
    delimited_rows,
    detect_encoding,
)
from radrecipes.errors import InputError
from radrecipes.files import open_regular

# What the name of a file promises.
_USUAL_DELIMITERS = {".csv": ",", ".tsv": "\t", ".txt": "\t", ".tab": "\t"}
_JSON = (".json", ".jsonl", ".ndjson")
SUFFIXES = ".csv, .tsv, .txt, .json, .jsonl (each also with .gz), .xlsx or .parquet"
# Objects of a JSON file whose keys are its header.
_FIRST_OBJECTS = 100
# A column that is named in an error is as similar as this to the one that the user wrote.
_NEAR, _SHOWN = 80, 6
# Names that columns of orders and reports often have. An error may show them, because they cannot be the cell of a patient.
_USUAL_NAMES = re.compile(
    r"(?:(?:order|exam|request|report|note|clinical|study)[ _-]?)?(?:text|notes?|order|indication|history|reason|question|exam"
    r"|examination|description|information|details|request|report|findings|impression|prompt|completion|observations|protocol|labels?|answer|target"
    r"|class|category|name)",
    re.IGNORECASE,
)
# The place of a row, and its cells by column or what is wrong with it.
Row = tuple[str, dict[str, str] | str]


class Table(ABC):
    """A table that [`open_table`] has found readable.

    Attributes:
        header: Names of the columns in the order of the file; of a JSON file, the keys of its first objects.
        facts: How the table is written, for the manifest: only what differs from a plain file in UTF-8 with its header in the
            first line. `footer_rows` is known when the rows were read.
    """

    header: list[str]

    def __init__(self, path: Path):
        self.path = path
        self.facts: dict[str, str | int] = {}

    @property
    def said(self) -> str:
        """[`facts`] as one line, for example `orders.csv: separated by ;, cp1252, header in line 3`; empty if there are none."""
        words = {
            "delimiter": lambda value: f"separated by {named(value)}",
            "encoding": str,
            "sheet": lambda value: f"sheet {value}",
            "header_line": lambda value: f"header in line {value}",
            "header_row": lambda value: f"header in row {value}",
            "footer_rows": lambda value: f"{value} footer row{'s' if value > 1 else ''} left out",
        }
        said = ", ".join(words[name](self.facts[name]) for name in words if name in self.facts)
        return f"{self.path.name}: {said}" if said else ""

    @abstractmethod
    def rows(self, columns: Sequence[str], values: Collection[str] = ()) -> Iterator[Row]:
        """The rows from the first: `(where, cells by column)`, or `(where, problem)` for one that cannot be read.

        Reading continues after a row with a problem; a problem never quotes a cell. Cells are texts as they are in the file, empty
        if they are missing. Integers are texts too; a column with other values than texts is a problem.

        Args:
            columns: The columns to read; an [`InputError`] if the header does not have one.
            values: Columns that may also contain decimal numbers, truth values, dates and lists of texts, which become texts.
        """

    def _left_out(self, rows: int) -> None:
        if rows:
            self.facts["footer_rows"] = rows

    def _check(self, columns: Sequence[str] | None, names: str) -> None:
        if problem := column_problem(self.header, columns or (), names):
            raise InputError(problem, where=str(self.path))


def open_table(
    path: str | Path,
    columns: Sequence[str] | None = None,
    form: TableForm | None = None,
    likely: Collection[str] = (),
    sparse: bool = False,
) -> Table:
    """Open a table and find its header; an [`InputError`] if that is not certain, or a column is missing.

    A text table is UTF-8, UTF-16 or cp1252, and separated by commas, semicolons, tabs or vertical bars. Lines above the header are
    left out, and totals and counts below the last row. [`Table.said`] tells what was found.

    Args:
        path: A `.csv`, `.tsv`, `.txt`, `.json` or `.jsonl` file, also gzipped, or a `.xlsx` or `.parquet` file.
        columns: Columns that the header must have, by which it is found; `None` if they are not known.
        form: What the user says about the file.
        likely: If `columns` is `None`: lower-case names, of which the header has at least one.
        sparse: Whether an object of a JSON file may lack a column, whose cell is then empty.
    """
    path, form = Path(path), form or TableForm()
    kind = _kind(path)
    if kind == ".parquet":
        form.refuse(("delimiter", "encoding", "skip_rows", "skip_footer", "sheet"), "Parquet", path)
        return _ParquetTable(path, columns)
    if kind == ".xlsx":
        form.refuse(("delimiter", "encoding"), "an Excel file", path)
        return _ExcelTable(path, columns, form, likely)
    form.refuse(("sheet",), "a text file", path)
    if kind in _JSON:
        form.refuse(("delimiter", "skip_rows", "skip_footer"), "JSON", path)
        return _JsonTable(path, form, sparse)
    return _TextTable(path, columns, form, likely, _USUAL_DELIMITERS[kind])


def _kind(path: Path) -> str:
    try:
        with open_regular(path) as file:
            size, start = os.fstat(file.fileno()).st_size, file.read(8)
    except IsADirectoryError:
        raise InputError("is a folder; name one file in it", where=str(path)) from None
    except (FileNotFoundError, NotADirectoryError):
        raise InputError("no such file; check the path", where=str(path)) from None
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror}); check its permissions", where=str(path)) from None
    if size == 0:
        raise InputError("the file is empty; give a table with a header and rows", where=str(path))
    name = path.name.lower()
    kind = Path(name.removesuffix(".gz")).suffix
    if name.endswith((".xls", ".xlsb", ".ods")) or start.startswith(b"\xd0\xcf\x11\xe0"):
        raise InputError(
            "this kind of Excel file, or one with a password, is not read; save it as .xlsx or as CSV", where=str(path)
        )
    if kind in _USUAL_DELIMITERS and start.startswith(b"PK\x03\x04"):
        raise InputError("is an Excel file or an archive in spite of its name; rename it to .xlsx", where=str(path))
    if kind in (*_USUAL_DELIMITERS, *_JSON) or name.endswith((".parquet", ".xlsx")):
        return kind
    raise InputError(f"the format is not clear from the name; it must end with {SUFFIXES}", where=str(path))


class _TextTable(Table):
    def __init__(
        self, path: Path, columns: Sequence[str] | None, form: TableForm, likely: Collection[str], usual: str
    ):
        super().__init__(path)
        self._encoding = form.encoding or detect_encoding(path)
        self._skip_footer = form.skip_footer
        lines = first_lines(path, self._encoding)
        header = find_header(lines, _header_test(columns, likely), usual, form, path)
        self._delimiter, self._skip = header.delimiter, header.skip
        first = next(self._raw(), None)  # a broken header is an error with its line
        if first is None:
            raise InputError("the file is empty; give a table with a header and rows", where=str(path))
        self.header = [column_name(name) for name in first[1]]
        self._names = "the first line, which must be a header"
        if self._delimiter != usual:
            self.facts["delimiter"] = self._delimiter
        if self._encoding != UTF_8:
            self.facts["encoding"] = self._encoding
        line = int(first[0].rpartition(":")[2])
        if any(text.strip() for text in lines[: line - 1]):
            self.facts["header_line"] = line
            self._names = f"line {line}, which must be a header"
        self._check(columns, self._names)

    def _raw(self) -> Iterator[RawRow]:
        return delimited_rows(self.path, self._delimiter, self._encoding, self._skip)

    def rows(self, columns: Sequence[str], values: Collection[str] = ()) -> Iterator[Row]:
        self._check(columns, self._names)
        positions = {column: self.header.index(column) for column in columns}
        raw = self._raw()
        next(raw, None)
        for where, fields, problem in without_footer(raw, self._skip_footer, self._left_out):
            # Rows without any cell, which Excel writes as `,,,`; of a broken row the cells are not known.
            if fields and not any(fields):
                continue
            yield (where, problem or {column: unguarded(fields[position]) for column, position in positions.items()})


class _ExcelTable(Table):
    def __init__(self, path: Path, columns: Sequence[str] | None, form: TableForm, likely: Collection[str]):
        super().__init__(path)
        self._skip_footer = form.skip_footer
        self._sheet, sheets = excel.find_sheet(path, form.sheet)
        found = self._find_header(self._sheet, columns, form, likely)
        if found is None:
            raise InputError("the sheet is empty; give a table with a header and rows", where=str(path))
        self._row, self.header, title_rows = found
        self._names = f"row {self._row}, which must be a header"
        if title_rows:
            self.facts["header_row"] = self._row
        if sheets > 1:
            self.facts["sheet"] = self._sheet
        if columns and not set(columns) <= set(self.header) and form.sheet is None:
            for other in range(2, sheets + 1):
                elsewhere = self._find_header(other, columns, form, likely)
                if elsewhere and set(columns) <= set(elsewhere[1]):
                    raise InputError(
                        f"the first sheet does not have the columns, sheet {other} has; read it with --sheet {other}",
                        str(path),
                    )
        self._check(columns, self._names)

    def _find_header(
        self, sheet: int, columns: Sequence[str] | None, form: TableForm, likely: Collection[str]
    ) -> tuple[int, list[str], int] | None:
        """Number and names of the row that is most like a header, and how many rows with cells are above it."""
        is_header, begins = _header_test(columns, likely), []
        for where, cells, _ in excel.sheet_rows(self.path, sheet):
            number = int(where.rpartition(" ")[2])
            if number <= (form.skip_rows or 0):
                continue
            names = [column_name(cell) for cell in cells]
            if form.skip_rows is not None:
                return number, names, number - 1
            if is_header and is_header(names):
                check_title_rows([(above, cells) for _, above, cells in begins], number, names, "row", self.path)
                return number, names, len(begins)
            begins.append((sum(map(bool, names)), number, names))
            if len(begins) > MOST_TITLE_ROWS:
                break
        if not begins:
            return None
        place = max(range(len(begins)), key=lambda place: (begins[place][0], -place))
        return *begins[place][1:], place

    def rows(self, columns: Sequence[str], values: Collection[str] = ()) -> Iterator[Row]:
        self._check(columns, self._names)
        positions = {column: self.header.index(column) for column in columns}
        raw = (row for row in excel.sheet_rows(self.path, self._sheet) if int(row[0].rpartition(" ")[2]) > self._row)
        for where, cells, _ in without_footer(raw, self._skip_footer, self._left_out):
            if len(cells) > len(self.header):
                yield (
                    where,
                    f"the row has {len(cells)} cells, the header {len(self.header)}; empty those behind the last column",
                )
                continue
            row = {column: cells[place] if place < len(cells) else None for column, place in positions.items()}
            bad = ((column, excel.cell_problem(value)) for column, value in row.items())
            problem = next((f"column {column!r} {problem}" for column, problem in bad if problem), None)
            yield where, problem or _cells(row, columns, values)


class _JsonTable(Table):
    def __init__(self, path: Path, form: TableForm, sparse: bool):
        super().__init__(path)
        self._sparse = sparse
        self._encoding = form.encoding or detect_encoding(path, single_byte=False)
        if self._encoding != UTF_8:
            self.facts["encoding"] = self._encoding
        first = islice(json_objects(path, self._encoding), _FIRST_OBJECTS)
        self.header = list(dict.fromkeys(key for _, row in first if isinstance(row, dict) for key in row))

    def rows(self, columns: Sequence[str], values: Collection[str] = ()) -> Iterator[Row]:
        for where, row in json_objects(self.path, self._encoding):
            if isinstance(row, dict):
                problem = None if self._sparse else column_problem(list(row), columns, "this object")
                row = problem or _cells(row, columns, values)
            yield where, row


class _ParquetTable(Table):
    def __init__(self, path: Path, columns: Sequence[str] | None):
        super().__init__(path)
        with open_parquet(path, ()) as file:
            self.header = file.schema_arrow.names
        self._check(columns, "the schema")

    def rows(self, columns: Sequence[str], values: Collection[str] = ()) -> Iterator[Row]:
        self._check(columns, "the schema")
        with open_parquet(self.path, columns) as file:
            for number, row in enumerate(iterate_rows(file, columns, str(self.path)), start=1):
                yield f"{self.path}:row {number}", _cells(row, columns, values)


def _header_test(columns: Sequence[str] | None, likely: Collection[str]) -> Callable[[Sequence[str]], bool] | None:
    if columns is not None:
        return lambda names: set(columns) <= set(names)
    return (lambda names: any(name.casefold() in likely for name in names)) if likely else None


def _cells(row: Mapping[str, Any], columns: Sequence[str], values: Collection[str]) -> dict[str, str] | str:
    cells = {}
    for column in columns:
        value = "" if row.get(column) is None else row[column]
        # Identifiers are often integers; any other type is probably the wrong column.
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        elif column in values:
            value = _as_text(value)
        if isinstance(value, float):
            return (
                f"column {column!r} contains decimal numbers, as pandas writes integers if one is missing; write integers"
                " or text"
            )
        if not isinstance(value, str):
            return f"column {column!r} contains {type(value).__name__}, not text; name another column"
        # JSON can spell half of a surrogate pair, which no file in UTF-8 can contain.
        if SURROGATE.search(value):
            return f"column {column!r} contains a broken Unicode character; remove it"
        cells[column] = value
    return cells


def _as_text(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return "" if isnan(value) else f"{value:.15g}"
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return "\n".join(value)
    return str(value) if isinstance(value, date | time | timedelta | Decimal) else value


def column_problem(present: Sequence[str], columns: Sequence[str], names: str) -> str | None:
    """What is wrong with the columns; shows only names that the user nearly wrote, or usual ones: others may be cells."""
    for column in columns:
        if present.count(column) > 1:
            return f"column {column!r} occurs twice in the header; rename one"
        if column in present:
            continue
        near = process.extractOne(column, present, processor=str.lower, scorer=fuzz.ratio, score_cutoff=_NEAR)
        if near:
            return f"no column {column!r}; did you mean {near[0]!r}?"
        usual = usual_names(present)
        advice = f"it has {usual}" if usual else "look there for the right name"
        return f"no column {column!r} among the {len(present)} of {names}; {advice}"
    return None


def usual_names(present: Sequence[str]) -> str:
    """The names of columns that may be shown, for a message: `'indication' and 'protocol'`; empty if there are none."""
    shown = [repr(name) for name in present if _USUAL_NAMES.fullmatch(name)][:_SHOWN]
    return f"{', '.join(shown[:-1])}{' and ' if shown[1:] else ''}{shown[-1]}" if shown else ""
