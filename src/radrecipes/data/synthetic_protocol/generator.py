"""Generates synthetic imaging orders in the telegraphic style of real ones.

The question decides the protocol. The history mostly names other organs, often in the very words that ask for other
protocols, so that counting words misleads but separating question and history does not.
"""

import random

from radrecipes.data.synthetic_protocol.bank import HistoryItem, Scenario, load_history, load_scenarios
from radrecipes.data.synthetic_protocol.writing import Style, misspell
from radrecipes.errors import InputError

# Fractions of the orders, tuned so that a linear bag-of-words model has an accuracy of 0.70 to 0.85 on unseen scenarios.
NO_HISTORY_FRACTION = 0.15
RELEVANT_HISTORY_FRACTION = 0.3
NEGATION_FRACTION = 0.08
TYPO_FRACTION = 0.12
FILLER_FRACTION = 0.15
HISTORY_ITEM_COUNTS = (1, 2, 3, 4, 5)
HISTORY_ITEM_WEIGHTS = (1, 4, 4, 2, 1)
# Length in words; headers, patient and spelled-out abbreviations come on top of a full note.
SHORTEST_NOTE, FULL_NOTE = 8, 32


def generate_orders(seed: int, rows: int, style: str = "first") -> list[dict[str, str]]:
    """Generate synthetic orders, spread evenly over the scenarios of the bank.

    Each has an `id`, its scenario as `group`, a `note`, and as `label` one of the protocol's spellings. A few orders
    without history are identical; the preparation merges them. `style` is `"first"` or `"second"`: the same scenarios as the
    clinicians of another hospital write about them.
    """
    if rows < 1:
        raise InputError(f"the number of synthetic orders must be at least 1, not {rows}")
    rng = random.Random(seed)
    scenarios, writer = list(load_scenarios(style)), Style.load(style)
    orders = []
    for number in range(rows):
        if number % len(scenarios) == 0:
            rng.shuffle(scenarios)
        scenario = scenarios[number % len(scenarios)]
        order = {"id": f"synthetic-{seed}-{number:05d}", "group": scenario.identifier}
        orders.append({**order, "note": _write_note(scenario, writer, rng), "label": rng.choice(scenario.spellings)})
    return orders


def _write_note(scenario: Scenario, style: Style, rng: random.Random) -> str:
    sex, age = scenario.sex or rng.choice("FM"), rng.randint(*scenario.age)
    question = rng.choice(scenario.questions)
    if rng.random() < NEGATION_FRACTION:
        negation = rng.choice([text for system, text in style.negations if system not in scenario.systems])
        question = f"{question}, {negation}"
    history = [] if rng.random() < NO_HISTORY_FRACTION else _choose_history(scenario, style, sex, age, rng)
    # Shorten the history, never the question.
    while history and len(f"{question} {' '.join(history)}".split()) > FULL_NOTE:
        history.pop()
    note = style.lay_out(question, history, style.patient(sex, age, rng), rng)
    for filler in rng.sample(style.fillers, len(style.fillers)):
        words = len(note.split())
        if words > FULL_NOTE or (words >= SHORTEST_NOTE and rng.random() >= FILLER_FRACTION):
            break
        note = f"{note}. {filler}"
    note = style.vary_wording(note, rng)
    if rng.random() < TYPO_FRACTION:
        note = misspell(note, rng)
    return " ".join(style.vary_case(note, rng).split())


def _choose_history(scenario: Scenario, style: Style, sex: str, age: int, rng: random.Random) -> list[str]:
    """Items of several other body systems, and sometimes a relevant one."""
    possible = [
        item
        for item in load_history(style.name)
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
    return [item.text.format(side=rng.choice(style.sides), year=style.year(age, rng)) for item in chosen]
