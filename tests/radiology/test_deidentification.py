import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from radrecipes.radiology.deidentification import has_mark, normalise_marks, without_marked_sentences

pieces = ["XXXX", "___", "_", "X", "[**", "**]", " ", "-", "/", "\n", ". ", "Dr. ", "Clear lungs", "1. "]
texts = st.lists(st.one_of(st.sampled_from(pieces), st.text(max_size=5)), max_size=12).map("".join)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("Clear lungs. Discussed with Dr. ___ by phone. Normal heart.", "Clear lungs. Normal heart."),
        ("XXXX nodule. No effusion.", "No effusion."),
        ("Seen by [**Dr. One. 1**]. No effusion.", "No effusion."),
        ("As compared to ___, no change.", ""),
        ("1. Clear lungs.  2. Normal heart.", "1. Clear lungs.  2. Normal heart."),
    ],
)
def test_marked_sentences_are_left_out(text, kept):
    assert without_marked_sentences(text) == kept


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("XXXX XXXX in the lung", "___ in the lung"),
        ("XXXX-year-old, ___/___/___ and _____", "___-year-old, ___ and ___"),
        ("[**Hospital 1**] film", "___ film"),
        ("No mark, factor XX", "No mark, factor XX"),
    ],
)
def test_marks_are_written_in_one_way(text, written):
    assert normalise_marks(text) == written


@given(texts)
@example("XX[**XXX")
def test_nothing_marked_stays_and_twice_is_once(text):
    kept = without_marked_sentences(text)
    assert not has_mark(kept)
    assert without_marked_sentences(kept) == kept
    normalised = normalise_marks(text)
    assert normalise_marks(normalised) == normalised
    assert has_mark(normalised) == has_mark(text)
