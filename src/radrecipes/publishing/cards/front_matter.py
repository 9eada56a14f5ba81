"""What all cards share: the template, YAML front matter of datasets, and the access form of gated repositories."""

import re
from collections.abc import Mapping, Sequence
from shlex import quote
from typing import Any

from huggingface_hub.repocard_data import CardData, DatasetCardData
from jinja2 import Environment, PackageLoader, StrictUndefined

from radrecipes.data.dataset_folder import SPLITS
from radrecipes.errors import one_line
from radrecipes.publishing.licences import check_licence

# The Hub's size classes, each with its upper limit on rows.
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))

# Licence name for `license: other` in dataset cards, whose text names the source.
TERMS_OF_THE_SOURCE = "terms-of-the-source"


def render_card(template: str, front_matter: CardData, **values: Any) -> str:
    """A card; a template escapes names of labels, files and datasets with the filters `plain`, `code` and `shell`."""
    environment = Environment(
        loader=PackageLoader("radrecipes.publishing.cards"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"python": repr, "plain": plain, "code": code, "shell": lambda text: quote(one_line(text))}
    text = environment.get_template(template).render(card_data=front_matter.to_yaml(), **values)
    return text.rstrip() + "\n"


def plain(text: str) -> str:
    """A name as Markdown that shows it as it is, also in a table."""
    return re.sub(r"([\\|*_`\[\]~])", r"\\\1", one_line(text).replace("<", "&lt;"))


def code(text: object) -> str:
    """A name as Markdown code, also in a table."""
    text = one_line(str(text)).replace("|", "\\|")
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def card_title(manifest: Mapping[str, Any]) -> str:
    """The dataset's name as a title."""
    return manifest["name"].replace("_", " ").replace("-", " ").strip().capitalize()


def gated_form(access: str, what: str) -> dict[str, Any]:
    """The words of the Hub's form for access to a `model` or `dataset`; empty for data that anyone may read."""
    if access not in ("registered", "credentialed"):
        return {}
    source = "a source whose terms restrict who may have its data"
    if access == "credentialed":
        source = "a source that shares its data only with credentialed users, under a data use agreement"
    return {
        "extra_gated_heading": "Access under the terms of the source only",
        "extra_gated_prompt": (
            f"This {what} derives from {source}. Ask for access only if the source has given you access to its data, and "
            "comply with its terms: do not try to identify anyone, and do not redistribute files from this repository."
        ),
        "extra_gated_fields": {
            "Name": "text",
            "Institution": "text",
            "Purpose": "text",
            "The source has given me access to its data, and I will comply with its terms": "checkbox",
            "I will not try to identify anyone": "checkbox",
            "I will not redistribute files from this repository": "checkbox",
        },
        "extra_gated_button_content": "Ask for access",
    }


def dataset_card_data(
    manifest: Mapping[str, Any],
    *,
    task_category: str,
    annotations: str,
    tags: Sequence[str],
    extends: str | None = None,
) -> DatasetCardData:
    """Front matter of a prepared dataset.

    Args:
        task_category: The Hub's name of the task, for example `"text-generation"`.
        annotations: Origin of the labels, as the Hub names it, for example `"found"`.
        tags: In addition to `radiology`, `medical` and, if it is, `synthetic`.
        extends: The published dataset that the rows come from; by default they are original.
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
        # Always written: columns of an earlier push would make different ones unreadable (datasets#8608).
        dataset_info={
            "config_name": "default",
            "features": [{"name": column, "dtype": "string"} for column in manifest["columns"]],
            "splits": [{"name": split, "num_examples": manifest["splits"][split]["rows"]} for split in SPLITS],
        },
        **gated_form(manifest["access"], "dataset"),
    )
