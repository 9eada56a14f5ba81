"""Self-contained HTML of a page, with all text escaped; without the libraries that the content of a page may need."""

import base64
import hashlib
import re
from collections.abc import Callable, Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from radrecipes.reporting.figures import ACCENT, CONTRAST, FAINT, INK

# Colours of the figures by role, so that they follow light and dark mode.
_PAGE_COLOURS = {INK: "var(--ink)", FAINT: "var(--faint)", ACCENT: "var(--accent)", CONTRAST: "var(--wrong)"}


def render(
    template: str, figures: Mapping[str, str], filters: Mapping[str, Callable] | None = None, **values: Any
) -> str:
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
        **(filters or {}),
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


def _for_page(svg: str, name: str) -> str:
    """A figure in the colours of the page, with ids that are unique on the page."""
    for colour, variable in _PAGE_COLOURS.items():
        svg = svg.replace(colour, variable)
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\1{name}-", svg)
