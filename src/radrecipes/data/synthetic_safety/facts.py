"""The facts that an order states: their wording, what they mean for the rules, and the same words with the other meaning."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from radrecipes.data.synthetic_protocol.bank import read_bank_file
from radrecipes.data.synthetic_protocol.writing import LAST_HISTORY_YEAR

PACKAGE = "radrecipes.data.synthetic_safety"
# Creatinine that rises to this multiple within days is an acute kidney injury (KDIGO).
KIDNEY_INJURY_RISE = 1.5
_LONGEST_WEEKS = 9
# Of the statements that can be made with one value or with two.
SINGLE_FRACTION = 0.45


@dataclass(frozen=True)
class Value:
    """A word with what it stands for."""

    state: str
    word: str


@dataclass(frozen=True)
class Fact:
    """One statement of an order: a template of `facts.yaml` with two values, of which only `now` counts."""

    topic: str
    template: str
    now: Value
    then: Value
    fillers: Mapping[str, Any]

    @property
    def text(self) -> str:
        """The statement."""
        return self.template.format(now=self.now.word, then=self.then.word, **self.fillers)

    @property
    def decides(self) -> str:
        """The name under which results are given."""
        return load_topics()[self.topic]["decides"]

    @property
    def same_words(self) -> bool:
        """Whether [`exchanged`] has the same words in another order."""
        return "{then}" in self.template

    def exchanged(self) -> "Fact":
        """The statement with its values exchanged."""
        return replace(self, now=self.then, then=self.now)

    def fields(self) -> dict[str, Any]:
        """What it says, as fields of [`~rules.Order`]."""
        match self.topic:
            case "egfr" | "age":
                return {self.topic: int(self.now.word)}
            case "creatinine":
                return {"creatinine_rose": float(self.now.word) >= KIDNEY_INJURY_RISE * float(self.then.word)}
            case "dialysis":
                return {"dialysis": self.now.state, "egfr": self.fillers["egfr"]}
            case "metformin":
                return {"metformin": self.now.state == "metformin"}
            case "reaction":
                named = (self.now, self.then) if self.same_words else (self.now,)
                kinds = zip(named, self.fillers["kinds"], strict=False)
                return {f"{value.state}_reaction": kind for value, kind in kinds if value.state != "other"}
            case "denial":
                return self.fillers["reported"] if self.now.state == "reported" else {}
            case "pregnancy":
                return {"pregnant": self.now.state == "pregnant"}
            case "eye":
                return {"metal_in_eye": int(self.now.word) > int(self.then.word)}
            case "surgery":
                return {"lumbar_surgery": self.now.state == "lumbar"}
            case "sclerosis" | "nodule":
                return {"disease": self.now.state}
            case _:
                return {self.topic: self.now.state}


@cache
def load_topics() -> dict[str, dict[str, Any]]:
    """The topics of `facts.yaml`."""
    return read_bank_file("facts.yaml", PACKAGE)


def draw_fact(topic: str, sex: str, first_year: int, rng: random.Random, states: Sequence[str] | None = None) -> Fact:
    """A statement about a topic; `states` limits what it can say."""
    about = load_topics()[topic]
    values = about["values"] if topic != "eye" else {"year": [[first_year, LAST_HISTORY_YEAR]]}
    first, second = _two_states(list(states or values), rng)
    now, then = _value(values, first, rng), _value(values, second, rng)
    while then.word == now.word:
        then = _value(values, second, rng)
    fillers = {
        "year": rng.randint(first_year, LAST_HISTORY_YEAR - 1),
        "week": rng.randint(2, _LONGEST_WEEKS),
        "egfr": rng.randint(4, 14),
        "sex": sex,
    }
    if about["decides"] == "contrast reaction":
        fillers |= _reactions(topic, rng)
    single = "templates" not in about or ("single" in about and rng.random() < SINGLE_FRACTION)
    return Fact(topic, rng.choice(about["single" if single else "templates"]), now, then, fillers)


def _reactions(topic: str, rng: random.Random) -> dict[str, Any]:
    """Two reactions of different severity, or one that can be denied and its contrast medium."""
    about = load_topics()["reaction"]
    if topic == "denial":
        kind, agent = rng.choice(("allergic", "severe")), rng.choice(("iodinated", "gadolinium"))
        words = {"first": rng.choice(about["kinds"][kind]), "agent": rng.choice(about["values"][agent])}
        return {"reported": {f"{agent}_reaction": kind}, **words}
    kinds = rng.sample(list(about["kinds"]), 2)
    first, second = (rng.choice(about["kinds"][kind]) for kind in kinds)
    return {"kinds": kinds, "first": first, "second": second}


def _two_states(states: list[str], rng: random.Random) -> list[str]:
    return rng.sample(states, 2) if len(states) > 1 else states * 2


def _value(values: Mapping[str, list], state: str, rng: random.Random) -> Value:
    word = rng.choice(values[state])
    if isinstance(word, list):
        word = str(rng.randint(*word) if isinstance(word[0], int) else rng.choice(word))
    return Value(state, word)
