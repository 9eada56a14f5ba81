"""Reads prompt and completion pairs: a JSONL file with observations in the prompts and reports as completions."""

import re
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from radrecipes.data.sources.records import as_report, sections_of
from radrecipes.data.sources.report_source import RejectedReport, Report, ReportSource
from radrecipes.data.sources.text_tables import SURROGATE, json_object, text_lines
from radrecipes.errors import InputError
from radrecipes.files import file_sha256
from radrecipes.radiology.observations import format_observations, parse_observations

_TRAILING_HEADER = re.compile(r"[\s.;,]*(?:findings|report)\s*:\s*\Z", re.IGNORECASE)
# Lines that are looked at for the columns.
_FIRST = 100


class ReportPairs(ReportSource):
    """The pairs of a JSONL file in the order of its lines."""

    name = "jsonl"
    layout = "the file"
    title = "prompt and completion pairs"
    group = "the group of the source, for example a patient, or the report itself"
    label_sources = ("prompt", "relabel")
    options = ("id_column", "group_column")
    shared = ("path", "_prompt", "_completion", "_id", "_group")

    def __init__(
        self,
        path: str | Path,
        *,
        prompt_column: str | None = "prompt",
        completion_column: str = "completion",
        id_column: str | None = None,
        group_column: str | None = None,
    ):
        """Count the lines of a `.jsonl` or `.jsonl.gz` file, so that a damaged one is found before any work.

        Args:
            prompt_column: Observations as [`parse_observations`] reads them, or `None` if they are not needed; `Findings:`
                at the end is ignored.
            completion_column: The report. Without headers all of it is findings.
            id_column: Study id; without it rows are identified by their line.
            group_column: Patient; without it each row is its own group, and a patient can be in several splits.
        """
        self.path = Path(path)
        self._prompt, self._completion = prompt_column, completion_column
        self._id, self._group = id_column, group_column
        self.rejected = []
        if not self.path.is_file():
            raise InputError("no such file; give a .jsonl or .jsonl.gz file as --root", str(self.path))
        if not self.path.name.lower().endswith((".jsonl", ".jsonl.gz")):
            raise InputError("must be a .jsonl or .jsonl.gz file, one JSON object per line", str(self.path))
        self.count = sum(1 for _ in self.items())
        if not self.count:
            raise InputError("the file has no lines; give one JSON object per line", str(self.path))
        self._check_columns()
        self.files = [{"file": self.path.name, "sha256": file_sha256(self.path)}]

    @classmethod
    def open(cls, root: Path, options: Mapping[str, Any]) -> "ReportPairs":
        """Open the file with the columns that the options name."""
        columns = {name: options[name] for name in ("completion_column", *cls.options)}
        prompt_column = options["prompt_column"] if options["label_source"] == "prompt" else None
        return cls(root, prompt_column=prompt_column, **columns)

    def _check_columns(self) -> None:
        """Refuse a file whose first objects all lack a column, and name the way to read it."""
        rows = (json_object(line) for _, line in islice(self.items(), _FIRST))
        objects = [row for row in rows if isinstance(row, dict)]
        remedies = {
            self._prompt: "name it with --prompt-column, or label the reports by their text with --label-source relabel",
            self._completion: "name it with --completion-column",
        }
        sections = "columns of findings and impression are read with --source table"
        for column, remedy in remedies.items():
            if column and objects and not any(column in row for row in objects):
                raise InputError(f"no object has the column {column!r}; {remedy}; {sections}", str(self.path))

    def items(self) -> Iterator[tuple]:
        """Number and text of every line that is not blank."""
        try:
            for number, line in enumerate(text_lines(self.path), start=1):
                if line.strip():
                    yield number, line
        except OSError as error:
            raise InputError(f"cannot be read ({error.strerror}); check its permissions", str(self.path)) from None

    def read(self, item: tuple) -> Report | RejectedReport:
        """Read one line."""
        number, line = item
        where = f"{self.path.name}:{number}"
        if SURROGATE.search(line):
            return RejectedReport(where, "not_utf8")
        row = json_object(line)
        if isinstance(row, str):
            return RejectedReport(where, "unreadable_json", "write one object per line")
        cells = {}
        for column in filter(None, (self._prompt, self._completion, self._id, self._group)):
            value = row.get(column)
            if isinstance(value, int) and not isinstance(value, bool) and column in (self._id, self._group):
                value = str(value)
            if not isinstance(value, str):
                return RejectedReport(where, "unreadable_json", f"column {column!r} is missing or is not text")
            if SURROGATE.search(value):
                return RejectedReport(where, "not_utf8", f"column {column!r} contains a broken character")
            cells[column] = value
        study = cells[self._id].strip() if self._id else str(number)
        group = cells[self._group].strip() if self._group else study
        observations = None
        if self._prompt:
            try:
                observations = format_observations(parse_observations(_TRAILING_HEADER.sub("", cells[self._prompt])))
            except InputError as error:
                return RejectedReport(where, "unreadable_prompt", str(error))
        return as_report(where, study, group, sections_of(cells[self._completion]), observations=observations)
