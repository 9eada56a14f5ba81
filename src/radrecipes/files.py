"""Files: bounded reading, digests, atomic writes, locks.

Whatever somebody else may have written is read with the functions of this module: only regular files, never more than a
limit, and an [`InputError`] that names the limit. `tests/test_house.py` finds readers that do not.
"""

import contextlib
import errno
import functools
import gzip
import hashlib
import io
import json
import operator
import os
import shutil
import socket
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import yaml

from radrecipes.errors import InputError, shown

MIB = 2**20
# Of a text or JSON file that is read completely; the largest that this project writes has less than a tenth of it.
TEXT_LIMIT = 16 * MIB
# Of a file that a person writes: recipes, label sets. PyYAML reads about 100 KiB in a second.
YAML_LIMIT = 1 * MIB
# Of one line, row or cell of a table, which can have any number of them.
ROW_LIMIT = 16 * MIB
_BLANK_LINES = 1_000_000
# A compressed file may unpack to this much, or to this many times its size. Text is rarely compressed more than 20 times.
UNPACKED_LIMIT = 16 * MIB
LARGEST_RATIO = 100
# Levels of lists and objects in JSON; Python itself fails at about 1,000.
_DEEPEST = 64
# Tokenizers write 10**30 for "no limit".
_LARGEST_INTEGER = 10**40


# Not every system has every flag; Windows alone has O_BINARY.
_NAMES_OF_FLAGS = ("O_RDONLY", "O_CLOEXEC", "O_NONBLOCK", "O_NOCTTY", "O_BINARY")
_READ_FLAGS = functools.reduce(operator.or_, (getattr(os, name, 0) for name in _NAMES_OF_FLAGS))


class LockedError(Exception):
    """Another process holds a lock; the message is that process, as `process <pid> on <host>`."""


def open_regular(path: str | Path, *, follow: bool = True) -> io.FileIO:
    """Open a regular file unbuffered; a device or pipe is an [`InputError`], without `follow` a link an [`OSError`] (`ELOOP`)."""
    flags = _READ_FLAGS if follow else _READ_FLAGS | getattr(os, "O_NOFOLLOW", 0)
    try:
        descriptor = os.open(path, flags)
    except ValueError:  # a NUL in the name
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from None
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            raise InputError("is a device or a pipe; only regular files are read", where=str(path))
    except BaseException:
        os.close(descriptor)
        raise
    return io.FileIO(descriptor)


def read_bytes(path: str | Path, limit: int = TEXT_LIMIT, *, follow: bool = True) -> bytes:
    """The bytes of a regular file; an [`InputError`] if they are more than `limit`."""
    with open_regular(path, follow=follow) as file:
        return bounded(file, limit, str(path))


def read_text(path: str | Path, limit: int = TEXT_LIMIT) -> str:
    """The text of a regular file in UTF-8, as `Path.read_text` returns it; an [`InputError`] if it is too large or not UTF-8."""
    try:
        return io.TextIOWrapper(io.BytesIO(read_bytes(path, limit)), encoding="utf-8").read()
    except UnicodeDecodeError as error:
        raise InputError(f"not a UTF-8 text file (byte {error.start}); save it as UTF-8", where=str(path)) from None


def read_json(path: str | Path, limit: int = TEXT_LIMIT, *, fix: str = "write it again") -> Any:
    """The content of a JSON file; everything but a missing file is an [`InputError`] that ends with `fix`."""
    try:
        text = read_text(path, limit)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror}); {fix}", where=str(path)) from None
    return parse_json(text, str(path), fix)


def read_json_object(path: str | Path, limit: int = TEXT_LIMIT, *, fix: str = "write it again") -> dict[str, Any]:
    """As [`read_json`], and the content is one JSON object."""
    content = read_json(path, limit, fix=fix)
    if not isinstance(content, dict):
        raise InputError(f"must contain one JSON object; {fix}", where=str(path))
    return content


def parse_json(text: str, where: str, fix: str = "write it again") -> Any:
    """The content of a JSON text, with bounds for depth and integers, which could fail much later."""
    try:
        content = json.loads(text, parse_int=_bounded_integer)
    except json.JSONDecodeError as error:
        raise InputError(f"not valid JSON ({error.msg}); {fix}", where=f"{where}:{error.lineno}") from None
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else "an integer has too many digits"
        raise InputError(f"not usable as JSON ({reason}); {fix}", where=where) from None
    level = [content]
    for _ in range(_DEEPEST):
        inner = (item.values() if isinstance(item, dict) else item for item in level if isinstance(item, dict | list))
        level = [item for items in inner for item in items]
        if not level:
            return content
    raise InputError(f"not usable as JSON (nested too deeply); {fix}", where=where)


