import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radrecipes.radiology.sections import Sections, split_sections, study_sections

UNDERSCORES = " " + "_" * 78
REPORT = f""" WET READ: ___ ___ ___ 4:04 PM
  Edema, read overnight.
{UNDERSCORES}
                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)
 
 INDICATION:  ___ year old woman with cough.  History: fever at 10:30
 
 COMPARISON:  Chest radiograph ___.
 
 FINDINGS:
 
 The lungs are clear.  There is no effusion
 or pneumothorax.
 
 IMPRESSION:
 
 No acute process at 3:45 PM.
 
 RECOMMENDATION(S):  Follow-up in 4 weeks.
 
 NOTIFICATION:  The findings were discussed.

 EXAMINATION:  CHEST (PA AND LAT)
"""  # noqa: W293
EXPECTED = Sections(
    findings="The lungs are clear. There is no effusion or pneumothorax.",
    impression="No acute process at 3:45 PM.",
)


@pytest.mark.parametrize(
    "text",
    [
        REPORT,
        re.sub(r"(?m)^ +", "", REPORT),
        REPORT.replace("\n", "\r\n"),
        re.sub(r"[A-Z]+(?:\(S\))?(?=: )", lambda match: match[0].capitalize(), REPORT),
        " ".join(REPORT.split()),
        REPORT.replace("FINDINGS:\n", "FINDINGS\n").replace("IMPRESSION:\n", "IMPRESSION\n"),
    ],
    ids=["as published", "without indentation", "other line ends", "mixed case", "one line", "without colons"],
)
def test_layout_does_not_matter(text):
    assert split_sections(text) == EXPECTED


@pytest.mark.parametrize(
    ("text", "findings"),
    [
        (
            "FINDINGS:\nLUNGS: Left consolidation.\nSPINE: Normal.\nOTHER: No fracture.\nIMPRESSION: Pneumonia.",
            "LUNGS: Left consolidation. SPINE: Normal. OTHER: No fracture.",
        ),
        (
            "FINDINGS:\nLarge effusion.\nOTHER FINDINGS: None.\nIMPRESSION: Effusion.",
            "Large effusion. OTHER FINDINGS: None.",
        ),
        (
            "FINDINGS:\nClear.\nBONES AND SOFT TISSUES: Rib fracture.\nIMPRESSION: Fracture.",
            "Clear. BONES AND SOFT TISSUES: Rib fracture.",
        ),
        # What is known to be no finding ends them, and so does a signature.
        ("FINDINGS:\nClear.\nTECHNIQUE: Portable.\nIMPRESSION: Normal.", "Clear."),
        ("IMPRESSION: Normal.\nFINDINGS:\nClear.\nDICTATED BY: ___", "Clear."),
    ],
)
def test_a_heading_within_the_findings_does_not_end_them(text, findings):
    assert split_sections(text).findings == findings


def test_written_report_and_joined_columns_are_read():
    written = split_sections("FINDINGS: Clear lungs.\nIMPRESSION: Normal chest.")
    assert (written.findings, written.impression) == ("Clear lungs.", "Normal chest.")
    joined = split_sections("Comparison: None. Findings: Clear lungs. Impression: Normal chest.")
    assert joined == Sections("Clear lungs.", "Normal chest.")


@pytest.mark.parametrize(
    ("text", "findings", "impression"),
    [
        ("Comparison: None. Small left effusion.", "Small left effusion.", ""),
        ("COMPARISON: None. Small effusion. IMPRESSION: Effusion.", "Small effusion.", "Effusion."),
        ("TECHNIQUE: AP. COMPARISON: ___. There is edema.", "There is edema.", ""),
        ("Indication: cough. Clear lungs. Normal heart.", "Clear lungs. Normal heart.", ""),
        ("Clear lungs. IMPRESSION: Normal.", "Clear lungs.", "Normal."),
        (
            "indication: cough. known copd. findings: clear lungs. impression: normal chest.",
            "clear lungs.",
            "normal chest.",
        ),
        # These are known to be no findings.
        ("INDICATION: Cough. Known pneumonia. IMPRESSION: Normal.", "", "Normal."),
        (" COMPARISON: None. Seen elsewhere.\n IMPRESSION: Normal.\n", "", "Normal."),
        ("HISTORY: Cough. FINDINGS: Clear. CLINICAL HISTORY: Pneumonia. IMPRESSION: Normal.", "Clear.", "Normal."),
        (" FINAL REPORT\n PORTABLE CHEST.\n IMPRESSION: Normal.\n", "", "Normal."),
    ],
)
def test_no_heading_swallows_findings_and_no_history_becomes_one(text, findings, impression):
    assert split_sections(text) == Sections(findings, impression)


