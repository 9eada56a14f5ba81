"""The page that shows how well a run that chooses protocols does."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from radrecipes.data.dataset_folder import SHOWABLE_ACCESS
from radrecipes.data.label_sets import Label
from radrecipes.evaluation.label_metrics import ADAPTER, BASE, LINEAR, MAJORITY, NEAREST, SVM
from radrecipes.reporting import report_tables
from radrecipes.reporting.confusion_matrix import confusion_matrix
from radrecipes.reporting.figures import loss_curve_svg, reliability_svg, risk_coverage_svg
from radrecipes.reporting.page import important_first, render_page, write_page

SYSTEM_TITLES = {
    ADAPTER: "Fine-tuned model",
    BASE: "Same model before fine-tuning",
    LINEAR: "Logistic regression",
    SVM: "Linear support vector machine",
    NEAREST: "Nearest training order",
    MAJORITY: "Always the commonest protocol",
}

# 300 long notes stay well under the 2 MB that a page may take.
_MOST_WRONG_ANSWERS = 300


def write_report(
    output_folder: str | Path,
    *,
    title: str,
    metrics: Mapping[str, Any],
    predictions: pd.DataFrame,
    labels: Sequence[Label],
    dataset_manifest: Mapping[str, Any],
    run_manifest: Mapping[str, Any],
    train_log: Sequence[Mapping[str, Any]],
) -> Path:
    """Write `report.html`, and into `figures/` what there is to draw: loss curve, risk-coverage curve, reliability.

    Args:
        output_folder (`str` or `Path`):
            An existing folder.
        title (`str`):
            What was evaluated, for example `"SmolLM2-135M-Instruct, protocol, LoRA"`.
        metrics (`Mapping[str, Any]`):
            What [`radrecipes.evaluation.label_metrics.compute_metrics`] returned; `adapter` must be among the systems.
        predictions (`pd.DataFrame`):
            What [`radrecipes.evaluation.label_metrics.predictions_table`] returned.
        labels (`Sequence[Label]`):
            The label set.
        dataset_manifest (`Mapping[str, Any]`):
            `manifest.json` of the dataset. Unless its `access` is `synthetic` or `open`, no note and no free answer is
            put on the page.
        run_manifest (`Mapping[str, Any]`):
            `manifest.json` of the run, nested as it likes.
        train_log (`Sequence[Mapping[str, Any]]`):
            Entries of `train_log.jsonl`; empty where there is none.

    Returns:
        `Path`: the page.
    """
    figures = draw_figures(metrics, train_log)
    html = render_report(
        title=title,
        metrics=metrics,
        predictions=predictions,
        labels=labels,
        dataset_manifest=dataset_manifest,
        run_manifest=run_manifest,
        figures=figures,
    )
    return write_page(output_folder, html, figures)


def draw_figures(metrics: Mapping[str, Any], train_log: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Draw what the metrics and the training log allow.

    Args:
        metrics (`Mapping[str, Any]`):
            Content of `metrics.json`.
        train_log (`Sequence[Mapping[str, Any]]`):
            Entries of `train_log.jsonl`.

    Returns:
        `dict[str, str]`: SVG documents by name: `loss_curve`, `risk_coverage`, `reliability`, each only where there is
        something to draw.
    """
    best = report_tables.best_baseline(metrics)
    figures = {
        "loss_curve": loss_curve_svg(train_log),
        "risk_coverage": risk_coverage_svg(metrics["systems"], SYSTEM_TITLES, metrics["rows"], best),
        "reliability": reliability_svg(metrics["calibration"]) if metrics.get("calibration") else None,
    }
    return {name: svg for name, svg in figures.items() if svg is not None}


def render_report(
    *,
    title: str,
    metrics: Mapping[str, Any],
    predictions: pd.DataFrame,
    labels: Sequence[Label],
    dataset_manifest: Mapping[str, Any],
    run_manifest: Mapping[str, Any],
    figures: Mapping[str, str],
) -> str:
    """The text of the page; the arguments are those of [`write_report`], with the SVGs of [`draw_figures`]."""
    references = predictions["reference"].tolist()
    answers = [None if pd.isna(label) else label for label in predictions[f"{ADAPTER}_label"]]
    may_show_notes = dataset_manifest.get("access") in SHOWABLE_ACCESS and "note" in predictions
    wrong = report_tables.wrong_answers(predictions, metrics, labels) if may_show_notes else []
    best = report_tables.best_baseline(metrics)
    return render_page(
        "protocol.html.jinja",
        figures,
        title=title,
        metrics=metrics,
        systems=metrics["systems"],
        system_titles={name: SYSTEM_TITLES.get(name, name) for name in metrics["systems"]},
        adapter=metrics["systems"][ADAPTER],
        base=metrics["systems"].get(BASE),
        best=best,
        comparison_with_best=next((c for c in metrics["comparisons"] if c["second"] == best), None),
        decisions=report_tables.decisions(metrics),
        main_decision=report_tables.main_decision(metrics, ADAPTER),
        calibration=metrics.get("calibration"),
        costly_kinds={kind: report_tables.COSTLY_KINDS[kind] for kind in report_tables.costly_kinds(metrics)},
        slices=report_tables.slices_by_kind(metrics),
        matrix=confusion_matrix(references, answers, labels),
        confusions=report_tables.frequent_confusions(references, answers),
        label_table=report_tables.label_table(metrics, labels),
        may_show_notes=may_show_notes,
        wrong_answers=wrong[:_MOST_WRONG_ANSWERS],
        leakage=_leakage(dataset_manifest, metrics["split"]),
        number_wrong=sum(reference != answer for reference, answer in zip(references, answers, strict=True)),
        dataset_manifest=important_first(dataset_manifest),
        access=dataset_manifest.get("access", "unknown"),
        run_manifest=run_manifest,
    )


def _leakage(manifest: Mapping[str, Any], split: str) -> Mapping[str, Any] | None:
    """What the leakage audit counted in this split; `None` where the manifest does not say."""
    audit = manifest.get("leakage_audit")
    counts = audit.get(split) if isinstance(audit, Mapping) else None
    wanted = {"verbatim", "normalised", "near_duplicate"}
    return counts if isinstance(counts, Mapping) and wanted <= set(counts) else None
