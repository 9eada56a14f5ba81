"""The hand-written bank of the synthetic reports: how findings and impression state an observation."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import yaml

from radrecipes.radiology.observations import OBSERVATIONS, SUPPORT_DEVICES, Labels, Status

SECTIONS = ("findings", "impression")


@dataclass(frozen=True)
class Wording:
    """How one observation is stated; `texts` are by status and section, the most frequent first.

    `stays` and `changes` are its names in a comparison with an earlier study; `changes` is empty if it does not change
    within weeks.
    """

    area: str
    texts: Mapping[tuple[Status, str], tuple[str, ...]]
    stays: tuple[str, ...]
    changes: tuple[str, ...]


@dataclass(frozen=True)
class Combination:
    """Texts that state several observations at once; not used if one of `unless` is present or possible."""

    labels: Labels
    texts: tuple[str, ...]
    unless: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Device:
    """A kind of support device; `bedside` ones are for intensive care and soon removed, the others stay for years."""

    name: str
    weight: int
    bedside: bool
    texts: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Bank:
    """All texts.

    Args:
        wordings: By observation, except support devices and `No Finding`.
        normals: Complete findings of a normal chest, the most frequent first.
        comparisons, frame: By kind: sentences that compare with an earlier study, and texts around the statements.
    """

    wordings: Mapping[str, Wording]
    combinations: Mapping[str, tuple[Combination, ...]]
    normals: tuple[Combination, ...]
    devices: tuple[Device, ...]
    comparisons: Mapping[str, Any]
    frame: Mapping[str, tuple[str, ...]]


@cache
def load_bank() -> Bank:
    """Read the bank."""
    observations = {**_read("heart_and_lungs.yaml"), **_read("pleura_and_bones.yaml")}
    combined = _read("combined.yaml")
    return Bank(
        wordings={name: _wording(observations[name]) for name in OBSERVATIONS if name in observations},
        combinations={section: tuple(_combination(entry) for entry in combined[section]) for section in SECTIONS},
        normals=tuple(_combination(entry) for entry in _read("normal.yaml")),
        devices=tuple(
            Device(
                name=name,
                weight=entry["weight"],
                bedside=entry.get("bedside", False),
                texts={key: tuple(entry.get(key, ())) for key in (*SECTIONS, "removed")},
            )
            for name, entry in _read("devices.yaml").items()
        ),
        comparisons=_read("comparisons.yaml"),
        frame={name: tuple(texts) for name, texts in _read("frame.yaml").items()},
    )


@cache
def areas() -> dict[str, str]:
    """The area of each observation that a sentence can state."""
    return {SUPPORT_DEVICES: "devices", **{name: wording.area for name, wording in load_bank().wordings.items()}}


def _read(name: str) -> Any:
    folder = resources.files("radrecipes.data.synthetic_reports") / "phrases"
    return yaml.safe_load((folder / name).read_text(encoding="utf-8"))


def _wording(entry: Mapping[str, Any]) -> Wording:
    return Wording(
        area=entry["area"],
        texts={(status, section): tuple(entry[status.value][section]) for status in Status for section in SECTIONS},
        stays=tuple(entry["nouns"]["stays"]),
        changes=tuple(entry["nouns"].get("changes", ())),
    )


def _combination(entry: Mapping[str, Any]) -> Combination:
    return Combination(
        labels={name: Status(status) for name, status in entry["labels"].items()},
        texts=tuple(entry["texts"]),
        unless=frozenset(entry.get("unless", ())),
    )
