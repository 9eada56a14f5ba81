"""Generates synthetic imaging orders whose protocol depends on safety facts and on their combinations.

Most orders come in pairs that differ in one fact: the same words in another order, or another number, and another protocol.
Everything else of the two is the same, so that no wording can give the protocol away.
"""

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice
from typing import Any

from radrecipes.data.synthetic_protocol.bank import FIRST, load_history, load_scenarios, read_bank_file
from radrecipes.data.synthetic_protocol.writing import (
    ADULT_AGE,
    FIRST_HISTORY_YEAR,
    LAST_HISTORY_YEAR,
    Style,
    misspell,
)
from radrecipes.data.synthetic_safety.facts import PACKAGE, Fact, draw_fact, load_topics
from radrecipes.data.synthetic_safety.rules import EXAMS, PROTOCOLS, Order, protocol_of
from radrecipes.errors import InputError

# Columns that evaluation slices by.
SLICE_COLUMNS = ("rule", "pair")
NO_RULE = NO_PAIR = "none"
SAME_WORDS, OTHER_NUMBER, OTHER_WORD = "same words", "another number", "another word"
# Fractions of the draws, each of which gives one order or a pair, and of the orders.
UNPAIRED_DRAWS = 0.22
FACTS_FIRST_FRACTION = 0.3
TYPO_FRACTION = 0.12
OTHER_FACTS, HISTORY_ITEMS = (0, 1, 1, 2), (0, 0, 1, 1, 2)
_LAST_CHILDBEARING_AGE, _RECENT_YEARS = 44, 4
_HEADERS = ("", "", "", "Safety:", "Screening:", "Of note:", "Comments:", "Pre-scan:")
_JOINTS = (". ", ". ", "; ", " / ")
# History that says nothing that a rule could read.
_HISTORY_SYSTEMS = (
    "bowel", "brain", "cancer", "ear", "eye", "heart", "knee", "liver", "pancreas", "prostate", "shoulder", "sinus", "urinary",
)  # fmt: skip
_READ_BY_A_RULE = re.compile(
    r"implant|stent|ICD|shunt|TKA|total|transplant|ureteral|hydronephrosis|renal|repair|arthroscopy|reconstruction|cochlear"
)


@dataclass(frozen=True)
class Question:
    """A clinical question, whose orders stay in one split."""

    group: str
    text: str
    age: Sequence[int]
    sex: str | None = None


@dataclass(frozen=True)
class Kind:
    """A kind of question of `exams.yaml`, with the facts that its orders state."""

    exam: str
    questions: Sequence[Question]
    systems: Sequence[str]
    facts: Mapping[str, int]
    background: Sequence[str] = ()
    always: Sequence[str] = ()
    urgency: Sequence[str] | None = None


@dataclass(frozen=True)
class Draft:
    """An order before it is put down.

    Args:
        rule: What decides between this order and the other one of its pair.
        pair: By what the two differ.
        layout: Seed of everything in the note that no rule reads, the same for both.
    """

    kind: Kind
    question: Question
    sex: str
    age: int
    facts: tuple[Fact, ...]
    rule: str = NO_RULE
    pair: str = NO_PAIR
    layout: int = 0

    @property
    def order(self) -> Order:
        """What the rules read."""
        fields: dict[str, Any] = {"age": self.age}
        for fact in self.facts:
            fields |= fact.fields()
        return Order(self.kind.exam, **fields)

    @property
    def protocol(self) -> str:
        """The protocol by the rules."""
        return protocol_of(self.order)

    def exchanged(self, topic: str) -> "Draft":
        """The same with the values of one fact exchanged."""
        return replace(self, facts=tuple(fact.exchanged() if fact.topic == topic else fact for fact in self.facts))


def generate_safety_orders(seed: int, rows: int) -> list[dict[str, str]]:
    """Generate synthetic orders, most of them in pairs, spread over the kinds of questions and the rules.

    Each has an `id`, its question as `group`, a `note`, its protocol as `label`, the `rule` that decides between the two of a
    pair, and by what the two differ, `pair`.
    """
    if rows < 1:
        raise InputError(f"the number of synthetic orders must be at least 1, not {rows}")
    style = Style.load(FIRST)
    return [
        {
            "id": f"safety-{seed}-{number:05d}",
            "group": draft.question.group,
            "note": _write_note(draft, style, random.Random(draft.layout)),
            "label": draft.protocol,
            "rule": draft.rule,
            "pair": draft.pair,
        }
        for number, draft in enumerate(islice(drafts(seed), rows))
    ]


def drafts(seed: int) -> Iterator[Draft]:
    """The orders that [`generate_safety_orders`] puts down, without end; the two of a pair follow each other."""
    rng, kinds = random.Random(seed), load_question_kinds()
    deciding = [(kind, topic) for kind in kinds for topic, share in kind.facts.items() for _ in range(share)]
    while True:
        rng.shuffle(deciding)
        for kind, topic in deciding:
            made = [_unpaired(rng.choice(kinds), rng)] if rng.random() < UNPAIRED_DRAWS else _pair(kind, topic, rng)
            layout = rng.getrandbits(64)
            yield from (replace(draft, layout=layout) for draft in made)


