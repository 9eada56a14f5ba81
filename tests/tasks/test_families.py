"""What every task of a family has: headline metrics, words, checks, rewards."""

import dataclasses

import pytest

from radrecipes.errors import InputError
from radrecipes.tasks import TASKS, LabelTask, ReportWritingTask, TaskWords, TextCheck, TextTask

REPORT_ROW = {
    "observations": "Pneumothorax: negative; Pleural Effusion: positive",
    "findings": "There is a pleural effusion. No pneumothorax.",
    "impression": "Pleural effusion.",
}


class Translation(TextTask):
    """A text task that says nothing but what it must."""

    name = "translation"
    input_column = "source"
    target_column = "english"
    instruction = "Translate this report."
    words = TaskWords("Translations", "Translates a report.", "Kein Pneumothorax.")


class Shouting(Translation):
    """A text task with a check."""

    def check(self, inputs, text):
        return TextCheck(() if text.isupper() else ("not upper case",))


@pytest.mark.parametrize("task", [*TASKS.values(), Translation()], ids=lambda task: task.name)
def test_every_task_describes_itself(task):
    assert task.input_column and task.instruction and isinstance(task, LabelTask) != isinstance(task, TextTask)
    assert all(dataclasses.asdict(task.words)[name] for name in ("title", "summary", "example", "rows", "answer"))
    names = [metric.name for metric in task.headline]
    published = task.published({"systems": {}})
    assert len(names) == len(set(names)) and published and set(published) <= set(task.headline)
    # The example is an input that the task can read.
    assert task.question(task.read_input(task.words.example)).startswith(task.instruction)


def test_the_names_in_recipes_lead_to_the_tasks():
    assert list(TASKS) == ["protocol", "report", "impression"]
    assert all(TASKS[name].name == name for name in TASKS)
    assert [isinstance(task, ReportWritingTask) for task in TASKS.values()] == [False, True, True]


def test_metrics_of_reports_are_those_of_texts_and_of_observations():
    text, report = ([metric.name for metric in kind.headline] for kind in (TextTask, ReportWritingTask))
    assert text == ["passed_rate", "rouge_l", "bleu", "distinct_2", "never_stopped_rate"]
    assert set(report) - set(text) == {
        "label_recall",
        "label_precision",
        "contradiction_rate",
        "invented_positive_rate",
        "template_sentence_rate",
        "judge_finding_recall",
        "judge_contradiction_rate",
    }


def test_a_text_is_rewarded_for_passing_its_check_and_for_its_overlap_with_the_reference():
    row = {"source": "Kein Pneumothorax.", "english": "No pneumothorax is seen."}
    assert Translation().rewards(row, "No pneumothorax is seen.", True) == {"passes": 1.0, "likeness": 1.0}
    # Two of two words are in common, and two of four: F1 2/3.
    assert Translation().rewards(row, "no Pneumothorax", False) == {"passes": 0.0, "likeness": pytest.approx(2 / 3)}
    assert Translation().rewards(row, "", True)["likeness"] == 0.0
    row = {"source": "Kein Pneumothorax.", "english": "No pneumothorax."}
    assert [Shouting().rewards(row, text, True)["passes"] for text in ("No pneumothorax.", "NO PNEUMOTHORAX.")] == [
        0,
        1,
    ]


def test_a_report_is_rewarded_for_each_observation_that_it_states_as_requested():
    task, row = TASKS["report"], {**REPORT_ROW, "observations": "Edema: positive; Pleural Effusion: positive"}

    def labels(findings, impression="Edema."):
        return task.rewards(row, task.compose(findings, impression), True)["labels"]

    assert tuple(task.rewards(row, "", True)) == task.reward_names == ("passes", "labels", "likeness")
    assert labels("There is edema. There is a pleural effusion.") == 1.0
    assert labels("There is edema.") == 0.5  # one of two
    assert labels("There is edema. No pleural effusion.") == 0.5
    assert labels("There is edema. There is a pleural effusion. There is a pneumothorax.") == pytest.approx(2 / 3)
    assert labels("There is a pneumothorax.", "Pneumothorax.") == 0.0
    target = task.rewards(REPORT_ROW, task.target(REPORT_ROW), True)
    assert target == {"passes": 1.0, "labels": 1.0, "likeness": 1.0}
    assert task.rewards(REPORT_ROW, task.target(REPORT_ROW), stopped=False)["passes"] == 0.0


def test_by_default_a_text_task_accepts_every_text_and_has_no_fallback():
    task = Translation()
    assert not task.check({"source": "x"}, "anything").reasons and task.fallback({"source": "x"}) is None
    assert (task.categories({}), task.dataset_task, task.fallback_writer) == ([], "translation", None)
    assert task.read_input(" Kein\u200b  Pneumothorax.\r\n") == {"source": "Kein Pneumothorax."}
    with pytest.raises(InputError, match="--text: the source is empty"):
        task.read_input(" \n", "--text")
