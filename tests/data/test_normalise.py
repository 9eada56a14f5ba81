import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from radrecipes.data.normalise import matching_key, normalise_note


def test_the_text_stays_and_invisible_characters_go():
    assert (
        normalise_note("  R/O  PE,\tD-dimer 2.1 \r\n\r\n\u200bs/p\x00 CABG\u00a0x3 ")
        == "R/O PE, D-dimer 2.1\ns/p CABG x3"
    )


def test_note_is_composed_even_across_a_zero_width_character():
    assert normalise_note("Me\u0301nie\u200b\u0300re") == "Ménière"


def test_a_note_of_spaces_and_control_characters_is_empty():
    assert normalise_note(" \x07\u200b\r\n\t") == ""


@given(st.text())
def test_normalising_twice_changes_nothing(text):
    once = normalise_note(text)
    assert normalise_note(once) == once
    assert unicodedata.is_normalized("NFC", once)
    once.encode("utf-8")


@given(st.text())
def test_key_is_stable_and_sees_neither_case_nor_cleaning(text):
    key = matching_key(text)
    assert matching_key(key) == key
    assert matching_key(normalise_note(text)) == key


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("CT Abdomen/Pelvis", "ct abdomen - pelvis"),
        ("MR  Brain (IAC)", "MR brain IAC"),
        ("ﬁbroid", "FIBROID"),
        ("T₂", "t2"),
    ],
)
def test_spellings_that_match(one, other):
    assert matching_key(one) == matching_key(other)


@pytest.mark.parametrize(
    ("one", "other"), [("CT C+", "CT C-"), ("eGFR < 30", "eGFR > 30"), ("1.5 cm", "15 cm"), ("left", "right")]
)
def test_meanings_that_do_not_match(one, other):
    assert matching_key(one) != matching_key(other)
