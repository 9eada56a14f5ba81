import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from radrecipes.radiology.deidentification import has_mark, normalise_marks, without_marked_sentences, without_marks

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


@pytest.mark.parametrize(
    ("text", "repaired"),
    [
        # a word that is the only one there
        ("Blunting of both costophrenic XXXX is seen.", "Blunting of both costophrenic angle is seen."),
        ("Calcified lymph XXXX at the hilum.", "Calcified lymph nodes at the hilum."),
        ("There is no XXXX of consolidation.", "There is no evidence of consolidation."),
        ("Median sternotomy XXXX are intact.", "Median sternotomy wires are intact."),
        ("Streaky density at the base, XXXX atelectasis.", "Streaky density at the base, likely atelectasis."),
        ("Normal chest x-XXXX.", "Normal chest x-ray."),
        ("XXXX deformity of a lower thoracic vertebra.", "Wedge deformity of a lower thoracic vertebra."),
        ("Left chest XXXX with its tip in the SVC.", "Left chest port with its tip in the SVC."),
        # a word before a noun
        ("XXXX opacities in the lower lobe.", "Opacities in the lower lobe."),
        ("There is a XXXX effusion, and an XXXX small nodule.", "There is an effusion, and a small nodule."),
        ("XXXX and soft tissues are unremarkable.", "Soft tissues are unremarkable."),
        # a date or place
        ("A nodule is seen, as described on XXXX, XXXX.", "A nodule is seen, as described."),
        # nothing to keep
        ("The XXXX are normal.", ""),
        ("Results were discussed with Dr. XXXX at XXXX hours.", ""),
        ("XXXX.", ""),
        # a finding that would be lost
        ("Small effusion is XXXX.", "Small effusion is area."),
        ("Clear lungs. XXXX XXXX. No effusion.", "Clear lungs. No effusion."),
    ],
)
def test_marks_are_taken_out_of_their_sentences(text, repaired):
    assert without_marks(text) == repaired


@given(texts)
@example("XX[**XXX")
def test_nothing_marked_stays_and_twice_is_once(text):
    for clean in (without_marked_sentences, without_marks):
        kept = clean(text)
        assert not has_mark(kept)
        assert clean(kept) == kept
    normalised = normalise_marks(text)
    assert normalise_marks(normalised) == normalised
    assert has_mark(normalised) == has_mark(text)
