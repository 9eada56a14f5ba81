"""Lines and rows of text tables: encodings, delimiters, and rows with a broken quote."""

import codecs
import csv
import gzip
import io
import json
import re
import zlib
from collections import deque
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from radrecipes.errors import InputError
from radrecipes.files import MIB, ROW_LIMIT, bounded_lines, unpacked

# A cell may span lines; without a limit one open quote takes the rest of the file, for each row again.
_LINES_OF_A_ROW = 5000
_MOST_REPEATED = 16 * MIB  # characters that are read again after rows with an open quote
_TOO_LONG = "the row is too long"
DAMAGED_GZIP = (gzip.BadGzipFile, EOFError, zlib.error)
SURROGATE = re.compile("[\ud800-\udfff]")
UTF_8 = "utf-8"
NOT_IN = "is not {}; save the file as UTF-8, or name its encoding with --encoding"
# Bytes of the beginning that show UTF-16 without a byte order mark.
_BEGINNING = 4096
# What cp1252 makes of a text in another single-byte encoding: a capital after a small letter, three accented letters in a
# row or two different ones, letters and pairs of which Turkish, Czech, Hungarian and Romanian are made then, a sign within a
# word other than apostrophes and dashes.
_OTHER_ENCODING = re.compile(
    "[a-zß-öø-ÿšœž][À-ÖØ-ÞŠŒŽŸ]|[À-ÖØ-öø-ÿŠŒŽšœžŸƒ]{3}|(?![çé])([à-öø-ÿ])(?!\\1)[à-öø-ÿ]"
    "|[ðþýÐÞÝ]|[ìù][a-z]|õ[^e\\W]|ã[^eio\\W]"
    "|[^\\W\\d_][€‚ƒ„…†‡ˆ‰‹“”•˜™›¡-¦¨-¬®-´¶¸¹»-¿×÷][^\\W\\d_]"
)
# A row as it is written: its place, its cells (none if they cannot be told apart), and what is wrong with it.
RawRow = tuple[str, list, str | None]
csv.field_size_limit(ROW_LIMIT)  # the module's own limit is 131,072 characters


def detect_encoding(path: Path, *, single_byte: bool = True) -> str:
    """The encoding of a text file, also gzipped: UTF-16, cp1252 (if `single_byte`), or UTF-8 if it is none of them for certain."""
    try:
        with unpacked(path) as file:
            start = file.read(_BEGINNING)
            if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                return "utf-16"
            even, odd = start[::2].count(0), start[1::2].count(0)
            if even + odd > len(start) / 4 and not min(even, odd):
                return "utf-16-le" if odd else "utf-16-be"
            if not single_byte or _is_utf_8(start, file):
                return UTF_8
        return _single_byte_encoding(path)
    except DAMAGED_GZIP:  # the error names the line when the rows are read
        return UTF_8


def _is_utf_8(piece: bytes, rest: BinaryIO) -> bool:
    decoder = codecs.getincrementaldecoder(UTF_8)()
    try:
        while piece:
            decoder.decode(piece)
            piece = rest.read(MIB)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def _single_byte_encoding(path: Path) -> str:
    with unpacked(path) as file:
        for line in bounded_lines(file, str(path)):
            if line.isascii():
                continue
            text = line.decode(UTF_8, errors="surrogateescape")
            if b"\0" in line or any(character > "\x7f" and not SURROGATE.match(character) for character in text):
                return UTF_8
            western = line.decode("cp1252", errors="surrogateescape")
            if SURROGATE.search(western) or _OTHER_ENCODING.search(western):
                return UTF_8
    return "cp1252"


def check_encoding(name: str) -> None:
    """Refuse a name that is no encoding of texts."""
    try:
        io.TextIOWrapper(io.BytesIO(), name)
    except (LookupError, UnicodeError, ValueError):
        raise InputError(
            "no such encoding; choose for example utf-8, cp1252, latin-1 or utf-16", "--encoding"
        ) from None


