"""The chest X-ray reports of OpenI (https://openi.nlm.nih.gov/faq): one XML file per report, without patient ids."""

import hashlib
import re
import tarfile
import zlib
from pathlib import Path
from xml.etree import ElementTree

from radrecipes.data.sources.report_source import LARGEST_REPORT, RejectedReport, Report, ReportSource, read_report
from radrecipes.errors import InputError
from radrecipes.files import bounded, recorded_name, unpacked

FOLDER = "ecgen-radiology"
ARCHIVE = "NLMCXR_reports.tgz"
# One section in fifteen has a sentence with two full stops, or one between two sentences.
_FULL_STOPS = re.compile(r"\.(?:\s*\.)+")


class OpenI(ReportSource):
    """The reports of OpenI in the order of their numbers. OpenI has no patient ids: every report is its own group."""

    name = "openi"
    layout = f"folder with {FOLDER}/ or {ARCHIVE}, or that file"
    title = "OpenI (Indiana University chest X-ray collection)"
    group = "the report itself, because OpenI names no patients"
    published = "other-openi"
    access = "registered"
    license = "cc-by-nc-nd-4.0"
    shared = ("_base",)
    folder = FOLDER

    def __init__(self, root: str | Path):
        """Find the reports in `ecgen-radiology/`, in `root` itself, or in `NLMCXR_reports.tgz`, which `root` may be too."""
        root = Path(root)
        advice = f"give the folder with {FOLDER}/ or {ARCHIVE}, or that file, as --root"
        if not root.exists():
            raise InputError(f"no such file or folder; {advice}", str(root))
        if not root.is_dir() and not root.name.lower().endswith((".tgz", ".tar.gz")):
            raise InputError(f"is neither a folder nor {ARCHIVE}; {advice}", str(root))
        self.rejected = []
        self.files = []
        # Path, and the bytes if they come from the archive, which must be read in order; 2.xml before 10.xml.
        self._base = next((base for base in (root / FOLDER, root) if _xml_files(base)), None)
        if self._base:
            self._items = sorted(((f"{FOLDER}/{path.name}", None) for path in _xml_files(self._base)), key=_by_number)
        else:
            archive = root if root.is_file() else root / ARCHIVE
            self._items = _read_archive(archive) if archive.is_file() else []
        if not self._items:
            raise InputError(
                f"no reports of OpenI here; looked for {FOLDER}/*.xml, *.xml and {ARCHIVE}; give the folder that contains"
                " them as --root",
                str(root),
            )
        self.count = len(self._items)

    def read(self, item: tuple) -> Report | RejectedReport:
        """Read findings and impression of one report."""
        path = recorded_name(item[0])
        data = self._bytes(item)
        if isinstance(data, RejectedReport):
            return data
        sha256 = hashlib.sha256(data).digest()
        if not data.strip():
            return RejectedReport(path, "empty_report", sha256=sha256)
        try:
            tree = ElementTree.fromstring(data)
        except (ElementTree.ParseError, ValueError, LookupError):
            reason = "unreadable_xml" if data.decode(errors="ignore").encode() == data else "not_utf8"
            return RejectedReport(path, reason, sha256=sha256)
        sections = {
            (element.get("Label") or "").strip().upper(): _FULL_STOPS.sub(
                ".", " ".join("".join(element.itertext()).split())
            )
            for element in tree.iter("AbstractText")
        }
        number = tree.find("uId")
        study = (number.get("id") if number is not None else None) or Path(path).stem
        return Report(study, study, sections.get("FINDINGS", ""), sections.get("IMPRESSION", ""), path, sha256=sha256)

    def headings(self, item: tuple) -> list[str]:
        """MeSH headings that people gave a report that [`read`] can read, as `Opacity/lung/base/left`, or `normal`."""
        tree = ElementTree.fromstring(self._bytes(item))
        return [element.text.strip() for element in tree.iter("major") if element.text]

    def _bytes(self, item: tuple) -> bytes | RejectedReport:
        path, data = item
        return read_report(self._base / Path(path).name, path) if data is None else data


def _xml_files(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.suffix.lower() == ".xml"] if folder.is_dir() else []


def _by_number(item: tuple[str, bytes | None]) -> tuple[int, str]:
    return len(item[0]), item[0]


def _read_archive(path: Path) -> list[tuple[str, bytes]]:
    members = []
    try:
        # As a stream: what it unpacks to is counted, and nothing is skipped unread.
        with unpacked(path) as content, tarfile.open(fileobj=content, mode="r|") as archive:
            for member in archive:
                if member.isfile() and member.name.lower().endswith(".xml"):
                    name = member.name.rpartition("/")[2]
                    data = bounded(archive.extractfile(member), LARGEST_REPORT, f"{path}: report {len(members) + 1}")
                    members.append((f"{FOLDER}/{name}", data))
    except (tarfile.TarError, EOFError, OSError, ValueError, zlib.error):
        raise InputError("is not a complete gzipped tar file; download it again", str(path)) from None
    return sorted(members, key=_by_number)
