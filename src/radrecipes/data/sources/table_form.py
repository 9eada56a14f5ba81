"""How a table is written: where its header is, what separates its cells, and which rows at its foot are no rows."""

import csv
import re
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from radrecipes.data.sources.text_tables import RawRow, check_encoding, text_lines
from radrecipes.errors import InputError
from radrecipes.files import MIB

DELIMITERS = (",", ";", "\t", "|")
_NAMED_DELIMITERS = {"comma": ",", "semicolon": ";", "tab": "\t", "\\t": "\t", "pipe": "|", "bar": "|"}
# Lines that are looked at for a header, and characters of them.
_LOOKED_AT, _LOOKED_AT_CHARACTERS = 60, MIB
# Lines that may stand above a header.
MOST_TITLE_ROWS = 20
# Rows that may stand below the last row, most of them without any cell.
_MOST_FOOTER_ROWS = 1000
_EXCEL_SEPARATOR = re.compile(r'\ufeff?"?sep=(.)"?\s*', re.IGNORECASE)
_NUMBER = re.compile(r"[\d.,'\s%()+-]+")
# With or without a number behind it.
_TOTAL = re.compile(
    r"(?:(?:grand|sub)[ -]?total|totals?|sum|count|summe|gesamt(?:summe|anzahl)?|insgesamt|anzahl|somme|suma|total g[eé]n[eé]ral)"
    r"(?: (?:number )?(?:of )?(?:rows|records|orders|reports|entries|exams|studies|patients))?\s*[:=]?\s*[\d.,']*"
)
_ROWS = r"(?:rows?|records?|orders?|reports?|entries|zeilen?|datens[aä]tze?)(?:\(s\))?"
_READ = r"(?: (?:affected|exported|returned|selected|found|in set|read))?"
_ROW_COUNT = re.compile(
    rf"\W*(?:(?:number of )?{_ROWS}{_READ}\s*[:=]\s*\d[\d.,']*|\d[\d.,']* {_ROWS}{_READ}"
    r"|end of (?:file|report|export|data|list)|page \d+ of \d+)\W*"
)
_LONGEST_FOOTER = 100
_WORDS, _EMPTY = "words", "empty"


@dataclass(frozen=True)
class TableForm:
    """How a table is written, as far as a user says it; what is `None` is detected.

    Args:
        delimiter: What separates the cells of a text file: a character, or `comma`, `semicolon`, `tab` or `pipe`.
        encoding: Encoding of a text file, as Python names it.
        skip_rows: Lines (rows of an Excel file) above the header.
        skip_footer: Rows below the last row that are no rows; 0 keeps all.
        sheet: Name or number of the sheet of an Excel file; by default the first.
    """

    delimiter: str | None = None
    encoding: str | None = None
    skip_rows: int | None = None
    skip_footer: int | None = None
    sheet: str | None = None

    def __post_init__(self):
        """Check the values; an [`InputError`] names the option."""
        if self.delimiter is not None:
            character = _NAMED_DELIMITERS.get(self.delimiter.lower(), self.delimiter)
            if len(character) != 1 or character in '"\r\n ' or character.isalnum():
                raise InputError("choose one character, or comma, semicolon, tab or pipe", "--delimiter")
            object.__setattr__(self, "delimiter", character)
        if self.encoding is not None:
            check_encoding(self.encoding)
        for name in ("skip_rows", "skip_footer"):
            if (value := getattr(self, name)) is not None and value < 0:
                raise InputError(f"is {value}; choose 0 or more", f"--{name.replace('_', '-')}")

    def refuse(self, options: Sequence[str], kind: str, path: Path) -> None:
        """Refuse options that a kind of file does not have."""
        for name in options:
            if getattr(self, name) is not None:
                raise InputError(f"{kind} does not take --{name.replace('_', '-')}; remove it", where=str(path))


def named(delimiter: str) -> str:
    """A delimiter for a message."""
    return "tab" if delimiter == "\t" else delimiter


def column_name(cell: Any) -> str:
    """The name of a column as a cell of the header has it."""
    return "" if cell is None else str(cell).removeprefix("\ufeff").strip()


@dataclass(frozen=True)
class Header:
    """A line that may be the header: how many lines are above it, and its cells with one delimiter."""

    skip: int
    delimiter: str
    fields: list[str]


def first_lines(path: Path, encoding: str) -> list[str]:
    """The lines among which a header is looked for."""
    lines, characters = [], 0
    for line in islice(text_lines(path, encoding), _LOOKED_AT):
        lines.append(line)
        characters += len(line)
        if characters > _LOOKED_AT_CHARACTERS:
            break
    return lines


def find_header(
    lines: Sequence[str], is_header: Callable[[Sequence[str]], bool] | None, usual: str, form: TableForm, path: Path
) -> Header:
    """The header of a delimited file, or what is most like one; an [`InputError`] if two are equally likely.

    Args:
        is_header: Whether cells are those of the header; `None` if nothing is known about its names.
        usual: The delimiter that the name of the file promises. A header in the first line with it is always taken.
    """
    start, delimiters = form.skip_rows or 0, [form.delimiter] if form.delimiter else [usual, *DELIMITERS]
    if lines and (separator := _EXCEL_SEPARATOR.fullmatch(lines[0])) and form.skip_rows is None:
        start, delimiters = 1, [form.delimiter or separator[1]]
    delimiters = list(dict.fromkeys(delimiters))
    last = start if form.skip_rows is not None else start + MOST_TITLE_ROWS
    begins = [number for number in range(start, len(lines)) if lines[number].strip("\r\n")][: last - start + 1]
    if is_header:
        found = {}
        for delimiter in delimiters:
            for number in begins:
                fields = _row_at(lines, number, delimiter)
                if is_header(fields):
                    found[delimiter] = Header(number, delimiter, fields)
                    break
        if found:
            return _certain(list(found.values()), lines, begins[0], path)
    return _by_structure(lines, start, delimiters, path, ask=is_header is None)


