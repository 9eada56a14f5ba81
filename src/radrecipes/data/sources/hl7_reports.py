"""Reads HL7 v2 result messages (ORU^R01): the text of OBX segments as reports."""

import hashlib
import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from radrecipes.data.sources.hl7 import WITHDRAWN, Result, field, messages_in, results_in, unescaped
from radrecipes.data.sources.records import as_report, sections_of
from radrecipes.data.sources.report_files import LineFiles
from radrecipes.data.sources.report_source import LARGEST_REPORT, RejectedReport, Report, ReportSource
from radrecipes.errors import InputError
from radrecipes.radiology.sections import Sections

SUFFIXES = (".hl7", ".txt", ".oru", ".dat", ".hl7.gz")
_PRELIMINARY = ("P", "R", "I", "S", "O", "A")
# The section that an observation identifier names by its suffix or LOINC code; comments are not used.
_SECTION_CODES = {
    "IMP": "IMPRESSION", "19005-8": "IMPRESSION", "55110-1": "IMPRESSION",
    "GDT": "FINDINGS", "18782-3": "FINDINGS", "59776-5": "FINDINGS",
    **dict.fromkeys(("REC", "ADT", "18834-2", "18785-6", "11329-0", "55111-5", "42348-3"), "COMMENT"),
}  # fmt: skip


class Hl7Reports(ReportSource):
    """The reports of HL7 v2 messages in the order of the files; of several versions of a report the last one."""

    name = "hl7"
    layout = f"file or folder of HL7 v2 ORU messages ({', '.join(SUFFIXES)})"
    title = "HL7 v2 result messages"
    group = "patient id (PID-3), or the report itself if a message names no patient"
    options = ("encoding",)

    def __init__(self, root: str | Path, *, encoding: str | None = None):
        """Read all messages once, to find the last version of every report and to count what is left out."""
        self._files = LineFiles(root, SUFFIXES, "HL7 messages", encoding)
        self.files, self.folder = self._files.files, self._files.folder
        self.rejected = []
        last: dict[str, tuple[tuple[bool, str, int], str]] = {}
        versions = unnamed = 0
        for versions, result in enumerate(self._results(), start=1):
            unnamed += not _patient(result)
            time = field(result.request, 22) or field(result.message, 6)
            rank = _status(result) not in _PRELIMINARY, time, versions
            key = _number(result)
            if key not in last or last[key][0] < rank:
                last[key] = rank, _status(result)
        if not versions:
            raise InputError(
                "no HL7 message with a text (MSH, OBR, OBX) here; give ORU^R01 messages as --root", str(root)
            )
        withdrawn = {key for key, (_, status) in last.items() if status in WITHDRAWN}
        self._kept = {rank[2] for key, (rank, _) in last.items() if key not in withdrawn}
        self.count = len(self._kept)
        preliminary = sum(status in _PRELIMINARY for _, status in last.values())
        said = {
            "earlier versions of reports were left out": versions - len(last),
            "withdrawn reports were left out": len(withdrawn),
            "reports have a preliminary version only, which was kept": preliminary,
            "messages name no patient (PID-3): each counts as a patient of its own": unnamed,
        }
        self.said = [f"{count} {what}" for what, count in said.items() if count]

    def items(self) -> Iterator[Result]:
        """The last version of every report."""
        return (result for number, result in enumerate(self._results(), start=1) if number in self._kept)

    def read(self, item: Result) -> Report | RejectedReport:
        """Join the text of one report and split it into sections."""
        result, study = item, _number(item)
        if sum(len(cell) for fields in result.texts for cell in fields) > LARGEST_REPORT:
            return RejectedReport(result.where, "too_large")
        exam = field(result.request, 4).split(result.separators[1])
        exam = next(
            (unescaped(part, result.separators) for part in (*exam[1:2], *exam[4:5], *exam[:1]) if part.strip()), ""
        )
        sha256 = hashlib.sha256(repr(result.texts).encode(errors="surrogateescape")).digest()
        group = _patient(result) or study
        return as_report(result.where, study, group, _sections(result), exam=exam, sha256=sha256)

    def _results(self) -> Iterator[Result]:
        for name, lines in self._files.each():
            for number, message in enumerate(messages_in(lines), start=1):
                yield from results_in(message, f"{name}:message {number}")


def _number(result: Result) -> str:
    """The number of the report, with the system that it is of: the filler's, the placer's, or that of the message."""
    for segment, number in ((result.request, 3), (result.request, 2), (result.message, 9)):
        if value := field(segment, number).rstrip(result.separators[1]).strip():
            return value
    return result.where


def _status(result: Result) -> str:
    return field(result.request, 25) or (field(result.texts[0], 11) if result.texts else "")


def _patient(result: Result) -> str:
    """The first patient id, or the one that is marked as a medical record number."""
    ids = [part.split(result.separators[1]) for part in field(result.patient, 3).split(result.separators[2])]
    marked = [parts for parts in ids if len(parts) > 4 and parts[4].strip() == "MR"]
    return (marked or ids)[0][0].strip()


def _sections(result: Result) -> Sections:
    """Sections by their headers, or by the identifiers of the OBX segments if the impression has no header."""
    blocks = []
    texts = (fields for fields in result.texts if field(fields, 11) not in WITHDRAWN)
    for section, segments in groupby(texts, key=lambda fields: _section_of(fields[3], result.separators)):
        cells = (part for fields in segments for part in fields[5].split(result.separators[2]))
        blocks.append((section, "\n".join(unescaped(cell, result.separators) for cell in cells)))
    sections = sections_of("\n".join(text for _, text in blocks))
    if sections.impression or not any(section == "IMPRESSION" for section, _ in blocks):
        return sections
    return sections_of("\n".join(f"{section or 'FINDINGS'}:\n{text}" for section, text in blocks))


def _section_of(identifier: str, separators: str) -> str | None:
    """The section that OBX-3 names, `None` if it names none."""
    for code in re.split(rf"[{re.escape(separators[1] + separators[4])}]", identifier):
        if code.strip() in _SECTION_CODES:
            return _SECTION_CODES[code.strip()]
    return None
