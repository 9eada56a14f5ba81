import re
import time
from collections import Counter
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from radrecipes.evaluation.linear_labeller import LABELLED_TEXTS
from radrecipes.radiology import labeller
from radrecipes.radiology.labeller import label_report, recognises
from radrecipes.radiology.observations import NO_FINDING, OBSERVATIONS, Status, format_observations, parse_observations

SENTENCES = [
    (group, sentence, labels)
    for group, rows in yaml.safe_load((LABELLED_TEXTS / "sentences.yaml").read_text(encoding="utf-8")).items()
    for sentence, labels in rows
]


ONCE_MISREAD = yaml.safe_load(Path(__file__).with_name("once_misread.yaml").read_text(encoding="utf-8"))


def label_sentence(sentence):
    return {name: status for name, status in label_report(sentence).items() if name != NO_FINDING}


NEUTRAL = [
    "The patient is rotated.",
    "The patient's arms are at the sides.",
    "The aorta is tortuous.",
    "No acute cardiopulmonary process.",
    "Low lung volumes.",
]
STRENGTH = {None: 0, Status.NEGATIVE: 1, Status.UNCERTAIN: 2, Status.POSITIVE: 3}
# A list item and a text of several sentences are not single sentences, and a question mark needs no stop after it.
JOINABLE = [sentence for _, sentence, _ in SENTENCES if sentence.endswith(".") and ":" not in sentence]


@pytest.mark.parametrize("group", sorted({group for group, _, _ in SENTENCES}))
def test_hand_written_sentences(group):
    wrong = [
        f"{sentence!r}: {format_observations(label_sentence(sentence))}, expected {labels}"
        for name, sentence, labels in SENTENCES
        if name == group and label_sentence(sentence) != parse_observations(labels)
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(("text", "expected"), ONCE_MISREAD["statements"])
def test_what_was_once_misread(text, expected):
    labels = {name: status for name, status in label_report(text, implied=True).items() if name != NO_FINDING}
    assert labels == (parse_observations(expected) if expected else {})


def test_an_abnormality_that_is_no_observation_prevents_no_finding_unless_it_is_denied():
    wrongly_normal = [text for text in ONCE_MISREAD["abnormal but no observation"] if NO_FINDING in label_report(text)]
    wrongly_abnormal = [text for text in ONCE_MISREAD["normal"] if NO_FINDING not in label_report(text)]
    assert (wrongly_normal, wrongly_abnormal) == ([], [])


def test_sentences_cover_every_observation_in_every_status():
    counts = Counter(pair for _, _, labels in SENTENCES for pair in parse_observations(labels).items())
    assert len({sentence for _, sentence, _ in SENTENCES}) == len(SENTENCES) >= 320
    for name in OBSERVATIONS:
        for status in Status:
            if name != NO_FINDING:
                assert counts[name, status] >= 2, (name, status)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(JOINABLE), min_size=1, max_size=5), st.sampled_from(NEUTRAL), st.data())
def test_neutral_sentence_changes_nothing(sentences, neutral, data):
    position = data.draw(st.integers(0, len(sentences)))
    longer = [*sentences[:position], neutral, *sentences[position:]]
    # The impression says that the text is about a chest.
    assert label_report(" ".join(longer), "Chest.") == label_report(" ".join(sentences), "Chest.")


# A stable heart, a blunted angle and heart failure count only where nothing else is said about the observation.
WEAK = re.compile(r"stable|unchanged|no change|blunt|failure|CHF", re.IGNORECASE)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.sampled_from([text for text in JOINABLE if not WEAK.search(text)]), min_size=1, max_size=5),
    st.integers(0, 5),
    st.randoms(),
)
def test_strongest_status_wins_whatever_the_order(sentences, cut, random):
    expected = {}
    for sentence in sentences:
        for name, status in label_sentence(sentence).items():
            expected[name] = max(expected.get(name), status, key=STRENGTH.get)
    shuffled = random.sample(sentences, len(sentences))
    labels = label_report(" ".join(shuffled[:cut]), "\n".join(shuffled[cut:]))
    assert {name: status for name, status in labels.items() if name != NO_FINDING} == expected
    assert list(labels) == [name for name in OBSERVATIONS if name in labels]