class BoundedLoader(yaml.SafeLoader):
    """PyYAML's safe loader without anchors, whose copies can grow without bound, and without deep nesting."""

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        """Compose one node, and those in it."""
        event = self.peek_event()
        if getattr(event, "anchor", None) is not None:  # of an alias too
            raise yaml.MarkedYAMLError(
                problem="anchors and aliases (&, *) are not read; write the value out", problem_mark=event.start_mark
            )
        if self._depth >= _DEEPEST:
            raise yaml.MarkedYAMLError(problem="nested too deeply", problem_mark=event.start_mark)
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1


def compose_yaml(text: str, where: str) -> yaml.Node | None:
    """The root node of a YAML text, `None` if it is empty; an [`InputError`] names the line of a mistake."""
    try:
        loader = BoundedLoader(text)
        loader.name = where
        return loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        place = f"{where}:{error.problem_mark.line + 1}" if error.problem_mark else where
        raise InputError(f"not valid YAML: {shown(error.problem or 'see the file')}", where=place) from None
    except yaml.YAMLError as error:
        raise InputError(f"not valid YAML: {shown(error)}", where=where) from None


def bounded(stream: BinaryIO, limit: int, where: str) -> bytes:
    """The rest of a stream; an [`InputError`] if it is more than `limit` bytes, without reading them all."""
    pieces, left = [], limit + 1
    while left > 0 and (piece := stream.read(min(left, MIB))):
        pieces.append(piece)
        left -= len(piece)
    if left <= 0:
        raise InputError(f"is larger than {_size(limit)}, the limit for such a file", where=where)
    return b"".join(pieces)


def bounded_lines(stream: Any, where: str, limit: int = ROW_LIMIT) -> Iterator[Any]:
    """The lines of a stream, with their ends; an [`InputError`] at one longer than `limit`, or after very many blank ones."""
    number = blank = 0
    while line := stream.readline(limit + 1):
        number += 1
        blank = blank + 1 if len(line) <= 2 and not line.strip() else 0
        if blank > _BLANK_LINES:
            raise InputError(f"more than {_BLANK_LINES:,} blank lines; remove them", where=f"{where}:{number}")
        if len(line) > limit:
            raise InputError(
                f"the line is longer than {_size(limit)}, the limit for one row", where=f"{where}:{number}"
            )
        yield line


@contextlib.contextmanager
def unpacked(path: str | Path) -> Iterator[BinaryIO]:
    """A file as a stream of bytes, unpacked if it is `.gz` or `.tgz`, up to [`UNPACKED_LIMIT`] or [`LARGEST_RATIO`] its size."""
    with open_regular(path) as file:
        if not str(path).lower().endswith((".gz", ".tgz")):
            yield io.BufferedReader(file, MIB)
            return
        limit = largest_content(os.fstat(file.fileno()).st_size)
        with gzip.GzipFile(fileobj=io.BufferedReader(file, MIB), mode="rb") as content:
            yield io.BufferedReader(_Counted(content, limit, str(path)), MIB)


def largest_content(size: int) -> int:
    """The bytes to which a compressed file of this size may unpack."""
    return max(UNPACKED_LIMIT, LARGEST_RATIO * size)


def unpacks_too_far(limit: int, where: str) -> InputError:
    """The error of a compressed file whose content is larger than [`largest_content`]."""
    return InputError(
        f"unpacks to more than {_size(limit)}, which is more than {LARGEST_RATIO} times its size; unpack it yourself and look "
        "at it",
        where=where,
    )


class _Counted(io.RawIOBase):
    """A stream that refuses to yield more than a limit."""

    def __init__(self, stream: BinaryIO, limit: int, where: str):
        self._stream, self._left, self._limit, self._where = stream, limit, limit, where

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._stream.readinto(buffer)
        self._left -= count
        if self._left < 0:
            raise unpacks_too_far(self._limit, self._where)
        return count


def _bounded_integer(digits: str) -> int:
    number = int(digits)
    if abs(number) > _LARGEST_INTEGER:
        raise ValueError("too large")
    return number


def _size(count: int) -> str:
    return f"{count / MIB:g} MiB" if count >= MIB else f"{count / 1024:g} KiB"


