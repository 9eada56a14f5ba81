"""What every page of results shares: one HTML file that needs nothing else, in which all text is text."""

import base64
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from radrecipes.reporting.figures import ACCENT, CONTRAST, FAINT, INK

# Lines and words of the figures by the part that they play, so that they follow light and dark.
_PAGE_COLOURS = {INK: "var(--ink)", FAINT: "var(--faint)", ACCENT: "var(--accent)", CONTRAST: "var(--wrong)"}


def write_page(folder: str | Path, html: str, figures: Mapping[str, str]) -> Path:
    """Write `report.html`, and the figures as files that stand alone.

    Args:
        folder (`str` or `Path`):
            An existing folder.
        html (`str`):
            What [`render_page`] returned.
        figures (`Mapping[str, str]`):
            SVG documents by name; they go to `figures/<name>.svg`.

    Returns:
        `Path`: the page.
    """
    folder = Path(folder)
    if figures:
        (folder / "figures").mkdir(exist_ok=True)
    for name, svg in figures.items():
        (folder / "figures" / f"{name}.svg").write_text(svg, encoding="utf-8")
    page = folder / "report.html"
    page.write_text(html, encoding="utf-8")
    return page


def render_page(template: str, figures: Mapping[str, str], **values: Any) -> str:
    """The text of a page.

    Args:
        template (`str`):
            Name of a template that extends `page.html.jinja`.
        figures (`Mapping[str, str]`):
            SVG documents by name, in the colours of [`radrecipes.reporting.figures`].
        values (`Any`):
            What the template asks for.

    Returns:
        `str`
    """
    environment = Environment(
        loader=PackageLoader("radrecipes.reporting"),
        # Always, whatever a template is called: notes, reports and labels are other people's text.
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        percent=percent, p_value=p_value, fixed=fixed, points=points, key_words=key_words, grid=grid
    )
    script = environment.get_template("page.js.jinja").render()
    return environment.get_template(template).render(
        figures={name: Markup(_for_page(svg, name)) for name, svg in figures.items()},
        script=Markup(script),
        # Only this very script may run: a text that got past the escaping still could not.
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        **values,
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


def important_first(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """A dataset's manifest with what a reader asks for first at its top.

    Args:
        manifest (`Mapping[str, Any]`):
            `manifest.json` of a dataset.

    Returns:
        `dict[str, Any]`
    """
    first = [key for key in ("task", "access", "rows", "splits", "leakage_audit") if key in manifest]
    return {key: manifest[key] for key in [*first, *(key for key in manifest if key not in first)]}


def _for_page(svg: str, name: str) -> str:
    """A figure in the colours of the page, with identifiers that no other figure of the page has."""
    for colour, variable in _PAGE_COLOURS.items():
        svg = svg.replace(colour, variable)
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\1{name}-", svg)
