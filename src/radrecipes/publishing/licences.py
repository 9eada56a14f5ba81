"""Licences as the Hub names them, and whether a repository's licence is compatible with its sources."""

from collections.abc import Mapping
from pathlib import Path

import yaml

from radrecipes.errors import InputError, nearest

_BY_TERMS = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
# By base model of the recipes.
BASE_LICENCES = _BY_TERMS.pop("base_models")
_TERMS = {licence: terms for terms, licences in _BY_TERMS.items() for licence in licences}
HUB_LICENCES = frozenset(_TERMS)


def check_licence(licence: str, where: str) -> None:
    """Raise an [`InputError`] unless a licence is one of the Hub's identifiers: lower-case, and not all of SPDX."""
    if licence in HUB_LICENCES:
        return
    near = nearest(str(licence).lower(), sorted(HUB_LICENCES), 75, of_parts=True)
    hint = f"did you mean `{near}`?" if near else "write `other` and name it in `license_name`"
    raise InputError(f"`{licence}` is not a licence identifier of the Hub; {hint}", where)


def licence_conflicts(repository: str, sources: Mapping[str, str | None]) -> list[str]:
    """Why nothing may be published under a licence, given the licences of its sources by name; empty if it may.

    A model counts as derived from its base model and its training data. This compares identifiers, not contracts: it finds clear
    conflicts and is not legal advice.
    """
    conflicts = {source: _conflict(repository, licence) for source, licence in sources.items()}
    return [f"{source}: {conflict}" for source, conflict in conflicts.items() if conflict]


def _conflict(repository: str, licence: str | None) -> str | None:
    """Why material under `licence` may not go into a repository under `repository`."""
    asked, given = _TERMS.get(licence, "unknown"), _TERMS.get(repository, "unknown")
    if asked == "unknown":
        return "its licence is unknown, so redistribution is not permitted; find it and name it"
    if asked == "no_derivatives":
        return f"its licence {licence} forbids redistributing derivatives"
    if asked in ("same", "non_commercial_same") and repository != licence:
        return f"its licence {licence} requires the same terms, not {repository}"
    if asked == "non_commercial" and given not in ("non_commercial", "non_commercial_same"):
        return f"its licence {licence} forbids commercial use, and {repository} does not"
    if asked == "permissive" and given == "public_domain":
        return f"its licence {licence} requires attribution, which {repository} does not keep"
    return None
