"""Prepared datasets: one folder with a Parquet file per split, the label set, a dataset card and a manifest."""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset

from radrecipes.data.label_sets import LabelSet
from radrecipes.errors import InputError

SPLITS = ("train", "validation", "test")
ACCESS_LEVELS = ("synthetic", "open", "registered", "credentialed")
LABEL_SET_FILE = "label_set.yaml"
MANIFEST_FILE = "manifest.json"
CARD_FILE = "README.md"
FORMAT_VERSION = 1

_MANIFEST_KEYS = {
    "format_version": int,
    "task": str,
    "access": str,
    "columns": list,
    "splits": dict,
    "digest": str,
}


@dataclass(frozen=True)
class PreparedDataset:
    """A prepared dataset as it lies in its folder.

    Args:
        folder (`Path`):
            Where it was loaded from.
        manifest (`dict`):
            The content of `manifest.json`.
        task (`str`):
            Task that the columns belong to, for example `"protocol"`.
        access (`str`):
            One of `ACCESS_LEVELS`; decides what may be shown and published.
        label_set (`LabelSet` or `None`):
            Labels of the task; `None` for a task without labels.
        splits (`dict[str, Dataset]`):
            The rows by split name, held in memory.
        digest (`str`):
            sha256 over the split files and the label set.
    """

    folder: Path
    manifest: dict[str, Any]
    task: str
    access: str
    label_set: LabelSet | None
    splits: dict[str, Dataset]
    digest: str


def write_prepared_dataset(
    folder: str | Path,
    *,
    splits: Mapping[str, Sequence[Mapping[str, str]]],
    columns: Sequence[str],
    manifest: Mapping[str, Any],
    card: str,
    label_set: LabelSet | None = None,
    overwrite: bool = False,
) -> PreparedDataset:
    """Write a prepared dataset whole, or leave the disk as it was.

    The same arguments give the same bytes: no time, path or host is written.

    Args:
        folder (`str` or `Path`):
            Where the dataset shall lie; its parent is made when missing.
        splits (`Mapping[str, Sequence[Mapping[str, str]]]`):
            Rows for each of `train`, `validation` and `test`.
        columns (`Sequence[str]`):
            Columns of every split, in this order; every row must have them, all text.
        manifest (`Mapping[str, Any]`):
            What is known about the data: at least `task` and `access`. Format version, columns, file names, hashes
            and digest are added here; figures that `manifest["splits"]` already holds by split name stay.
        card (`str`):
            The dataset card, Markdown with its YAML front matter.
        label_set (`LabelSet`, *optional*):
            Labels of the task; its text is copied unchanged.
        overwrite (`bool`, *optional*, defaults to `False`):
            Replace an existing prepared dataset.

    Returns:
        `PreparedDataset`: The dataset, read back from the new folder and verified.

    Raises:
        InputError: The folder exists and may not be replaced, or cannot be made.
    """
    folder = Path(folder)
    check_output_folder(folder, overwrite)
    if tuple(sorted(splits)) != tuple(sorted(SPLITS)):
        raise ValueError(f"splits must be {SPLITS}, not {tuple(splits)}")
    if manifest["access"] not in ACCESS_LEVELS:
        raise ValueError(f"access must be one of {ACCESS_LEVELS}, not {manifest['access']!r}")

    target = folder.resolve()
    # A sibling, so that the rename stays on one disk; not from tempfile, whose folders only their owner can read.
    temporary = target.parent / f".{target.name}.{os.getpid()}.partial"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
    except OSError as error:
        raise InputError(f"cannot be made ({error.strerror}); choose another --output", where=str(folder)) from None
    try:
        schema = pa.schema([(column, pa.string()) for column in columns])
        written = {**manifest, "format_version": FORMAT_VERSION, "columns": list(columns), "splits": {}}
        for split in SPLITS:
            table = pa.table({column: [row[column] for row in splits[split]] for column in columns}, schema=schema)
            path = temporary / f"{split}.parquet"
            pq.write_table(table, path, compression="zstd", compression_level=9)
            figures = dict(manifest.get("splits", {}).get(split, {}))
            written["splits"][split] = {
                **figures,
                "file": path.name,
                "rows": table.num_rows,
                "sha256": _sha256(path),
            }
        if label_set is not None:
            path = temporary / LABEL_SET_FILE
            path.write_bytes(label_set.text.encode())
            written["label_set"] = {
                "file": LABEL_SET_FILE,
                "name": label_set.name,
                "version": label_set.version,
                "labels": len(label_set.labels),
                "sha256": _sha256(path),
            }
        written["digest"] = _digest(written)
        (temporary / CARD_FILE).write_bytes(card.encode())
        text = json.dumps(written, indent=2, sort_keys=True, ensure_ascii=False)
        (temporary / MANIFEST_FILE).write_bytes(text.encode() + b"\n")
        _put_in_place(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return load_prepared_dataset(folder)


def check_output_folder(folder: str | Path, overwrite: bool = False) -> None:
    """Say before the work, not after it, that a dataset cannot be written to this folder.

    Args:
        folder (`str` or `Path`):
            Where a prepared dataset is to be written.
        overwrite (`bool`, *optional*, defaults to `False`):
            Whether an existing prepared dataset may be replaced.

    Raises:
        InputError: Something is there already and either `overwrite` is false or it is no prepared dataset.
    """
    folder = Path(folder)
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not (folder / MANIFEST_FILE).is_file():
        raise InputError("exists and is no prepared dataset; choose another --output", where=str(folder))
    if not overwrite:
        raise InputError("exists; add --overwrite to replace it, or choose another --output", where=str(folder))


def load_prepared_dataset(folder: str | Path, verify: bool = True) -> PreparedDataset:
    """Load a prepared dataset and make sure that it is the one its manifest describes.

    Args:
        folder (`str` or `Path`):
            A folder that [`write_prepared_dataset`] wrote.
        verify (`bool`, *optional*, defaults to `True`):
            Compare the sha256 of every file and the digest with the manifest.

    Returns:
        `PreparedDataset`: Rows in memory, nothing is written to a cache.

    Raises:
        InputError: The folder, a file or a column is missing, a file is damaged, or a hash differs.
    """
    folder = Path(folder)
    again = "prepare the dataset again with scripts/prepare_data.py"
    if not folder.is_dir():
        raise InputError("no such dataset folder; make it with scripts/prepare_data.py", where=str(folder))
    manifest = _read_manifest(folder, again)
    if verify and manifest["digest"] != _digest(manifest):
        raise InputError(f"the digest does not fit the hashes beside it; {again}", where=str(folder / MANIFEST_FILE))

    splits = {}
    for split in SPLITS:
        path = folder / f"{split}.parquet"
        _check_file(path, manifest["splits"][split]["sha256"], verify, again)
        try:
            # Dataset.from_parquet would copy the rows into a cache outside the folder.
            table = pq.read_table(path, partitioning=None)
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"not readable as Parquet ({str(error).splitlines()[0]}); {again}", str(path)) from None
        missing = [column for column in manifest["columns"] if column not in table.column_names]
        if missing:
            raise InputError(f"column {missing[0]!r} is missing; {again}", where=str(path))
        splits[split] = Dataset(table)

    label_set = None
    if "label_set" in manifest:
        path = folder / LABEL_SET_FILE
        _check_file(path, manifest["label_set"]["sha256"], verify, again)
        label_set = LabelSet.load(path)
    return PreparedDataset(
        folder, manifest, manifest["task"], manifest["access"], label_set, splits, manifest["digest"]
    )