@settings(max_examples=300, deadline=None)
@given(st.text() | st.lists(st.sampled_from(" ".join(JOINABLE[::9]).split() + list(",.;:()?-\n"))).map(" ".join))
def test_arbitrary_text_never_raises(text):
    labels = label_report(text, text)
    assert set(labels.values()) <= set(Status)
    assert labels == label_report(text)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(JOINABLE), st.sampled_from([str.upper, str.lower, str.title]), st.data())
def test_case_and_wrapped_lines_do_not_matter(sentence, change, data):
    words = sentence.split()
    blanks = data.draw(st.lists(st.sampled_from([" ", "\n", "  ", "\n "]), min_size=len(words), max_size=len(words)))
    wrapped = "".join(word + blank for word, blank in zip(words, blanks, strict=True))
    # A dash at the start of a line is an item's; lines are not wrapped there.
    assert label_sentence(change(wrapped.replace("\n-", " -"))) == label_sentence(sentence)


@pytest.mark.parametrize(
    ("findings", "impression", "expected"),
    [
        ("Lungs are clear.", "No acute cardiopulmonary process.", True),
        ("", "No pneumothorax.", True),
        ("Endotracheal tube in place. No effusion.", "", True),
        ("No effusion.", "Possible pneumonia.", False),
        ("Healed rib fracture.", "No acute process.", False),
        ("The aorta is tortuous.", "", True),
        ("Emphysema. Lungs are clear.", "No acute process.", False),
        ("No effusion. Calcified granuloma at the left apex.", "", False),
        ("No emphysema and no hernia. Lungs are clear.", "", True),
        ("No intracranial bleed is seen.", "", None),
        ("The knee joint shows no effusion.", "No acute abnormality of the knee.", False),
        ("No hay derrame pleural. Silueta cardiaca normal.", "", None),
        ("", "", None),
        (" \n", "", None),
    ],
)
def test_no_finding_is_derived(findings, impression, expected):
    labels = label_report(findings, impression)
    assert labels.get(NO_FINDING) == (Status.POSITIVE if expected else None)
    assert expected is not None or labels == {}


def test_indication_and_history_are_not_labelled():
    text = "INDICATION: Pneumonia, evaluate for effusion.\n\nFINDINGS: Mild edema.\nCOMPARISON: Pneumothorax then."
    assert label_report(text) == {"Edema": Status.POSITIVE}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # On one line a heading takes one sentence, unless the findings begin later.
        ("Comparison: None available. Small left pneumothorax.", "Pneumothorax: positive"),
        ("History: fever and pneumothorax. Clear lungs. Moderate effusion.", "Pleural Effusion: positive"),
        ("Reason for exam: Pneumonia. The heart is enlarged.", "Cardiomegaly: positive"),
        (
            "Technique: portable. There is edema. Comparison: none. There is an effusion.",
            "Edema: positive; Pleural Effusion: positive",
        ),
        ("Comparison: There is a new rib fracture.", "Fracture: positive"),
        ("History: Fever. Known effusion. Comparison: Pneumothorax. Findings: Edema.", "Edema: positive"),
        # Without full stops, a statement ends what is before it.
        ("Comparison: film of last week there is a new fracture", "Fracture: positive"),
        ("technique: ap the heart is enlarged with an effusion", "Cardiomegaly: positive; Pleural Effusion: positive"),
        ("History: cough, evaluate if there is pneumonia. Edema.", "Edema: positive"),
        # A line that ends early is a line of its own, a wrapped one is not.
        ("Indication: cough\nLarge effusion.\nNo edema.", "Edema: negative; Pleural Effusion: positive"),
        ("COMPARISON: NONE.\nLARGE EFFUSION.\nIMPRESSION: EFFUSION.", "Pleural Effusion: positive"),
        (
            " INDICATION:  Sixty year old woman with cough, fever, a known effusion and\n pneumonia. Fracture of a rib.\n"
            " \n IMPRESSION: Edema.",
            "Edema: positive",
        ),
        ("HISTORY:\n\nPneumonia.\n\nFINDINGS:\n\nEdema.", "Edema: positive"),
        ("HISTORY: Pneumonia.\n\nLarge effusion.", "Pleural Effusion: positive"),
    ],
)
def test_a_heading_takes_only_what_is_known_to_belong_to_it(text, expected):
    assert format_observations(label_sentence(text)) == expected


