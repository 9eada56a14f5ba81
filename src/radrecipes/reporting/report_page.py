"""The page that shows how well a run does: one HTML file that needs nothing else."""

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from radrecipes.data.label_sets import Label
from radrecipes.evaluation import ADAPTER, BASE, LINEAR, MAJORITY, NEAREST, SHOWABLE_ACCESS, SVM
from radrecipes.reporting import report_tables
from radrecipes.reporting.confusion_matrix import confusion_matrix
from radrecipes.reporting.figures import (
    ACCENT,
    CONTRAST,
    FAINT,
    INK,
    loss_curve_svg,
    reliability_svg,
    risk_coverage_svg,
)

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

# Lines and words of the figures by the part that they play, so that they follow light and dark.
_PAGE_COLOURS = {INK: "var(--ink)", FAINT: "var(--faint)", ACCENT: "var(--accent)", CONTRAST: "var(--wrong)"}


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
            What [`radrecipes.evaluation.compute_metrics`] returned; `adapter` must be among the systems.
        predictions (`pd.DataFrame`):
            What [`radrecipes.evaluation.predictions_table`] returned.
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
    output_folder = Path(output_folder)
    figures = draw_figures(metrics, train_log)
    if figures:
        (output_folder / "figures").mkdir(exist_ok=True)
    for name, svg in figures.items():
        (output_folder / "figures" / f"{name}.svg").write_text(svg, encoding="utf-8")
    page = output_folder / "report.html"
    page.write_text(
        render_report(
            title=title,
            metrics=metrics,
            predictions=predictions,
            labels=labels,
            dataset_manifest=dataset_manifest,
            run_manifest=run_manifest,
            figures=figures,
        ),
        encoding="utf-8",
    )
    return page


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
    environment = Environment(
        loader=PackageLoader("radrecipes.reporting"),
        # Always, whatever a template is called: notes and labels are other people's text.
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        percent=percent, p_value=p_value, fixed=fixed, points=points, key_words=key_words, grid=grid
    )
    script = environment.get_template("evaluation_report.js.jinja").render()
    references = predictions["reference"].tolist()
    answers = [None if pd.isna(label) else label for label in predictions[f"{ADAPTER}_label"]]
    may_show_notes = dataset_manifest.get("access") in SHOWABLE_ACCESS and "note" in predictions
    wrong = report_tables.wrong_answers(predictions, metrics, labels) if may_show_notes else []
    best = report_tables.best_baseline(metrics)
    return environment.get_template("evaluation_report.html.jinja").render(
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
        dataset_manifest=_important_first(dataset_manifest),
        access=dataset_manifest.get("access", "unknown"),
        run_manifest=run_manifest,
        figures={name: Markup(_for_page(svg, name)) for name, svg in figures.items()},
        script=Markup(script),
        # Only this very script may run: a note that got past the escaping still could not.
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def percent(value: float | None, digits: int = 1) -> str:
    """A share as a percentage, for example `93.1 %`; a dash where there is none."""
    return "–" if value is None else f"{100 * value:.{digits}f}\u202f%"


def p_value(value: float) -> str:
    """A p-value as papers print it."""
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def fixed(value: float | None, digits: int = 2) -> str:
    """A number with a fixed number of decimals; a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}"


def points(value: float) -> str:
    """A difference of two shares in percentage points, for example `+2.1`."""
    return f"{100 * value:+.1f}"


def key_words(key: object) -> str:
    """A key of a manifest as words, for example `near duplicates` for `near_duplicates`."""
    return str(key).replace("_", " ")


def grid(values: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The entries of a manifest that make one table: at least two, with the same keys, and no further nesting.

    Args:
        values (`Mapping[str, Any]`):
            A level of a manifest, for example `{"train": {"rows": 5200, ...}, "test": {"rows": 980, ...}}`.

    Returns:
        `dict`: these entries; empty where there is no such table.
    """
    nested = {key: value for key, value in values.items() if isinstance(value, Mapping) and value}
    alike = len({tuple(sorted(value)) for value in nested.values()}) == 1
    flat = not any(isinstance(leaf, Mapping) for value in nested.values() for leaf in value.values())
    return nested if len(nested) > 1 and alike and flat else {}


def _important_first(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The dataset's manifest with what a reader asks for first at its top."""
    first = [key for key in ("task", "access", "rows", "splits", "leakage_audit") if key in manifest]
    return {key: manifest[key] for key in [*first, *(key for key in manifest if key not in first)]}


def _leakage(manifest: Mapping[str, Any], split: str) -> Mapping[str, Any] | None:
    """What the leakage audit counted in this split; `None` where the manifest does not say."""
    audit = manifest.get("leakage_audit")
    counts = audit.get(split) if isinstance(audit, Mapping) else None
    wanted = {"verbatim", "normalised", "near_duplicate"}
    return counts if isinstance(counts, Mapping) and wanted <= set(counts) else None


def _for_page(svg: str, name: str) -> str:
    """A figure in the colours of the page, with identifiers that no other figure of the page has."""
    for colour, variable in _PAGE_COLOURS.items():
        svg = svg.replace(colour, variable)
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\1{name}-", svg)
