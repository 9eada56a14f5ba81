"""Reading MIMIC-CXR as it is on disk: the tree of reports or its archive, and the CSV files next to it.

Layout and label values: https://physionet.org/content/mimic-cxr/ and https://physionet.org/content/mimic-cxr-jpg/.
"""

import gzip
import hashlib
import io
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from operator import itemgetter
from pathlib import Path
from typing import Any

from radrecipes.data.sources.report_files import walk
from radrecipes.data.sources.report_source import (
    CONTRADICTORY,
    LARGEST_REPORT,
    NOTHING_MENTIONED,
    RejectedReport,
    Report,
    ReportSource,
    read_report,
)
from radrecipes.data.sources.text_tables import delimited_rows
from radrecipes.errors import InputError
from radrecipes.files import MIB, bounded, file_sha256, open_regular, read_json_object
from radrecipes.radiology.exams import exam_in
from radrecipes.radiology.observations import (
    NO_FINDING,
    OBSERVATIONS,
    Labels,
    Status,
    findings_present,
    format_observations,
    observation_name,
)
from radrecipes.radiology.sections import study_sections

ARCHIVE = "mimic-cxr-reports.zip"

_REPORT_PATH = re.compile(r"(?:.*/)?(files/p\d{2}/p(\d+)/s(\d+)\.(?i:txt(?:\.gz)?))")
_STATUSES = {
    **dict.fromkeys(("1.0", "1"), Status.POSITIVE),
    **dict.fromkeys(("0.0", "0"), Status.NEGATIVE),
    **dict.fromkeys(("-1.0", "-1"), Status.UNCERTAIN),
}
# What a CSV file states about each study, and the study's patient.
_Stated = dict[str, tuple[str, str]]
_CONFLICT = "conflict"
_SPLITS = {"train": "train", "validate": "validation", "test": "test"}


