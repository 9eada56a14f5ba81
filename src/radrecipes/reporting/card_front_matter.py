"""The YAML front matter that the Hub reads from the card of a prepared dataset."""

from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub.repocard_data import DatasetCardData

from radrecipes.data.dataset_folder import SPLITS

# The Hub's size classes, by the number of rows below which each holds.
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def card_title(manifest: Mapping[str, Any]) -> str:
    """The dataset's name as a title."""
    return manifest["name"].replace("_", " ").replace("-", " ").strip().capitalize()


def dataset_card_data(
    manifest: Mapping[str, Any], *, task_category: str, annotations: str, tags: Sequence[str]
) -> DatasetCardData:
    """What every prepared dataset says of itself to the Hub.

    Args:
        manifest (`Mapping[str, Any]`):
            With `name`, `license`, `language`, `access` and `rows`.
        task_category (`str`):
            The Hub's name for the task, for example `"text-generation"`.
        annotations (`str`):
            Where the labels come from, in the Hub's words, for example `"found"`.
        tags (`Sequence[str]`):
            Beside `radiology`, `medical` and, where it is so, `synthetic`.

    Returns:
        `DatasetCardData`
    """
    synthetic = manifest["access"] == "synthetic"
    rows = manifest["rows"]["kept"]
    return DatasetCardData(
        pretty_name=card_title(manifest),
        license=manifest["license"],
        language=[manifest["language"]],
        task_categories=[task_category],
        annotations_creators=[annotations],
        source_datasets=["original"],
        size_categories=[next((name for below, name in _SIZES if rows < below), "n>1M")],
        tags=["radiology", "medical", *tags, *(["synthetic"] if synthetic else [])],
        configs=[
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": f"{split}.parquet"} for split in SPLITS],
            }
        ],
    )
