"""The order set whose protocol follows from stated facts: the rules, what the text says, and that counting words cannot decide."""

import re
from collections import Counter, defaultdict
from itertools import islice, pairwise

import pytest
from conftest import REPOSITORY
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.svm import LinearSVC

from radrecipes.data.duplicates import near_duplicate_groups
from radrecipes.data.label_sets import LabelSet
from radrecipes.data.prepared import load_prepared_dataset
from radrecipes.data.splits import split_by_group
from radrecipes.data.synthetic_safety.facts import Fact, Value, load_topics
from radrecipes.data.synthetic_safety.generator import (
    NO_PAIR,
    OTHER_NUMBER,
    OTHER_WORD,
    SAME_WORDS,
    drafts,
    generate_safety_orders,
    load_question_kinds,
)
from radrecipes.data.synthetic_safety.rules import EXAMS, PROTOCOLS, RULES, Order, protocol_of
from radrecipes.errors import InputError

ROWS = 4000
NUMBER, YEAR = r"\d+(?:\.\d)?", r"20[012]\d"


@pytest.fixture(scope="module")
def made():
    """Drafts with the orders that they were put down as."""
    return list(zip(islice(drafts(0), ROWS), generate_safety_orders(0, ROWS), strict=True))


@pytest.fixture(scope="module")
def pairs(made):
    return [
        (one, other) for one, other in pairwise(made) if one[0].pair != NO_PAIR and one[0].layout == other[0].layout
    ]


def test_the_rules_and_the_label_set_name_the_same_protocols(made):
    label_set = LabelSet.load(REPOSITORY / "data" / "label_sets" / "protocol_safety.yaml")
    assert set(label_set.names) == PROTOCOLS == {order["label"] for _, order in made}
    assert 20 <= len(PROTOCOLS) <= 40


# Each rule, and next to it what does not fulfil it.
@pytest.mark.parametrize(
    ("order", "protocol"),
    [
        (Order("aorta", egfr=29, urgency="urgent"), "MRA Aorta without Contrast"),
        (Order("aorta", egfr=30, urgency="urgent"), "CTA Aorta"),
        (Order("aorta", egfr=9, dialysis="anuric"), "CTA Aorta"),
        (Order("aorta", egfr=9, dialysis="urine"), "MRA Aorta without Contrast"),
        (Order("aorta", egfr=29, urgency="emergency"), "CTA Aorta"),
        (Order("aorta", egfr=29, urgency="emergency", metformin=True), "CTA Aorta, Hold Metformin"),
        (Order("aorta", egfr=45, urgency="emergency", metformin=True), "CTA Aorta"),
        (Order("staging", creatinine_rose=True), "CT Chest Abdomen Pelvis without Contrast"),
        (
            Order("staging", iodinated_reaction="allergic"),
            "CT Chest Abdomen Pelvis with Contrast, 13-hour Premedication",
        ),
        (
            Order("staging", iodinated_reaction="allergic", urgency="urgent"),
            "CT Chest Abdomen Pelvis with Contrast, Accelerated Premedication",
        ),
        (Order("staging", iodinated_reaction="severe"), "CT Chest Abdomen Pelvis without Contrast"),
        (Order("staging", iodinated_reaction="physiologic"), "CT Chest Abdomen Pelvis with Contrast"),
        (Order("staging", gadolinium_reaction="severe"), "CT Chest Abdomen Pelvis with Contrast"),
        (Order("staging", implant="unsafe"), "CT Chest Abdomen Pelvis with Contrast"),
        (Order("brain", gadolinium_reaction="severe"), "MR Brain without Contrast"),
        (Order("brain", iodinated_reaction="severe"), "MR Brain without and with Contrast"),
        (Order("brain", egfr=12), "MR Brain without and with Contrast"),
        (Order("brain", implant="unsafe"), "CT Head with Contrast"),
        (Order("brain", implant="unsafe", egfr=12), "CT Head without Contrast"),
        (Order("brain", implant="conditional"), "MR Brain without and with Contrast, MR Conditional Implant"),
        (Order("brain", metal_in_eye=True), "XR Orbits before MR"),
        (Order("brain", pregnant=True), "MR Brain without Contrast"),
        (Order("appendix", age=17), "US Abdomen"),
        (Order("appendix", age=18), "CT Abdomen Pelvis with Contrast"),
        (Order("appendix", age=17, ultrasound="nondiagnostic"), "CT Abdomen Pelvis with Contrast"),
        (Order("appendix", age=30, pregnant=True), "US Abdomen"),
        (Order("appendix", age=30, pregnant=True, ultrasound="nondiagnostic"), "MR Abdomen Pelvis without Contrast"),
        (Order("stone", pregnant=True), "US Kidneys and Bladder"),
        (Order("stone", egfr=12, iodinated_reaction="severe"), "CT Stone"),
        (Order("embolism", pregnant=True, radiograph="normal"), "NM Lung Ventilation Perfusion"),
        (Order("embolism", pregnant=True, radiograph="abnormal"), "CT Pulmonary Angiogram"),
        (Order("embolism", radiograph="normal"), "CT Pulmonary Angiogram"),
        (Order("lumbar spine", lumbar_surgery=True), "MR Lumbar Spine without and with Contrast"),
        (Order("lumbar spine", lumbar_surgery=True, pregnant=True), "MR Lumbar Spine without Contrast"),
        (Order("lumbar spine", implant="unsafe"), "CT Lumbar Spine without Contrast"),
        (Order("multiple sclerosis", disease="known"), "MR Brain without Contrast"),
        (Order("multiple sclerosis", disease="new"), "MR Brain without and with Contrast"),
        (Order("lung nodule", disease="known", egfr=12), "CT Chest Low Dose"),
        (Order("liver", implant="unsafe"), "US Liver with Microbubble Contrast"),
    ],
)
def test_what_the_rules_say(order, protocol):
    assert protocol_of(order) == protocol


