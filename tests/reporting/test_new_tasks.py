"""A new task gets its page, tables and card from what it says of itself; reporting and publishing do not know it."""

import pandas as pd
import pytest
from page_reader import Page
from publishing.cards.test_model_card import RELEASE, manifest_of

from radrecipes.evaluation.text_evaluation import TextEvaluation
from radrecipes.inference.answers import WrittenText
from radrecipes.publishing.cards.model_card import render_model_card
from radrecipes.reporting.page import write_page
from radrecipes.reporting.result_tables import metrics_table
from radrecipes.tasks import TASKS, LabelTask, TaskWords, TextCheck, TextTask


class Urgency(LabelTask):
    """How urgent a referral is."""

    name, input_column, instruction = "urgency", "referral", "How urgent is this referral?"
    words = TaskWords(
        title="Urgency of referrals",
        summary="Grades referrals by urgency.",
        example="chest pain since this morning",
        rows="referrals",
        answer="grade",
        answers="grades",
        tags=("triage",),
        intended_use="For a toy.",
        limits=("It knows three grades.",),
    )


class Summary(TextTask):
    """One sentence on a referral."""

    name, input_column, target_column, instruction = "summary", "referral", "summary", "Summarise this referral."
    words = TaskWords("Summaries", "Summarises referrals.", "chest pain", "referrals", answer="summary")

    def check(self, inputs, text):
        """Refuses questions."""
        return TextCheck(("asks a question",) if "?" in text else ())


@pytest.fixture
def tasks(monkeypatch):
    for task in (Urgency(), Summary()):
        monkeypatch.setitem(TASKS, task.name, task)


def page_of(folder, metrics, predictions):
    path = write_page(
        folder,
        title="Tiny",
        metrics=metrics,
        predictions=predictions,
        dataset_manifest={"access": "synthetic"},
        run_manifest={"data": {"access": "synthetic"}},
        train_log=[],
    )
    return Page(path.read_text("utf-8")).words.replace("\u202f", " ")


def card_of(metrics):
    metrics["seeds"]["training"] = 42
    return render_model_card(manifest_of(metrics["task"]), metrics, **RELEASE)


def test_a_new_label_task(tasks, make_metrics, tmp_path):
    metrics = make_metrics() | {"task": "urgency"}
    names = [row["label"] for row in metrics["systems"]["adapter"]["per_label"]]
    table = pd.DataFrame(
        {
            "id": ["1", "2"],
            "referral": ["knee pain", "a fall"],
            "reference": names[:2],
            "adapter_text": names[:1] * 2,
            "adapter_label": names[:1] * 2,
        }
    )
    words = page_of(tmp_path, metrics, table)
    assert "chose the correct grade for 90.0 % of 200 referrals not seen in training" in words
    assert "a fall" in words.split("Wrong answers")[-1]
    assert "protocol" not in words.split("Run: configuration")[0].lower() and "order" not in words.split("Run:")[0]
    card = card_of(metrics)
    assert "Grades referrals by urgency." in card and "- It knows three grades.\n" in card and "- triage\n" in card
    assert "type: text-classification" in card and "protocols" not in card.split("## Hardware")[0]
    assert "exact accuracy" in metrics_table(metrics)


def test_a_new_text_task(tasks, tmp_path):
    rows = [
        {"id": str(n), "group": str(n), "referral": f"pain {n} in the knee", "summary": f"knee pain {n}"}
        for n in range(20)
    ]
    evaluation = TextEvaluation(TASKS["summary"], rows)
    written = [WrittenText(f"knee pain {n}" if n % 4 else "why?") for n in range(20)]
    systems = {"adapter_guarded": written, "adapter": written, **evaluation.baselines(evaluation).write(evaluation)}
    checks = evaluation.checks(systems)
    metrics = evaluation.metrics(
        systems,
        checks,
        split="test",
        dataset={"name": "made_up", "access": "synthetic", "digest": "d" * 64},
        decoding={"method": "generate", "max_new_tokens": 20, "tries": 2, "temperature": 0.7},
        seeds={"training": 42, "bootstrap": 0},
        resamples=50,
    )
    words = page_of(tmp_path, metrics, evaluation.table(systems, checks, "synthetic"))
    assert "wrote for 20 referrals not seen in training, 75.0 % passed every check" in words
    assert "asks a question" in words and "pain 4 in the knee" in words.split("The worst")[-1]
    assert "template sentences" not in words and "observation" not in words.lower()
    card = card_of(metrics)
    assert "Summarises referrals." in card and "5 failed every time" in card and "bservations" not in card
    assert "guard:" in metrics_table(metrics)
