"""The guard returns what agrees with its input, written by the model or not, and names the writer."""

from hypothesis import given, settings
from hypothesis import strategies as st

from radrecipes.inference.answers import WrittenText
from radrecipes.inference.guard import guard_texts
from radrecipes.radiology.observations import NO_FINDING, OBSERVATIONS, Status, format_observations
from radrecipes.tasks import TASKS, TextCheck, TextTask

TASK = TASKS["report"]
EFFUSION = {"observations": "Pneumothorax: negative; Pleural Effusion: positive"}
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
        return [WrittenText(rounds[number - 2], generated_tokens=7) for _ in places]

    return write_again, asked


def test_a_report_that_agrees_is_taken_as_it_is():
    (found,) = guard_texts([EFFUSION], [WrittenText(RIGHT, generated_tokens=9)], never, TASK, tries=4)
    assert found.reasons == [] and found.written == WrittenText(RIGHT, generated_tokens=9)


def test_only_refused_reports_are_written_again_until_one_agrees():
    write_again, asked = scripted(INVENTED, RIGHT)
    first = [WrittenText(text) for text in (RIGHT, FLIPPED, RIGHT)]
    found = guard_texts([EFFUSION] * 3, first, write_again, TASK, tries=4)
    assert asked == [([1], 2), ([1], 3)]
    assert [answer.written.text for answer in found] == [RIGHT] * 3
    assert [answer.written.tries for answer in found] == [1, 3, 1]
    assert found[1].written.source == "model"
    assert found[1].written.reasons == ("contradicts Pleural Effusion", "invents Pneumonia")


def test_after_the_last_try_the_template_writer_writes():
    write_again, asked = scripted(FLIPPED, FLIPPED)
    (found,) = guard_texts([EFFUSION], [WrittenText(FLIPPED, generated_tokens=9)], write_again, TASK, tries=3)
    assert found.written.generated_tokens == 9 + 7 + 7
    assert [number for _, number in asked] == [2, 3]
    assert found.written.source == "template" and found.written.tries == 3
    assert found.reasons == [] and "contradicts Pleural Effusion" in found.written.reasons


def test_a_report_that_never_stopped_is_refused_however_right_it_is():
    (found,) = guard_texts([EFFUSION], [WrittenText(RIGHT, stopped=False)], never, TASK, tries=1)
    assert found.written.source == "template" and found.written.stopped
    assert found.written.reasons == ("never stopped",)


def test_an_impression_may_leave_out_but_not_contradict():
    task = TASKS["impression"]
    inputs = {"findings": "There is a pleural effusion. A line is in place. No pneumothorax."}
    (found,) = guard_texts([inputs], [WrittenText("Pleural effusion.")], never, task, tries=1)
    assert found.written.source == "model"
    (found,) = guard_texts([inputs], [WrittenText("Pneumothorax.")], never, task, tries=1)
    assert found.written.source == "template" and not found.reasons
    assert "IMPRESSION" not in found.written.text


statuses = st.dictionaries(
    st.sampled_from([name for name in OBSERVATIONS if name != NO_FINDING]), st.sampled_from(Status), min_size=1
)


@settings(max_examples=60, deadline=None)
@given(statuses, st.text(max_size=200))
def test_whatever_the_model_writes_the_output_agrees(request_labels, text):
    write_again, _ = scripted(text)
    (found,) = guard_texts(
        [{"observations": format_observations(request_labels)}], [WrittenText(text)], write_again, TASK, tries=2
    )
    assert found.reasons == []


class Haiku(TextTask):
    """A task with a check of its own and no fallback."""

    name = "haiku"

    def check(self, inputs, text):
        return TextCheck(() if len(text.splitlines()) == 3 else ("not three lines",))


def test_without_a_fallback_the_last_try_is_returned_with_what_is_wrong_with_it():
    write_again, asked = scripted("two\nlines", "one line")
    found = guard_texts([{}] * 2, [WrittenText("a\nb\nc"), WrittenText("one line")], write_again, Haiku(), tries=3)
    assert asked == [([1], 2), ([1], 3)]
    assert [answer.reasons for answer in found] == [[], ["not three lines"]]
    # The tokens of all attempts: none that was counted of the first one, 7 of each other
    assert found[1].written == WrittenText("one line", generated_tokens=14, tries=3, reasons=("not three lines",))


def test_a_task_without_a_check_refuses_only_what_never_stopped():
    class Anything(TextTask):
        name = "anything"

    found = guard_texts([{}] * 2, [WrittenText(""), WrittenText("on and on", stopped=False)], never, Anything(), 1)
    assert [answer.reasons for answer in found] == [[], ["never stopped"]]
