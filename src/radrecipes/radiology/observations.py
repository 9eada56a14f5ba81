"""The 14 CheXpert observations and what a report can state about each."""

import re
from collections.abc import Iterable, Mapping
from enum import StrEnum

from radrecipes.errors import InputError, nearest

NO_FINDING = "No Finding"
SUPPORT_DEVICES = "Support Devices"
# The order of the CheXpert paper (Irvin et al. 2019), in which every list of observations here is sorted.
OBSERVATIONS = (
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    SUPPORT_DEVICES,
    NO_FINDING,
)
# The five that the CheXpert competition scored, often reported in addition to the 14.
FIVE_OBSERVATIONS = ("Cardiomegaly", "Edema", "Consolidation", "Atelectasis", "Pleural Effusion")
NONE_STATED = "none stated"


class Status(StrEnum):
    """What a report states about an observation that it mentions."""

    POSITIVE = "positive"
    NEGATIVE = "negative"
    UNCERTAIN = "uncertain"


# Observations that are mentioned, each with its status.
Labels = dict[str, Status]

_SPELLINGS = {
    **dict.fromkeys(("positive", "1", "1.0", "present", "yes", "true"), Status.POSITIVE),
    **dict.fromkeys(("negative", "0", "0.0", "absent", "no", "false"), Status.NEGATIVE),
    **dict.fromkeys(("uncertain", "-1", "-1.0", "possible", "u"), Status.UNCERTAIN),
}
_STRENGTH = {Status.NEGATIVE: 0, Status.UNCERTAIN: 1, Status.POSITIVE: 2}
_BY_KEY = {name.casefold(): name for name in OBSERVATIONS}
# Its name in the radiologist-labelled test set of MIMIC-CXR-JPG 2.1.0.
_BY_KEY["airspace opacity"] = "Lung Opacity"


def observation_name(text: str) -> str:
    """The canonical name of an observation in any case and spacing; the error suggests one, and never quotes the text."""
    key = " ".join(text.split()).casefold()
    if key in _BY_KEY:
        return _BY_KEY[key]
    near = nearest(key, _BY_KEY, 60)
    hint = f"did you mean {_BY_KEY[near]!r}?" if near else f"choose one of {', '.join(OBSERVATIONS)}"
    raise InputError(f"no observation has this name; {hint}")


def format_observations(labels: Mapping[str, Status]) -> str:
    """Labels as one line: `Cardiomegaly: positive; Pneumonia: uncertain`; or `none stated`."""
    return "; ".join(f"{name}: {labels[name].value}" for name in OBSERVATIONS if name in labels) or NONE_STATED


def parse_observations(text: str, where: str | None = None) -> Labels:
    """Read what [`format_observations`] writes, or a similar list written by hand; `where` is the source in errors.

    Pairs `name: status` are separated by `;`, `,` or line breaks. A status is positive, negative or uncertain, or 1,
    0, -1. `No Finding` together with a finding is an [`InputError`]. Errors name the number of the pair, never its text.
    """
    found: Labels = {}
    stripped = text.strip().rstrip(".;, ")
    if stripped.casefold() == NONE_STATED:
        return found
    pairs = [pair for pair in re.split(r"[;,\n]", stripped) if pair.strip()]
    for number, pair in enumerate(pairs, start=1):
        name, colon, status = pair.rpartition(":")
        if not colon:
            raise InputError(f"pair {number} has no status; write for example `Edema: positive`", where)
        try:
            name, status = observation_name(name), " ".join(status.split()).casefold()
        except InputError as error:
            raise InputError(f"pair {number}: {error}", where) from None
        if status not in _SPELLINGS:
            raise InputError(
                f"pair {number}: the status of {name} is unknown; write positive, negative or uncertain", where
            )
        if name in found:
            raise InputError(f"{name} occurs twice; keep one", where)
        found[name] = _SPELLINGS[status]
    if not found:
        raise InputError("no observations; write for example `Edema: positive; Pneumothorax: negative`", where)
    if found.get(NO_FINDING) == Status.POSITIVE:
        for name in findings_present(found):
            raise InputError(f"No Finding contradicts {name}: {found[name].value}; remove one", where)
    return {name: found[name] for name in OBSERVATIONS if name in found}


def findings_present(labels: Mapping[str, Status]) -> list[str]:
    """Observations that exclude `No Finding`: positive or uncertain, except support devices."""
    return [
        name
        for name, status in labels.items()
        if status != Status.NEGATIVE and name not in (NO_FINDING, SUPPORT_DEVICES)
    ]


def findings_lost(before: Mapping[str, Status], after: Mapping[str, Status]) -> list[str]:
    """Findings of a text that a shorter one lacks; an uncertain silhouette is how an unchanged one is labelled, and not counted."""
    silhouettes = ("Cardiomegaly", "Enlarged Cardiomediastinum")
    still = findings_present(after)
    present = [name for name in findings_present(before) if before[name] == Status.POSITIVE or name not in silhouettes]
    return [name for name in present if name not in still]


def strongest(labels: Iterable[tuple[str, Status]]) -> Labels:
    """Merge what several statements say: present over possible over absent."""
    merged: Labels = {}
    for name, status in labels:
        if name not in merged or _STRENGTH[status] > _STRENGTH[merged[name]]:
            merged[name] = status
    return merged


def derive_no_finding(labels: Mapping[str, Status]) -> Labels:
    """Labels in the order of `OBSERVATIONS`, `No Finding` positive if only devices are present, and otherwise left out."""
    derived = {name: labels[name] for name in OBSERVATIONS if name in labels and name != NO_FINDING}
    return derived if findings_present(derived) else {**derived, NO_FINDING: Status.POSITIVE}
