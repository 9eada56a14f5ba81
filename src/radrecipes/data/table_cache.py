"""Tables that were made from a dataset, cached in its folder: one process makes a table, the others wait, later runs read it.

What is made from a dataset can reveal its texts, so it is readable only by those who may read the dataset.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa

from radrecipes.files import copy_mode, file_sha256, lock, remove_if_empty

# Folders in that of the dataset
TOKENS, SCORES = ".tokenised", ".scores"
_LOCK = "LOCK"
# Tables to keep in a folder: those of recipes and of evaluations in use at the same time.
_KEPT = {TOKENS: 4, SCORES: 12}


def cached_table(folder: Path, key: str, make: Callable[[], pa.Table], keep: bool = True) -> pa.Table:
    """The table cached under `key`, memory-mapped; otherwise what `make` returns, cached if `keep`.

    `folder` is one of this module in the folder of a dataset. Of several processes on one disk only one calls `make`. A cached
    table is used only if its sha256 matches; a cache that cannot be written is not an error.
    """
    dataset = folder.parent
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


def _write(table: pa.Table, folder: Path, key: str, dataset: Path) -> None:
    """Write, then rename; remove leftovers of a killed process, damaged tables, and the oldest if there are too many."""
    others = sorted(folder.glob("*.arrow"), key=lambda path: path.stat().st_mtime_ns)
    for left in [*folder.glob("*.partial"), *folder.glob(f"{key}-*.arrow"), *others[: 1 - _KEPT[folder.name]]]:
        left.unlink(missing_ok=True)  # a process that has mapped it can still read it
    partial = folder / f"{key}.{os.getpid()}.partial"
    partial.touch(mode=0o600)
    try:
        with pa.ipc.new_file(partial, table.schema) as writer:
            writer.write_table(table)
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
