"""The files of a folder with reports, their lines, and the text in their bytes."""

import codecs
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from radrecipes.data.sources.text_tables import UTF_8, check_encoding, codec, detect_encoding, text_lines
from radrecipes.errors import InputError
from radrecipes.files import file_sha256, recorded_name


class LineFiles:
    """One file of lines, or all of a folder; their names may contain ids of patients, so only the place of a file is in an error.

    Attributes:
        files, folder: For the manifest, as in [`ReportSource`].
    """

    def __init__(self, root: str | Path, suffixes: Collection[str], kind: str, encoding: str | None = None):
        """Find the files; without an encoding it is detected for each of them."""
        if encoding:
            check_encoding(encoding)
        self.root, self._encoding = Path(root), encoding
        self._detected: dict[str, str] = {}
        self._names = files_below(self.root, suffixes, kind)
        self._single = self.root.is_file()
        self.files: list[dict[str, Any]] = []
        self.folder = None if self._single else recorded_name(self.root.resolve().name)
        if not self._single and any(os.path.islink(self.root / name) for name in self._names):
            raise InputError("a file in it is a link, which is not followed; copy it with `cp -rL`", str(root))
        if self._single:
            self.files.append({"file": recorded_name(self.root.name), "sha256": file_sha256(self.root)})

    def each(self) -> Iterator[tuple[str, Iterator[str]]]:
        """Relative path and lines of each file."""
        return ((recorded_name(name), self._lines(place, name)) for place, name in enumerate(self._names, start=1))

    def _lines(self, place: int, name: str) -> Iterator[str]:
        path = self.root if self._single else self.root / name
        try:
            if not self._encoding and name not in self._detected:
                self._detected[name] = detect_encoding(path)
            yield from text_lines(path, self._encoding or self._detected[name])
        except InputError as error:
            if self._single:
                raise
            problem = str(error).removeprefix(str(path))
            raise InputError(f"file {place} in the order of their paths{problem}", str(self.root)) from None
        except OSError as error:
            raise InputError(
                f"a file cannot be read ({error.strerror}); check its permissions", str(self.root)
            ) from None


def files_below(root: Path, suffixes: Collection[str], kind: str) -> list[str]:
    """The files of [`walk`] with these endings in lower case, sorted, or a file's name; `kind` is what they contain, for errors."""
    names = f"{kind} ({', '.join(f'*{suffix}' for suffix in suffixes)})"
    if root.is_file():
        return [root.name]
    if not root.is_dir():
        raise InputError(f"no such file or folder; give one with {names} as --root", str(root))
    found = sorted(path for path in walk(root) if path.lower().endswith(tuple(suffixes)))
    if not found:
        raise InputError(f"no {names} in this folder; give the folder that contains them as --root", str(root))
    return found


def walk(root: Path) -> Iterator[str]:
    """Paths of the files in a folder and its subfolders, relative to it, without hidden ones; a link to a folder is refused."""

    def refuse(error: OSError) -> None:
        # The folder is not named: its name may be a patient's id.
        raise InputError(
            f"a folder in it cannot be listed ({error.strerror}); find it with `find … -type d ! -readable`", str(root)
        )

    # `root` itself may be a link: its owner put it there.
    for folder, folders, files in os.walk(root, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        if any(os.path.islink(os.path.join(folder, name)) for name in folders):
            raise InputError("a folder in it is a link, which is not followed; copy it with `cp -rL`", str(root))
        inside = os.path.relpath(folder, root)
        yield from (os.path.normpath(os.path.join(inside, name)) for name in files if not name.startswith("."))


def decoded(data: bytes, encoding: str | None = None) -> str | None:
    """The text of a report's bytes; without an encoding UTF-8, UTF-16 with its mark, or cp1252. `None` if it is none of these."""
    marked = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    for known in (encoding,) if encoding else ("utf-16",) if marked else (UTF_8, "cp1252"):
        try:
            text = data.decode(codec(known))
        except UnicodeError:
            continue
        return None if "\0" in text else text
    return None