def _certain(found: list[Header], lines: Sequence[str], first: int, path: Path) -> Header:
    """The only header; of several, that in the first line with the usual delimiter, or any if all have the same single cell."""
    header = found[0]
    if header.skip == first:
        return header
    if len(found) > 1 and (len(header.fields) > 1 or any(other.fields != header.fields for other in found)):
        places = " or ".join(f"{named(other.delimiter)} (line {other.skip + 1})" for other in found)
        raise InputError(f"the columns are found with {places}; choose one with --delimiter", where=str(path))
    above = [(number, _row_at(lines, number - 1, header.delimiter)) for number in range(first + 1, header.skip + 1)]
    check_title_rows(above, header.skip + 1, header.fields, "line", path)
    return header


def check_title_rows(
    above: Sequence[tuple[int, Sequence[str]]], number: int, fields: Sequence[str], line: str, path: Path
) -> None:
    """Raise an [`InputError`] if a row above a header has as many cells, so that it may be a row of a table without header."""
    filled = sum(map(bool, fields))
    for above_number, cells in above:
        if filled > 1 and sum(map(bool, cells)) >= filled:
            raise InputError(
                f"{line} {number} has the names of the columns, but {line} {above_number} above it has as many cells; if nothing"
                f" above is a row of the table, leave it out with --skip-rows {number - 1}",
                where=str(path),
            )


def _by_structure(lines: Sequence[str], start: int, delimiters: Sequence[str], path: Path, ask: bool) -> Header:
    """The header by the number of cells alone: that of the rows below it."""
    ranked = []
    for delimiter in delimiters:
        rows = _rows(lines, start, delimiter)
        widths = Counter(len(fields) for _, fields in rows if len(fields) > 1)
        if not widths:
            continue
        width = widths.most_common(1)[0][0]
        below = [place for place, (_, fields) in enumerate(rows) if len(fields) == width]
        share = len(below) / len(rows)
        number, fields = rows[below[0]]
        ranked.append((share, delimiter == delimiters[0] and not below[0], Header(number, delimiter, fields)))
    if not ranked:
        first = next((number for number in range(start, len(lines)) if lines[number].strip("\r\n")), start)
        return Header(first, delimiters[0], _row_at(lines, first, delimiters[0]))
    ranked.sort(key=lambda entry: entry[:2], reverse=True)
    # In the usual form if its rows are all of one length; otherwise another one must be better by far.
    if ask and len(ranked) > 1 and not ranked[0][1] and ranked[1][0] > ranked[0][0] - 0.2:
        raise InputError(
            "what separates the cells is not certain; name it with --delimiter, for example --delimiter semicolon",
            where=str(path),
        )
    return ranked[0][2]


def _row_at(lines: Sequence[str], number: int, delimiter: str) -> list[str]:
    try:
        fields = next(csv.reader(lines[number:], delimiter=delimiter), [])
    except csv.Error:
        return []
    return [column_name(field) for field in fields]


def _rows(lines: Sequence[str], start: int, delimiter: str) -> list[tuple[int, list[str]]]:
    """The rows with the number of lines above each; only complete ones."""
    reader, rows, number = csv.reader(lines[start:], delimiter=delimiter), [], start
    try:
        for fields in reader:
            if fields:
                rows.append((number, [column_name(field) for field in fields]))
            number = start + reader.line_num
    except csv.Error:
        pass
    return rows


def without_footer(
    rows: Iterator[RawRow], skip_footer: int | None, left_out: Callable[[int], Any]
) -> Iterator[RawRow]:
    """The rows without totals, counts and closing words below the last one; their number is told when the rows end.

    Left out are the last `skip_footer` rows; if it is `None`, rows that are a footer for certain. What may be one is marked in
    its problem.
    """
    held: deque[RawRow] = deque()
    if skip_footer is not None:
        for row in rows:
            held.append(row)
            if len(held) > skip_footer:
                yield held.popleft()
        left_out(len(held))
        return
    for row in rows:
        held.append(row)
        may_be_footer = _kind_of_footer(row[1]) is not None or (row[2] and sum(map(bool, row[1])) == 1)
        if not may_be_footer or len(held) > _MOST_FOOTER_ROWS:
            yield from held
            held.clear()
    kinds = [_kind_of_footer(row[1]) for row in held]
    footer = next((number for number, kind in enumerate(reversed(kinds)) if kind is None), len(kinds))
    if _WORDS not in kinds[len(kinds) - footer :]:
        footer = 0  # rows without any cell alone are no footer
    for _ in range(footer):
        held.pop()
    for place, (where, cells, problem) in enumerate(held):
        if problem:
            number = footer + len(held) - place
            problem += f"; if the table ends above it, leave out what follows with --skip-footer {number}"
        yield where, cells, problem
    left_out(footer)


def _kind_of_footer(cells: Sequence[Any]) -> str | None:
    """A total or another word below a table, or a row without any cell; `None` for any other row."""
    if not cells:
        return None
    texts = ("" if cell is None else str(cell).strip() for cell in cells)
    first = next(filter(None, texts), "")
    if not first:
        return _EMPTY
    if len(first) > _LONGEST_FOOTER:
        return None
    words, rest = " ".join(first.casefold().split()), filter(None, texts)
    if _TOTAL.fullmatch(words):
        return _WORDS if all(map(_NUMBER.fullmatch, rest)) else None
    return _WORDS if _ROW_COUNT.fullmatch(words) and not any(rest) else None