def file_sha256(path: Path) -> str:
    """Hash a regular file in chunks, so that its size does not matter."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def recorded_name(name: str) -> str:
    """The name of a file as a text that every file can contain: bytes that are not UTF-8 are escaped."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def text_sha256(text: str) -> str:
    """Hash a text as UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()


def keep_private() -> None:
    """From now on only the owner can read what this process and its children create, whatever the umask was."""
    os.umask(0o077)


def copy_mode(source: Path, target: Path) -> None:
    """Give `target` the permissions of `source`, without those that the umask takes from every new file."""
    umask = os.umask(0o077)  # it can only be read by setting it
    os.umask(umask)
    target.chmod(source.stat().st_mode & 0o777 & ~umask)


def share_safetensors(folder: Path, like: str) -> None:
    """Give tensors the permissions of a file in their folder: safetensors lets only the owner read them, whatever the umask."""
    for path in folder.rglob("*.safetensors"):
        shutil.copymode(folder / like, path)


def write_atomically(path: Path, content: str | Callable[[Path], None]) -> None:
    """Replace a file with a text, or with what a function writes to a path; a kill leaves the old file or the new one."""
    temporary = path.with_name(f".{path.name}")
    try:
        if isinstance(content, str):
            temporary.write_text(content, encoding="utf-8")
        else:
            content(temporary)
        sync(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def check_writable(path: str | Path) -> None:
    """Refuse a place where no file or folder can be written, before the work; missing folders need a parent that is writable."""
    place = Path(os.path.abspath(path))
    missing = []
    while not os.path.lexists(place):
        missing.append(place.name)
        place = place.parent
    where = str(path)
    if (missing and not place.is_dir()) or not place.exists():
        what = "not a folder" if place.exists() else "a link that leads nowhere"
        raise InputError(f"cannot be written: {place} is {what}; choose another place", where)
    if not os.access(place, os.W_OK | (os.X_OK if place.is_dir() else 0)):
        raise InputError(f"cannot be written: {place} is read-only, or not yours; choose another place", where)
    longest = os.pathconf(place, "PC_NAME_MAX") if hasattr(os, "pathconf") else 255
    if any(len(os.fsencode(name)) > longest for name in missing):
        raise InputError("cannot be written: the name is too long; choose a shorter one", shown(where))


def sync(path: Path) -> None:
    """Flush one file or folder to disk; Windows cannot open a folder."""
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Flush every file and folder below `folder` to disk, so that a power cut loses none."""
    for path in sorted(folder.rglob("*")):
        sync(path)
    sync(folder)


def remove_if_empty(folder: Path) -> None:
    """Remove a folder unless it contains something, or cannot be removed."""
    with contextlib.suppress(OSError):
        folder.rmdir()


@contextlib.contextmanager
def lock(path: Path, wait: bool = True) -> Iterator[str]:
    """Hold an exclusive lock; the system frees it when the process ends, however it ends.

    The lock file names its holder and is removed with the lock, unless the holder is killed. Yields the killed holder, as
    `process <pid> on <host>`, or an empty string. A [`LockedError`] if another process holds the lock and `wait` is `False`.
    """
    from filelock import FileLock, Timeout

    # A file that its holder removed while it was opened here is not a lock: filelock checks this.
    held = FileLock(path, timeout=-1 if wait else 0, fallback_to_soft=False)
    try:
        held.acquire()
    except Timeout:
        raise LockedError(_read_holder(path) or "unknown") from None
    try:
        earlier = _read_holder(path)
        try:
            path.write_text(f"process {os.getpid()} on {socket.gethostname()}\n", encoding="utf-8")
            yield earlier
        finally:
            path.unlink(missing_ok=True)
    finally:
        held.release()


@contextlib.contextmanager
def scratch_folder(prefix: str) -> Iterator[Path]:
    """A temporary folder for one process; those of earlier processes, which were killed, are removed first."""
    for left in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        # One that was made a moment ago may not be locked yet.
        with contextlib.suppress(LockedError, OSError):
            facts = left.lstat()
            if stat.S_ISDIR(facts.st_mode) and facts.st_uid == _USER and facts.st_mtime < time.time() - 60:
                with lock(left / "LOCK", wait=False):
                    shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=prefix) as folder, lock(Path(folder, "LOCK")):
        yield Path(folder)


_USER = os.getuid() if hasattr(os, "getuid") else 0  # st_uid is 0 on Windows


def _read_holder(path: Path) -> str:
    try:
        return read_text(path, 1024).strip()
    except FileNotFoundError:
        return ""
