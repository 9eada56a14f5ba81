"""What every reader of reports hands over: a report by its sections, or the reason why it cannot be used."""

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

# Why a report is left out, and what to say of it. These are faults of the input and count against --max-dropped.
DROP_REASONS = {
    "missing_report": "a CSV file names the study, but there is no report file",
    "no_labels": "the label CSV does not name the study",
    "no_split": "the split CSV does not name the study",
    "conflicting_rows": "a CSV file states two different things of the study",
    "unreadable": "the file cannot be read",
    "truncated": "the compressed file ends too early or is damaged",
    "not_utf8": "the text is not UTF-8",
    "unreadable_xml": "the XML is not well-formed",
    "unreadable_json": "the line is no JSON object with the columns as text",
    "unreadable_prompt": "the prompt is no list of observations",
    "duplicate_study": "an earlier report has the same study id",
    "empty_report": "the report holds no words",
    "empty_section": "findings or impression has a header but no words",
    "empty_group": "the group is empty",
}


class Report(NamedTuple):
    """One report as its source holds it.

    Args:
        id (`str`):
            Study id.
        group (`str`):
            Patient, or the study itself where the source names no patient.
        findings (`str`):
            Findings as a single line, empty where the report has none.
        impression (`str`):
            Impression as a single line, empty where the report has none.
        path (`str`):
            Where it stands, relative to the root; a line as `pairs.jsonl:17`.
        empty_header (`bool`, *optional*, defaults to `False`):
            Whether a section that has no words has a header.
        observations (`str`, *optional*):
            Labels that the source states, as `format_observations` writes them.
        split (`str`, *optional*):
            Split that the source states.
        sha256 (`bytes`, *optional*, defaults to `b""`):
            Hash of the report file, where the source is a folder of them.
    """

    id: str
    group: str
    findings: str
    impression: str
    path: str
    empty_header: bool = False
    observations: str | None = None
    split: str | None = None
    sha256: bytes = b""


class RejectedReport(NamedTuple):
    """A report that cannot be used.

    Args:
        path (`str`):
            As for [`Report`].
        reason (`str`):
            A key of `DROP_REASONS`.
        hint (`str`, *optional*, defaults to `""`):
            How to mend it; never quotes the report.
        sha256 (`bytes`, *optional*, defaults to `b""`):
            As for [`Report`].
    """

    path: str
    reason: str
    hint: str = ""
    sha256: bytes = b""


# Labels that a source states and that are none: nothing is mentioned, or No Finding stands beside a finding.
NOTHING_MENTIONED = ""
CONTRADICTORY = "contradictory"


class ReportSource(Protocol):
    """A reader. It is handed to every process, so it must pickle and be small: what belongs to one report is in its item.

    Attributes:
        count (`int`):
            Items to come.
        rejected (`list[RejectedReport]`):
            What is known to be missing before any report is read.
        files (`list[dict[str, Any]]`):
            For the manifest: `file` and `sha256` of every file that was read as a whole.
        folder (`str` or `None`):
            Name of the folder or archive whose reports are hashed one by one.
        generator (`dict[str, Any]` or `None`):
            What the source says of the program that wrote it; `None` for real reports.
    """

    count: int
    rejected: list[RejectedReport]
    files: list[dict[str, Any]]
    folder: str | None
    generator: dict[str, Any] | None

    def items(self) -> Iterator[tuple]:
        """What [`read`] takes, for each report in a fixed order; called once, before the processes start."""

    def read(self, item: tuple) -> Report | RejectedReport:
        """Read one report; called in any process."""
