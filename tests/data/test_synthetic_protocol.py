import re
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import pytest
from rapidfuzz import process
from rapidfuzz.distance import OSA
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from radrecipes.data.duplicates import near_duplicate_groups
from radrecipes.data.label_sets import LabelSet
from radrecipes.data.normalise import matching_key
from radrecipes.data.splits import split_by_group
from radrecipes.data.synthetic_protocol.bank import load_history, load_scenarios
from radrecipes.data.synthetic_protocol.generator import generate_orders
from radrecipes.data.synthetic_protocol.writing import Style
from radrecipes.errors import InputError

LABEL_SET = Path(__file__).parents[2] / "data" / "label_sets" / "protocol_ct_mr.yaml"
HISTORY_HEADER = re.compile(r"\b(history|hx|pmhx?|h/o|background|clinical info)\b", re.IGNORECASE)


@pytest.fixture(scope="module")
def orders():
    return generate_orders(seed=11, rows=6600)


@pytest.fixture(scope="module")
def label_set():
    return LabelSet.load(LABEL_SET)


@pytest.fixture(scope="module")
def scenario_of():
    return {scenario.identifier: scenario for scenario in load_scenarios()}


def named_history(note):
    """History items that a note names, found by the words before their first gap; typos make it miss a few."""
    note = note.lower()
    starts = [(re.split(r"\{", item.text)[0].strip().lower(), item) for item in load_history()]
    return [item for start, item in starts if len(start) > 3 and start in note]


def test_the_bank_is_large_enough():
    scenarios = load_scenarios()
    per_protocol = Counter(scenario.protocol for scenario in scenarios)
    assert len(scenarios) >= 340
    assert len({scenario.identifier for scenario in scenarios}) == len(scenarios)
    assert len(per_protocol) >= 32
    assert min(per_protocol.values()) >= 9
    assert all(2 <= len(scenario.questions) <= 4 for scenario in scenarios)


def test_the_bank_and_the_label_set_name_the_same_protocols(label_set):
    assert {scenario.protocol for scenario in load_scenarios()} == set(label_set.names)
    assert Counter(label_set.label(name).modality for name in label_set.names) == {"CT": 18, "MR": 18}
    for scenario in load_scenarios():
        assert {label_set.canonical(spelling) for spelling in scenario.spellings} == {scenario.protocol}


def test_every_question_belongs_to_one_scenario():
    owners = defaultdict(set)
    for scenario in load_scenarios():
        for question in scenario.questions:
            owners[matching_key(question)].add(scenario.identifier)
    assert [question for question, scenarios in owners.items() if len(scenarios) > 1] == []


def test_scenarios_and_history_speak_of_the_same_body_systems():
    systems = {item.system for item in load_history()}
    for scenario in load_scenarios():
        assert set(scenario.systems) | set(scenario.unfit) <= systems
        assert scenario.age[0] < scenario.age[1]


def test_same_seed_same_orders_and_another_seed_others():
    first = generate_orders(seed=3, rows=400)
    assert generate_orders(seed=3, rows=400) == first
    other_notes = {order["note"] for order in generate_orders(seed=4, rows=400)}
    assert sum(order["note"] in other_notes for order in first) < 10


def test_orders_are_spread_evenly_over_the_scenarios(orders, scenario_of):
    assert {tuple(order) for order in orders} == {("id", "group", "note", "label")}
    assert len({order["id"] for order in orders}) == len(orders) == 6600
    assert len({matching_key(order["note"]) for order in orders}) >= 6000
    per_scenario = Counter(order["group"] for order in orders)
    assert set(per_scenario) == set(scenario_of)
    assert max(per_scenario.values()) - min(per_scenario.values()) <= 1


def test_labels_have_several_spellings_of_the_right_protocol(orders, label_set, scenario_of):
    spellings = defaultdict(set)
    for order in orders:
        protocol = label_set.canonical(order["label"])
        assert protocol == scenario_of[order["group"]].protocol
        spellings[protocol].add(order["label"])
    assert min(len(found) for found in spellings.values()) >= 3


def test_notes_are_short_and_telegraphic(orders):
    lengths = [len(order["note"].split()) for order in orders]
    assert min(lengths) >= 8
    assert max(lengths) <= 45
    assert 18 <= sum(lengths) / len(lengths) <= 26
    notes = [order["note"] for order in orders]
    assert all(note == " ".join(note.split()) for note in notes)
    for abbreviation in ("r/o", "s/p", "c/f", "eval for", "h/o", "hx", "w/", "rule out", "yo F", "y/o M"):
        assert sum(abbreviation in note for note in notes) >= 50, abbreviation
    assert sum(note.islower() for note in notes) >= 300
    assert sum(note.isupper() for note in notes) >= 200


def test_some_words_are_misspelt(orders):
    counts = Counter(word for order in orders for word in re.findall(r"[a-z]{5,}", order["note"]))
    known = [word for word, count in counts.items() if count >= 10]
    rare = [word for word, count in counts.items() if count <= 2]
    near = [word for word in rare if process.extractOne(word, known, scorer=OSA.distance, score_cutoff=1)]
    assert len(near) >= 200


def test_some_questions_also_name_what_they_are_not_about(orders):
    negated = sum(bool(re.search("no concern for|not concerned for|not suspected", o["note"], re.I)) for o in orders)
    assert 0.03 <= negated / len(orders) <= 0.15


