import pytest

from radrecipes.radiology.exams import exam_in, other_exam


@pytest.mark.parametrize(
    "name",
    [
        "", "CHEST PA AND LATERAL", "PORTABLE CHEST 1 VIEW", "XR CHEST 2 VW", "CHEST (PORTABLE AP)", "PA AND LATERAL", "DX CXR",
        "Chest X-ray, frontal", "XR RIBS LEFT WITH CHEST", "XR CHEST AND ABDOMEN", "XR CHEST AFTER CT GUIDED BIOPSY", "Rx Tórax",
        "TRAUMA #2 (AP CXR & PELVIS PORT)", "CR_CHEST_2V", "CHEST PORT. LINE PLACEMENT", "ROUTINE", "THORAX 2 VIEWS",
    ],
)  # fmt: skip
def test_chest_radiographs_and_names_that_say_nothing_stay(name):
    assert other_exam(name) == ""


@pytest.mark.parametrize(
    ("name", "is_a"),
    [
        ("CT HEAD W/O CONTRAST", "CT of the head or neck"),
        ("HEAD W/O CONTRAST", "radiograph of the head or neck"),
        ("XR KNEE LEFT", "radiograph of the leg"),
        ("CT CHEST", "CT of the chest"),
        ("CTA CHEST PE PROTOCOL", "CT of the chest"),
        ("XR ABDOMEN", "radiograph of the abdomen or pelvis"),
        ("KUB", "radiograph of the abdomen or pelvis"),
        ("MRI L-SPINE", "MRI of the spine"),
        ("US ABD COMPLETE", "ultrasound of the abdomen or pelvis"),
        ("PET/CT WHOLE BODY", "PET"),
        ("MAMMOGRAM SCREENING", "mammography"),
        ("XR_SHOULDER_RT", "radiograph of the arm"),
        ("XR BONE AGE", "radiograph of the skeleton"),
    ],
)
def test_other_exams_are_named_in_general_words(name, is_a):
    assert other_exam(name) == is_a


@pytest.mark.parametrize(
    ("text", "exam"),
    [
        ("EXAM: CT HEAD\nFINDINGS: Normal.", "CT HEAD"),
        (" EXAMINATION:  CHEST (PA AND LAT)\n \n FINDINGS:", "CHEST (PA AND LAT)"),
        ("EXAM: CHEST 2 VIEWS. COMPARISON: CT chest 1/2/2020. FINDINGS: Clear.", "CHEST 2 VIEWS"),
        ("Exam: Chest 2 views Clinical history: Mr Doe", "Chest 2 views"),
        ("EXAM: CHEST, AP PORTABLE. PICC by IR. Normal.", "CHEST, AP PORTABLE"),
        ("Exam: Chest xray, transferred to us, Mr Doe", "Chest xray, transferred to , Doe"),
        ("EXAM: HISTORY: MR DOE", ""),
        ("EXAM: US ABDOMEN\rFINDINGS: Normal.", "US ABDOMEN"),
        ("EXAM: CHEST RADIOGRAPH.", "CHEST RADIOGRAPH"),
        ("FINDINGS: The study is limited.", ""),
        ("EXAM:\nFINDINGS: Normal.", ""),
    ],
)
def test_the_heading_of_a_report_names_its_exam(text, exam):
    assert exam_in(text) == exam
