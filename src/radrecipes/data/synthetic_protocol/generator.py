"""Generates synthetic imaging orders in the telegraphic style of real ones.

The question decides the protocol. The history mostly names other organs, often in the very words that ask for other
protocols, so that counting words misleads but separating question and history does not.
"""

import random
import re

from radrecipes.data.synthetic_protocol.bank import HistoryItem, Scenario, load_history, load_scenarios
from radrecipes.errors import InputError

# Fractions of the orders, tuned so that a linear bag-of-words model has an accuracy of 0.70 to 0.85 on unseen scenarios.
NO_HISTORY_FRACTION = 0.15
RELEVANT_HISTORY_FRACTION = 0.3
NEGATION_FRACTION = 0.08
DEMOGRAPHICS_FRACTION = 0.7
TYPO_FRACTION = 0.12
FILLER_FRACTION = 0.15
HISTORY_ITEM_COUNTS = (1, 2, 3, 4, 5)
HISTORY_ITEM_WEIGHTS = (1, 4, 4, 2, 1)
# Length in words; headers, patient and spelled-out abbreviations come on top of a full note.
SHORTEST_NOTE, FULL_NOTE = 8, 32
FIRST_HISTORY_YEAR, LAST_HISTORY_YEAR = 2009, 2024
ADULT_AGE = 18

# Ways to write the same thing; the first of each is what the bank uses.
_INTERCHANGEABLE = (
    ("r/o", "rule out", "R/O", "r/o"),
    ("eval for", "evaluate for", "assess for", "evaluation for"),
    ("c/f", "concern for", "concerning for", "c/f"),
    ("w/", "with", "w"),
    ("s/p", "sp", "status post", "s/p"),
    ("f/u", "follow up", "fu"),
    ("characterize", "characterise", "further characterize"),
    ("neg", "negative"),
    ("preop", "pre-op", "preoperative"),
)

# Headers of question and history; the order of the two varies.
_QUESTION_HEADERS = (
    "Notes:", "Indication:", "Reason for exam:", "REASON FOR EXAM:", "Reason:", "Clinical question:", "Question:",
)  # fmt: skip
_HISTORY_HEADERS = ("History:", "Hx:", "PMH:", "Past history:", "PMHx:", "HISTORY:", "Background:", "Clinical info:")
# Orders without headers. The words before the question show a reader where it begins.
_FREE_LAYOUTS_WITH_HISTORY = (
    "{who} h/o {history}. Now {question}",
    "{who} w/ hx of {history}, here for {question}",
    "{who} {question}. h/o {history}",
    "{question}, pt w/ h/o {history}",
    "{who} pmh {history}. Please image - {question}",
    "hx {history}. Today {question}",
    "{who} {question} (hx {history})",
)
_FREE_LAYOUTS = ("{who} {question}", "{who} - {question}", "{who} w/ {question}")

# What the order is not about, from body systems of other protocols only.
_NEGATIONS = (
    ("brain", "no concern for stroke"),
    ("brain", "not concerned for intracranial bleed"),
    ("pulmonary_vessels", "low suspicion for PE"),
    ("pulmonary_vessels", "no concern for pulmonary embolism"),
    ("urinary", "not concerned for stone"),
    ("kidney", "renal mass not suspected"),
    ("bowel", "no concern for appendicitis"),
    ("bowel", "bowel obstruction not suspected"),
    ("cervical_spine", "c-spine already cleared"),
    ("biliary", "not concerned for CBD stone"),
    ("aorta", "aortic dissection not suspected"),
    ("lumbar_spine", "no sciatica"),
    ("sinus", "no signs of sinusitis"),
    ("heart", "no concern for myocarditis"),
)
_FILLERS = (
    "please call w/ results", "outside films not available", "pt ambulatory", "labs pending", "portable not needed",
    "schedule next week", "prefers morning", "pt anxious", "needs interpreter", "lives far, same day if possible",
    "requested by PCP", "discussed w/ attending", "compare w/ prior if available", "limited records from outside",
)  # fmt: skip
_SIDES = ("R", "L", "right", "left")


def generate_orders(seed: int, rows: int) -> list[dict[str, str]]:
    """Generate synthetic orders, spread evenly over the scenarios of the bank.

    Each has an `id`, its scenario as `group`, a `note`, and as `label` one of the protocol's spellings. A few orders
    without history are identical; the preparation merges them.
    """
    if rows < 1:
        raise InputError(f"the number of synthetic orders must be at least 1, not {rows}")
    rng = random.Random(seed)
    scenarios = list(load_scenarios())
    orders = []
    for number in range(rows):
        if number % len(scenarios) == 0:
            rng.shuffle(scenarios)
        scenario = scenarios[number % len(scenarios)]
        order = {"id": f"synthetic-{seed}-{number:05d}", "group": scenario.identifier}
        orders.append({**order, "note": _write_note(scenario, rng), "label": rng.choice(scenario.spellings)})
    return orders


