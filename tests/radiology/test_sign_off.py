import pytest

from radrecipes.radiology.sign_off import without_sign_off

SIGNED = [
    "Electronically signed by Jane Q. Doe, M.D. on 01/02/2026 at 3:04 PM.",
    "ELECTRONICALLY SIGNED BY: DOE, JANE 01/02/2026 15:04",
    "Electronically signed by:\nJane Doe\n01/02/2026 3:04 PM",
    "This report was electronically signed by JANE DOE MD at 3:04 PM on 01/02/2026.",
    "Reported by Dr Jane Doe, Consultant Radiologist. GMC 1234567",
    "Reported by: Dr J Doe\nConsultant Radiologist\nGMC: 1234567",
    "Dictated by: J. Doe, DO\nTranscribed on 1/2/2026",
    "Signed by: Jane Doe, MD",
    "D: 01/02/2026 T: 01/02/2026",
    "Attending radiologist: Jane Doe",
    "I have personally reviewed the images and the resident's interpretation and agree with\nthe findings above.",
    "I, the attending radiologist, have personally reviewed the study and concur.",
    "As the teaching physician, I attest that I reviewed the images and agree with this report.",
    "This report was created with voice recognition software.",
    "END OF IMPRESSION",
]


@pytest.mark.parametrize("signed", SIGNED)
@pytest.mark.parametrize("between", ["\n", "\n\n"])
def test_a_sign_off_is_removed_and_no_sentence_around_it(signed, between):
    text = f"FINDINGS: The lungs are clear.{between}{signed}{between}IMPRESSION: No acute disease."
    assert " ".join(without_sign_off(text).split()) == "FINDINGS: The lungs are clear. IMPRESSION: No acute disease."


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("No edema. Electronically signed by Jane Doe, M.D. on 1/2/2026. Heart normal.", "No edema. Heart normal."),
        ("Clear lungs Electronically Signed By: DOE 1/2/2026 3:04 PM No effusion", "Clear lungs No effusion"),
        ("No edema. Signed by: Doe, Jane M.D. The lungs are clear.", "No edema. The lungs are clear."),
        ("Small effusion. I have reviewed the images and agree. Clear apices.", "Small effusion. Clear apices."),
    ],
)
def test_in_one_line_the_sentences_behind_a_signature_stay(text, left):
    assert " ".join(without_sign_off(text).split()) == left


@pytest.mark.parametrize(
    "text",
    [
        "Reviewed with Dr. Doe by telephone. The nodule read by the outside hospital is stable.",
        "I have reviewed the images and there is a small effusion.",
        "I personally reviewed the outside CT: a nodule is new.",
        "T: 5 mm nodule. The attending was told of the pneumothorax.",
        "Findings dictated at 3:04 PM were called to the ward. Approval is pending.",
        "Dyspnoea reported by the patient. Reported by patient as chronic. GMC is no finding.",
        "Radiologist notified of a pneumothorax at 15:04.",
    ],
)
def test_a_sentence_about_the_patient_is_not_a_sign_off(text):
    assert without_sign_off(text) == text


@pytest.mark.parametrize(
    "unit", ["Dictated by A. ", "As the attending ", "Signed by:\nAa Aa\n", " ", "\n", "I have reviewed "]
)
def test_a_long_text_takes_time_in_proportion_to_its_length(unit):
    without_sign_off(unit * (100_000 // len(unit)))
