import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from radrecipes.radiology.details import unrequested_details, without_details
from radrecipes.radiology.sentences import split_sentences


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("There is a left pleural effusion.", "There is a pleural effusion."),
        # a finding is not lost with the side
        ("In the left lower lobe a small nodule is seen.", "In the lower lobe a small nodule is seen."),
        ("Small right effusion, no effusion on the left side.", "Small effusion."),
        ("Left basal atelectasis, otherwise clear lungs.", "Basal atelectasis, otherwise clear lungs."),
        ("A mass in the middle lobe measures 3 x 4 cm.", "A mass in the middle lobe."),
        ("An 8 mm nodule is in the right lower lobe.", "A nodule is in the lower lobe."),
        ("There is an 8 x 9 mm left upper lobe nodule.", "There is an upper lobe nodule."),
        ("A right IJ catheter and a left PICC are seen.", "An IJ catheter and a PICC are seen."),
        ("There is a RUL nodule.", "There is an upper lobe nodule."),
        ("Bilateral effusions.", "Effusions."),
        ("Bibasilar atelectasis, right more than left, is mild.", "Basilar atelectasis is mild."),
        ("There are effusions (left > right).", "There are effusions."),
        ("Left-greater-than-right effusions.", "Effusions."),
        ("Effusions, larger on the left than on the right.", "Effusions."),
        ("Moderate right and small left effusions.", "Moderate effusions."),
        ("There is an effusion on the left side.", "There is an effusion."),
        ("Opacities are seen bilaterally.", "Opacities are seen."),
        ("Nodule measuring approximately 1.2 x 1.4 cm in greatest dimension.", "Nodule."),
        ("The tube ends 4 cm above the carina.", "The tube ends above the carina."),
        ("The tube is within 2 cm of the carina.", "The tube is near the carina."),
        ("There is a 20% apical pneumothorax.", "There is an apical pneumothorax."),
        ("Dual-chamber left-sided pacemaker in place.", "Dual-chamber pacemaker in place."),
        ("Mediastinal shift to the left.", "Mediastinal shift."),
    ],
)
def test_details_go_and_grammar_stays(text, kept):
    assert without_details(text) == kept
    assert without_details(f"Lungs are clear. {text}") == f"Lungs are clear. {kept}"


@pytest.mark.parametrize(
    "sentence",
    [
        "The nodule measures 8 mm.",
        "The effusion is on the right.",
        "It measures 8 mm and is calcified.",
        "The tube is 4.5 cm from the carina.",
        "No right pneumothorax.",
        "There is no effusion on the left.",
        "The right lung is clear.",
    ],
)
def test_sentence_that_would_be_wrong_without_its_detail_is_left_out(sentence):
    assert without_details(f"Small left effusion. {sentence}") == "Small effusion."


@pytest.mark.parametrize(
    "sentence",
    [
        "Leads end in the right atrium and the left ventricle.",
        "The right heart border is obscured.",
        "The tube ends in the right mainstem bronchus.",
        "Small effusion in the lower lobe above the fifth rib; 2 views at 10:30.",
        "1. Both lungs are clear.",
    ],
)
def test_what_is_not_a_detail_stays_as_it_is(sentence):
    assert unrequested_details(sentence) == []
    assert without_details(sentence) == sentence


def test_details_are_named_in_order():
    assert unrequested_details("A 1.5 cm left and a right-sided RUL nodule, 5-6 mm, bilaterally") == [
        "1.5 cm",
        "left",
        "right-sided",
        "R",
        "5-6 mm",
        "bilaterally",
    ]


WORDS = """left right Left left-sided bilateral bilaterally bibasilar unilateral RLL lul 8 mm cm 1.2 8-mm 20% x than greater on in
the a an and or , . ( ) > measuring measures is are of from within to no clear effusion upper lobe heart ventricle R>L both sides
side approximately There"""
words = st.sampled_from(sorted(set(WORDS.split())))
texts = st.one_of(st.lists(words, max_size=14).map(" ".join), st.text(max_size=30))


@settings(max_examples=600)
@given(texts)
@example("a 8 left mm nodule")
@example("a\x00left")
def test_no_sentence_keeps_a_detail_and_twice_is_once(text):
    kept = without_details(text)
    assert unrequested_details(kept) == []
    assert all(unrequested_details(sentence) == [] for sentence in split_sentences(kept))
    assert without_details(kept) == kept
