"""The hand-written bank of the synthetic orders: clinical scenarios of each protocol, and past history."""

from dataclasses import dataclass
from functools import cache
from importlib import resources

import yaml

HISTORY_FILE = "history.yaml"


@dataclass(frozen=True)
class Scenario:
    """One clinical situation, whose question decides the protocol.

    Args:
        spellings: The protocol's name as different order lists spell it, canonical name first.
        systems: Body systems that the question is about; their history is relevant.
        unfit: Body systems whose history would itself change the protocol.
    """

    identifier: str
    protocol: str
    questions: tuple[str, ...]
    spellings: tuple[str, ...]
    systems: tuple[str, ...]
    unfit: tuple[str, ...]
    age: tuple[int, int]
    sex: str | None


@dataclass(frozen=True)
class HistoryItem:
    """One piece of past history, with the placeholders `{side}` and `{year}`; implausible below age `youngest`.

    `kind` is `past` (diagnoses, surgery, medication), `studies` (what earlier imaging showed) or `organ_gone`
    (removed, so the item does not fit a question about that organ).
    """

    text: str
    system: str
    region: str
    sex: str | None
    youngest: int
    kind: str


@cache
def load_scenarios() -> tuple[Scenario, ...]:
    """Read every scenario of the bank, protocols in the order of the file names."""
    scenarios = []
    for name, protocols in _bank_files():
        if name == HISTORY_FILE:
            continue
        for protocol, entry in protocols.items():
            limits = entry.get("limits", {})
            for identifier, questions in entry["scenarios"].items():
                limit = limits.get(identifier, {})
                scenarios.append(
                    Scenario(
                        identifier=identifier,
                        protocol=protocol,
                        questions=tuple(questions),
                        spellings=(protocol, *entry["spellings"]),
                        systems=tuple(entry["systems"]),
                        unfit=tuple(entry.get("unfit", ())),
                        age=tuple(limit.get("age", entry["age"])),
                        sex=limit.get("sex", entry.get("sex")),
                    )
                )
    return tuple(scenarios)


@cache
def load_history() -> tuple[HistoryItem, ...]:
    """Read every history item of the bank."""
    history = dict(_bank_files())[HISTORY_FILE]
    return tuple(
        HistoryItem(
            text=text,
            system=system,
            region=entry["region"],
            sex=entry.get("sex"),
            youngest=entry.get("youngest", 18),
            kind=kind,
        )
        for system, entry in history.items()
        for kind in ("past", "studies", "organ_gone")
        for text in entry.get(kind, [])
    )


def _bank_files() -> list[tuple[str, dict]]:
    folder = resources.files("radrecipes.data.synthetic_protocol") / "scenarios"
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".yaml")), key=lambda file: file.name)
    return [(file.name, yaml.safe_load(file.read_text(encoding="utf-8"))) for file in files]
