"""Tasks `report` and `impression`: what the model reads and writes, and what a user may give."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from radrecipes.errors import InputError
from radrecipes.radiology.observations import OBSERVATIONS, Status, format_observations
from radrecipes.tasks import TASKS

ROW = {
    "id": "s1",
    "group": "p1",
    "observations": "Pneumothorax: negative; Pleural Effusion: positive",
    "findings": "There is a pleural effusion. No pneumothorax.",
    "impression": "Pleural effusion.",
}
REPORT, IMPRESSION = TASKS["report"], TASKS["impression"]


def test_report_is_written_from_observations():
    assert REPORT.question(REPORT.inputs(ROW)).splitlines() == [
        REPORT.instruction,
        "Present: Pleural Effusion",
        "Absent: Pneumothorax",
    ]
    assert REPORT.target(ROW).splitlines() == [
        "FINDINGS: There is a pleural effusion. No pneumothorax.",
        "IMPRESSION: Pleural effusion.",
    ]
    assert REPORT.request(REPORT.inputs(ROW)) == {
        "Pneumothorax": Status.NEGATIVE,
        "Pleural Effusion": Status.POSITIVE,
    }
    assert REPORT.categories(ROW) == ["Pneumothorax: negative", "Pleural Effusion: positive"]


@given(st.dictionaries(st.sampled_from(OBSERVATIONS[:-1]), st.sampled_from(Status)))
def test_every_observation_is_once_in_the_prompt_after_its_status(request_labels):
    headings = {"Present": Status.POSITIVE, "Possible": Status.UNCERTAIN, "Absent": Status.NEGATIVE}
    prompt = REPORT.question({"observations": format_observations(request_labels)})
    read = {}
    for line in prompt.splitlines()[1:]:
        heading, _, names = line.partition(": ")
        read |= dict.fromkeys(names.split(", "), headings[heading]) if names else {}
    assert read == request_labels and ("none stated" in prompt) == (not request_labels)


def test_a_section_that_a_study_lacks_has_no_header():
    assert REPORT.target({**ROW, "findings": ""}) == "IMPRESSION: Pleural effusion."


def test_impression_is_written_from_findings():
    assert IMPRESSION.question(IMPRESSION.inputs(ROW)).splitlines() == [IMPRESSION.instruction, ROW["findings"]]
    assert IMPRESSION.target(ROW) == "Pleural effusion."
    request = IMPRESSION.request(IMPRESSION.inputs(ROW))
    assert request == {"Pneumothorax": Status.NEGATIVE, "Pleural Effusion": Status.POSITIVE}


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("pleural effusion: 1; EDEMA: 0", "Edema: negative; Pleural Effusion: positive"),
        ("Pneumonia: -1.0, Airspace Opacity: yes.", "Lung Opacity: positive; Pneumonia: uncertain"),
        ("Cardiomegaly: positive\nFracture: absent\n", "Cardiomegaly: positive; Fracture: negative"),
        ("none stated", "none stated"),
    ],
)
def test_observations_by_hand_are_read_as_training_saw_them(written, read):
    assert REPORT.read_input(written) == {"observations": read}
    assert REPORT.read_input(read) == {"observations": read}


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("Plural Effusion: positive", "pair 1: no observation has this name; did you mean 'Pleural Effusion'?"),
        ("Edema: 1;; Pneumonia", "pair 2 has no status; write for example `Edema: positive`"),
        ("Edema: maybe", "pair 1: the status of Edema is unknown; write positive, negative or uncertain"),
        ("Edema: 1; edema: 0", "Edema occurs twice; keep one"),
        ("No Finding: 1; Edema: -1", "No Finding contradicts Edema: uncertain; remove one"),
        (" ", "no observations; write for example"),
    ],
)
def test_observations_that_cannot_be_meant_are_refused_with_the_mend(written, message):
    with pytest.raises(InputError, match=f"^--text: {message.replace('?', '[?]')}"):
        REPORT.read_input(written, "--text")


def test_empty_findings_are_refused():
    assert IMPRESSION.read_input(" Lungs are\n clear. ") == {"findings": "Lungs are clear."}
    with pytest.raises(InputError, match="the findings are empty"):
        IMPRESSION.read_input(" \n")


def test_both_tasks_take_a_report_dataset_and_no_other():
    def dataset(task, *impressions):
        split = {"findings": ["Clear."] * len(impressions), "impression": list(impressions)}
        return SimpleNamespace(
            task=task, folder="data/x", splits=dict.fromkeys(("train", "validation", "test"), split)
        )

    for task in (REPORT, IMPRESSION):
        task.check_dataset(dataset("report", "Normal."))
        with pytest.raises(InputError, match="prepared for the task protocol"):
            task.check_dataset(dataset("protocol", "Normal."))
    REPORT.check_dataset(dataset("report", "Normal.", ""))
    with pytest.raises(InputError, match="--sections both"):
        IMPRESSION.check_dataset(dataset("report", "Normal.", ""))