class MimicCxr(ReportSource):
    """The reports of MIMIC-CXR, or of a tree in its layout, in the order of their paths."""

    name = "mimic-cxr"
    layout = "folder with files/ or mimic-cxr-reports.zip, and the CSV files"
    title = "a tree in MIMIC-CXR's layout"
    group = "patient id"
    published = "other-mimic-cxr"
    label_sources = ("relabel", "csv")
    official_split = True
    # Its marks are dates, names and places; sentences that contain one seldom state a finding.
    deidentified = "drop"
    folder = "files"
    shared = ("_base", "_archive")

    def __init__(self, root: str | Path, *, labels: str | None = None, official_split: bool = False):
        """Find the reports, and read the requested CSV files, each with or without `.gz`.

        `root` has `files/`, `mimic-cxr-reports/files/` or `mimic-cxr-reports.zip`, and the CSV files; `labels` is the
        labeller to read, `"chexpert"` or `"negbio"`.
        """
        self.root = Path(root)
        self.files = []
        self.rejected = []
        self._base, self._archive, paths = _find_reports(self.root)
        self.generator = _read_generator(self.root)
        labels_of = self._read_csv(f"-{labels}", OBSERVATIONS, _labels_as_stated) if labels else None
        split_of = self._read_csv("-split", ("split",), _split_as_stated) if official_split else None
        self._items = self._match(paths, labels_of, split_of)
        self.count = len(self._items)

    @classmethod
    def open(cls, root: Path, options: Mapping[str, Any]) -> "MimicCxr":
        """Open the source with the CSV files that `--labels` and `--split` need."""
        return cls(root, labels=options["labels"], official_split=options["split"] == "official")

    def read(self, item: tuple) -> Report | RejectedReport:
        """Read one report file and split it into its sections."""
        path, patient, study, observations, split = item
        data = self._bytes(path)
        if isinstance(data, RejectedReport):
            return data
        sha256 = hashlib.sha256(data).digest()
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            return RejectedReport(path, "not_utf8", sha256=sha256)
        if not text.strip():
            return RejectedReport(path, "empty_report", sha256=sha256)
        sections = study_sections(text, study)
        texts = sections.findings, sections.impression
        return Report(study, patient, *texts, path, observations, split, sha256, exam_in(text))

    def _bytes(self, path: str) -> bytes | RejectedReport:
        if self._archive is None:
            data = read_report(f"{self._base}/{path}", path)
            if isinstance(data, RejectedReport) or not path.lower().endswith(".gz"):
                return data
        try:
            if self._archive:
                # A forked process would share its position in the file with the one that opened it.
                archive, members = _open_archive(self._archive, os.getpid())
                with archive.open(members[path]) as member:
                    data = bounded(member, LARGEST_REPORT, path)
            if path.lower().endswith(".gz"):
                with gzip.GzipFile(fileobj=io.BytesIO(data)) as content:
                    data = bounded(content, LARGEST_REPORT, path)
        except InputError:
            return RejectedReport(path, "too_large")
        except (OSError, EOFError, zlib.error, zipfile.BadZipFile, NotImplementedError):
            return RejectedReport(path, "truncated")
        return data

    def _match(
        self, paths: list[tuple[str, str, str]], labels_of: _Stated | None, split_of: _Stated | None
    ) -> list[tuple]:
        tables, items = ((labels_of, "no_labels"), (split_of, "no_split")), []
        named = {**(split_of or {}), **(labels_of or {})}
        for path, patient, study in paths:
            named.pop(study, None)
            reasons = [reason for table, reason in tables if table is not None and study not in table]
            observations, split = ((table or {}).get(study, (None,))[0] for table, _ in tables)
            if _CONFLICT in (observations, split):
                reasons.append("conflicting_rows")
            if reasons:
                self.rejected.append(RejectedReport(path, reasons[0]))
            else:
                items.append((path, patient, study, observations, split))
        for study, (_, patient) in sorted(named.items()):
            self.rejected.append(RejectedReport(f"files/p{patient[:2]}/p{patient}/s{study}.txt", "missing_report"))
        return items

    def _read_csv(self, ending: str, columns: Sequence[str], meaning: Callable[[tuple, str], str]) -> _Stated:
        # MIMIC-CXR-JPG 2.1.0 still names its files 2.0.0; a later one may not.
        name = re.compile(rf"mimic-cxr-[0-9].*{ending}\.csv(\.gz)?", re.IGNORECASE)
        path = min((path for path in self.root.iterdir() if name.fullmatch(path.name)), default=None)
        if path is None:
            raise InputError(f"no mimic-cxr-2.0.0{ending}.csv or .csv.gz here; copy it there", str(self.root))
        try:
            self.files.append({"file": path.name, "sha256": file_sha256(path)})
        except OSError as error:
            raise InputError(f"cannot be read ({error.strerror}); copy it there again", str(path)) from None
        known: dict[tuple[str, ...], str] = {}
        found: _Stated = {}
        # In the split file a study occurs once for each of its images.
        for where, (study, patient, *values) in _csv_rows(path, ("study_id", "subject_id", *columns)):
            key = tuple(values)
            if key not in known:
                known[key] = meaning(key, where)
            if found.setdefault(study, (known[key], patient)) != (known[key], patient):
                found[study] = (_CONFLICT, patient)
        return found


def _split_as_stated(values: tuple[str, ...], where: str) -> str:
    if values[0] not in _SPLITS:
        raise InputError("column 'split' contains none of train, validate and test; download the file again", where)
    return _SPLITS[values[0]]


def _labels_as_stated(values: tuple[str, ...], where: str) -> str:
    """Labels of one CSV row as a prompt states them."""
    labels: Labels = {}
    for name, value in zip(OBSERVATIONS, values, strict=True):
        if value.strip():
            if value.strip() not in _STATUSES:
                raise InputError(f"column {name!r} contains none of 1.0, 0.0, -1.0 and blank; fix the value", where)
            labels[name] = _STATUSES[value.strip()]
    # No Finding is derived: it would contradict a finding, and its absence need not be stated.
    if labels.get(NO_FINDING) == Status.POSITIVE:
        if findings_present(labels):
            return CONTRADICTORY
    else:
        labels.pop(NO_FINDING, None)
    return format_observations(labels) if labels else NOTHING_MENTIONED


