"""The dataset card of a prepared dataset, and the summary that the terminal shows after preparation."""

from collections.abc import Mapping
from typing import Any

from radrecipes.data.dataset_folder import SPLITS
from radrecipes.data.preparation import drop_reasons
from radrecipes.publishing.cards.front_matter import card_title, dataset_card_data, render_card
from radrecipes.tasks import TASKS


def render_dataset_card(manifest: Mapping[str, Any]) -> str:
    """The card of a dataset whose manifest has the facts of [`~data.preparation.prepare_rows`]: Markdown with YAML front matter."""
    synthetic, task = manifest["access"] == "synthetic", TASKS[manifest["task"]]
    _, _, input_column, target_column, *_ = manifest["columns"]
    data = dataset_card_data(
        manifest,
        task_category=task.hub_task,
        annotations="machine-generated" if synthetic else "found",
        tags=task.words.tags,
    )
    return render_card(
        "dataset_card.md.jinja",
        data,
        title=card_title(manifest),
        synthetic=synthetic,
        labelled="labels" in manifest,
        words=task.words,
        input=input_column,
        target=target_column,
        manifest=manifest,
        split_names=SPLITS,
        drop_reasons=drop_reasons(input_column, target_column),
    )


def render_preparation_summary(manifest: Mapping[str, Any]) -> str:
    """A table for the terminal of what was read, kept and found; reasons that dropped no row are omitted."""
    rows, audit = manifest["rows"], manifest["leakage_audit"]
    counts = [("rows read", rows["read"]), ("merged, because identical", rows["merged_duplicates"])]
    reasons = drop_reasons(*manifest["columns"][2:4])
    counts += [(f"dropped: {reasons[reason]}", count) for reason, count in rows["dropped"].items() if count]
    counts.append(("kept", rows["kept"]))
    width = max(len(name) for name, _ in counts) + 2
    lines = [f"{name:<{width}}{count:>8}" for name, count in counts]

    columns = [column for column in ("rows", "groups", "labels") if column in manifest["splits"]["train"]]
    heading = "".join(f"{column:>8}" for column in columns)
    lines += [
        "",
        f"{'':<{12 + len(heading)}}rows whose {manifest['columns'][2]} occurs in training",
        f"{'split':<12}{heading}",
    ]
    lines[-1] += f"{'verbatim':>10}{'normalised':>12}{'near-identical':>16}{'largest similarity':>20}"
    for split in SPLITS:
        line = f"{split:<12}" + "".join(f"{manifest['splits'][split][column]:>8}" for column in columns)
        if split in audit:
            found = audit[split]
            line += f"{found['verbatim']:>10}{found['normalised']:>12}{found['near_duplicate']:>16}"
            line += f"{found['largest_similarity']:>20.2f}"
        lines.append(line)
    if only := manifest.get("labels_only_in_training"):
        # Not their names: if the wrong column was named as the labels, these are notes.
        lines += ["", f"in training only, too few groups: {len(only)} labels, which manifest.json lists"]
    return "\n".join(lines)
