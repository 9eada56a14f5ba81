"""Full fine-tuning (`use_peft: false`) by the real scripts: the weights of a run are a model."""

import json
from functools import partial
from pathlib import Path

import pytest
from sft_faults import Script, die, in_step, losses_of, two_ranks

from e2e.conftest import files_in
from radrecipes.models.weights import FullModel

RECIPE = "recipes/tiny/protocol_full.yaml"
RUN = Path("runs/tiny/protocol_full/seed-42")
# Two epochs of six steps, a checkpoint every five; rows are shuffled, so that a wrong random state shows.
TRAIN = ("--config", RECIPE, "--num_train_epochs", "2", "--save_steps", "5")
NOTE = ("--note", "50 yo F, chronic knee pain, r/o meniscal tear")
BASE_WEIGHTS = Path("models/tiny/llama/model.safetensors")


def test_all_weights_are_trained_evaluated_and_loaded_without_the_base_model(workspace, call):
    trained = call("sft", "--config", RECIPE, "--num_train_epochs", "20")
    assert trained.code == 0, trained.stderr
    assert f"model checked and saved: {RUN}/model\n" in trained.stdout
    assert "31,392 of 31,392 parameters are trained (100.00%)\n" in trained.stdout
    manifest = json.loads((RUN / "manifest.json").read_text("utf-8"))
    assert manifest["model"]["sha256"] == FullModel(RUN / "model").sha256 and manifest["model"]["output_change"] > 0
    assert manifest["training"]["trainable_parameters"] == 31_392 and "adapter" not in manifest
    before = files_in(RUN)
    assert "nothing to do" in call("sft", "--config", RECIPE, "--num_train_epochs", "20").stdout

    evaluated = call("evaluate_model", "--run", RUN)
    assert evaluated.code == 0, evaluated.stderr
    systems = json.loads((RUN / "evaluation/metrics.json").read_text("utf-8"))["systems"]
    assert systems["adapter"]["exact_accuracy"]["value"] > 0.9 > systems["base"]["exact_accuracy"]["value"]
    assert {name: data for name, data in files_in(RUN).items() if name in before} == before

    answers = [call("predict", "--adapter", RUN, *NOTE)]
    BASE_WEIGHTS.unlink()
    answers += [call("predict", "--adapter", folder, *NOTE) for folder in (RUN, RUN / "model")]
    assert answers[0].stdout.startswith("MR Knee\n")
    assert [answer.stdout for answer in answers] == [answers[0].stdout] * 3, answers[1].stderr
    refused = call("evaluate_model", "--run", RUN, "--restart")
    assert refused.code == 2 and "models/tiny/llama: contains no safetensors" in refused.stderr
    assert call("evaluate_model", "--run", RUN, "--restart", "--skip-base").code == 0


def test_a_killed_run_resumes_to_the_same_model(workspace, call):
    assert call("sft", *TRAIN, "--output_dir", "runs/whole").code == 0
    killed = Script(workspace, "scripts/sft.py", *TRAIN, fault=partial(in_step, 8, die)).end()
    assert killed.code != 0 and [path.name for path in (RUN / "checkpoints").glob("c*")] == ["checkpoint-5"]
    resumed = call("sft", *TRAIN)
    assert resumed.code == 0 and "resuming after step 5" in resumed.stdout, resumed.stderr
    assert files_in(RUN / "model") == files_in(Path("runs/whole/model"))
    assert losses_of(RUN) == losses_of(Path("runs/whole"))


@pytest.mark.slow
def test_two_processes_train_all_weights_as_one_does(workspace, call):
    scripts = two_ranks(workspace, "scripts/sft.py", *TRAIN, "--output_dir", "runs/two")
    assert [script.end().code for script in scripts] == [0, 0], scripts[0].stderr
    one = call("sft", *TRAIN, "--output_dir", "runs/one")
    assert one.code == 0, one.stderr
    assert losses_of(Path("runs/two")) == pytest.approx(losses_of(Path("runs/one")), abs=1e-4)
    assert call("predict", "--adapter", "runs/two", *NOTE).code == 0


def test_a_head_is_trained_with_all_weights(workspace, call):
    recipe, run = RECIPE.replace(".yaml", "_head.yaml"), f"{RUN.parent}_head/seed-42"
    trained = call("sft", "--config", recipe, "--num_train_epochs", "8")
    assert trained.code == 0, trained.stderr
    assert call("evaluate_model", "--run", run).code == 0
    systems = json.loads(Path(run, "evaluation/metrics.json").read_text("utf-8"))["systems"]
    assert systems["adapter"]["exact_accuracy"]["value"] == 1.0
    config = json.loads(Path(run, "model/config.json").read_text("utf-8"))
    assert config["architectures"] == ["LlamaForSequenceClassification"] and config["id2label"]["3"] == "MR Knee"
    BASE_WEIGHTS.unlink()
    assert call("predict", "--adapter", run, *NOTE).stdout.startswith("MR Knee\n")


def test_what_all_weights_cannot_be_is_refused_in_one_line(workspace, call):
    for words, said in (
        (("--load_in_4bit", "true", "--dtype", "bfloat16"), "quantised weights cannot be trained"),
        (("--lora_r", "4"), "`lora_r` is for adapters"),
    ):
        refused = call("sft", "--config", RECIPE, *words)
        assert refused.code == 2 and said in refused.stderr and refused.stderr.count("\n") == 1
    assert not Path("runs").exists()
