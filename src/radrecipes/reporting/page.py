"""The evaluation page of a run, one self-contained HTML file with all text escaped; written only from the run's files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from radrecipes.access import access_of, strictest
from radrecipes.reporting import label_page, text_page
from radrecipes.reporting.figures import loss_curve_svg
from radrecipes.reporting.html import render
from radrecipes.reporting.label_tables import duration, speed
from radrecipes.tasks import TASKS, LabelTask

# The entries of a dataset's manifest that come first.
_IMPORTANT = ("task", "access", "rows", "splits", "leakage_audit")


def write_page(
    folder: str | Path,
    *,
    title: str,
    metrics: Mapping[str, Any],
    predictions: pd.DataFrame,
    dataset_manifest: Mapping[str, Any],
    run_manifest: Mapping[str, Any],
    train_log: Sequence[Mapping[str, Any]],
) -> Path:
    """Write `report.html` and `figures/*.svg` into an existing folder, from the contents of a run's files.

    Shows no single row unless both the dataset and the training data are `synthetic` or `open`. `metrics["task"]` decides the
    page; `title` names what was evaluated, for example `"SmolLM2-135M-Instruct, protocol, LoRA"`; `train_log` may be empty.
    """
    task = TASKS[metrics["task"]]
    page = label_page if isinstance(task, LabelTask) else text_page
    validation = run_manifest.get("training", {}).get("validation")
    titles = {metric.name: metric.title for metric in task.headline if metric.name in task.validation_metrics}
    figures = {"loss_curve": loss_curve_svg(train_log, validation, titles), **page.figures(metrics)}
    figures = {name: svg for name, svg in figures.items() if svg is not None}
    access = strictest(dataset_manifest.get("access"), access_of(run_manifest))
    keys = dict.fromkeys([*_IMPORTANT, *dataset_manifest])
    own_data = run_manifest.get("data", {}).get("digest") in (None, metrics["dataset"].get("digest"))
    html = render(
        page.TEMPLATE,
        figures,
        {"duration": duration, "speed": speed, "grid": grid},
        title=title,
        metrics=metrics,
        dataset_manifest={key: dataset_manifest[key] for key in keys if key in dataset_manifest},
        access=access,
        own_data=own_data,
        # Of another dataset it is not known what training had seen of it.
        leakage=own_data and dataset_manifest.get("leakage_audit", {}).get(metrics["split"]),
        run_manifest=run_manifest,
        validation=validation,
        learns_from_rewards=any("reward" in entry for entry in train_log),
        validation_titles={"loss": "loss", **titles},
        **page.values(metrics, predictions, access),
    )
    folder = Path(folder)
    for name, svg in figures.items():
        (folder / "figures").mkdir(exist_ok=True)
        (folder / "figures" / f"{name}.svg").write_text(svg, encoding="utf-8")
    path = folder / "report.html"
    path.write_text(html, encoding="utf-8")
    return path


def grid(values: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The entries of a manifest that form a table: at least two, with the same keys and no further nesting."""
    nested = {key: value for key, value in values.items() if isinstance(value, Mapping) and value}
    alike = len({tuple(sorted(value)) for value in nested.values()}) == 1
    flat = not any(isinstance(leaf, Mapping) for value in nested.values() for leaf in value.values())
    return nested if len(nested) > 1 and alike and flat else {}
