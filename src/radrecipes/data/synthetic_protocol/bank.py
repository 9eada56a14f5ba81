"""The hand-written bank of the synthetic orders: clinical scenarios of each protocol, and past history."""

from collections.abc import Sequence
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
    questions: list[str]
    spellings: list[str]
    systems: list[str]
    age: list[int]
    unfit: Sequence[str] = ()
    sex: str | None = None


@dataclass(frozen=True)
class HistoryItem:
    """One piece of past history, with the placeholders `{side}` and `{year}`; implausible below age `youngest`.

    `kind` is `past` (diagnoses, surgery, medication), `studies` (what earlier imaging showed) or `organ_gone`
    (removed, so the item does not fit a question about that organ).
    """

    text: str
    kind: str
    system: str
    region: str
    sex: str | None = None
    youngest: int = 18


@cache
def load_scenarios() -> tuple[Scenario, ...]:
    """Read every scenario of the bank, protocols in the order of the file names."""
    scenarios = []
    for protocol, entry in (pair for name, file in _bank_files() if name != HISTORY_FILE for pair in file.items()):
        questions_of, limits = entry.pop("scenarios"), entry.pop("limits", {})
        entry["spellings"] = [protocol, *entry["spellings"]]
        for identifier, questions in questions_of.items():
            scenarios.append(Scenario(identifier, protocol, questions, **{**entry, **limits.get(identifier, {})}))
    return tuple(scenarios)


@cache
def load_history() -> tuple[HistoryItem, ...]:
    """Read every history item of the bank."""
    items = []
    for system, entry in dict(_bank_files())[HISTORY_FILE].items():
        texts_of = {kind: entry.pop(kind, []) for kind in ("past", "studies", "organ_gone")}
        items += [HistoryItem(text, kind, system, **entry) for kind, texts in texts_of.items() for text in texts]
    return tuple(items)


def _bank_files() -> list[tuple[str, dict]]:
    folder = resources.files("radrecipes.data.synthetic_protocol") / "scenarios"
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".yaml")), key=lambda file: file.name)
    return [(file.name, yaml.safe_load(file.read_text(encoding="utf-8"))) for file in files]
