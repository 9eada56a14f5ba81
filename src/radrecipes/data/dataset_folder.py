"""Writes the folder of a prepared dataset: a Parquet file per split, the label set, the card and the manifest."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from radrecipes import owned_folder
from radrecipes.data.label_sets import LabelSet
from radrecipes.errors import InputError
from radrecipes.files import file_sha256, text_sha256

SPLITS = ("train", "validation", "test")
LABEL_SET_FILE = "label_set.yaml"
MANIFEST_FILE = "manifest.json"
CARD_FILE = "README.md"
FORMAT_VERSION = 1


def write_dataset_folder(
    folder: str | Path,
    *,
    splits: Mapping[str, Sequence[Mapping[str, str]] | pa.Table],
    manifest: Mapping[str, Any],
    card: str,
    label_set: LabelSet | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write a complete prepared dataset, or leave the disk unchanged; the same arguments give the same bytes.

    Args:
        splits: Rows or a table for each of `train`, `validation` and `test`; every column is text.
        manifest: At least `task`, `access` and `columns`; returned with format version, file names, hashes and digest
            added. Facts already in `manifest["splits"]` are kept.
    """
    folder = Path(folder)
    check_output_folder(folder, overwrite)
    with owned_folder.complete_folder(folder, "dataset") as temporary:
        written = {**manifest, "format_version": FORMAT_VERSION, "splits": {}}
        for split in SPLITS:
            table, path = splits[split], temporary / f"{split}.parquet"
            if not isinstance(table, pa.Table):
                table = pa.Table.from_pylist(table, pa.schema([(name, pa.string()) for name in manifest["columns"]]))
            pq.write_table(table, path, compression="zstd", compression_level=9)
            written["splits"][split] = {
                **manifest.get("splits", {}).get(split, {}),
                "file": path.name,
                "rows": table.num_rows,
                "sha256": file_sha256(path),
            }
        if label_set is not None:
            (temporary / LABEL_SET_FILE).write_bytes(label_set.text.encode())
            written["label_set"] = {
                "file": LABEL_SET_FILE,
                "name": label_set.name,
                "version": label_set.version,
                "labels": len(label_set.labels),
                "sha256": text_sha256(label_set.text),
            }
        written["digest"] = dataset_digest(written)
        (temporary / CARD_FILE).write_bytes(card.encode())
        text = json.dumps(written, indent=2, sort_keys=True, ensure_ascii=False)
        (temporary / MANIFEST_FILE).write_bytes(text.encode() + b"\n")
    return written


def check_output_folder(folder: str | Path, overwrite: bool = False) -> None:
    """Check before any work that the folder can be written: empty, or with `overwrite` a prepared dataset."""
    folder = Path(folder)
    owned_folder.check_replaceable(folder, "dataset")
    if folder.exists() and any(folder.iterdir()) and not overwrite:
        raise InputError("exists; add --overwrite to replace it, or choose another --output", str(folder))


def dataset_digest(manifest: Mapping[str, Any]) -> str:
    """One sha256 over the hashes of the split files and the label set in a manifest."""
    lines = [f"{split}.parquet {manifest['splits'][split]['sha256']}\n" for split in SPLITS]
    if "label_set" in manifest:
        lines.append(f"{LABEL_SET_FILE} {manifest['label_set']['sha256']}\n")
    return text_sha256("".join(lines))