def _write_note(scenario: Scenario, rng: random.Random) -> str:
    sex, age = scenario.sex or rng.choice("FM"), rng.randint(*scenario.age)
    question = rng.choice(scenario.questions)
    if rng.random() < NEGATION_FRACTION:
        negation = rng.choice([text for system, text in _NEGATIONS if system not in scenario.systems])
        question = f"{question}, {negation}"
    history = [] if rng.random() < NO_HISTORY_FRACTION else _choose_history(scenario, sex, age, rng)
    # Shorten the history, never the question.
    while history and len(f"{question} {' '.join(history)}".split()) > FULL_NOTE:
        history.pop()
    note = _lay_out(question, history, _describe(sex, age, rng), rng)
    for filler in rng.sample(_FILLERS, len(_FILLERS)):
        words = len(note.split())
        if words > FULL_NOTE or (words >= SHORTEST_NOTE and rng.random() >= FILLER_FRACTION):
            break
        note = f"{note}. {filler}"
    note = _vary_wording(note, rng)
    if rng.random() < TYPO_FRACTION:
        note = _misspell(note, rng)
    return " ".join(_vary_case(note, rng).split())


def _choose_history(scenario: Scenario, sex: str, age: int, rng: random.Random) -> list[str]:
    """Items of several other body systems, and sometimes a relevant one."""
    possible = [
        item
        for item in load_history()
        if item.sex in (None, sex) and age >= item.youngest and item.system not in scenario.unfit
    ]
    relevant = [item for item in possible if item.system in scenario.systems and item.kind != "organ_gone"]
    chosen: list[HistoryItem] = []
    if relevant and rng.random() < RELEVANT_HISTORY_FRACTION:
        chosen.append(rng.choice(relevant))
    # At most one item per system, so that the list never contradicts itself.
    other_systems = sorted({item.system for item in possible} - set(scenario.systems))
    count = rng.choices(HISTORY_ITEM_COUNTS, HISTORY_ITEM_WEIGHTS)[0]
    for system in rng.sample(other_systems, count - len(chosen)):
        chosen.append(rng.choice([item for item in possible if item.system == system]))
    rng.shuffle(chosen)
    # "h/o" does not go with an examination, so these come last.
    chosen.sort(key=lambda item: item.kind == "studies")
    return [item.text.format(side=rng.choice(_SIDES), year=_write_year(age, rng)) for item in chosen]


def _write_year(age: int, rng: random.Random) -> str:
    # Dated items of the bank happen to adults, so a young patient's history is recent.
    year = rng.randint(max(FIRST_HISTORY_YEAR, LAST_HISTORY_YEAR + ADULT_AGE - age), LAST_HISTORY_YEAR)
    return rng.choice((str(year), str(year), f"'{year % 100:02d}", f"{rng.randint(1, 12)}/{year}"))


def _describe(sex: str, age: int, rng: random.Random) -> str:
    if rng.random() >= DEMOGRAPHICS_FRACTION:
        return rng.choice(("", "", "pt", "Pt"))
    word = {"F": "female", "M": "male"}[sex]
    return rng.choice(
        (f"{age} yo {sex}", f"{age} y/o {sex}", f"{age}yo{sex}", f"{age}{sex}", f"{age} yo {word}", f"{sex} {age} yrs")
    )


def _lay_out(question: str, history: list[str], who: str, rng: random.Random) -> str:
    separator = rng.choice((", ", ", ", "; ", ". "))
    past = separator.join(history)
    if rng.random() < 0.35:
        layouts = _FREE_LAYOUTS_WITH_HISTORY if history else _FREE_LAYOUTS
        return rng.choice(layouts).format(who=who, question=question, history=past).strip(" -")
    # The patient is next to the question or next to the history.
    who_asks, who_had = (who, "") if not history or rng.random() < 0.6 else ("", who)
    parts = [f"{rng.choice(_QUESTION_HEADERS)} {who_asks} {question}"]
    if history:
        parts.insert(rng.choice((0, 1)), f"{rng.choice(_HISTORY_HEADERS)} {who_had} {past}")
    return rng.choice((" ", ". ", " ")).join(parts)


def _vary_wording(note: str, rng: random.Random) -> str:
    for phrase, *others in _INTERCHANGEABLE:
        if rng.random() < 0.5:
            note = re.sub(rf"(?<!\w){re.escape(phrase)}(?!\w)", rng.choice((phrase, *others)), note)
    return note


def _misspell(note: str, rng: random.Random) -> str:
    """Swap two inner letters, or double or drop one, in a longer word."""
    words = note.split(" ")
    places = [place for place, word in enumerate(words) if len(word) >= 6 and word.isalpha() and word.islower()]
    if not places:
        return note
    place = rng.choice(places)
    word = words[place]
    at = rng.randrange(1, len(word) - 2)
    start, end = word[:at], word[at + 1 :]
    words[place] = rng.choice((start + end[0] + word[at] + end[1:], start + word[at] + word[at:], start + end))
    return " ".join(words)


def _vary_case(note: str, rng: random.Random) -> str:
    style = rng.random()
    if style < 0.12:
        return note.lower()
    if style < 0.18:
        return note.upper()
    return note
