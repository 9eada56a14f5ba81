"""Files: digests, atomic writes, locks."""

import contextlib
import hashlib
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path


class LockedError(Exception):
    """Another process holds a lock; the message is that process, as `process <pid> on <host>`."""


def file_sha256(path: Path) -> str:
    """Hash a file in chunks, so that its size does not matter."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def text_sha256(text: str) -> str:
    """Hash a text as UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()


def write_atomically(path: Path, content: str | Callable[[Path], None]) -> None:
    """Replace a file with a text, or with what a function writes to the path that it gets.

    A kill, a full disk or a power cut leaves either the old file or the new one.
    """
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


def sync(path: Path) -> None:
    """Flush one file or folder to disk."""
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


def _read_holder(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return ""
