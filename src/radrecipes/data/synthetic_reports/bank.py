"""The hand-written bank of the synthetic reports: how findings and impression state an observation."""

from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import yaml

from radrecipes.radiology.observations import Labels, Status


@dataclass(frozen=True)
class Combination:
    """Texts that state several observations at once; not used if one of `unless` is present or possible."""

    labels: Labels
    texts: list[str]
    unless: frozenset[str]


@dataclass(frozen=True)
class Device:
    """A kind of support device; `bedside` ones are for intensive care and soon removed, the others stay for years."""

    name: str
    weight: int
    bedside: bool
    texts: dict[str, list[str]]


@dataclass(frozen=True)
class Bank:
    """All texts.

    Args:
        wordings: By observation, except support devices and `No Finding`: the `area`, the texts by status and section
            (the most frequent first), and the `nouns` in a comparison with an earlier study if it `stays` or `changes`;
            without the second it does not change within weeks.
        normals: Complete findings of a normal chest, the most frequent first.
        conventions: By text: what it states otherwise than it was chosen for, `None` for nothing, by the convention of
            CheXpert's labels.
        comparisons, frame: By kind: sentences that compare with an earlier study, and texts around the statements.
    """

    wordings: dict[str, dict[str, Any]]
    combinations: dict[str, list[Combination]]
    normals: list[Combination]
    devices: list[Device]
    conventions: dict[str, dict[str, Status | None]]
    comparisons: dict[str, Any]
    frame: dict[str, list[str]]


@cache
def load_bank() -> Bank:
    """Read the bank."""
    return Bank(
        wordings={**_read("heart_and_lungs.yaml"), **_read("pleura_and_bones.yaml")},
        combinations={section: _combinations(entries) for section, entries in _read("combined.yaml").items()},
        normals=_combinations(_read("normal.yaml")),
        devices=[
            Device(name, entry.pop("weight"), entry.pop("bedside", False), texts={"removed": [], **entry})
            for name, entry in _read("devices.yaml").items()
        ],
        conventions={
            text: {name: Status(status) if status else None for name, status in entry["labels"].items()}
            for entry in _read("conventions.yaml")
            for text in entry["texts"]
        },
        comparisons=_read("comparisons.yaml"),
        frame=_read("frame.yaml"),
    )


def _read(name: str) -> Any:
    folder = resources.files("radrecipes.data.synthetic_reports") / "phrases"
    return yaml.safe_load((folder / name).read_text(encoding="utf-8"))


def _combinations(entries: list[dict[str, Any]]) -> list[Combination]:
    return [
        Combination(
            labels={name: Status(status) for name, status in entry["labels"].items()},
            texts=entry["texts"],
            unless=frozenset(entry.get("unless", ())),
        )
        for entry in entries
    ]
