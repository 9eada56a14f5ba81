"""Loads prepared datasets: a folder with a Parquet file per split, the label set, a card and a manifest."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from radrecipes.access import ACCESS_LEVELS, protect
from radrecipes.data.dataset_folder import FORMAT_VERSION, LABEL_SET_FILE, MANIFEST_FILE, SPLITS, dataset_digest
from radrecipes.data.label_sets import LabelSet
from radrecipes.data.parquet import read_table
from radrecipes.errors import InputError, quoted
from radrecipes.files import file_sha256, read_json
from radrecipes.shipped import find_shipped

if TYPE_CHECKING:
    from datasets import Dataset

_MANIFEST_KEYS = {"format_version": int, "task": str, "access": str, "columns": list, "splits": dict, "digest": str}
# Datasets of recipes that this repository may not contain, and the command that makes them.
MADE_BY = {"data/openi_reports": "make openi"}
_AGAIN = "prepare the dataset again with scripts/prepare_data.py"


@dataclass(frozen=True)
class PreparedDataset:
    """A prepared dataset with its rows in memory; `label_set` is `None` for a task without labels."""

    folder: Path
    manifest: dict[str, Any]
    label_set: LabelSet | None
    splits: dict[str, "Dataset"]

    @property
    def task(self) -> str:
        """The task that the dataset was prepared for, for example `"protocol"`."""
        return self.manifest["task"]

    @property
    def access(self) -> str:
        """One of `ACCESS_LEVELS`; decides what may be shown and published."""
        return self.manifest["access"]

    @property
    def label_set_sha256(self) -> str | None:
        """The digest of its label set, if it has one."""
        return self.manifest.get("label_set", {}).get("sha256")

    @property
    def digest(self) -> str:
        """sha256 over the split files and the label set."""
        return self.manifest["digest"]


def load_prepared_dataset(folder: str | Path) -> PreparedDataset:
    """Load a prepared dataset, each file with the sha256 of the manifest; restricted data make the process private."""
    # Takes most of a second to import, which would delay --help.
    from datasets import Dataset

    folder = find_shipped(folder)
    if not folder.is_dir():
        command = f"`{MADE_BY[str(folder)]}`" if str(folder) in MADE_BY else "scripts/prepare_data.py"
        raise InputError(f"no such dataset folder; make it with {command}", where=str(folder))
    manifest = _read_manifest(folder)
    protect(manifest["access"])
    # Dataset.from_parquet would copy the rows into a cache outside the folder.
    splits = {
        split: Dataset(read_table(_verified(folder / f"{split}.parquet", manifest["splits"][split]), _AGAIN))
        for split in SPLITS
    }
    label_set = None
    if "label_set" in manifest:
        label_set = LabelSet.load(_verified(folder / LABEL_SET_FILE, manifest["label_set"]))
    return PreparedDataset(folder, manifest, label_set, splits)


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST_FILE
    if not path.exists():
        raise InputError(f"has no {MANIFEST_FILE}, so it is not a prepared dataset; {_AGAIN}", str(folder))
    manifest = read_json(path, fix=_AGAIN)
    if problem := _problem(manifest):
        raise InputError(f"{problem}; {_AGAIN}", where=str(path))
    return manifest


def _problem(manifest: Any) -> str | None:
    if not isinstance(manifest, dict):
        return "must contain one JSON object"
    for key, kind in _MANIFEST_KEYS.items():
        if not isinstance(manifest.get(key), kind):
            return f"key {key!r} is missing or of the wrong type"
    if manifest["format_version"] != FORMAT_VERSION:
        return f"format version {quoted(manifest['format_version'])} is not the {FORMAT_VERSION} that is read here"
    if manifest["access"] not in ACCESS_LEVELS:
        return f"access must be one of {', '.join(ACCESS_LEVELS)}"
    hashed = {f"splits.{split}": manifest["splits"].get(split) for split in SPLITS}
    if "label_set" in manifest:
        hashed["label_set"] = manifest["label_set"]
    for key, entry in hashed.items():
        if not isinstance(entry, dict) or not isinstance(entry.get("sha256"), str):
            return f"key '{key}.sha256' is missing"
    if manifest["digest"] != dataset_digest(manifest):
        return "the digest does not match the hashes in the same file"
    return None


def _verified(path: Path, entry: dict[str, Any]) -> Path:
    if not path.is_file():
        raise InputError(f"is missing; {_AGAIN}", where=str(path))
    if file_sha256(path) != entry["sha256"]:
        raise InputError(f"changed since the manifest was written (its sha256 differs); {_AGAIN}", where=str(path))
    return path
