"""The page that shows how well a run does: one HTML file that needs nothing else."""

import base64
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from radrecipes.data.label_sets import Label
from radrecipes.evaluation import ADAPTER, BASE, LINEAR, MAJORITY, SHOWABLE_ACCESS
from radrecipes.reporting.figures import (
    ACCENT,
    CONTRAST,
    FAINT,
    INK,
    NO_LABEL,
    confusion_matrix,
    loss_curve_svg,
)

SYSTEM_TITLES = {
    ADAPTER: "Fine-tuned model",
    LINEAR: "Linear classifier",
    BASE: "Same model before fine-tuning",
    MAJORITY: "Always the commonest label",
}

# 300 long notes stay well under the 2 MB that a page may take.
_MOST_WRONG_ANSWERS = 300
_MOST_CONFUSIONS = 15
_LONGEST_NOTE = 1200
_LONGEST_ANSWER = 200

# Lines of the loss curve by the part that they play, so that they follow light and dark.
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
    """Write `report.html`, and `figures/loss_curve.svg` where there is a loss to draw.

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
    loss_curve = loss_curve_svg(train_log)
    if loss_curve is not None:
        (output_folder / "figures").mkdir(exist_ok=True)
        (output_folder / "figures" / "loss_curve.svg").write_text(loss_curve, encoding="utf-8")
    page = output_folder / "report.html"
    page.write_text(
        render_report(
            title=title,
            metrics=metrics,
            predictions=predictions,
            labels=labels,
            dataset_manifest=dataset_manifest,
            run_manifest=run_manifest,
            loss_curve=loss_curve,
        ),
        encoding="utf-8",
    )
    return page


def render_report(
    *,
    title: str,
    metrics: Mapping[str, Any],
    predictions: pd.DataFrame,
    labels: Sequence[Label],
    dataset_manifest: Mapping[str, Any],
    run_manifest: Mapping[str, Any],
    loss_curve: str | None,
) -> str:
    """The text of the page; the arguments are those of [`write_report`], with the loss curve as SVG or `None`."""
    environment = Environment(
        loader=PackageLoader("radrecipes.reporting"),
        # Always, whatever a template is called: notes and labels are other people's text.
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=percent, p_value=p_value, fixed=fixed, key_words=key_words, grid=grid)
    script = environment.get_template("evaluation_report.js.jinja").render()
    references = predictions["reference"].tolist()
    answers = [None if pd.isna(label) else label for label in predictions[f"{ADAPTER}_label"]]
    may_show_notes = dataset_manifest.get("access") in SHOWABLE_ACCESS and "note" in predictions
    wrong_answers = _wrong_answers(predictions) if may_show_notes else []
    return environment.get_template("evaluation_report.html.jinja").render(
        title=title,
        metrics=metrics,
        systems=metrics["systems"],
        system_titles={name: SYSTEM_TITLES.get(name, name) for name in metrics["systems"]},
        adapter=metrics["systems"][ADAPTER],
        linear=metrics["systems"].get(LINEAR),
        base=metrics["systems"].get(BASE),
        comparison_with_linear=next((c for c in metrics["comparisons"] if c["second"] == LINEAR), None),
        matrix=confusion_matrix(references, answers, labels),
        confusions=_confusions(references, answers),
        label_table=_label_table(metrics, labels),
        may_show_notes=may_show_notes,
        wrong_answers=wrong_answers[:_MOST_WRONG_ANSWERS],
        leakage=_leakage(dataset_manifest, metrics["split"]),
        number_wrong=sum(reference != answer for reference, answer in zip(references, answers, strict=True)),
        dataset_manifest=_important_first(dataset_manifest),
        access=dataset_manifest.get("access", "unknown"),
        run_manifest=run_manifest,
        loss_curve=None if loss_curve is None else Markup(_with_page_colours(loss_curve)),
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


def _with_page_colours(svg: str) -> str:
    """The loss curve in the colours of the page, at any width."""
    for colour, variable in _PAGE_COLOURS.items():
        svg = svg.replace(colour, variable)
    return svg


def _confusions(references: Sequence[str], answers: Sequence[str | None]) -> list[dict[str, Any]]:
    """The most frequent wrong answers by expected label."""
    support = Counter(references)
    pairs = Counter(pair for pair in zip(references, answers, strict=True) if pair[0] != pair[1])
    # Ties in a fixed order, so that the same answers give the same page.
    ranked = sorted(pairs.items(), key=lambda item: (-item[1], item[0][0], item[0][1] or ""))
    return [
        {
            "expected": expected,
            "answered": NO_LABEL if answered is None else answered,
            "count": count,
            "of": support[expected],
            "share": count / support[expected],
        }
        for (expected, answered), count in ranked[:_MOST_CONFUSIONS]
    ]


def _label_table(metrics: Mapping[str, Any], labels: Sequence[Label]) -> list[dict[str, Any]]:
    """The per-label figures of the adapter, with the linear classifier's F1 beside them."""
    by_name = {label.name: label for label in labels}
    linear = metrics["systems"].get(LINEAR)
    linear_f1 = {row["label"]: row["f1"] for row in linear["per_label"]} if linear else {}
    rows = []
    for row in metrics["systems"][ADAPTER]["per_label"]:
        label = by_name.get(row["label"])
        place = " ".join(part for part in (label.modality, label.body_region) if part) if label else ""
        rows.append({**row, "place": place, "linear_f1": linear_f1.get(row["label"])})
    return rows


def _wrong_answers(predictions: pd.DataFrame) -> list[dict[str, Any]]:
    """What the adapter got wrong, with the notes."""
    wrong = []
    for row in predictions.to_dict("records"):
        answered = None if pd.isna(row[f"{ADAPTER}_label"]) else row[f"{ADAPTER}_label"]
        if answered == row["reference"]:
            continue
        linear = row.get(f"{LINEAR}_label")
        wrong.append(
            {
                "id": row["id"],
                "note": _cut(row["note"], _LONGEST_NOTE),
                "expected": row["reference"],
                "answered": answered,
                "text": _cut(row[f"{ADAPTER}_text"], _LONGEST_ANSWER),
                "linear": linear,
                "linear_is_right": linear == row["reference"],
            }
        )
    return wrong


def _cut(text: str, length: int) -> str:
    """The text, cut where it is too long for the page."""
    return text if len(text) <= length else text[: length - 1] + "…"