def codec(encoding: str) -> str:
    """The codec that reads an encoding: for UTF-8 the one that leaves out a byte order mark."""
    return "utf-8-sig" if codecs.lookup(encoding).name == UTF_8 else encoding


def text_lines(path: Path, encoding: str = UTF_8) -> Iterator[str]:
    """Lines of a text file, also gzipped, each with its line end."""
    # Undecodable bytes become lone surrogates, so that their line can be named.
    with (
        unpacked(path) as binary,
        io.TextIOWrapper(binary, codec(encoding), errors="surrogateescape", newline="") as lines,
    ):
        number = 0
        try:
            for number, line in enumerate(bounded_lines(lines, str(path)), start=1):  # noqa: B007 (named in the error)
                yield line
        except DAMAGED_GZIP:
            raise InputError("is not a complete gzip file; copy it again", f"{path}:{number + 1}") from None
        except UnicodeError:
            raise InputError(NOT_IN.format(encoding), f"{path}:{number + 1}") from None


def line_problem(line: str, encoding: str = UTF_8) -> str | None:
    """What is wrong with the characters of a line."""
    if SURROGATE.search(line):
        name = "UTF-8" if encoding == UTF_8 else encoding
        return f"is not {name}; save the file as UTF-8, or name its encoding with --encoding, for example cp1250"
    return "contains a NUL byte; save the file as UTF-8 text" if "\0" in line else None


def json_object(line: str) -> dict[str, Any] | str:
    """The JSON object in a line, or what is wrong with it."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        # Other than JSON's own errors: a number with thousands of digits, or brackets nested thousands deep.
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply, or a number too long"
        return f"not valid JSON ({reason}); write one object per line"
    return row if isinstance(row, dict) else "must be a JSON object with the columns as keys"


class RowLines:
    """Lines for a CSV reader that can go back to the second line of a row; a row that is too long is a [`csv.Error`]."""

    def __init__(self, lines: Iterator[str], skip: int):
        self._lines = islice(lines, skip, None)
        self._again: deque[str] = deque()
        self._repeated = 0
        self.next_number = skip + 1
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


def delimited_rows(path: Path, delimiter: str, encoding: str = UTF_8, skip: int = 0) -> Iterator[RawRow]:
    """The rows below `skip` lines, the header first, as [`~data.sources.tables.ExampleTable`] says; a broken header is an error."""
    row_lines = RowLines(text_lines(path, encoding), skip)
    reader = csv.reader(row_lines, delimiter=delimiter, strict=True)
    width = None  # of the header
    broken_line = None  # of the broken row whose rest may follow
    while True:
        # A row may span lines; an editor finds it by the line that it starts on.
        row_lines.begin_row()
        first_line = row_lines.next_number
        where, problem = f"{path}:{first_line}", None
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            fields = []
            problem = (
                "a quote is not closed in the row that starts here; close it"
                if any(words in str(error) for words in ("unexpected end of data", _TOO_LONG))
                else f"the row that starts here is broken ({error}); quote its fields and double the quotes inside"
            )
        quotes_broken = problem is not None
        for number, line in enumerate(row_lines.row[:1] if quotes_broken else row_lines.row, start=first_line):
            if found := line_problem(line, encoding):
                where, problem, fields = f"{path}:{number}", found, []
                break
        if problem is None and not fields:
            continue
        if width is None:
            if problem:
                raise InputError(problem, where=where)
            width = len(fields)
            yield where, fields, None
            continue
        if problem is None and len(fields) != width:
            spanned = f" (lines {first_line} to {row_lines.next_number - 1})" if len(row_lines.row) > 1 else ""
            problem = f"the row has {len(fields)} fields, the header {width}{spanned}; quote fields that contain the separator"
        if broken_line and (problem or sum(line.count('"') for line in row_lines.row) % 2):
            also = f" ({problem})" if problem else ""
            problem, fields = f"may be the rest of the broken row in line {broken_line}; fix that one{also}", []
        if quotes_broken:
            broken_line = broken_line or first_line
            row_lines.read_rest_again(where)
        elif not problem:
            broken_line = None
        yield where, fields, problem
