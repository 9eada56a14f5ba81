"""Renders a template to one self-contained HTML file with all text escaped."""

import base64
import hashlib
import re
from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from radrecipes.reporting.figures import ACCENT, CONTRAST, FAINT, INK

# Colours of the figures by role, so that they follow light and dark mode.
_PAGE_COLOURS = {INK: "var(--ink)", FAINT: "var(--faint)", ACCENT: "var(--accent)", CONTRAST: "var(--wrong)"}


def render_page(template: str, figures: Mapping[str, str], **values: Any) -> str:
    """The HTML of a page; `template` extends `page.html.jinja`, `figures` are SVG documents by name."""
    environment = Environment(
        loader=PackageLoader("radrecipes.reporting"),
        # Always on: notes, reports and labels are untrusted text.
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
        # Only this script may run, even if a text gets past the escaping.
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        **values,
    )


def percent(value: float | None, digits: int = 1) -> str:
    """A fraction as a percentage, for example `93.1 %`; a dash if there is none."""
    return "–" if value is None else f"{100 * value:.{digits}f}\u202f%"


def p_value(value: float) -> str:
    """A p-value in the usual format of papers."""
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def fixed(value: float | None, digits: int = 2) -> str:
    """A number with a fixed number of decimals; a dash if there is none."""
    return "–" if value is None else f"{value:.{digits}f}"


def points(value: float) -> str:
    """A difference of two fractions in percentage points, for example `+2.1`."""
    return f"{100 * value:+.1f}"


def key_words(key: object) -> str:
    """A key of a manifest as words, for example `near duplicates` for `near_duplicates`."""
    return str(key).replace("_", " ")


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
