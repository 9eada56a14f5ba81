"""What a check of a written report lets through and what it refuses, whatever the text looks like."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radrecipes.radiology.consistency import (
    FINDINGS,
    IMPRESSION,
    IMPRESSION_SECTIONS,
    check_report,
    format_report,
    read_sections,
    repeats_itself,
)
from radrecipes.radiology.observations import NO_FINDING, OBSERVATIONS, Status, derive_no_finding, parse_observations

REQUEST = parse_observations(
    "Edema: positive; Pneumonia: uncertain; Pneumothorax: negative; Pleural Effusion: positive"
)
RIGHT = (
    "FINDINGS: There is mild pulmonary edema. There is a small pleural effusion. There is no pneumothorax.\n"
    "IMPRESSION: Pulmonary edema. Possible pneumonia."
)
NORMAL = {NO_FINDING: Status.POSITIVE}
NORMAL_TEXT = (
    "FINDINGS: The lungs are clear. The heart size is normal. There is no pneumothorax.\nIMPRESSION: Normal chest."
)


def test_a_right_report_passes():
    check = check_report(RIGHT, REQUEST)
    assert check.reasons == []
    assert check.written["Pneumonia"] == Status.UNCERTAIN


@pytest.mark.parametrize(
    ("old", "new", "reasons"),
    [
        ("There is no pneumothorax.", "There is a pneumothorax.", ["contradicts Pneumothorax"]),
        ("There is no pneumothorax.", "", []),
        ("There is no pneumothorax.", "There may be a pneumothorax.", ["changed Pneumothorax"]),
        ("There is a small pleural effusion.", "", ["missing Pleural Effusion"]),
        ("a small pleural effusion", "no pleural effusion", ["contradicts Pleural Effusion"]),
        ("There is a small pleural effusion.", "There may be a pleural effusion.", ["changed Pleural Effusion"]),
        ("Possible pneumonia.", "Pneumonia.", ["changed Pneumonia"]),
        ("Possible pneumonia.", "No pneumonia.", ["changed Pneumonia"]),
        ("Possible pneumonia.", "", ["changed Pneumonia"]),
        ("There is no pneumothorax.", "There is a rib fracture.", ["invents Fracture"]),
        ("There is no pneumothorax.", "There may be a rib fracture.", ["invents Fracture"]),
        ("There is no pneumothorax.", "There is no rib fracture.", []),
        ("a small pleural effusion", "a small left pleural effusion", ["invents a side or measurement"]),
        ("There is no pneumothorax.", "Compared with the prior study, edema persists.", ["mentions an earlier study"]),
        ("There is no pneumothorax.", "There is mild pulmonary edema.", ["repeats itself"]),
        ("\nIMPRESSION: Pulmonary edema. Possible pneumonia.", " Possible pneumonia.", ["no IMPRESSION section"]),
        ("FINDINGS: ", "", ["no FINDINGS section"]),
    ],
)
def test_every_error_has_its_own_reason(old, new, reasons):
    assert old in RIGHT
    assert check_report(RIGHT.replace(old, new), REQUEST).reasons == reasons


@pytest.mark.parametrize(
    ("name", "findings"),
    [
        ("Lung Opacity", "The lungs are clear."),
        ("Consolidation", "Clear lungs."),
        ("Pleural Effusion", "The costophrenic angles are sharp."),
    ],
)
def test_what_a_report_implies_contradicts_a_request(name, findings):
    text = f"FINDINGS: {findings} The heart is enlarged.\nIMPRESSION: Cardiomegaly."
    assert check_report(text, parse_observations(f"Cardiomegaly: positive; {name}: positive")).reasons == [
        f"contradicts {name}"
    ]
    assert not check_report(text, parse_observations(f"Cardiomegaly: positive; {name}: negative")).reasons


def test_a_heading_in_a_draft_hides_no_finding():
    draft = "FINDINGS: Technique: portable. There is a pneumothorax. The heart size is normal.\nIMPRESSION: No acute process."
    assert check_report(draft, NORMAL).reasons == ["invents Pneumothorax"]


def test_a_normal_request_admits_normal_statements_and_devices_that_were_requested():
    assert not check_report(NORMAL_TEXT, NORMAL).reasons
    with_device = NORMAL_TEXT.replace("FINDINGS: ", "FINDINGS: A central venous catheter is in place. ")
    assert not check_report(with_device, NORMAL | {"Support Devices": Status.POSITIVE}).reasons
    assert check_report(with_device, NORMAL).reasons == ["invents Support Devices"]
    with_edema = NORMAL_TEXT.replace("Normal chest.", "Pulmonary edema.")
    assert check_report(with_edema, NORMAL).reasons == ["invents Edema"]


def test_an_impression_may_leave_out_but_not_contradict_or_invent():
    request = parse_observations(
        "Edema: positive; Atelectasis: positive; Pneumonia: uncertain; Pneumothorax: negative"
    )
    assert not check_report("Pulmonary edema.", request, IMPRESSION_SECTIONS, require_all=False).reasons
    assert check_report("Pulmonary edema.", request, IMPRESSION_SECTIONS).reasons == [
        "missing Atelectasis",
        "changed Pneumonia",
    ]
    for text in ("No pulmonary edema.", "Pulmonary edema and pneumothorax.", "Edema and rib fracture.", ""):
        assert check_report(text, request, IMPRESSION_SECTIONS, require_all=False).reasons
    assert not check_report("IMPRESSION: Pulmonary edema.", request, IMPRESSION_SECTIONS, require_all=False).reasons


@pytest.mark.parametrize(
    ("text", "findings", "impression"),
    [
        ("FINDINGS: One.\nIMPRESSION: Two.", "One.", "Two."),
        ("FINDINGS: One. IMPRESSION: Two.", "One.", "Two."),
        ("FINDINGS : One . IMPRESSION : Two .", "One .", "Two ."),
        ("findings: One.\n\nImpression:\n Two\n  words.", "One.", "Two words."),
        ("Findings: One. Impression: Two.", "One.", "Two."),
        ("IMPRESSION: Two.\nFINDINGS: One.", "One.", "Two."),
        ("FINDINGS: One. IMPRESSION: Two. FINDINGS: Three.", "One. Three.", "Two."),
        ("One. IMPRESSION: Two.", "One.", "Two."),
        ("One.", "One.", ""),
        ("FINDINGS: No acute findings: clear. IMPRESSION:", "No acute findings: clear.", ""),
        ("FINDINGS:IMPRESSION:", "", ""),
        ("", "", ""),
    ],
)
def test_sections_are_read_however_headers_are_written(text, findings, impression):
    assert read_sections(text) == {FINDINGS: findings, IMPRESSION: impression}


def test_missing_repeated_and_empty_headers_are_recognised():
    assert check_report("", REQUEST).missing_sections == (FINDINGS, IMPRESSION)
    assert check_report("FINDINGS: IMPRESSION:", REQUEST).missing_sections == (FINDINGS, IMPRESSION)
    assert not check_report(RIGHT.replace("\n", " "), REQUEST).reasons
    assert check_report(f"{RIGHT}\nFINDINGS: The heart size is normal.", REQUEST).reasons == ["repeats itself"]
    assert "missing No Finding" in check_report("", NORMAL).reasons


def test_repetition_is_a_long_sentence_twice_or_six_words_thrice():
    assert repeats_itself("The heart size is normal. Lungs are clear. The heart  size is NORMAL.")
    assert not repeats_itself("No effusion. Lungs are clear. No effusion.")
    six = "there is no evidence of acute"
    assert not repeats_itself(f"{six} edema, {six} fracture")
    assert repeats_itself(f"{six} edema, {six} fracture, {six} pneumonia")
    assert not repeats_itself("")


def test_a_completed_request_contains_no_finding_exactly_if_nothing_is_found():
    assert derive_no_finding({}) == NORMAL
    assert derive_no_finding({"Support Devices": Status.POSITIVE}) == {"Support Devices": Status.POSITIVE} | NORMAL
    uncertain = {"Edema": Status.UNCERTAIN}
    assert derive_no_finding(uncertain) == uncertain
    assert derive_no_finding(NORMAL | uncertain) == uncertain


PIECES = st.sampled_from(
    [
        "FINDINGS:",
        "IMPRESSION:",
        "Findings :",
        "impression:",
        "\n",
        " ",
        ".",
        ":",
        "___",
        "no",
        "edema",
        "left",
        "1.2 cm",
    ]
)
GARBAGE = st.one_of(st.text(max_size=80), st.lists(PIECES, max_size=30).map(" ".join))
REQUESTS = st.dictionaries(st.sampled_from(OBSERVATIONS), st.sampled_from(Status))


@settings(max_examples=150, deadline=None)
@given(text=GARBAGE, request=REQUESTS, require_all=st.booleans(), short=st.booleans())
def test_no_text_makes_the_check_fail_to_answer(text, request, require_all, short):
    sections = IMPRESSION_SECTIONS if short else (FINDINGS, IMPRESSION)
    check = check_report(text, request, sections, require_all)
    named = [reason.partition(" ")[2] for reason in check.reasons]
    assert len(set(named)) == len(named)
    # No reason quotes the text: every word of it is ours.
    allowed = {*OBSERVATIONS, *sections}
    for reason in check.reasons:
        rest = reason
        for name in sorted(allowed, key=len, reverse=True):
            rest = rest.replace(name, "")
        assert rest.split()[0] in {"missing", "contradicts", "changed", "invents", "no", "repeats", "mentions"}


@settings(deadline=None)
@given(findings=st.text("abc .", min_size=1), impression=st.text("abc .", min_size=1))
def test_what_is_formatted_is_read_back(findings, impression):
    findings, impression = " ".join(findings.split()), " ".join(impression.split())
    assert read_sections(format_report(findings, impression)) == {FINDINGS: findings, IMPRESSION: impression}
