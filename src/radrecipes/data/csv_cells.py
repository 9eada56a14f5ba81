"""Cells of CSV files that a spreadsheet shows as text: what begins like a formula has an apostrophe in the file."""

import re

# What spreadsheets take for a formula, also in full width and after spaces; plain numbers are none.
_FORMULA = re.compile(r"'*(?:[\t\r\n]|\s*[=+\-@＝＋－＠])")
_NUMBER = re.compile(r"'*[+-]?\d+(?:[.,]\d+)*")


def guarded(cell: str) -> str:
    """The cell with an apostrophe if a spreadsheet would run it; [`unguarded`] gives it back."""
    return f"'{cell}" if _is_formula(cell) else cell


def unguarded(cell: str) -> str:
    """The cell that [`guarded`] was given."""
    return cell[1:] if cell.startswith("'") and _is_formula(cell) else cell


def _is_formula(cell: str) -> bool:
    return bool(_FORMULA.match(cell)) and not _NUMBER.fullmatch(cell)
