"""The hand-written bank behind the synthetic reports: how an observation is said in findings and in impression."""

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
    """How one observation is said.

    Args:
        area (`str`): Part of the chest, by which findings are ordered.
        texts (`Mapping[tuple[Status, str], tuple[str, ...]]`): By status and section, the commonest first.
        stays (`tuple[str, ...]`): What it is called where it is compared with an earlier study and has not changed.
        changes (`tuple[str, ...]`): The same where it has; empty where it does not change within weeks.
    """

    area: str
    texts: Mapping[tuple[Status, str], tuple[str, ...]]
    stays: tuple[str, ...]
    changes: tuple[str, ...]


@dataclass(frozen=True)
class Combination:
    """Texts that state several observations at once.

    Args:
        labels (`Labels`): What each of the texts states.
        texts (`tuple[str, ...]`): The commonest first.
        unless (`frozenset[str]`): Observations beside which, present or possible, no text of it may stand.
    """

    labels: Labels
    texts: tuple[str, ...]
    unless: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Device:
    """One kind of support device.

    Args:
        name (`str`): Key in the bank.
        weight (`int`): How often it is chosen.
        bedside (`bool`): Stands in intensive care and goes again; the others stay for years.
        texts (`Mapping[str, tuple[str, ...]]`): By section; under `removed` how its removal is said.
    """

    name: str
    weight: int
    bedside: bool
    texts: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Bank:
    """All texts.

    Args:
        wordings (`Mapping[str, Wording]`): By observation, support devices and `No Finding` aside.
        combinations (`Mapping[str, tuple[Combination, ...]]`): By section.
        normals (`tuple[Combination, ...]`): Whole findings of a normal chest, the commonest first.
        devices (`tuple[Device, ...]`): Kinds of support devices.
        comparisons (`Mapping[str, Any]`): Sentences that compare with an earlier study, by kind.
        frame (`Mapping[str, tuple[str, ...]]`): What stands around the statements.
    """

    wordings: Mapping[str, Wording]
    combinations: Mapping[str, tuple[Combination, ...]]
    normals: tuple[Combination, ...]
    devices: tuple[Device, ...]
    comparisons: Mapping[str, Any]
    frame: Mapping[str, tuple[str, ...]]


@cache
def load_bank() -> Bank:
    """Reads the bank."""
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
