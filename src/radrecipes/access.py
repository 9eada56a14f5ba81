"""Access classes of data: what may be shown of data and of what was made from them, and who may read it."""

from collections.abc import Mapping
from typing import Any

from radrecipes.files import keep_private

# From the least strict to the strictest.
ACCESS_LEVELS = ("synthetic", "open", "registered", "credentialed")
_SHOWABLE = ("synthetic", "open")


def strictest(*classes: str | None) -> str:
    """The access class of what is made from data of these classes; a missing or unknown one counts as the strictest."""
    known = [name if name in ACCESS_LEVELS else ACCESS_LEVELS[-1] for name in classes]
    return max(known, key=ACCESS_LEVELS.index)


def access_of(manifest: Mapping[str, Any]) -> str | None:
    """The access class in the manifest of a dataset, or of a run: that of its training data."""
    data = manifest.get("data")
    return manifest.get("access", data.get("access") if isinstance(data, Mapping) else None)


def may_show(*classes: str | None) -> bool:
    """Whether text of what is made from data of these classes may be shown, and stored outside the dataset."""
    return strictest(*classes) in _SHOWABLE


def protect(*classes: str | None) -> None:
    """Called when data are opened: if they are closed, only the owner can read what this process writes from now on."""
    if not may_show(*classes):
        keep_private()
