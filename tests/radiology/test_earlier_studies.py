import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from radrecipes.radiology.earlier_studies import mentions_earlier_study, without_earlier_studies
from radrecipes.radiology.sentences import split_sentences


@pytest.mark.parametrize(
    ("sentence", "kept"),
    [
        ("Unchanged small effusion.", "Small effusion."),
        # a finding is not lost with the comparison
        ("Redemonstration of a basal opacity, not changed since May.", "A basal opacity."),
        ("Interval development of lower lobe airspace disease.", "Lower lobe airspace disease."),
        ("No change in the small apical pneumothorax.", "Small apical pneumothorax."),
        ("An infiltrate has developed in the lingula.", "An infiltrate in the lingula."),
        ("Stable cardiomegaly without acute disease.", "Cardiomegaly without acute disease."),
        ("The heart is mildly enlarged but stable.", "The heart is mildly enlarged."),
        ("Lower lobe opacity which appears improved as compared to the prior film.", "Lower lobe opacity."),
        ("Improved aeration with persistent basal effusion.", "Aeration with basal effusion."),
        ("Small effusion, unchanged from the prior study.", "Small effusion."),
        ("The small effusion is unchanged.", "Small effusion."),
        ("Moderate pulmonary edema has worsened since yesterday.", "Moderate pulmonary edema."),
        ("There has been interval increase in edema.", "There is edema."),
        ("Interval worsening of bilateral opacities.", "There are bilateral opacities."),
        ("In comparison with the study of ___, the lungs are clear.", "The lungs are clear."),
        ("AP chest compared to ___ at 3:45: Mild edema.", "Mild edema."),
        ("Compared to the prior film, the patient has received a new PICC.", "There is a PICC."),
        ("Since the prior study, there is mild edema.", "There is mild edema."),
        ("Again seen is a small effusion.", "Seen is a small effusion."),
        ("There is a new opacity.", "There is an opacity."),
        ("There is now a moderate effusion.", "There is a moderate effusion."),
        ("The heart remains enlarged.", "The heart is enlarged."),
        ("Tubes and lines remain in place.", "Tubes and lines are in place."),
        ("Interval placement of a PICC with tip in the SVC.", "There is a PICC with tip in the SVC."),
        ("The PICC is in stable position.", "The PICC is in position."),
        ("A newly placed line ends in the SVC.", "A line ends in the SVC."),
        ("Cardiac silhouette is stable and the lungs are clear.", "The lungs are clear."),
        ("The heart size is unchanged; there is no effusion.", "There is no effusion."),
        ("Lungs are clear, without significant interval change.", "Lungs are clear."),
        ("Persistent low lung volumes.", "Low lung volumes."),
    ],
)
def test_comparison_goes_and_the_finding_stays(sentence, kept):
    assert mentions_earlier_study(sentence)
    assert without_earlier_studies(f"No pneumothorax. {sentence}") == f"No pneumothorax. {kept}"


@pytest.mark.parametrize(
    "sentence",
    [
        "No significant interval change.",
        "No new opacity.",
        "No new consolidation, effusion or pneumothorax.",
        "Stable heart size.",
        "The heart is unchanged.",
        "Unchanged appearance of the mediastinum.",
        "The chest tube has been removed.",
        "Interval removal of the chest tube.",
        "The effusion is no longer seen.",
        "The pneumonia has resolved.",
        "No prior studies are available for comparison.",
    ],
)
def test_sentence_that_only_compares_is_left_out(sentence):
    assert mentions_earlier_study(sentence)
    assert without_earlier_studies(f"No pneumothorax. {sentence}") == "No pneumothorax."


@pytest.mark.parametrize(
    "sentence",
    [
        "Degenerative changes of the spine.",
        "Increased interstitial markings and decreased lung volumes.",
        "The patient is hemodynamically stable.",
        "Stable fixation hardware.",
        "Status post prior sternotomy.",
        "Calcified granulomas from previous granulomatous disease.",
        "Newly diagnosed lung cancer, new onset cough.",
        "Left worse than right opacities.",
        "Follow-up to document resolution; renewed short interval follow-up.",
        "Old rib fractures and chronic effusion.",
        "1. The remainder of the lungs is clear.",
    ],
)
def test_what_is_not_a_comparison_stays_as_it_is(sentence):
    assert not mentions_earlier_study(sentence)
    assert without_earlier_studies(sentence) == sentence


WORDS = """unchanged stable new newly again now still interval increase decreased increased has have been removed since the prior
study compared to with previous remains remain persistent improved no longer resolved , . ; ( ) : is are there There and but a an
effusion edema heart lungs clear in of position placement small from as ___ which not patient received size significant
change worse"""
words = st.sampled_from(sorted(set(WORDS.split())))
texts = st.one_of(st.lists(words, max_size=16).map(" ".join), st.text(max_size=30))


@settings(max_examples=600)
@given(texts)
@example("a new\x00 effusion")
def test_no_sentence_keeps_a_comparison_and_twice_is_once(text):
    kept = without_earlier_studies(text)
    assert not mentions_earlier_study(kept)
    assert not any(map(mentions_earlier_study, split_sentences(kept)))
    assert without_earlier_studies(kept) == kept
    # Nothing is added, except `There is` and similar words.
    said = set(re.findall(r"\w+", kept.lower())) - {"there", "is", "are", "was", "a", "an", "demonstrated"}
    assert kept == text or said <= set(re.findall(r"\w+", text.lower()))
