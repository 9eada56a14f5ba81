"""Reads FHIR DiagnosticReport resources: an attached text, contained observations, the conclusion, the narrative."""

import base64
import binascii
import hashlib
import re
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from radrecipes.data.sources.fhir import parsed, text_at
from radrecipes.data.sources.records import as_report, has_headers, has_words, sections_of
from radrecipes.data.sources.report_files import LineFiles, decoded
from radrecipes.data.sources.report_source import LARGEST_REPORT, RejectedReport, Report, ReportSource
from radrecipes.data.sources.text_tables import UTF_8
from radrecipes.errors import InputError
from radrecipes.radiology.sections import Sections

SUFFIXES = (".ndjson", ".jsonl", ".ndjson.gz", ".jsonl.gz")
_KIND = re.compile(r'"resourceType"\s*:\s*"DiagnosticReport"')
_WITHDRAWN = ("cancelled", "entered-in-error", "registered")
_BLOCKS = ("p", "div", "br", "li", "tr", "h1", "h2", "h3", "h4", "h5", "h6", "td")
# Of Word, or broken; HTMLParser fails on those that it does not know.
_MARKED_SECTION = re.compile(r"<!\[[^>]*>?")


class FhirReports(ReportSource):
    """The DiagnosticReport resources of ndjson files in the order of their lines; other resources are passed over."""

    name = "fhir"
    layout = "file or folder of FHIR DiagnosticReport resources as .ndjson"
    title = "FHIR DiagnosticReport resources"
    group = (
        "the patient (subject: type and id of the reference, or the identifier), or the report itself if there is none"
    )

    def __init__(self, root: str | Path):
        """Count the resources, so that a damaged file is found before any work."""
        self._files = LineFiles(root, SUFFIXES, "FHIR resources", UTF_8)
        self.files, self.folder = self._files.files, self._files.folder
        self.rejected = []
        self.count = unnamed = 0
        for _, line in self.items():
            resource = parsed(line)
            self.count += 1
            unnamed += isinstance(resource, dict) and not text_at(resource, "subject")
        if unnamed:
            self.said = [f"{unnamed} reports name no patient (subject): each counts as a patient of its own"]
        if not self.count:
            raise InputError(
                "no DiagnosticReport resource here; give .ndjson files with one resource per line as --root", str(root)
            )

    def items(self) -> Iterator[tuple]:
        """Place and line of every resource."""
        for name, lines in self._files.each():
            for number, line in enumerate(lines, start=1):
                if _KIND.search(line):
                    yield f"{name}:{number}", line

    def read(self, item: tuple) -> Report | RejectedReport:
        """Read one resource."""
        where, line = item
        resource = parsed(line)
        if isinstance(resource, str):
            return RejectedReport(where, "unreadable_json", resource)
        if resource.get("resourceType") != "DiagnosticReport":
            return RejectedReport(where, "unreadable_json", "it is not a DiagnosticReport")
        if text_at(resource, "status") in _WITHDRAWN:
            return RejectedReport(where, "empty_report")
        text, conclusion = _presented(resource), " ".join(text_at(resource, "conclusion").split())
        if text is None:
            return RejectedReport(where, "unreadable_json", "an attachment is not base64 of a text")
        if len(text) > LARGEST_REPORT:
            return RejectedReport(where, "too_large")
        sections = sections_of(text)
        if has_words(conclusion) and not sections.impression:
            sections = Sections(sections.findings, conclusion)
        study = text_at(resource, "id") or where
        group = text_at(resource, "subject") or study
        sha256 = hashlib.sha256(line.encode()).digest()
        return as_report(where, study, group, sections, exam=text_at(resource, "code"), sha256=sha256)


def _presented(resource: Mapping[str, Any]) -> str | None:
    """The complete report: the attached text, else its contained observations, else the narrative; `None` if it is broken."""
    forms = [form for form in _list(resource, "presentedForm") if isinstance(form.get("data"), str)]
    for kind in ("text/plain", "text/html", ""):
        for form in forms:
            content, _, parameters = str(form.get("contentType") or "").lower().partition(";")
            if content.strip() == kind:
                charset = re.search(r"charset=\"?([\w-]+)", parameters)
                try:
                    data = base64.b64decode("".join(form["data"].split()), validate=True)
                    text = decoded(data, charset[1] if charset else None)
                except (binascii.Error, ValueError, LookupError):
                    text = None
                return _without_markup(text) if text and kind == "text/html" else text
    observations = [part for part in _list(resource, "contained") if part.get("resourceType") == "Observation"]
    texts = [
        f"{text_at(part, 'code').upper()}:\n{text_at(part, 'valueString')}"
        for part in observations
        if part.get("valueString")
    ]
    if texts:
        return "\n".join(texts)
    narrative = _without_markup(text_at(resource, "text.div"))
    # A generated narrative repeats the other fields.
    return narrative if has_headers(narrative) or not resource.get("conclusion") else ""


def _list(resource: Mapping[str, Any], name: str) -> list[dict]:
    values = resource.get(name)
    return [value for value in values if isinstance(value, dict)] if isinstance(values, list) else []


class _Markup(HTMLParser):
    def __init__(self):
        super().__init__()
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag in _BLOCKS:
            self.texts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        self.handle_starttag(tag, None)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def _without_markup(text: str) -> str:
    if len(text) > LARGEST_REPORT:  # refused later, for example for an image in it
        return text
    markup = _Markup()
    markup.feed(_MARKED_SECTION.sub("", text))
    markup.close()
    return "".join(markup.texts)