def test_every_rule_decides_some_orders_and_is_documented(made):
    applied = Counter()
    for draft, _ in made:
        exam = EXAMS[draft.order.exam]
        for number, rule in enumerate(RULES):
            if rule.applies(draft.order, exam):
                applied[number] += 1
                exam = rule.change(draft.order, exam)
    assert min(applied[number] for number in range(len(RULES))) >= 40
    document = (REPOSITORY / "docs" / "synthetic-orders.md").read_text(encoding="utf-8")
    assert "\n".join(f"| {name} | {exam.protocol} |" for name, exam in EXAMS.items()) in document
    rows = [
        f"| {', '.join(rule.decides)} | {rule.when} | {rule.then} | {rule.unless} | {rule.guidance} |"
        for rule in RULES
    ]
    assert "\n".join(rows) in document


def test_the_oracle_is_right_on_every_shipped_order(made):
    dataset = load_prepared_dataset(REPOSITORY / "data" / "protocol_safety_synthetic")
    labels = {row["id"]: row["label"] for rows in dataset.splits.values() for row in rows}
    assert len(labels) == ROWS
    assert {order["id"]: protocol_of(draft.order) for draft, order in made} == labels


def pattern(topic, template):
    """A template as a regular expression that names what it is filled with."""
    about, slots = load_topics()[topic], {"year": YEAR, "week": r"\d", "egfr": r"\d\d?", "sex": "[FM]"}
    words = [value for values in about["values"].values() for value in values]
    named = sorted((re.escape(word) for word in words if isinstance(word, str)), key=len, reverse=True)
    slots["now"] = slots["then"] = "|".join(named) or (YEAR if topic == "eye" else NUMBER)
    reactions = load_topics()["reaction"]
    slots["first"] = slots["second"] = "|".join(
        re.escape(word) for kind in reactions["kinds"].values() for word in kind
    )
    slots["agent"] = "|".join(
        re.escape(word) for word in [*reactions["values"]["iodinated"], *reactions["values"]["gadolinium"]]
    )
    parts = re.split(r"\{(\w+)\}", template)
    written = "".join(
        f"(?P<{part}>{slots[part]})" if place % 2 else re.escape(part) for place, part in enumerate(parts)
    )
    return re.compile(rf"(?<![\w.]){written}(?!\w|\.\d)", re.IGNORECASE)


PATTERNS = [
    (topic, template, pattern(topic, template))
    for topic, about in load_topics().items()
    for template in [*about.get("templates", []), *about.get("single", [])]
]
STATES = {
    topic: {str(word).lower(): state for state, words in about["values"].items() for word in words}
    for topic, about in load_topics().items()
}
KINDS = {word.lower(): kind for kind, words in load_topics()["reaction"]["kinds"].items() for word in words}


def fact_of(topic, template, match):
    """The fact that a match states."""
    found = {name: text.lower() for name, text in match.groupdict().items()}
    states = STATES[topic]
    now, then = (Value(states.get(found.get(name), ""), found.get(name, "")) for name in ("now", "then"))
    fillers = {name: int(text) for name, text in found.items() if name == "egfr"}
    fillers["kinds"] = [KINDS[found[name]] for name in ("first", "second") if name in found]
    if "agent" in found:
        fillers["reported"] = {f"{STATES['reaction'][found['agent']]}_reaction": fillers["kinds"][0]}
    return Fact(topic, template, now, then, fillers)


