"""Reads prompt and completion pairs: a JSONL file with observations in the prompts and reports as completions."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from radrecipes.data.sources.records import USUAL_NAMES, Columns
from radrecipes.data.sources.report_source import RejectedReport, Report
from radrecipes.data.sources.report_table import ReportTable
from radrecipes.errors import InputError
from radrecipes.radiology.observations import format_observations, parse_observations

_TRAILING_HEADER = re.compile(r"[\s.;,]*(?:findings|report)\s*:\s*\Z", re.IGNORECASE)


class ReportPairs(ReportTable):
    """The pairs of a JSONL file in the order of its lines: a table with complete reports, and a column of prompts.

    Args:
        path: A `.jsonl` or `.jsonl.gz` file.
        prompt_column: Observations as [`parse_observations`] reads them, or `None` if they are not needed; `Findings:` at the
            end is ignored.
        completion_column: The report. Without headers all of it is findings.
        id_column: Study id; without it rows are identified by their line.
        group_column: Patient; without it each row is its own group, and a patient can be in several splits.
    """

    name = "jsonl"
    layout = "the file"
    title = "prompt and completion pairs"
    group = "the group of the source, for example a patient, or the report itself"
    official_split = False
    label_sources = ("prompt", "relabel")
    options = ("prompt_column", "completion_column", "id_column", "group_column")
    sparse = False

    def __init__(
        self,
        path: str | Path,
        *,
        prompt_column: str | None = "prompt",
        completion_column: str = "completion",
        id_column: str | None = None,
        group_column: str | None = None,
    ):
        """Count the lines, so that a damaged file is found before any work."""
        if Path(path).is_file() and not str(path).lower().endswith((".jsonl", ".jsonl.gz")):
            raise InputError("must be a .jsonl or .jsonl.gz file, one JSON object per line", str(path))
        self._prompt = prompt_column
        named = {"report": completion_column, "id": id_column or "", "group": group_column or ""}
        super().__init__(path, columns=dict.fromkeys(USUAL_NAMES, "") | named)

    @classmethod
    def open(cls, root: Path, options: Mapping[str, Any]) -> "ReportPairs":
        """Open the file with the columns that the options name."""
        columns = {name: options[name] for name in cls.options if options[name] is not None}
        if options["label_source"] != "prompt":
            columns["prompt_column"] = None
        return cls(root, **columns)

    def find_columns(self, header: Sequence[str], chosen: Mapping[str, str | None], official_split: bool) -> Columns:
        """The columns of the pairs; names the way to read a file that lacks one."""
        remedies = {
            self._prompt: "name it with --prompt-column, or label the reports by their text with --label-source relabel",
            chosen["report"]: "name it with --completion-column",
        }
        sections = "columns of findings and impression are read with --source table"
        for column, remedy in remedies.items():
            if column and column not in header:
                raise InputError(f"no object has the column {column!r}; {remedy}; {sections}", str(self._path))
        return replace(super().find_columns(header, chosen, official_split), prompt=self._prompt)

    def read(self, item: tuple) -> Report | RejectedReport:
        """Read one line."""
        _, where, cells = item
        report = super().read((where.rpartition(":")[2], where, cells))
        if isinstance(report, RejectedReport) or not self.columns.prompt:
            return report
        try:
            stated = parse_observations(_TRAILING_HEADER.sub("", cells[self.columns.prompt]))
        except InputError as error:
            return RejectedReport(where, "unreadable_prompt", str(error))
        return report._replace(observations=format_observations(stated))
