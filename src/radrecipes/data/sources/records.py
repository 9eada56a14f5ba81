"""From a record, cells by the names of columns wherever they come from, to a report."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from radrecipes.data.normalise import is_missing
from radrecipes.data.sources.report_source import RejectedReport, Report
from radrecipes.data.sources.table_rows import column_problem
from radrecipes.data.sources.text_tables import SURROGATE
from radrecipes.errors import InputError
from radrecipes.radiology.exams import exam_in
from radrecipes.radiology.sections import MAIN_HEADERS, Sections, split_sections
from radrecipes.radiology.sign_off import without_sign_off

# What columns are usually called; case, blanks and underscores do not matter, and the first that is there is taken.
USUAL_NAMES = {
    "findings": ("findings", "section_findings", "findings_text", "report_findings", "finding"),
    "impression": ("impression", "section_impression", "impressions", "impression_text", "report_impression", "conclusion"),
    "report": ("report", "report_text", "radiology_report", "full_report", "full_text", "report_body", "narrative", "text"),
    "id": ("study_id", "report_id", "uid", "accession_number", "accession", "accession_no", "exam_id", "id"),
    "group": ("patient_id", "subject_id", "deid_patient_id", "patient", "subject", "mrn", "patient_mrn", "person_id"),
    "exam": (
        "exam", "exam_name", "exam_description", "exam_type", "examination", "procedure", "procedure_name",
        "procedure_description", "study_description", "study",
    ),
    "split": ("split", "partition", "subset"),
}  # fmt: skip
SPLIT_SPELLINGS = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("validation", "validate", "valid", "val", "dev", "development"), "validation"),
    **dict.fromkeys(("test", "testing", "tst"), "test"),
}
_HEADERS = r"(?:FINDINGS?|IMPRESSIONS?|CONCLUSIONS?)"
_OWN_HEADER = re.compile(rf"\A\s*{_HEADERS}(?:\s*:|[ \t]*\n)\s*", re.IGNORECASE)
# Without a colon on a line of its own, as `split_sections` finds it.
_SECTION_HEADER = re.compile(rf"\b{_HEADERS}\s*:|^[ \t]*(?-i:{MAIN_HEADERS})[ \t]*$", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True)
class Columns:
    """The columns of a record by what they contain; `None` where there is none."""

    findings: str | None = None
    impression: str | None = None
    report: str | None = None
    id: str | None = None
    group: str | None = None
    exam: str | None = None
    split: str | None = None
    prompt: str | None = None

    @property
    def named(self) -> list[str]:
        """The columns that there are."""
        return [column for column in (getattr(self, field.name) for field in fields(self)) if column]

    @property
    def said(self) -> str:
        """Which columns were taken, for the terminal."""
        pairs = ((field.name, getattr(self, field.name)) for field in fields(self))
        return "columns: " + ", ".join(f"{role} {column!r}" for role, column in pairs if column)


def find_columns(
    header: Sequence[str], chosen: Mapping[str, str | None], where: str, *, official_split: bool = False
) -> Columns:
    """The columns that the user names, and those with usual names for the rest; an [`InputError`] if there is no text.

    Both sections go before a column of complete reports. A chosen name that is empty means no column.
    """
    found: dict[str, str | None] = {}
    for role in USUAL_NAMES:
        column = chosen.get(role)
        if column and (problem := column_problem(header, [column], "the file")):
            raise InputError(problem, where)
        found[role] = usual_column(header, role) if column is None else column or None
    sections = [role for role in ("findings", "impression") if found[role]]
    # One section alone, next to complete reports, is less than these.
    if found["report"] and not any(map(chosen.get, sections)) and (chosen.get("report") or len(sections) == 1):
        found |= dict.fromkeys(sections)
    elif sections:
        found["report"] = None
    elif not found["report"]:
        raise InputError(
            f"none of the {len(header)} columns has a usual name for findings, impression or complete reports; name them with"
            " --findings-column and --impression-column, or with --report-column",
            where,
        )
    if official_split and not found["split"]:
        raise InputError("no column states a split; name it with --split-column, or choose --split patient", where)
    return Columns(**(found if official_split else found | {"split": None}))


def usual_column(header: Sequence[str], role: str) -> str | None:
    """The column with a usual name for what it contains; `None` if there is none."""
    plain: dict[str, str] = {}
    for name in header:
        plain.setdefault(_plain(name), name)
    return next((plain[_plain(name)] for name in USUAL_NAMES[role] if _plain(name) in plain), None)


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.casefold())


def to_report(cells: Mapping[str, str], columns: Columns, number: int, where: str) -> Report | RejectedReport:
    """The report of one record; without a column of ids, records are numbered."""
    study = (_text(cells[columns.id]).strip() if columns.id else "") or (
        f"row {number}" if columns.id else str(number)
    )
    group = _text(cells[columns.group]).strip() if columns.group else study
    split = None
    if columns.split:
        split = SPLIT_SPELLINGS.get(cells[columns.split].strip().casefold())
        if not split:
            return RejectedReport(
                where, "no_split", f"column {columns.split!r} says neither train, validation nor test"
            )
    exam = cells[columns.exam] if columns.exam else ""
    if columns.report:
        text = _text(cells[columns.report])
        return as_report(where, study, group, sections_of(text), exam=exam or exam_in(text), split=split)
    findings, impression = (
        _OWN_HEADER.sub("", without_sign_off(_text(cells[column]))) if column else ""
        for column in (columns.findings, columns.impression)
    )
    return as_report(where, study, group, Sections(_one_line(findings), _one_line(impression)), exam=exam, split=split)


def as_report(
    where: str,
    study: str,
    group: str,
    sections: Sections,
    *,
    exam: str = "",
    sha256: bytes = b"",
    split: str | None = None,
) -> Report | RejectedReport:
    """The report of any reader, or why it cannot be used."""
    if not group:
        return RejectedReport(where, "empty_group", sha256=sha256)
    if not has_words(sections.findings + sections.impression):
        return RejectedReport(where, "empty_report", sha256=sha256)
    exam = " ".join(exam.split())
    if SURROGATE.search(f"{study}{group}{sections.findings}{sections.impression}{exam}"):
        return RejectedReport(where, "not_utf8", "save it as UTF-8", sha256)
    return Report(study, group, sections.findings, sections.impression, where, split=split, sha256=sha256, exam=exam)


def sections_of(text: str) -> Sections:
    """Findings and impression of a complete report without its sign-off; a report without headers is findings."""
    text = without_sign_off(_text(text))
    return split_sections(text) if has_headers(text) else Sections(findings=_one_line(text))


def has_headers(text: str) -> bool:
    """Whether a text has a header of findings or an impression."""
    return _SECTION_HEADER.search(text) is not None


def has_words(text: str) -> bool:
    """Whether a text contains a letter."""
    return any(map(str.isalpha, text))


def _text(cell: str) -> str:
    """A cell or file with `\n` as its only line end, which the rules for signatures and headers look for."""
    return "" if is_missing(cell) else cell.replace("\r\n", "\n").replace("\r", "\n")


def _one_line(text: str) -> str:
    return " ".join(text.split()) if has_words(text) else ""