def read_facts(note, topics):
    """What a note states about some topics, from its words alone: the longest statements first."""
    matches = [
        (match, topic, template)
        for topic, template, expression in PATTERNS
        if topic in topics
        for match in expression.finditer(note)
    ]
    matches.sort(key=lambda found: found[0].start() - found[0].end())
    taken, fields = [], {}
    for match, topic, template in matches:
        if all(match.end() <= start or match.start() >= end for start, end in taken):
            taken.append(match.span())
            fields |= fact_of(topic, template, match).fields()
    return fields


def test_the_protocol_can_be_read_from_the_text(made):
    for draft, order in made[:1500]:
        kind = draft.kind
        said = read_facts(order["note"], {*kind.facts, *kind.background, *kind.always})
        read = Order(kind.exam, **{"age": draft.age, **said})
        assert protocol_of(read) == order["label"], order


def test_the_two_orders_of_a_pair_differ_in_one_fact_and_in_the_protocol(pairs):
    for (one, first), (other, second) in pairs:
        assert first["label"] != second["label"]
        assert (first["group"], first["rule"], first["pair"]) == (second["group"], second["rule"], second["pair"])
        changed = [a for a, b in zip(one.facts, other.facts, strict=True) if a != b]
        assert [fact.decides for fact in changed] == [first["rule"]]
        words = [Counter(re.findall(r"\w+", order["note"].lower())) for order in (first, second)]
        assert (words[0] == words[1]) == (first["pair"] == SAME_WORDS)
        # Apart from the values of that fact nothing differs, so no other word can give the protocol away.
        values = sorted({re.escape(value.word) for value in (changed[0].now, changed[0].then)}, key=len, reverse=True)
        assert len({re.sub("|".join(values), "", order["note"], flags=re.I) for order in (first, second)}) == 1


def test_a_bag_of_words_is_misled_for_the_stated_share(made, pairs):
    kinds = Counter(order["pair"] for _, order in made)
    assert 2 * len(pairs) >= 0.86 * ROWS
    assert 0.40 * ROWS <= kinds[SAME_WORDS] <= 0.50 * ROWS
    assert kinds[OTHER_NUMBER] >= 0.05 * ROWS and kinds[OTHER_WORD] >= 0.30 * ROWS


def test_a_linear_model_of_words_stays_far_below_the_rules(made):
    orders = [order for _, order in made]
    splits = split_by_group([order["group"] for order in orders], [order["label"] for order in orders])
    rows = defaultdict(list)
    for order, split in zip(orders, splits, strict=True):
        rows[split].append(order)
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")
    features = vectorizer.fit_transform([order["note"] for order in rows["train"]])
    model = LinearSVC(random_state=0).fit(features, [order["label"] for order in rows["train"]])
    accuracy = model.score(
        vectorizer.transform([order["note"] for order in rows["test"]]), [order["label"] for order in rows["test"]]
    )
    assert 0.5 <= accuracy <= 0.75


def test_pairs_stay_in_one_split_and_questions_are_many(made):
    groups = Counter(order["group"] for _, order in made)
    assert len(groups) >= 280 and max(groups.values()) <= 60
    assert {question.group for kind in load_question_kinds() for question in kind.questions} >= set(groups)
    duplicates = near_duplicate_groups([order["note"] for _, order in made])
    of_duplicate = defaultdict(set)
    for (_, order), number in zip(made, duplicates, strict=True):
        of_duplicate[number].add(order["group"])
    assert max(map(len, of_duplicate.values())) == 1


def test_notes_are_short(made):
    lengths = [len(order["note"].split()) for _, order in made]
    assert 25 <= sum(lengths) / len(lengths) <= 36 and max(lengths) <= 80


def test_same_seed_same_orders_and_another_seed_others():
    assert generate_safety_orders(3, 300) == generate_safety_orders(3, 300)
    assert generate_safety_orders(3, 100) == generate_safety_orders(3, 300)[:100]
    notes = {order["note"] for order in generate_safety_orders(4, 300)}
    assert sum(order["note"] in notes for order in generate_safety_orders(3, 300)) < 10


def test_fewer_than_one_row_is_refused():
    with pytest.raises(InputError, match="at least 1, not 0"):
        generate_safety_orders(seed=0, rows=0)
