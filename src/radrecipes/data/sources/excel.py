"""Reads sheets of Excel files (.xlsx) in bounded memory."""

import contextlib
import re
import warnings
import zipfile
from collections.abc import Iterator
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Any

from radrecipes.data.sources.text_tables import RawRow
from radrecipes.errors import InputError, RadrecipesError
from radrecipes.files import MIB, largest_content, open_regular, unpacks_too_far

MOST_ROWS = 1_048_576  # of a sheet in Excel
# Excel keeps 15 digits of a number.
_LARGEST_NUMBER = 10**15
_ERROR = re.compile(r"#(?:NULL!|DIV/0!|VALUE!|REF!|NAME\?|NUM!|N/A|SPILL!|CALC!)")
_AGAIN = "save it in Excel again as .xlsx, without a password"


@contextlib.contextmanager
def _open_workbook(path: Path) -> Iterator[tuple[Any, int]]:
    """A workbook in read-only mode, and how many cells it can have; whatever is wrong with it is an [`InputError`]."""
    from openpyxl import load_workbook

    try:
        with open_regular(path) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about styles and filters, which are not read
            with zipfile.ZipFile(file) as archive:
                content, limit = (
                    sum(member.file_size for member in archive.infolist()),
                    largest_content(path.stat().st_size),
                )
                if content > limit:
                    raise unpacks_too_far(limit, str(path))
            workbook = load_workbook(file, read_only=True, data_only=True, keep_links=False)
            try:
                yield workbook, max(content, MIB)
            finally:
                workbook.close()
    except (RadrecipesError, MemoryError):
        raise
    except Exception as error:  # openpyxl lets any error of its parsers through; they can quote cells
        raise InputError(f"not readable as Excel ({type(error).__name__}); {_AGAIN}", where=str(path)) from None


def sheet_rows(path: Path, sheet: int) -> Iterator[RawRow]:
    """The rows of a sheet (numbered from 1) that have cells; cells that are not text are text as Excel shows it, or numbers."""
    with _open_workbook(path) as (workbook, most_cells):
        worksheet = workbook.worksheets[sheet - 1]
        worksheet.reset_dimensions()  # those of a file can be wrong, and fill every row
        cells = 0
        for number, row in enumerate(worksheet.iter_rows(values_only=True), start=1):
            cells += len(row)
            if number > MOST_ROWS or cells > most_cells:
                raise InputError(
                    f"the sheet has more than {MOST_ROWS:,} rows, or more cells than the file has bytes; delete the"
                    " empty rows and columns",
                    where=f"{path}:row {number}",
                )
            values = [None if value is None else _shown(value) for value in row]
            while values and values[-1] in (None, ""):
                values.pop()
            if any(value is not None and str(value).strip() for value in values):
                yield f"{path}:row {number}", values, None


def find_sheet(path: Path, wanted: str | None) -> tuple[int, int]:
    """Number of a sheet by its name or number, by default the first, and how many there are."""
    with _open_workbook(path) as (workbook, _):
        names = [worksheet.title for worksheet in workbook.worksheets]
    if not names:
        raise InputError("has no sheet with cells; give a table with rows", where=str(path))
    if wanted is None:
        return 1, len(names)
    if wanted in names:
        return names.index(wanted) + 1, len(names)
    if wanted.isdecimal() and 1 <= int(wanted) <= len(names):
        return int(wanted), len(names)
    raise InputError(
        f"no such sheet; it has {len(names)}: give the name of one, or its number from 1", where=f"{path}: --sheet"
    )


def _shown(value: Any) -> Any:
    """A cell as text, or as a number that the reader of a column judges."""
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, str):
        return value.replace("_x000D_", "")  # how Excel writes a carriage return
    if isinstance(value, datetime):
        return value.date().isoformat() if value.time() == time() else value.isoformat(" ", "seconds")
    if isinstance(value, date | time | timedelta):
        return str(value)
    # Excel has no integers: 17.0 is the same cell as 17.
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def cell_problem(value: Any) -> str | None:
    """What is wrong with a cell for every use."""
    if isinstance(value, int) and abs(value) >= _LARGEST_NUMBER:
        return "contains a number with more than 15 digits, which Excel rounds; format the column as text"
    if isinstance(value, str) and _ERROR.fullmatch(value):
        return "contains an error of a formula; correct it"
    return None
