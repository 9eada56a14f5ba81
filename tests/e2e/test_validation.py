"""Validation during training: the best step is kept, training ends early, and a killed run ends as one that nothing interrupted."""

import functools
import json
import shutil
import signal
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import slow_after
from kill_points import signal_at
from sft_faults import Script, before, die, losses_of, two_ranks

from e2e.conftest import RECIPE, RUN, adapter_hash, files_in

# 48 rows in batches of 8: 24 steps in four epochs. Dropout, so that a random number that validation took would show.
TRAIN = ("scripts/sft.py", "--config", RECIPE, "--lora_dropout", "0.1", "--num_train_epochs", "4")
VALIDATED = (
    *("--eval_strategy", "steps", "--eval_steps", "2", "--load_best_model_at_end", "true"),
    *("--metric_for_best_model", "exact_accuracy", "--early_stopping_patience", "3"),
)
ADAPTER = "checkpoints/unfinished/adapter/"


class Validated(NamedTuple):
    """A run that nothing interrupted; `best` is its best step, `last` the one after which it ended."""

    folder: Path
    stderr: str
    best: int
    last: int


def trained(workspace: Path, *words: str, fault=None, code: int = 0) -> Script:
    script = Script(workspace, *TRAIN, *words, fault=fault).end(120)
    assert script.code == code, script.stderr
    return script


def evaluations_of(folder: Path) -> list[dict]:
    """What was measured, without how long it took."""
    lines = [json.loads(line) for line in (folder / "validation_log.jsonl").read_text("utf-8").splitlines()]
    return [{key: value for key, value in line.items() if key != "eval_runtime"} for line in lines]


def validation_of(folder: Path) -> dict:
    """The manifest's facts on validation, without how long it took."""
    facts = json.loads((folder / "manifest.json").read_text("utf-8"))["training"]["validation"]
    del facts["seconds"]
    for line in facts["evaluations"]:
        del line["eval_runtime"]
    return facts


@pytest.fixture(scope="module")
def reference(shared_workspace, tmp_path_factory) -> Validated:
    workspace = tmp_path_factory.mktemp("validated") / "workspace"
    shutil.copytree(shared_workspace, workspace, symlinks=True)
    stderr = trained(workspace, *VALIDATED).stderr
    accuracies = {line["step"]: line["eval_exact_accuracy"] for line in evaluations_of(workspace / RUN)}
    best = max(accuracies, key=accuracies.__getitem__)  # the first of several
    return Validated(workspace / RUN, stderr, best, max(accuracies))


def assert_is(folder: Path, reference: Validated) -> None:
    assert adapter_hash(folder) == adapter_hash(reference.folder)
    assert losses_of(folder) == losses_of(reference.folder)
    assert evaluations_of(folder) == evaluations_of(reference.folder)
    assert validation_of(folder) == validation_of(reference.folder)
    assert set(files_in(folder)) == set(files_in(reference.folder))


def test_training_ends_early_and_keeps_the_weights_of_the_best_step(reference, workspace):
    folder, found = reference.folder, validation_of(reference.folder)
    assert reference.last == reference.best + 6 < 24
    assert len(losses_of(folder)) == reference.last
    assert found["evaluations"] == evaluations_of(folder)
    assert [line["step"] for line in found["evaluations"]] == list(range(2, reference.last + 1, 2))
    assert (found["rows"], found["best_step"], found["kept_step"]) == (7, reference.best, reference.best)
    assert found["best_metric"] == max(line["eval_exact_accuracy"] for line in found["evaluations"])
    assert f"step {reference.last}: validation loss " in reference.stderr
    assert f"stopping after step {reference.last} of 24: no better exact_accuracy than that of" in reference.stderr
    # Exactly what training without validation reaches at that step.
    trained(workspace, "--max_steps", str(reference.best))
    assert adapter_hash(workspace / RUN) == adapter_hash(folder)
    assert losses_of(workspace / RUN) == losses_of(folder)[: reference.best]


# The first call is before training, then one for each evaluation.
IN_EVALUATION = functools.partial(before, "radrecipes.inference.label_scoring", "LabelScorer.score", die)


@pytest.mark.parametrize(
    "fault",
    slow_after(
        2,
        [
            functools.partial(IN_EVALUATION, 4),  # in that of step 6
            ADAPTER,  # all is trained
            functools.partial(IN_EVALUATION, 2),
            "batch",
            "write checkpoints/unfinished/checkpoint-6/trainer_state.json",
            "rename checkpoints/unfinished/checkpoint-6",
            "write .validation_log.jsonl",
            "remove checkpoints/checkpoint-4/",
        ],
    ),
)
def test_a_killed_run_resumes_and_ends_with_the_same_weights_and_evaluations(fault, workspace, reference):
    if isinstance(fault, str):
        nth = 7 if fault == "batch" else 3 if "log" in fault else 1
        fault = functools.partial(signal_at, workspace / RUN, fault, nth)
    trained(workspace, *VALIDATED, fault=fault, code=-signal.SIGKILL)
    trained(workspace, *VALIDATED)
    assert_is(workspace / RUN, reference)


@pytest.mark.slow
@pytest.mark.parametrize("step", [3, 6])
def test_a_stopped_run_resumes_and_ends_with_the_same_weights_and_evaluations(step, workspace, reference):
    trained(workspace, *VALIDATED, "--stop-after", str(step), code=75)
    assert len(evaluations_of(workspace / RUN)) == step // 2
    trained(workspace, *VALIDATED)
    assert_is(workspace / RUN, reference)


def test_a_damaged_best_checkpoint_is_named_before_its_weights_are_used(workspace, reference):
    fault = functools.partial(signal_at, workspace / RUN, ADAPTER)
    trained(workspace, *VALIDATED, fault=fault, code=-signal.SIGKILL)
    kept = {path.name for path in (workspace / RUN / "checkpoints").glob("checkpoint-*")}
    assert kept == {f"checkpoint-{step}" for step in (reference.best, reference.last - 2, reference.last)}
    path = workspace / RUN / f"checkpoints/checkpoint-{reference.best}/adapter_model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    refused = trained(workspace, *VALIDATED, code=3)
    line = (
        f"the best checkpoint until then is lost: checkpoint-{reference.best}: adapter_model.safetensors was changed"
    )
    assert line in refused.stderr.splitlines()[-1] and "Traceback" not in refused.stderr
    assert not (workspace / RUN / "COMPLETE").exists()


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [RECIPE, "recipes/tiny/report_lora.yaml"])
def test_two_processes_measure_what_one_does(recipe, workspace):
    # Seven or eight rows in batches of two: the processes share an odd number of batches, or the last one is not full.
    words = ("scripts/sft.py", "--config", recipe, "--learning_rate", "1e-6", "--eval_strategy", "epoch")
    words = (*words, "--per_device_train_batch_size", "4", "--per_device_eval_batch_size", "2", "--output_dir")
    for script in (*two_ranks(workspace, *words, "runs/two"), Script(workspace, *words, "runs/one")):
        assert script.end(120).code == 0, script.stderr
    (one,), (two,) = (evaluations_of(workspace / "runs" / name) for name in ("one", "two"))
    assert two.pop("eval_loss") == pytest.approx(one.pop("eval_loss"), abs=1e-5)
    assert two == one
