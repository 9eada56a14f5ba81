"""The dataset card of a prepared dataset, and the table that the terminal shows when it is made."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCard

from radrecipes.data.dataset_folder import SPLITS
from radrecipes.data.preparation import COLUMNS, DROP_REASONS
from radrecipes.publishing.cards.front_matter import card_title, dataset_card_data

_TEMPLATE = Path(__file__).parent / "templates" / "dataset_card.md.jinja"


def render_dataset_card(manifest: Mapping[str, Any]) -> str:
    """Write the card of a prepared protocol dataset from its manifest.

    Args:
        manifest (`Mapping[str, Any]`):
            What the dataset's manifest says, with `name`, `license`, `language`, `access`, `generator`, `source` and
            the facts of a [`Preparation`]; hashes are not needed.

    Returns:
        `str`: Markdown with the YAML front matter of a Hub dataset card.
    """
    synthetic = manifest["access"] == "synthetic"
    data = dataset_card_data(
        manifest,
        columns=COLUMNS,
        task_category="text-classification",
        annotations="machine-generated" if synthetic else "found",
        tags=["imaging-protocol"],
    )
    card = DatasetCard.from_template(
        data,
        template_path=str(_TEMPLATE),
        title=card_title(manifest),
        synthetic=synthetic,
        manifest=manifest,
        split_names=SPLITS,
        drop_reasons=DROP_REASONS,
        dropped=sum(manifest["rows"]["dropped"].values()),
    )
    return str(card).rstrip() + "\n"


def render_preparation_summary(manifest: Mapping[str, Any]) -> str:
    """Lay out what was read, kept and found as a table for the terminal.

    Args:
        manifest (`Mapping[str, Any]`):
            A manifest as for [`render_dataset_card`].

    Returns:
        `str`: Several lines; reasons that dropped no row are left out.
    """
    rows, audit = manifest["rows"], manifest["leakage_audit"]
    counts = [("rows read", rows["read"]), ("merged, because identical", rows["merged_duplicates"])]
    counts += [(f"dropped: {reason.replace('_', ' ')}", count) for reason, count in rows["dropped"].items() if count]
    counts.append(("kept", rows["kept"]))
    lines = [f"{name:<28}{count:>8}" for name, count in counts]

    lines += ["", f"{'':<36}notes that occur in training", f"{'split':<12}{'rows':>8}{'groups':>8}{'labels':>8}"]
    lines[-1] += f"{'verbatim':>10}{'normalised':>12}{'near-identical':>16}{'closest':>9}"
    for split in SPLITS:
        figures = manifest["splits"][split]
        line = f"{split:<12}{figures['rows']:>8}{figures['groups']:>8}{figures['labels']:>8}"
        if split in audit:
            found = audit[split]
            line += f"{found['verbatim']:>10}{found['normalised']:>12}{found['near_duplicate']:>16}"
            line += f"{found['largest_similarity']:>9.2f}"
        lines.append(line)
    if manifest["labels_only_in_training"]:
        lines += ["", f"in training only, too few groups: {', '.join(manifest['labels_only_in_training'])}"]
    return "\n".join(lines)
