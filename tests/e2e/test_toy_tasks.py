"""A new task is one file, and its import and entry in tasks/__init__.py: every script then knows it."""

import json
import random
import shutil

import pandas as pd
import pytest
from conftest import REPOSITORY, TINY_MODEL, TINY_RECIPE, TINY_WRITER, run_script

LABEL_TASK = """
from radrecipes.tasks.label_task import LabelTask
from radrecipes.tasks.task import TaskWords


class UrgencyTask(LabelTask):
    name = "urgency"
    input_column = "request"
    instruction = "Choose how soon this is needed."
    words = TaskWords(
        title="Urgency of requests",
        summary="Chooses how soon an examination is needed.",
        example="worst headache of life",
        rows="requests",
        groups="patients",
        answer="urgency",
        answers="urgencies",
        categories="urgencies",
    )
"""
TEXT_TASK = """
from radrecipes.tasks.task import TaskWords
from radrecipes.tasks.text_task import TextCheck, TextTask


class PlainWordsTask(TextTask):
    name = "plain_words"
    input_column = "finding"
    target_column = "explanation"
    instruction = "Explain this finding in plain words."
    words = TaskWords(
        title="Findings in plain words",
        summary="Explains a finding in plain words.",
        example="acute subdural bleed",
        rows="findings",
        groups="patients",
        answer="explanation",
        answers="explanations",
    )

    def check(self, inputs, text):
        return TextCheck(() if text.strip() else ("empty",))
"""
URGENCIES = {"worst headache of life": "now", "chronic knee pain": "next month", "new stroke": "today"}
EXPLANATIONS = {"bleed": "There is blood.", "tear": "It is torn.", "stroke": "Too little blood came."}
# Runs every command in one interpreter, which imports torch once.
DRIVER = """
import json, runpy, sys
for name, *words in json.loads(sys.argv[1]):
    print("$", name, *words, flush=True)
    sys.argv = [f"scripts/{name}.py", *words]
    sys.path[0] = "scripts"
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise
"""