def _read_manifest(folder: Path, again: str) -> dict[str, Any]:
    path = folder / MANIFEST_FILE
    try:
        manifest = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"has no {MANIFEST_FILE}, so it is no prepared dataset; {again}", str(folder)) from None
    except json.JSONDecodeError as error:
        raise InputError(f"not valid JSON: {error.msg}; {again}", where=f"{path}:{error.lineno}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"not readable: {error}; {again}", where=str(path)) from None
    if not isinstance(manifest, dict):
        raise InputError(f"must hold one JSON object; {again}", where=str(path))
    for key, kind in _MANIFEST_KEYS.items():
        if not isinstance(manifest.get(key), kind):
            raise InputError(f"key {key!r} is missing or of the wrong type; {again}", where=str(path))
    if manifest["format_version"] != FORMAT_VERSION:
        raise InputError(
            f"format version {manifest['format_version']} is not the {FORMAT_VERSION} that is read here; {again}",
            where=str(path),
        )
    if manifest["access"] not in ACCESS_LEVELS:
        raise InputError(f"access must be one of {', '.join(ACCESS_LEVELS)}; {again}", where=str(path))
    hashed = {f"splits.{split}": manifest["splits"].get(split) for split in SPLITS}
    if "label_set" in manifest:
        hashed["label_set"] = manifest["label_set"]
    for key, entry in hashed.items():
        if not isinstance(entry, dict) or not isinstance(entry.get("sha256"), str):
            raise InputError(f"key '{key}.sha256' is missing; {again}", where=str(path))
    return manifest


def _check_file(path: Path, expected: str, verify: bool, again: str) -> None:
    if not path.is_file():
        raise InputError(f"is missing; {again}", where=str(path))
    if verify and _sha256(path) != expected:
        raise InputError(f"changed since the manifest was written (its sha256 differs); {again}", where=str(path))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(manifest: Mapping[str, Any]) -> str:
    lines = [f"{split}.parquet {manifest['splits'][split]['sha256']}\n" for split in SPLITS]
    if "label_set" in manifest:
        lines.append(f"{LABEL_SET_FILE} {manifest['label_set']['sha256']}\n")
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _put_in_place(temporary: Path, folder: Path) -> None:
    if not folder.exists():
        os.rename(temporary, folder)
        return
    # A rename cannot replace a folder with files, so the old one steps aside and comes back when the new one fails.
    aside = folder.parent / f".{folder.name}.{os.getpid()}.replaced"
    os.rename(folder, aside)
    try:
        os.rename(temporary, folder)
    except OSError:
        os.rename(aside, folder)
        raise
    shutil.rmtree(aside, ignore_errors=True)
