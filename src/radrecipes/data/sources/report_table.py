"""Reads reports from tables and JSON: columns of sections, or one column of complete reports."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from radrecipes.data.sources.records import USUAL_NAMES, Columns, find_columns, to_report, usual_column
from radrecipes.data.sources.report_source import RejectedReport, Report, ReportSource
from radrecipes.data.sources.table_form import TableForm
from radrecipes.data.sources.table_rows import open_table
from radrecipes.errors import InputError
from radrecipes.files import file_sha256, recorded_name

_FORM = ("delimiter", "encoding", "skip_rows", "skip_footer", "sheet")
_NAMES = [name for names in USUAL_NAMES.values() for name in names]
_LIKELY = {name.replace("_", between) for name in _NAMES for between in ("_", " ", "")}


class ReportTable(ReportSource):
    """The rows of a table, or the objects of a JSON file, in their order."""

    name = "table"
    layout = "table (CSV, TSV, Excel, Parquet) or JSON file (.json, .jsonl) with columns of findings and impression, or of reports"
    title = "a table of reports"
    group = "the patient as a column states it, or the report itself if there is no such column"
    official_split = True
    options = (*(f"{role}_column" for role in USUAL_NAMES), *_FORM)
    shared = ("columns",)
    sparse = True  # an object of a JSON file may lack a column: its cell is empty

    def __init__(
        self,
        path: str | Path,
        *,
        columns: Mapping[str, str | None] | None = None,
        form: TableForm | None = None,
        official_split: bool = False,
    ):
        """Find the columns and count the rows, so that a damaged file is found before any work.

        Args:
            columns: Columns by what they contain, as in [`USUAL_NAMES`]; what is missing is found by its usual names.
            form: How a text or Excel table is written; what it does not say is detected.
            official_split: Take the split that a column states.
        """
        self._path, chosen = Path(path), columns or {}
        named = [column for column in chosen.values() if column]
        self._table = open_table(self._path, named or None, form, _LIKELY, self.sparse)
        header = self._table.header
        if not header:
            raise InputError(
                "contains no JSON object with columns as keys; give one object for each report", str(path)
            )
        self.columns = self.find_columns(header, chosen, official_split)
        self.count = sum(1 for _ in self.items())
        if not self.count:
            raise InputError("the file has no rows below its header; give a table with rows", str(path))
        self.files = [{"file": recorded_name(self._path.name), "sha256": file_sha256(self._path), **self._table.facts}]
        self.rejected = []
        self.said = [text for text in (self._table.said, self.columns.said) if text]
        if not self.columns.group:
            self.said.append(
                "no column of the patient: every report counts as a patient of its own; see --group-column"
            )
        if self.official_split and not official_split and (stated := usual_column(header, "split")):
            self.said.append(f"the split in column {stated!r} is not used; keep it with --split official")

    @classmethod
    def open(cls, root: Path, options: Mapping[str, Any]) -> "ReportTable":
        """Open the table with the columns and the form that the options name."""
        columns = {role: options[f"{role}_column"] for role in USUAL_NAMES}
        form = TableForm(**{name: options[name] for name in _FORM})
        return cls(root, columns=columns, form=form, official_split=options["split"] == "official")

    def find_columns(self, header: Sequence[str], chosen: Mapping[str, str | None], official_split: bool) -> Columns:
        """The columns of a record, see [`~data.sources.records.find_columns`]."""
        return find_columns(header, chosen, str(self._path), official_split=official_split)

    def items(self) -> Iterator[tuple]:
        """Number and place of every row, and its cells or what is wrong with it."""
        columns = self.columns.named
        for number, (where, cells) in enumerate(self._table.rows(columns, columns), start=1):
            yield number, f"{recorded_name(self._path.name)}:{where.rpartition(':')[2]}", cells

    def read(self, item: tuple) -> Report | RejectedReport:
        """The report of one row."""
        number, where, cells = item
        if isinstance(cells, str):
            return RejectedReport(where, "unreadable_row", cells)
        return to_report(cells, self.columns, number, where)