def test_some_notes_lack_history_age_or_headers(orders):
    notes = [order["note"] for order in orders]
    without_history = sum(not HISTORY_HEADER.search(note) and not named_history(note) for note in notes)
    assert 0.08 <= without_history / len(notes) <= 0.25
    without_headers = sum(":" not in note for note in notes)
    assert 0.2 <= without_headers / len(notes) <= 0.5
    with_age = sum(bool(re.search(r"\b\d\d ?(yo|y/o|[fm]\b|yrs)", note, re.IGNORECASE)) for note in notes)
    assert 0.5 <= with_age / len(notes) <= 0.9
    header_first = sum(bool(re.match(r"(history|hx|pmh)", note, re.IGNORECASE)) for note in notes)
    assert header_first / len(notes) >= 0.1


def test_most_history_names_other_organs_and_some_is_relevant(orders, scenario_of):
    misleading = relevant = 0
    for order in orders:
        systems = set(scenario_of[order["group"]].systems)
        regions = {item.region for item in load_history() if item.system in systems}
        named = named_history(order["note"])
        misleading += any(item.region not in regions | {"general"} for item in named)
        relevant += any(item.system in systems for item in named)
    assert misleading / len(orders) >= 0.65
    assert 0.1 <= relevant / len(orders) <= 0.6


def test_history_fits_the_patient(orders, scenario_of):
    female = re.compile(r"\b(\d\d ?(yo|y/o)? ?(F|female)|F \d\d yrs)\b", re.IGNORECASE)
    male = re.compile(r"\b(\d\d ?(yo|y/o)? ?(M|male)|M \d\d yrs)\b", re.IGNORECASE)
    seen = Counter()
    for order in orders:
        for pattern, sex, other in ((female, "F", "M"), (male, "M", "F")):
            if pattern.search(order["note"]):
                seen[sex] += 1
                assert scenario_of[order["group"]].sex != other, order
                items = [item for item in named_history(order["note"]) if item.system != "general"]
                assert other not in {item.sex for item in items if "{" not in item.text}, order
    assert min(seen["F"], seen["M"]) > 1000


def test_scenarios_of_two_protocols_are_never_near_duplicates(orders, scenario_of):
    protocols = defaultdict(set)
    for order, number in zip(orders, near_duplicate_groups([order["note"] for order in orders]), strict=True):
        protocols[number].add(scenario_of[order["group"]].protocol)
    assert max(len(found) for found in protocols.values()) == 1


def phrases(style):
    """The hand-written phrases of a style, as they are compared."""
    writing = Style.load(style)
    texts = [question for scenario in load_scenarios(style) for question in scenario.questions]
    texts += [item.text for item in load_history(style)] + [text for _, text in writing.negations] + writing.fillers
    texts += writing.question_headers + writing.history_headers + writing.layouts + writing.layouts_with_history
    return {matching_key(text) for text in [*texts, *writing.patients, *writing.years]}


def test_the_second_style_is_the_same_scenarios_in_other_words():
    first, second = load_scenarios(), load_scenarios("second")
    assert [replace(scenario, questions=[]) for scenario in first] == [replace(one, questions=[]) for one in second]
    assert all(len(scenario.questions) >= 2 for scenario in second)
    assert {item.system for item in load_history("second")} == {item.system for item in load_history()}
    banks = phrases("first"), phrases("second")
    assert len(banks[1]) >= 900 and len(banks[0] & banks[1]) < 0.01 * len(banks[1])
    triples = [
        {words for text in bank for words in zip(*(text.split()[start:] for start in range(3)), strict=False)}
        for bank in banks
    ]
    assert len(triples[0] & triples[1]) < 0.02 * len(triples[1])


def test_orders_of_the_second_style_have_the_labels_of_the_first(orders, label_set, scenario_of):
    others = generate_orders(seed=11, rows=1500, style="second")
    for order in others:
        assert label_set.canonical(order["label"]) == scenario_of[order["group"]].protocol
    notes = [order["note"] for order in others]
    assert min(len(note.split()) for note in notes) >= 8 and max(len(note.split()) for note in notes) <= 50
    assert sum(note.isupper() for note in notes) >= 250 and not any("r/o" in note or "c/f" in note for note in notes)


def test_fewer_than_one_row_is_refused():
    with pytest.raises(InputError, match="at least 1, not 0"):
        generate_orders(seed=0, rows=0)


def accuracy_on_unseen_scenarios(train, test):
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    classifier = LogisticRegression(C=10, max_iter=200)
    classifier.fit(vectorizer.fit_transform([text for text, _ in train]), [label for _, label in train])
    return classifier.score(vectorizer.transform([text for text, _ in test]), [label for _, label in test])


def test_history_misleads_a_bag_of_words_that_the_question_alone_would_not(scenario_of):
    orders = generate_orders(seed=5, rows=3600)
    protocols = [scenario_of[order["group"]].protocol for order in orders]
    splits = split_by_group([order["group"] for order in orders], protocols)
    notes, scenarios = defaultdict(list), defaultdict(set)
    for order, protocol, split in zip(orders, protocols, splits, strict=True):
        notes[split].append((order["note"], protocol))
        scenarios[split].add(order["group"])
    assert len(scenarios["test"]) >= 50
    assert min(Counter(scenario_of[name].protocol for name in scenarios["train"]).values()) >= 6
    assert {scenario_of[name].protocol for name in scenarios["test"]} == set(protocols)
    questions = {
        split: [(text, scenario_of[name].protocol) for name in sorted(names) for text in scenario_of[name].questions]
        for split, names in scenarios.items()
    }

    assert 0.65 <= accuracy_on_unseen_scenarios(notes["train"], notes["test"]) <= 0.85
    assert accuracy_on_unseen_scenarios(questions["train"], questions["test"]) >= 0.92