def test_what_is_implied_is_kept_apart_from_what_is_stated():
    text = "The lungs are clear. Sharp costophrenic angles. The heart is normal in size."
    stated = label_report(text)
    assert format_observations(stated) == "Cardiomegaly: negative; No Finding: positive"
    denied = dict.fromkeys(("Lung Opacity", "Consolidation", "Pleural Effusion"), Status.NEGATIVE)
    assert label_report(text, implied=True) == stated | denied
    stronger = label_report(text, "Patchy opacity at the left base.", implied=True)
    assert stronger["Lung Opacity"] == Status.POSITIVE and stronger["Consolidation"] == Status.NEGATIVE


def test_the_index_of_beginnings_hides_no_entry():
    for _, text, _ in SENTENCES[::7]:
        sentence = labeller._plain(text)
        for start in labeller._START.finditer(sentence):
            place = start.start()
            every = next((entry for entry in labeller._ENTRIES if entry[2](sentence, place)), None)
            tried = labeller._candidates(sentence[place : place + 3])
            assert next((entry for entry in tried if entry[2](sentence, place)), None) is every


@pytest.mark.parametrize(
    ("text", "name", "status"),
    [
        ("Stable cardiac silhouette. The heart size is normal.", "Cardiomegaly", "negative"),
        ("Stable cardiac silhouette. Mild cardiomegaly.", "Cardiomegaly", "positive"),
        ("Blunted left costophrenic angle. No pleural effusion.", "Pleural Effusion", "negative"),
        ("Heart failure. The heart is not enlarged.", "Cardiomegaly", "negative"),
    ],
)
def test_weak_evidence_gives_way_to_a_statement(text, name, status):
    assert label_report(text)[name] == status


def test_a_report_of_95_words_takes_less_than_two_milliseconds():
    # Other numbers in each sentence, so that no sentence is known from before.
    reports = [
        f"Heart size is normal on view {n}. Patchy opacity of {n} mm in the left lower lobe may represent atelectasis or "
        f"pneumonia. No focal consolidation, pleural effusion, or pneumothorax on view {n}. Right internal jugular "
        f"catheter ends {n} cm above the right atrium. Mild degenerative changes are seen throughout the thoracic spine "
        f"at {n} levels. There is blunting of the left costophrenic angle on image {n}, which could reflect a small "
        f"effusion. In the appropriate clinical setting, the opacity of {n} mm could be due to infection; follow-up in "
        f"{n} weeks is recommended. No evidence of congestive heart failure on view {n}, although {n} images are limited."
        for n in range(60)
    ]
    assert len(reports[0].split()) > 95
    fastest = min(_seconds(report) for report in reports)
    assert fastest < 0.002


def _seconds(report: str) -> float:
    start = time.process_time()
    label_report(report)
    return time.process_time() - start


@pytest.mark.parametrize("phrase", ["no, ", "effusion or ", "has resolved ", "possibly slightly ", "history: ", "\n"])
def test_time_grows_no_faster_than_the_text(phrase):
    # Quadratic readings of these took five seconds.
    assert _seconds(phrase * (40_000 // len(phrase))) < 2


@pytest.mark.parametrize(
    ("sentence", "recognised"),
    [
        ("No pleural effusion.", True),
        ("No acute cardiopulmonary process.", True),
        ("The bones are intact.", True),
        ("No intracranial hemorrhage.", False),
        ("The ventricles are normal in size.", False),
        ("No se observan hallazgos.", False),
    ],
)
def test_a_sentence_is_recognised_by_a_finding_or_structure_and_not_by_a_negation(sentence, recognised):
    assert recognises(sentence) is recognised