@pytest.fixture(scope="module")
def checkout(shared_workspace, tmp_path_factory):
    """A copy of this checkout with two more tasks."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("src", "scripts", "accelerate_configs"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(shared_workspace / "models", folder / "models")
    tasks = folder / "src" / "radrecipes" / "tasks"
    (tasks / "urgency.py").write_text(f'"""Task `urgency`."""\n{LABEL_TASK}', encoding="utf-8")
    (tasks / "plain_words.py").write_text(f'"""Task `plain_words`."""\n{TEXT_TASK}', encoding="utf-8")
    listed = (tasks / "__init__.py").read_text(encoding="utf-8")
    for module, kind in (("urgency", "UrgencyTask"), ("plain_words", "PlainWordsTask")):
        listed = listed.replace(
            "from radrecipes.tasks.protocol",
            f"from radrecipes.tasks.{module} import {kind}\nfrom radrecipes.tasks.protocol",
        ).replace("        ProtocolTask(),\n", f"        ProtocolTask(),\n        {kind}(),\n")
    (tasks / "__init__.py").write_text(listed, encoding="utf-8")
    return folder


def recipe(task, longest):
    return (
        TINY_RECIPE.replace("task: protocol\ndataset: data/tiny", f"task: {task}\ndataset: data/{task}")
        .replace("protocol labelling", task)
        .replace("recipes/tiny/protocol_lora", f"recipes/tiny/{task}")
        .replace("max_new_tokens: 12", f"max_new_tokens: {longest}")
        .replace("num_train_epochs: 1", "num_train_epochs: 12")
        .replace(TINY_MODEL, TINY_WRITER)
    )


def write_rows(path, pairs, columns):
    """Ninety rows, each of a patient of its own, whose ages tell them apart."""
    draw = random.Random(0)
    rows = [
        {"patient": f"p{number}", columns[0]: f"{20 + number} yo {draw.choice('MF')}, {text}", columns[1]: answer}
        for number in range(90)
        for text, answer in [list(pairs.items())[number % len(pairs)]]
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def commands(task, target):
    """The words of every command, from the table to the model card."""
    run = f"runs/tiny/{task}/seed-42"
    columns = f"--text-column text --{target}-column {target} --group-column patient --near-duplicate-threshold 1"
    terms = f"--access synthetic --license apache-2.0 --output data/{task}"
    release = f"--repo org/{task} --tag v1.0 --base-license apache-2.0 --acknowledge identifiers --dry-run"
    lines = (
        f"prepare_data {task} --source {task}.jsonl {columns} {terms}",
        f"recipes inspect recipes/tiny/{task}.yaml",
        f"sft --config recipes/tiny/{task}.yaml",
        f"evaluate_model --run {run}",
        f"predict --adapter {run} --input {task}.jsonl --text-column text --output {task}.csv",
        f"publish adapter --run {run} {release}",
    )
    return [line.split() for line in lines]


@pytest.fixture(scope="module")
def done(checkout):
    """Both tasks taken through every script."""
    write_rows(checkout / "urgency.jsonl", URGENCIES, ("text", "label"))
    write_rows(checkout / "plain_words.jsonl", EXPLANATIONS, ("text", "target"))
    (checkout / "recipes" / "tiny").mkdir(parents=True)
    for task, longest in (("urgency", 8), ("plain_words", 24)):
        (checkout / "recipes" / "tiny" / f"{task}.yaml").write_text(recipe(task, longest), encoding="utf-8")
    words = json.dumps([*commands("urgency", "label"), *commands("plain_words", "target")])
    finished = run_script(checkout, "-c", DRIVER, words, PYTHONPATH=str(checkout / "src"))
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


@pytest.mark.slow
def test_a_label_task_is_prepared_trained_evaluated_predicted_and_described(checkout, done):
    metrics = json.loads((checkout / "runs/tiny/urgency/seed-42/evaluation/metrics.json").read_text("utf-8"))
    assert metrics["task"] == "urgency" and metrics["systems"]["adapter"]["exact_accuracy"]["value"] > 0.9
    assert {"majority", "fine_tuned_encoder", "base"} <= set(metrics["systems"])
    answers = pd.read_csv(checkout / "urgency.csv")
    assert len(answers) == 90 and fraction_right(answers["label"], URGENCIES) > 0.9
    assert "Chooses how soon an examination is needed." in done and "name: Urgency of requests" in done
    assert "Protocols from orders" not in done and "protocol" not in page(checkout, "urgency")


@pytest.mark.slow
def test_a_text_task_is_prepared_trained_evaluated_predicted_and_described(checkout, done):
    metrics = json.loads((checkout / "runs/tiny/plain_words/seed-42/evaluation/metrics.json").read_text("utf-8"))
    assert metrics["task"] == "plain_words" and metrics["figures"] == [
        "passed_rate",
        "rouge_l",
        "bleu",
        "never_stopped_rate",
    ]
    assert metrics["systems"]["adapter_guarded"]["rouge_l"]["value"] > 0.8
    assert "label_recall" not in metrics["systems"]["adapter"] and "nearest_neighbour" in metrics["systems"]
    answers = pd.read_csv(checkout / "plain_words.csv")
    assert len(answers) == 90 and set(answers["check"]) == {"ok"} and set(answers["written_by"]) == {"model"}
    assert fraction_right(answers["answer"], EXPLANATIONS) > 0.9
    assert "Explains a finding in plain words." in done and "name: Findings in plain words" in done
    assert "X-ray" not in page(checkout, "plain_words") and "observations" not in page(checkout, "plain_words")


def fraction_right(answers, pairs):
    """How many of the ninety rows of [`write_rows`] got their own answer; the answers are in the order of the rows."""
    expected = [list(pairs.values())[number % len(pairs)] for number in range(90)]
    return sum(answer == right for answer, right in zip(answers, expected, strict=True)) / 90


def page(checkout, task):
    """The evaluation page."""
    return (checkout / f"runs/tiny/{task}/seed-42/evaluation/report.html").read_text(encoding="utf-8")
