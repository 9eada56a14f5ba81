"""The token cache of a dataset: one process tokenises, the others wait for it, later runs read what it wrote.

It reveals the dataset's texts, so it stays in the dataset's folder and is readable only by those who may read the dataset.
"""

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
from transformers import PreTrainedTokenizerBase

from radrecipes.files import copy_mode, file_sha256, lock, remove_if_empty, text_sha256

FOLDER = ".tokenised"
_LOCK = "LOCK"
# Tables to keep per dataset: one for each recipe in use at the same time.
_KEPT = 4
# Packages that render and tokenise, besides this one.
_PACKAGES = ("jinja2", "sacremoses", "tokenizers", "transformers")


def cache_key(tokenizer: PreTrainedTokenizerBase, **facts: Any) -> str:
    """sha256 of everything that determines token ids: the tokenizer's files, package versions, and `facts` in plain values."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        files = {path.name: file_sha256(path) for path in Path(folder).iterdir()}
    versions = {name: version(name) for name in _PACKAGES}
    return text_sha256(json.dumps([facts, files, versions], sort_keys=True))


def cached_rows(dataset: Path, key: str, make: Callable[[], pa.Table], keep: bool) -> pa.Table:
    """The rows cached under `key` in the dataset's folder, memory-mapped; otherwise what `make` returns, cached if `keep`.

    Of several processes on one disk only one calls `make`. Cached rows are used only if their sha256 matches; a cache that cannot
    be written is not an error.
    """
    folder = dataset / FOLDER
    found = _read(folder, key)
    if found is None and keep:
        with contextlib.suppress(OSError), _locked(folder, dataset):
            found = _read(folder, key)  # written by the process that had the lock
            if found is None:
                found = make()
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
    """Write, then rename; remove leftovers of a killed process, damaged tables, and the oldest if there are too many."""
    others = sorted(folder.glob("*.arrow"), key=lambda path: path.stat().st_mtime_ns)
    for left in [*folder.glob("*.partial"), *folder.glob(f"{key}-*.arrow"), *others[: 1 - _KEPT]]:
        left.unlink(missing_ok=True)  # a process that has mapped it can still read it
    partial = folder / f"{key}.{os.getpid()}.partial"
    partial.touch(mode=0o600)
    try:
        with pa.ipc.new_file(partial, rows.schema) as writer:
            writer.write_table(rows)
        copy_mode(dataset / "train.parquet", partial)
        partial.rename(folder / f"{key}-{file_sha256(partial)}.arrow")
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(folder: Path, dataset: Path) -> Iterator[None]:
    """Wait for the lock; an [`OSError`] if it cannot be written. On a network disk without locks, processes only lose time."""
    if not folder.is_dir():
        folder.mkdir(mode=0o700)
        copy_mode(dataset, folder)
    try:
        with lock(folder / _LOCK):
            yield
    finally:
        remove_if_empty(folder)  # an error in the data leaves no empty folder
