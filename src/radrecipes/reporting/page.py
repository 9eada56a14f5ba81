"""The evaluation page of a run, one self-contained HTML file with all text escaped; written only from the run's files."""

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from radrecipes.access import access_of, strictest
from radrecipes.reporting import label_page, text_page
from radrecipes.reporting.figures import ACCENT, CONTRAST, FAINT, INK, loss_curve_svg
from radrecipes.reporting.label_tables import duration, speed
from radrecipes.tasks import TASKS, LabelTask

# Colours of the figures by role, so that they follow light and dark mode.
_PAGE_COLOURS = {INK: "var(--ink)", FAINT: "var(--faint)", ACCENT: "var(--accent)", CONTRAST: "var(--wrong)"}
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
    html = render(
        page.TEMPLATE,
        figures,
        title=title,
        metrics=metrics,
        dataset_manifest={key: dataset_manifest[key] for key in keys if key in dataset_manifest},
        access=access,
        leakage=dataset_manifest.get("leakage_audit", {}).get(metrics["split"]),
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


def render(template: str, figures: Mapping[str, str], **values: Any) -> str:
    """The HTML of a page; `template` extends `page.html.jinja`, `figures` are SVG documents by name, `values` have a `title`."""
    environment = Environment(
        loader=PackageLoader("radrecipes.reporting"),
        # Always on: notes, reports and labels are untrusted text.
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": lambda value, digits=1: "–" if value is None else f"{100 * value:.{digits}f}\u202f%",
        "fixed": lambda value, digits=2: "–" if value is None else f"{value:.{digits}f}",
        "points": lambda difference: f"{100 * difference:+.1f}",
        "key_words": lambda key: str(key).replace("_", " "),
        "p_value": p_value,
        "duration": duration,
        "speed": speed,
        "grid": grid,
    }
    script = environment.get_template("page.js.jinja").render()
    return environment.get_template(template).render(
        figures={name: Markup(_for_page(svg, name)) for name, svg in figures.items()},
        script=Markup(script),
        # Only this script may run, even if a text gets past the escaping.
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        **values,
    )


def p_value(value: float) -> str:
    """A p-value in the usual format of papers."""
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def grid(values: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The entries of a manifest that form a table: at least two, with the same keys and no further nesting."""
    nested = {key: value for key, value in values.items() if isinstance(value, Mapping) and value}
    alike = len({tuple(sorted(value)) for value in nested.values()}) == 1
    flat = not any(isinstance(leaf, Mapping) for value in nested.values() for leaf in value.values())
    return nested if len(nested) > 1 and alike and flat else {}


def _for_page(svg: str, name: str) -> str:
    """A figure in the colours of the page, with ids that are unique on the page."""
    for colour, variable in _PAGE_COLOURS.items():
        svg = svg.replace(colour, variable)
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\1{name}-", svg)
