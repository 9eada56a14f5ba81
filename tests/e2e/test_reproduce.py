"""Recording a result over seeds and checking it, by the real scripts: from the recipe, and from a release on the Hub."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import TINY_MODEL, TINY_RECIPE, TINY_WRITER, run_script, write_tiny_dataset
from tiny_model import CHATML

from e2e.conftest import edit_json
from radrecipes.evaluation.reproduction import compare_new_seed
from radrecipes.models.weights import weights_in
from radrecipes.reporting.result_tables import BEGIN, END, results_table

RECIPE = "recipes/tiny/protocol_lora.yaml"
TEMPLATE = "recipes/tiny/chat_template.jinja"
RESULTS = "recipes/tiny/protocol_lora.results.json"
RUNS = "runs/tiny/protocol_lora"
REPO, DATASET_REPO, TAG = "radiology/tiny-protocols", "radiology/tiny-orders", "v1.0"
CHECK = ("scripts/reproduce.py", "check")


class Recorded(NamedTuple):
    """A workspace with a recorded recipe, and what recording said."""

    workspace: Path
    said: subprocess.CompletedProcess


# Each of them needs two recorded seeds: a minute and a half.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def recorded(shared_workspace, tmp_path_factory) -> Recorded:
    """A recipe that answers most orders right, recorded over two seeds. Read only."""
    workspace = tmp_path_factory.mktemp("recorded") / "workspace"
    shutil.copytree(shared_workspace, workspace, symlinks=True)
    recipe = TINY_RECIPE.replace(TINY_MODEL, TINY_WRITER).replace("num_train_epochs: 1", "num_train_epochs: 15")
    # Its own chat template, next to it, which has another digest than the tokenizer's; a release brings no recipes along.
    (workspace / TEMPLATE).write_text("{#- The recipe's own. -#}" + CHATML, encoding="utf-8")
    (workspace / RECIPE).write_text(f"{recipe}chat_template_path: {TEMPLATE}\n", encoding="utf-8")
    # One document has a place for its table, the other has none.
    (workspace / RECIPE).with_name("README.md").write_text(f"{BEGIN}\n{END}\n", encoding="utf-8")
    (workspace / "README.md").write_text("mine\n", encoding="utf-8")
    return Recorded(workspace, run_script(workspace, "scripts/reproduce.py", "record", RECIPE, "--seeds", "2"))


@pytest.fixture
def copy(recorded, tmp_path, monkeypatch) -> Path:
    """A copy of the recorded workspace, which is also the working directory of the test."""
    folder = tmp_path / "workspace"
    shutil.copytree(recorded.workspace, folder, symlinks=True)
    monkeypatch.chdir(folder)
    return folder


def test_recording_runs_the_first_seeds_and_writes_down_how_each_was_made(recorded):
    assert recorded.said.returncode == 0, recorded.said.stderr
    assert "seed 42 (1 of 2)" in recorded.said.stdout and "seed 1 (2 of 2)" in recorded.said.stdout
    result = json.loads((recorded.workspace / RESULTS).read_text("utf-8"))
    assert [row["seed"] for row in result["seeds"]] == [42, 1]
    assert result["command"] == f"python scripts/reproduce.py record {RECIPE} --seeds 2"
    assert result["systems"]["base"]["exact_accuracy"]["n"] == 1  # with the first seed only
    table = results_table([result])
    assert (recorded.workspace / RECIPE).with_name("README.md").read_text("utf-8") == f"{BEGIN}\n{table}\n{END}\n"
    assert (recorded.workspace / "README.md").read_text("utf-8") == "mine\n"
    assert table in recorded.said.stdout and "\nREADME.md stays as it is: " in recorded.said.stdout
    for row in result["seeds"]:
        folder = recorded.workspace / RUNS / f"seed-{row['seed']}"
        manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
        log = [json.loads(line) for line in (folder / "train_log.jsonl").read_text("utf-8").splitlines()]
        assert row["first_losses"] == manifest["training"]["first_losses"] == [line["loss"] for line in log[:10]]
        assert row["adapter_sha256"] == weights_in(folder / "adapter").sha256
        assert row["training_code"] == manifest["code"] and row["evaluation_code"].keys() == {"commit", "changed"}


def change_the_learning_rate(workspace):
    path = workspace / RECIPE
    path.write_text(path.read_text("utf-8").replace("learning_rate: 1.0e-2", "learning_rate: 2.0e-2"), "utf-8")


def change_the_data(workspace):
    shutil.rmtree(workspace / "data/tiny")
    write_tiny_dataset(workspace / "data/tiny", rows=56)


def change_the_prompt(workspace):
    (workspace / TEMPLATE).write_text(
        "{% for message in messages %}<|im_start|>{{ message.role }}: {{ message.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant: {% endif %}",
        encoding="utf-8",
    )


def change_the_base(workspace):
    shutil.copy(workspace / "models" / TINY_MODEL / "model.safetensors", workspace / "models" / TINY_WRITER)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (change_the_learning_rate, "recipe.learning_rate: 0.01 before, 0.02 now"),
        (change_the_data, "data.digest: "),
        (change_the_prompt, "prompt.sha256: "),
        (change_the_base, "base.weights_sha256: "),
    ],
    ids=["learning rate", "data", "prompt", "base"],
)
def test_what_is_not_as_published_fails_at_once_and_is_named_first(copy, call, change, field):
    change(copy)
    for words in ((), ("--smoke",)):
        failed = call("reproduce", "check", RECIPE, *words)
        assert failed.code == 1 and failed.stderr == "", failed.stdout + failed.stderr
        lines = failed.stdout.splitlines()
        assert lines[lines.index("not as published:") + 1].strip().startswith(field)
        assert lines[-1].startswith(f"FAIL: {field.split(':')[0]} is not as published; nothing was trained")
    assert not (copy / "runs/check").exists()


def edit_results(workspace, **changes):
    edit_json(workspace / RESULTS, **changes)


def keep_one_seed(workspace):
    edit_results(workspace, seeds=json.loads((workspace / RESULTS).read_text("utf-8"))["seeds"][:1])


@pytest.mark.parametrize(
    ("prepare", "words", "message"),
    [
        (lambda w: (w / RESULTS).unlink(), (RECIPE,), "is missing, so there is nothing to compare with"),
        (lambda w: (w / RESULTS).write_text("{", "utf-8"), (RECIPE,), "is not a result over seeds"),
        (keep_one_seed, (RECIPE,), "a single recorded seed gives no prediction interval"),
        (lambda w: None, (RECIPE, "--seed", "1"), "--seed: 1 is a recorded seed"),
        (lambda w: None, (RECIPE, "--smoke", "--seed", "7"), "--seed: is not used with --smoke"),
        (lambda w: None, (RECIPE, "--dataset", "data/none"), "no such dataset folder"),
        (lambda w: None, (RECIPE, "--dataset", "data/openi_reports"), "make it with `make openi`"),
        (lambda w: None, ("recipes/none.yaml",), "no such recipe"),
        (lambda w: (w / "data/tiny/test.parquet").write_bytes(b""), (RECIPE,), "changed since the manifest"),
    ],
)
def test_wrong_input_ends_in_one_line(copy, call, prepare, words, message):
    prepare(copy)
    refused = call("reproduce", "check", *words)
    assert refused.code == 2 and message in refused.stderr, refused.stdout + refused.stderr
    assert refused.stderr.startswith("error: ") and refused.stderr.count("\n") == 1
    assert not (copy / "runs/check").exists()


def test_the_first_losses_are_the_recorded_ones_to_the_bit_and_one_that_is_not_fails(copy):
    rows = json.loads((copy / RESULTS).read_text("utf-8"))["seeds"]
    rows[0]["first_losses"][9] *= 1 + 1e-7
    edit_results(copy, seeds=rows)
    done = run_script(copy, *CHECK, RECIPE, "--smoke")
    assert done.returncode == 1, done.stderr
    assert done.stdout.endswith("FAIL: 9 of 10 losses of seed 42 are bit-identical\n")
    assert done.stdout.count(" PASS\n") == 9 and not (copy / "runs/check").exists()


def test_a_release_is_checked_with_nothing_but_its_name(copy, hub):
    publish = ("scripts/publish.py", "adapter", "--run", f"{RUNS}/seed-42", "--repo", REPO, "--tag", TAG)
    for words in (
        ("scripts/publish.py", "dataset", "--dataset", "data/tiny", "--repo", DATASET_REPO, "--tag", TAG),
        (*publish, "--base-license", "apache-2.0", "--dataset-repo", f"{DATASET_REPO}@{TAG}"),
    ):
        done = run_script(copy, *words, HF_HUB_OFFLINE="0")
        assert done.returncode == 0, done.stdout + done.stderr
    files = hub.repo(REPO).files(TAG)
    assert json.loads(files["results.json"]) == json.loads((copy / RESULTS).read_text("utf-8"))
    assert f"reproduce.py check {REPO}@{TAG}\n".encode() in files["README.md"]
    assert files["chat_template.jinja"].decode() == (copy / TEMPLATE).read_text("utf-8") != CHATML

    # Another machine: the base, and neither runs nor data nor recipes
    for name in ("runs", "data", "recipes"):
        shutil.rmtree(copy / name)
    done = run_script(copy, *CHECK, f"{REPO}@{TAG}", HF_HUB_OFFLINE="0")
    assert "recipe, data, prompt and base model are as published" in done.stdout
    assert f"evaluating {REPO}@{TAG} again" in done.stdout and "training with seed 2\n" in done.stdout
    # Two seeds of a tiny model say little of a third; the released weights themselves answer as they did.
    assert "FAIL" not in done.stdout.partition("training with seed 2\n")[0]
    verdict = done.stdout.splitlines()[-1]
    (found,) = (
        json.loads(path.read_text("utf-8")) for path in copy.glob("runs/check/**/seed-2/evaluation/metrics.json")
    )
    verdicts = [one.passed for one in compare_new_seed(json.loads(files["results.json"]), found)]
    passed = any(verdicts) and False not in verdicts
    assert verdict.startswith("PASS: " if passed else "FAIL: ") and done.returncode == int(not passed), done.stderr
    assert os.listdir(copy / "runs") == ["check"]


@pytest.mark.parametrize(
    "handler", ["lambda *_: sys.exit(75)", "signal.SIG_DFL"], ids=["in order", "while it imports"]
)
def test_a_step_that_is_told_to_stop_stops_and_this_one_leaves_with_75(handler):
    step = (
        f"import signal, sys, time; signal.signal(signal.SIGTERM, {handler}); print('up', flush=True); time.sleep(60)"
    )
    words = f"run_step(['-c', {step!r}], accepted=(0, 75))"
    code = f"import sys; sys.path.insert(0, 'scripts'); from reproduce import run_step; {words}"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout.readline() == "up\n"
        running.send_signal(signal.SIGTERM)
        _, said = running.communicate(timeout=30)
    assert running.returncode == 75 and "run the same command again to continue" in said
