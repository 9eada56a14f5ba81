"""Token ids kept beside the dataset that they were made of: one process makes them, the others wait for it and read them.

They are the dataset's texts in another spelling, so they lie in its folder and nowhere else, may be read by whoever may read the
dataset, and go with it. What is kept is found by everything that decides it, and trusted only while its sha256 is right.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
from transformers import PreTrainedTokenizerBase

from radrecipes.files import file_sha256

FOLDER = ".tokenised"
_LOCK = "LOCK"
# Tables that stay in a dataset's folder: as many recipes as are in use at a time. Each change of code makes others.
_KEPT = 4
# What renders and tokenises beside this package.
_PACKAGES = ("jinja2", "sacremoses", "tokenizers", "transformers")


def rows_key(tokenizer: PreTrainedTokenizerBase, **facts: Any) -> str:
    """sha256 of everything that decides token ids: the tokenizer with its template, this package's code, versions, and `facts`.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Hashed as it would be saved.
        facts (`Any`):
            Plain values: digest of the dataset, task, …

    Returns:
        `str`
    """
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    digest.update("".join(f"{name} {version(name)}\n" for name in _PACKAGES).encode())
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        package = Path(__file__).parent
        for path in [*sorted(Path(folder).iterdir()), *sorted(package.rglob("*.py"))]:
            digest.update(f"{path.name} {file_sha256(path)}\n".encode())
    return digest.hexdigest()


def rows_of(dataset: Path, key: str, make: Callable[[], pa.Table], keep: bool) -> pa.Table:
    """The rows that are kept under a key, mapped into memory and not copied; where there are none, those that `make` gives.

    Args:
        dataset (`Path`):
            Folder of the prepared dataset.
        key (`str`):
            From [`rows_key`].
        make (`Callable`):
            Tokenises. Of several processes on one disk that come together, the first one calls it.
        keep (`bool`):
            Write what `make` gives, unless nothing can be written there. Where it raises, nothing is written.

    Returns:
        `pa.Table`
    """
    folder = dataset / FOLDER
    found = _read(folder, key)
    if found is None and keep:
        with _held(folder, dataset) as writable:
            found = _read(folder, key)  # by whoever held it before
            if found is None and writable:
                found = make()
                with contextlib.suppress(OSError):
                    _write(found, folder, key, dataset)
                found = _read(folder, key) or found
    return make() if found is None else found


def _read(folder: Path, key: str) -> pa.Table | None:
    for path in folder.glob(f"{key}-*.arrow"):
        with contextlib.suppress(OSError, pa.ArrowException):
            if path.name == f"{key}-{file_sha256(path)}.arrow":
                return pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    return None


def _write(rows: pa.Table, folder: Path, key: str, dataset: Path) -> None:
    """Beside, then renamed; what a killed process left, what is damaged, and the oldest of many go."""
    others = sorted(folder.glob("*.arrow"), key=lambda path: path.stat().st_mtime_ns)
    for left in [*folder.glob("*.partial"), *folder.glob(f"{key}-*.arrow"), *others[: 1 - _KEPT]]:
        left.unlink(missing_ok=True)  # who has it in memory keeps it
    beside = folder / f"{key}.{os.getpid()}.partial"
    beside.touch(mode=0o600)
    try:
        with pa.ipc.new_file(beside, rows.schema) as writer:
            writer.write_table(rows)
        shutil.copymode(dataset / "train.parquet", beside)
        beside.rename(folder / f"{key}-{file_sha256(beside)}.arrow")
    finally:
        beside.unlink(missing_ok=True)


@contextlib.contextmanager
def _held(folder: Path, dataset: Path) -> Iterator[bool]:
    """Wait until no other process holds the folder, then hold it; `False` where it cannot be written or held.

    The system frees the lock when its process ends, however it ends. A lock that a network's disk does not keep costs time only.
    """
    with contextlib.ExitStack() as stack:
        writable = False
        with contextlib.suppress(OSError):
            if not folder.is_dir():
                folder.mkdir(mode=0o700)
                shutil.copymode(dataset, folder)
            lock = stack.enter_context((folder / _LOCK).open("a"))
            fcntl.flock(lock, fcntl.LOCK_EX)
            writable = os.access(folder, os.W_OK)
        try:
            yield writable
        finally:
            if writable and not any(folder.glob("*.arrow")):  # a fault in the data leaves nothing behind
                (folder / _LOCK).unlink(missing_ok=True)
                with contextlib.suppress(OSError):
                    folder.rmdir()
