"""What every reader of reports returns: a report divided into sections, or the reason why it cannot be used."""

import errno
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

from radrecipes.errors import InputError
from radrecipes.files import MIB, read_bytes

# Why a report is rejected. These are errors in the input and count against --max-dropped.
DROP_REASONS = {
    "missing_report": "a CSV file names the study, but there is no report file",
    "no_labels": "the label CSV does not contain the study",
    "no_split": "no split is stated for the study",
    "conflicting_rows": "rows of a CSV file contradict each other about the study",
    "unreadable": "the file cannot be read",
    "link": "the report is a link, which is not followed; copy the folder with `cp -rL`",
    "too_large": "the report has more than 1 MiB, also when unpacked, or is not a regular file",
    "truncated": "the compressed file ends too early or is damaged",
    "not_utf8": "the text is not UTF-8",
    "unreadable_xml": "the XML is not well-formed",
    "unreadable_json": "the line is not a DiagnosticReport that can be read",
    "unreadable_row": "the row cannot be read",
    "unreadable_prompt": "the prompt is not a list of observations",
    "duplicate_study": "an earlier report has the same study id",
    "empty_group": "the group is empty",
    "control_token": "findings or impression contain a control token of a chat format, such as <|im_end|>",
}

# Why a report that can be read has nothing to use. A department's files always contain some, so they are no errors.
EMPTY_REASONS = {"empty_report": "the report contains no words"}

# Stated labels that cannot be used: nothing is mentioned, or No Finding together with a finding.
NOTHING_MENTIONED = ""
CONTRADICTORY = "contradictory"


class Report(NamedTuple):
    """One report, each section on a single line, empty if it has none.

    Args:
        group: Patient, or the study itself if the source names no patient.
        path: The file, relative to the root, or a line as `pairs.jsonl:17`.
        observations: Labels that the source states, as `format_observations` writes them.
        sha256: Hash of the report file, if the source is a folder of them.
        exam: Name of the exam as the source states it, for example `CHEST PA AND LATERAL`.
    """

    id: str
    group: str
    findings: str
    impression: str
    path: str
    observations: str | None = None
    split: str | None = None
    sha256: bytes = b""
    exam: str = ""


class RejectedReport(NamedTuple):
    """A report that cannot be used; `reason` is a key of `DROP_REASONS` or `EMPTY_REASONS`; `hint` never quotes the report."""

    path: str
    reason: str
    hint: str = ""
    sha256: bytes = b""


# Bytes of one report; real ones have a hundredth of it.
LARGEST_REPORT = 1 * MIB


def read_report(path: str | Path, name: str) -> bytes | RejectedReport:
    """The bytes of a report file, or why it is rejected: a link could lead to any file outside the source."""
    try:
        return read_bytes(path, LARGEST_REPORT, follow=False)
    except InputError:
        return RejectedReport(name, "too_large")
    except OSError as error:
        return RejectedReport(name, "link" if error.errno == errno.ELOOP else "unreadable")


class ReportSource(ABC):
    """A reader. What belongs to one report is in its item, so that what other processes get of the reader is small.

    Attributes:
        name, layout: The value of `--source`, and what `--root` has to be, for `--help`.
        title, group: Where the reports come from ("Read from …"), and what the column `group` contains, for the card.
        published: The source in a card's `source_datasets`, if it is published.
        access, license: Access class and Hub licence of the source's reports, if they were not generated.
        deidentified: The default of `--deidentified`.
        label_sources: The possible values of `--label-source`, the default first.
        options: Names of the options that only some sources have, and this one has.
        shared: Names of the attributes that every process needs to [`read`] an item.
        rejected: Reports that are known to be unusable before any is read.
        files: For the manifest: `file` and `sha256` of every file that was read completely.
        folder: Name of the folder or archive whose reports are hashed one by one, if any.
        said: What the reader found out by itself, for the terminal: no cell of a file.
        generator: What the source says about the program that generated it; `None` for real reports.
    """

    name: ClassVar[str]
    layout: ClassVar[str]
    title: ClassVar[str]
    group: ClassVar[str]
    published: ClassVar[str | None] = None
    access: ClassVar[str] = "credentialed"
    license: ClassVar[str] = "other"
    deidentified: ClassVar[str] = "repair"
    label_sources: ClassVar[tuple[str, ...]] = ("relabel",)
    official_split: ClassVar[bool] = False
    options: ClassVar[tuple[str, ...]] = ()
    shared: ClassVar[tuple[str, ...]] = ()

    count: int
    _items: list[tuple]
    rejected: list[RejectedReport]
    files: list[dict[str, Any]]
    folder: str | None = None
    said: Sequence[str] = ()
    generator: dict[str, Any] | None = None

    @classmethod
    def open(cls, root: Path, options: Mapping[str, Any]) -> Self:
        """Open the source; `options` are the command-line values by name."""
        return cls(root, **{name: options[name] for name in cls.options})

    def __getstate__(self) -> dict[str, Any]:
        """What another process gets."""
        return {name: getattr(self, name) for name in self.shared}

    def items(self) -> Iterator[tuple]:
        """Yield the argument of [`read`] for each report in a fixed order; called once, before the processes start."""
        return iter(self._items)

    @abstractmethod
    def read(self, item: tuple) -> Report | RejectedReport:
        """Read one report; called in any process."""
