"""The YAML front matter that the Hub reads from the cards of prepared datasets, and the form before gated repositories."""

from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub.repocard_data import DatasetCardData

from radrecipes.data.dataset_folder import SPLITS
from radrecipes.publishing.licences import check_licence

# The Hub's size classes, by the number of rows below which each holds.
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))

# What `license: other` is called where the card says no more: its text names whose terms bind.
TERMS_OF_THE_SOURCE = "terms-of-the-source"


def card_title(manifest: Mapping[str, Any]) -> str:
    """The dataset's name as a title."""
    return manifest["name"].replace("_", " ").replace("-", " ").strip().capitalize()


def gated_form(access: str, what: str) -> dict[str, Any]:
    """The form that the Hub shows before it gives files of a gated repository out.

    Args:
        access (`str`):
            Access class of the data, as in a dataset's manifest.
        what (`str`):
            What is given out, for example `"model"`.

    Returns:
        `dict[str, Any]`: keys of a card's front matter; empty for data that anyone may read. The keys only word the form:
        that it stands before the files is a setting of the repository.
    """
    if access not in ("registered", "credentialed"):
        return {}
    source = "a source that gives its data to registered users only"
    if access == "credentialed":
        source = "a source that gives its data to credentialed users only, under a data use agreement"
    return {
        "extra_gated_heading": "Access under the terms of the source only",
        "extra_gated_prompt": (
            f"This {what} derives from {source}. Ask for access only if the source has given you access to its data, and "
            "keep to its terms: do not try to identify anyone, and do not pass files of this repository on."
        ),
        "extra_gated_fields": {
            "Name": "text",
            "Institution": "text",
            "Purpose": "text",
            "The source has given me access to its data, and I keep to its terms": "checkbox",
            "I will not try to identify anyone": "checkbox",
            "I will not pass files of this repository on": "checkbox",
        },
        "extra_gated_button_content": "Ask for access",
    }


def dataset_card_data(
    manifest: Mapping[str, Any],
    *,
    columns: Sequence[str],
    task_category: str,
    annotations: str,
    tags: Sequence[str],
    extends: str | None = None,
) -> DatasetCardData:
    """What every prepared dataset says of itself to the Hub.

    Args:
        manifest (`Mapping[str, Any]`):
            With `name`, `license`, `language`, `access`, `rows` and `splits`.
        columns (`Sequence[str]`):
            Columns of every split, all text.
        task_category (`str`):
            The Hub's name for the task, for example `"text-generation"`.
        annotations (`str`):
            Where the labels come from, in the Hub's words, for example `"found"`.
        tags (`Sequence[str]`):
            Beside `radiology`, `medical` and, where it is so, `synthetic`.
        extends (`str`, *optional*):
            The published dataset that the rows were taken from; left out, they are original.

    Returns:
        `DatasetCardData`

    Raises:
        [`InputError`]: the Hub does not know the licence.
    """
    check_licence(manifest["license"], "license of the dataset")
    synthetic = manifest["access"] == "synthetic"
    rows = manifest["rows"]["kept"]
    return DatasetCardData(
        pretty_name=card_title(manifest),
        license=manifest["license"],
        **({"license_name": TERMS_OF_THE_SOURCE} if manifest["license"] == "other" else {}),
        language=[manifest["language"]],
        task_categories=[task_category],
        annotations_creators=[annotations],
        source_datasets=[f"extended|{extends}" if extends else "original"],
        size_categories=[next((name for below, name in _SIZES if rows < below), "n>1M")],
        tags=["radiology", "medical", *tags, *(["synthetic"] if synthetic else [])],
        configs=[
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": f"{split}.parquet"} for split in SPLITS],
            }
        ],
        # Made anew with every card: what an earlier push said of columns would make other ones unreadable (datasets#8608).
        dataset_info={
            "config_name": "default",
            "features": [{"name": column, "dtype": "string"} for column in columns],
            "splits": [{"name": split, "num_examples": manifest["splits"][split]["rows"]} for split in SPLITS],
        },
        **gated_form(manifest["access"], "dataset"),
    )