@pytest.mark.parametrize(
    ("header", "section"),
    [
        ("FINDINGS AND IMPRESSION", "impression"),
        ("FINDINGS/ IMPRESSION", "impression"),
        ("CONCLUSION", "impression"),
        ("IMPERSSION", "impression"),
        ("CHEST, TWO VIEWS", "findings"),
        ("PORTABLE AP CHEST RADIOGRAPH", "findings"),
        ("FINDNGS", "findings"),
    ],
)
def test_header_names(header, section):
    assert getattr(split_sections(f" INDICATION:  Cough.\n \n {header}:  Text of it.\n"), section) == "Text of it."


def test_last_section_with_words_counts():
    text = " FINDINGS: Old.\n IMPRESSION: Old.\n FINDINGS: New.\n IMPRESSION: New.\n FINDINGS:\n IMPRESSION: ___\n"
    assert split_sections(text) == Sections("New.", "New.")


def test_sub_headings_stay_in_the_findings():
    parts = " LUNGS: Clear.\n HEART AND MEDIASTINUM: Normal.\n CHEST WALL: Intact.\n"
    assert split_sections(f" FINDINGS:\n{parts} IMPRESSION: Normal.\n") == Sections(
        "LUNGS: Clear. HEART AND MEDIASTINUM: Normal. CHEST WALL: Intact.", "Normal."
    )
    assert split_sections(f" INDICATION: Cough.\n{parts}").findings.startswith("Clear. HEART")


@pytest.mark.parametrize("addendum", ["ADDENDUM  The side was wrong.", "ADDENDUM:\n IMPRESSION:  The side was wrong."])
def test_addendum_is_set_aside(addendum):
    text = f" FINAL REPORT\n {addendum}\n{UNDERSCORES}\n FINAL REPORT\n FINDINGS:  Clear lungs.\n"
    assert split_sections(text) == Sections(findings="Clear lungs.")


def test_addendum_and_wet_read_at_the_end_do_not_leak():
    text = f" FINDINGS:  Clear.\n IMPRESSION:  Normal.\n{UNDERSCORES}\n ADDENDUM  Wrong side.\n WET READ: Edema.\n"
    assert split_sections(text) == Sections("Clear.", "Normal.")


@pytest.mark.parametrize(
    "text",
    [
        " FINAL REPORT\n INDICATION:  Cough.\n \n Clear lungs.\n \n Normal heart.\n \n NOTIFICATION:  By phone.\n",
        " FINAL REPORT\n CHEST, PA\n \n Clear lungs.\n",
        " COMPARISON:  None.\n \n Clear lungs.\n",
        " INDICATION:\n \n Cough.\n",
        " FINAL REPORT\n \n INDICATION: Cough.\n NOTIFICATION:  By phone.\n \n Again.\n",
    ],
)
def test_a_paragraph_of_its_own_without_header_is_no_section(text):
    assert split_sections(text) == Sections()


def test_words_before_a_colon_are_not_headers():
    text = " FINDINGS:  There are these\n findings: edema. Two tubes: ETT at 3:45 and\n Dobbhoff: both in place.\n"
    assert split_sections(text).findings.startswith("There are these findings: edema.")
    assert split_sections(text).findings.endswith("both in place.")


def test_special_studies():
    assert study_sections(REPORT, "58235663") == Sections()
    assert study_sections(REPORT, "50196495") == Sections()
    assert study_sections(REPORT, "50000001") == study_sections(REPORT, "5" * 5000) == EXPECTED


@settings(max_examples=300)
@given(
    st.lists(
        st.one_of(
            st.text(max_size=12),
            st.sampled_from(
                ["\n", " ", "FINDINGS:", "\nIMPRESSION: ", "\n \n", "ADDENDUM", "_" * 78, "\nWET READ", "LUNGS:"]
            ),
        ),
        max_size=20,
    ).map("".join)
)
def test_any_text_is_split_into_its_own_words(text):
    for study in ("1", "50058765"):
        sections = study_sections(text, study)
        for section in (sections.findings, sections.impression):
            assert section == " ".join(section.split())
            assert all(word in text for word in section.split())


bodies = st.lists(
    st.lists(
        st.sampled_from(
            ["lungs", "clear", "findings", "impression", "of", "10:30", "___", "No", "effusion.", "wet", "read"]
        ),
        min_size=1,
    )
    .map(" ".join)
    .filter(lambda body: re.search(r"[a-z]", body)),
    min_size=1,
    max_size=4,
)


@settings(max_examples=200)
@given(bodies, bodies, st.sampled_from(["\n ", "\n", "\n \n ", "\r\n\r\n"]), st.booleans(), st.booleans())
def test_composed_report_is_split_into_what_it_was_composed_of(findings, impressions, gap, own_line, capitals):
    parts, count = ["FINAL REPORT", "INDICATION: Cough."], max(len(findings), len(impressions))
    for index in range(count):
        for header, texts in (("Findings", findings), ("Impression", impressions)):
            if index < len(texts):
                parts += [(header.upper() if capitals else header) + ":" + (gap if own_line else " ") + texts[index]]
    parts += ["NOTIFICATION: By phone."]
    split = split_sections(" " + gap.join(parts))
    assert (split.findings, split.impression) == (findings[-1], impressions[-1])
