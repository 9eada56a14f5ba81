"""The guard gives out what agrees with its request, whoever wrote it, and says who did."""

from hypothesis import given, settings
from hypothesis import strategies as st

from radrecipes.inference.answers import WrittenReport
from radrecipes.inference.guard import guard_reports
from radrecipes.radiology.observations import NO_FINDING, OBSERVATIONS, Status
from radrecipes.tasks import TASKS

TASK = TASKS["report"]
EFFUSION = {"Pneumothorax": Status.NEGATIVE, "Pleural Effusion": Status.POSITIVE}
RIGHT = "FINDINGS: There is a pleural effusion. No pneumothorax.\nIMPRESSION: Pleural effusion."
FLIPPED = "FINDINGS: No pleural effusion. No pneumothorax.\nIMPRESSION: Normal."
INVENTED = RIGHT.replace("Pleural effusion.", "Pleural effusion and pneumonia.")


def never(places, number):
    raise AssertionError("nothing is to be written again")


def scripted(*rounds):
    """Writes one given text for every refused report in each round."""
    asked = []

    def write_again(places, number):
        asked.append((list(places), number))
        return [WrittenReport(rounds[number - 2], generated_tokens=7) for _ in places]

    return write_again, asked


def test_a_report_that_agrees_is_taken_as_it_is():
    (found,) = guard_reports([EFFUSION], [WrittenReport(RIGHT, generated_tokens=9)], never, TASK, tries=4)
    assert found.reasons == [] and found.report == WrittenReport(RIGHT, generated_tokens=9)


def test_only_refused_reports_are_written_again_until_one_agrees():
    write_again, asked = scripted(INVENTED, RIGHT)
    first = [WrittenReport(text) for text in (RIGHT, FLIPPED, RIGHT)]
    found = guard_reports([EFFUSION] * 3, first, write_again, TASK, tries=4)
    assert asked == [([1], 2), ([1], 3)]
    assert [answer.report.text for answer in found] == [RIGHT] * 3
    assert [answer.report.tries for answer in found] == [1, 3, 1]
    assert found[1].report.source == "model"
    assert found[1].report.reasons == ("contradicts Pleural Effusion", "invents Pneumonia")


def test_after_the_last_try_the_template_writer_writes():
    write_again, asked = scripted(FLIPPED, FLIPPED)
    (found,) = guard_reports([EFFUSION], [WrittenReport(FLIPPED)], write_again, TASK, tries=3)
    assert [number for _, number in asked] == [2, 3]
    assert found.report.source == "template" and found.report.tries == 3
    assert found.reasons == [] and "contradicts Pleural Effusion" in found.report.reasons


def test_a_report_that_never_stopped_is_refused_however_right_it_is():
    (found,) = guard_reports([EFFUSION], [WrittenReport(RIGHT, stopped=False)], never, TASK, tries=1)
    assert found.report.source == "template" and found.report.stopped
    assert found.report.reasons == ("never stopped",)


def test_an_impression_may_leave_out_but_not_contradict():
    task = TASKS["impression"]
    request = task.request({"findings": "There is a pleural effusion. A line is in place. No pneumothorax."})
    (found,) = guard_reports([request], [WrittenReport("Pleural effusion.")], never, task, tries=1)
    assert found.report.source == "model"
    (found,) = guard_reports([request], [WrittenReport("Pneumothorax.")], never, task, tries=1)
    assert found.report.source == "template" and not found.reasons
    assert "IMPRESSION" not in found.report.text


statuses = st.dictionaries(
    st.sampled_from([name for name in OBSERVATIONS if name != NO_FINDING]), st.sampled_from(Status), min_size=1
)


@settings(max_examples=60, deadline=None)
@given(statuses, st.text(max_size=200))
def test_whatever_the_model_writes_what_is_given_out_agrees(request_labels, text):
    write_again, _ = scripted(text)
    (found,) = guard_reports([request_labels], [WrittenReport(text)], write_again, TASK, tries=2)
    assert found.reasons == []
