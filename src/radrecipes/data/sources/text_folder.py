"""Reads a folder of text files, one report each."""

import hashlib
import re
from collections import Counter
from pathlib import Path, PurePath

from radrecipes.data.sources.records import as_report, sections_of
from radrecipes.data.sources.report_files import decoded, files_below
from radrecipes.data.sources.report_source import RejectedReport, Report, ReportSource, read_report
from radrecipes.data.sources.text_tables import check_encoding
from radrecipes.errors import InputError
from radrecipes.files import recorded_name
from radrecipes.radiology.exams import exam_in


class TextFolder(ReportSource):
    """The text files of a folder and its subfolders in the order of their paths; the name of a file is the report's id."""

    name = "text"
    layout = "folder of .txt files, one report each"
    title = "a folder of text files"
    group = "the folder or the part of the path that names the patient, or the report itself"
    options = ("group_pattern", "encoding")
    shared = ("_root", "_encoding")

    def __init__(self, root: str | Path, *, group_pattern: str | None = None, encoding: str | None = None):
        r"""Find the files.

        Args:
            group_pattern: Regular expression for the patient in a path such as `2024/P017_20240102.txt`: its first group, or
                all that it matches. Without it the patient is the folder that a file is in; a file in `root` itself is its own.
            encoding: Of all files; by default UTF-8, UTF-16 or cp1252, whichever each of them is.
        """
        if encoding:
            check_encoding(encoding)
        self._root, self._encoding = Path(root), encoding
        if not self._root.is_dir():
            raise InputError("no such folder; give the one with the .txt files as --root", str(root))
        files = {recorded_name(path): path for path in files_below(self._root, (".txt", ".text"), "text files")}
        paths = list(files)
        groups = {path: _group(path, _compiled(group_pattern)) for path in paths}
        stems = Counter(PurePath(path).stem for path in paths)
        unique = len(stems) == len(paths)
        ids = {path: PurePath(path).stem if unique else path[: -len(PurePath(path).suffix)] for path in paths}
        self.rejected = [RejectedReport(path, "empty_group") for path, group in groups.items() if group == ""]
        self._items = [(files[path], ids[path], group or ids[path]) for path, group in groups.items() if group != ""]
        self.count, self.files, self.folder = len(self._items), [], recorded_name(self._root.resolve().name)
        if group_pattern or any(groups.values()):
            named = "by --group-pattern" if group_pattern else "by the folder of each file"
            found = f" of {len({group for _, _, group in self._items})} patients, {named}"
        else:
            found = (
                ", no subfolders: every report counts as a patient of its own; name the patient with --group-pattern"
            )
        self.said = [f"{len(paths)} files{found}"]

    def read(self, item: tuple) -> Report | RejectedReport:
        """Read one file."""
        file, study, group = item
        path = recorded_name(file)
        data = read_report(self._root / file, path)
        if isinstance(data, RejectedReport):
            return data
        sha256 = hashlib.sha256(data).digest()
        text = decoded(data, self._encoding)
        if text is None:
            return RejectedReport(path, "not_utf8", "name the encoding with --encoding", sha256)
        return as_report(path, study, group, sections_of(text), exam=exam_in(text), sha256=sha256)


def _compiled(pattern: str | None) -> re.Pattern | None:
    try:
        return re.compile(pattern) if pattern else None
    except re.error as error:
        raise InputError(f"is no regular expression ({error}); an example is 'P[0-9]+'", "--group-pattern") from None


def _group(path: str, pattern: re.Pattern | None) -> str | None:
    """The patient of a file, empty if the pattern does not find one, `None` for a file of its own."""
    if pattern is None:
        folder = PurePath(path).parent.name
        return folder or None
    found = pattern.search(path)
    return (found[1] if pattern.groups else found[0]) or "" if found else ""