@cache
def load_question_kinds() -> tuple[Kind, ...]:
    """The kinds of questions of `exams.yaml`."""
    kinds = []
    for exam, about in read_bank_file("exams.yaml", PACKAGE).items():
        name, age, texts = exam.replace(" ", "-"), about.pop("age", None), about.pop("questions", [])
        questions = [Question(f"{name}-{number:02d}", text, age) for number, text in enumerate(texts)]
        protocol, leave_out = about.pop("protocol", None), about.pop("leave_out", [])
        for scenario in load_scenarios():
            if scenario.protocol == protocol and scenario.identifier not in leave_out:
                about["systems"] = scenario.systems
                questions += [
                    Question(f"{scenario.identifier}-{number}", text, scenario.age, scenario.sex)
                    for number, text in enumerate(scenario.questions)
                ]
        kinds.append(Kind(exam, questions, **about))
    return tuple(kinds)


def _pair(kind: Kind, topic: str, rng: random.Random) -> list[Draft]:
    """Two orders with two protocols of the department that differ in one fact."""
    while True:
        other = rng.sample([*kind.facts, *kind.background], rng.choice(OTHER_FACTS))
        if draft := _draft(kind, [topic, *other], rng):
            fact = next(fact for fact in draft.facts if fact.topic == topic)
            other_value = OTHER_NUMBER if fact.now.word.isdigit() else OTHER_WORD
            draft = replace(draft, rule=fact.decides, pair=SAME_WORDS if fact.same_words else other_value)
            pair = [draft, draft.exchanged(topic)]
            protocols = {one.protocol for one in pair}
            if len(protocols) == 2 and protocols <= PROTOCOLS:
                return pair


def _unpaired(kind: Kind, rng: random.Random) -> Draft:
    """An order whose facts change nothing."""
    while True:
        topics = rng.sample([*kind.facts, *kind.background], rng.choice(OTHER_FACTS))
        draft = _draft(kind, topics, rng)
        if draft and draft.protocol == EXAMS[kind.exam].protocol:
            return draft


def _draft(kind: Kind, topics: Sequence[str], rng: random.Random) -> Draft | None:
    """An order about a random question that states facts about some topics; `None` if they do not go together."""
    question = rng.choice(kind.questions)
    topics = list(dict.fromkeys([*kind.always, *topics]))
    decided = [load_topics()[topic]["decides"] for topic in topics]
    lowest, highest = question.age
    sex = question.sex or rng.choice("FM")
    if "pregnancy" in topics:
        sex, highest = question.sex or "F", min(highest, _LAST_CHILDBEARING_AGE)
    if len(set(decided)) < len(decided) or lowest > highest or ("pregnancy" in topics and sex != "F"):
        return None
    age = rng.randint(lowest, highest)
    states = {"urgency": kind.urgency}
    first_year = max(FIRST_HISTORY_YEAR, LAST_HISTORY_YEAR - max(_RECENT_YEARS, age - ADULT_AGE))
    facts = [draw_fact(topic, sex, first_year, rng, states.get(topic)) for topic in topics]
    pregnant_child = "pregnancy" in topics and any(fact.now.state == "child" for fact in facts)
    rng.shuffle(facts)
    return None if pregnant_child else Draft(kind, question, sex, age, tuple(facts))


def _write_note(draft: Draft, style: Style, rng: random.Random) -> str:
    """Question and history as in the other order set, and the facts before or after them; wording is drawn before any value."""
    statements = [fact.text for fact in draft.facts if fact.topic != "age"]
    age = [fact.text for fact in draft.facts if fact.topic == "age"]
    who = age[0] if age else style.patient(draft.sex, draft.age, rng)
    question, history = draft.question.text, _choose_history(draft, style, rng)
    base = style.vary_wording(style.lay_out(question, history, who, rng), rng)
    if rng.random() < TYPO_FRACTION:
        base = misspell(base, rng)
    joint = rng.choice(_JOINTS)
    if statements:
        facts = f"{rng.choice(_HEADERS)} {joint.join(statements)}"
        parts = [facts, base] if rng.random() < FACTS_FIRST_FRACTION else [base, facts]
        base = rng.choice((". ", " ", " - ")).join(parts)
    return " ".join(style.vary_case(base, rng).split())


def _choose_history(draft: Draft, style: Style, rng: random.Random) -> list[str]:
    stated = [int(value.word) for fact in draft.facts if fact.topic == "age" for value in (fact.now, fact.then)]
    age = min([draft.age, *stated])  # of both orders of a pair
    possible = [
        item
        for item in load_history()
        if item.system in _HISTORY_SYSTEMS
        and item.system not in draft.kind.systems
        and item.sex in (None, draft.sex)
        and item.youngest <= age
        and item.kind != "organ_gone"
        and not _READ_BY_A_RULE.search(item.text)
    ]
    chosen = rng.sample(possible, min(rng.choice(HISTORY_ITEMS), len(possible)))
    return [item.text.format(side=rng.choice(style.sides), year=style.year(age, rng)) for item in chosen]