def _csv_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Place of every row, and its cells in these columns; the first two are integers."""
    again = "download the file again"
    try:
        rows = delimited_rows(path, ",")
        _, names, _ = next(rows, ("", [], None))
        header = [_column(name) for name in names]
        for column in columns:
            if header.count(column) != 1:
                problem = "is missing" if column not in header else "occurs twice"
                raise InputError(f"column {column!r} {problem} in the header; {again}", f"{path}:1")
        wanted = itemgetter(*map(header.index, columns))
        for where, fields, problem in rows:
            if problem:
                raise InputError(f"{problem.partition(';')[0]}; {again}", where)
            cells = wanted(fields)
            for column, cell in zip(columns[:2], cells, strict=False):
                if not (cell.isdecimal() and cell.isascii()):
                    advice = "save the file without changing its numbers"
                    raise InputError(f"column {column!r} is not an integer; {advice}", where)
            yield where, cells
    except OSError as problem:
        raise InputError(f"cannot be read ({problem.strerror}); check its permissions", str(path)) from None


def _column(name: str) -> str:
    # The radiologist-labelled set uses another name for Lung Opacity; the other columns have the usual names.
    try:
        return observation_name(name)
    except InputError:
        return name.strip()


def _find_reports(root: Path) -> tuple[Path | None, Path | None, list[tuple[str, str, str]]]:
    """Parent of `files`, or the archive, and path, patient and study of every report, sorted."""
    if not root.is_dir():
        problem = "is not a folder" if root.exists() else "no such folder"
        raise InputError(f"{problem}; give the one with files/ or mimic-cxr-reports.zip as --root", str(root))
    for base in (root, root / "mimic-cxr-reports"):
        if (base / "files").is_dir():
            paths = _scan(base)
            if paths:
                return base, None, paths
    archive = root / ARCHIVE
    if archive.is_file():
        try:
            with open_regular(archive) as file, zipfile.ZipFile(file) as content:
                names = content.namelist()
                encrypted = any(member.flag_bits & 1 for member in content.infolist())
        except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError):
            raise InputError("is not a complete zip file; download it again", str(archive)) from None
        if encrypted:
            raise InputError("is encrypted; unpack it, and remove the archive", str(archive))
        matches = [_REPORT_PATH.fullmatch(name) for name in names]
        paths = sorted(match.groups() for match in matches if match)
        if paths:
            return None, archive, paths
    raise InputError(
        "no reports of MIMIC-CXR here; looked for files such as files/p10/p10000032/s50414267.txt in this folder and in"
        f" mimic-cxr-reports/, and in {ARCHIVE}; give the folder that contains them as --root",
        str(root),
    )


def _scan(base: Path) -> list[tuple[str, str, str]]:
    matches = (_REPORT_PATH.fullmatch(f"files/{path}") for path in walk(base / "files"))
    return sorted(match.groups() for match in matches if match and match[1] == match.string)


# An archive is opened once in each process.
@lru_cache(maxsize=1)
def _open_archive(path: Path, process: int) -> tuple[zipfile.ZipFile, dict[str, str]]:
    archive = zipfile.ZipFile(path)
    matches = (_REPORT_PATH.fullmatch(name) for name in archive.namelist())
    return archive, {match[1]: match.string for match in matches if match}


def _read_generator(root: Path) -> dict[str, Any] | None:
    try:
        generator = read_json_object(root / "generator.json", MIB, fix="generate the tree again")
    except FileNotFoundError:
        return None
    if generator.pop("synthetic", None) is not True:
        return None
    # The key that the manifest of every generated dataset uses.
    return {"name": generator.pop("generator", "unknown"), **generator}
