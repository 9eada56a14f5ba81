"""The evaluation page of a run, written only from its files: metrics, predictions, manifests and training log."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from radrecipes.reporting import label_page, text_page
from radrecipes.reporting.figures import loss_curve_svg
from radrecipes.reporting.page_html import render_page
from radrecipes.tasks import TASKS, LabelTask


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

    Shows no single row unless the dataset's `access` is `synthetic` or `open`. `metrics["task"]` decides the page; `title` names
    what was evaluated, for example `"SmolLM2-135M-Instruct, protocol, LoRA"`; `train_log` may be empty.
    """
    page = label_page if isinstance(TASKS[metrics["task"]], LabelTask) else text_page
    figures = {"loss_curve": loss_curve_svg(train_log), **page.figures(metrics)}
    figures = {name: svg for name, svg in figures.items() if svg is not None}
    html = render_page(
        page.TEMPLATE,
        figures,
        title=title,
        metrics=metrics,
        dataset_manifest=_important_first(dataset_manifest),
        access=dataset_manifest.get("access", "unknown"),
        leakage=_leakage(dataset_manifest, metrics["split"], page.LEAKAGE),
        run_manifest=run_manifest,
        **page.values(metrics, predictions, dataset_manifest.get("access")),
    )
    folder = Path(folder)
    for name, svg in figures.items():
        (folder / "figures").mkdir(exist_ok=True)
        (folder / "figures" / f"{name}.svg").write_text(svg, encoding="utf-8")
    path = folder / "report.html"
    path.write_text(html, encoding="utf-8")
    return path


def _important_first(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """A dataset's manifest, with the most important entries first."""
    first = [key for key in ("task", "access", "rows", "splits", "leakage_audit") if key in manifest]
    return {key: manifest[key] for key in [*first, *(key for key in manifest if key not in first)]}


def _leakage(manifest: Mapping[str, Any], split: str, wanted: frozenset[str]) -> Mapping[str, Any] | None:
    """What the leakage audit counted in this split; `None` if it is not in the manifest."""
    audit = manifest.get("leakage_audit")
    counts = audit.get(split) if isinstance(audit, Mapping) else None
    return counts if isinstance(counts, Mapping) and wanted <= set(counts) else None
