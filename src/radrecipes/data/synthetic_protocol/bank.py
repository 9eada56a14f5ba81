"""The hand-written bank of the synthetic orders: clinical scenarios of each protocol, and past history."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

import yaml

FIRST = "first"
_PACKAGE = "radrecipes.data.synthetic_protocol"


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
def load_scenarios(style: str = FIRST) -> tuple[Scenario, ...]:
    """Read every scenario of the bank, protocols in the order of the file names; another style has its own questions."""
    scenarios = []
    other_questions = {} if style == FIRST else read_bank_file(f"styles/{style}_questions.yaml")
    folder = resources.files(_PACKAGE).joinpath("scenarios")
    files = sorted(file.name for file in folder.iterdir() if file.name.endswith(".yaml"))
    for protocol, entry in (pair for name in files for pair in read_bank_file(f"scenarios/{name}").items()):
        questions_of, limits = entry.pop("scenarios"), entry.pop("limits", {})
        entry["spellings"] = [protocol, *entry["spellings"]]
        for identifier, questions in questions_of.items():
            asked = other_questions.get(identifier, questions)
            scenarios.append(Scenario(identifier, protocol, asked, **{**entry, **limits.get(identifier, {})}))
    return tuple(scenarios)


@cache
def load_history(style: str = FIRST) -> tuple[HistoryItem, ...]:
    """Read every history item of the bank in the words of a style."""
    items = []
    for system, entry in read_bank_file("history.yaml" if style == FIRST else f"styles/{style}_history.yaml").items():
        texts_of = {kind: entry.pop(kind, []) for kind in ("past", "studies", "organ_gone")}
        items += [HistoryItem(text, kind, system, **entry) for kind, texts in texts_of.items() for text in texts]
    return tuple(items)


def read_bank_file(name: str, package: str = _PACKAGE) -> dict:
    """The content of a YAML file of a package."""
    return yaml.safe_load(resources.files(package).joinpath(name).read_text(encoding="utf-8"))
