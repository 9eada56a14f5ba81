"""Full fine-tuning (`use_peft: false`) by the real scripts: the weights of a run are a model."""

import json
import re
import shutil
from functools import partial
from pathlib import Path

import pytest
from conftest import _QUESTIONS as LABELS
from conftest import run_script
from sft_faults import Script, die, in_step, losses_of, two_ranks

from e2e.conftest import files_in
from radrecipes.models.weights import FullModel
from radrecipes.reporting.result_tables import BEGIN, END, summary_table

RECIPE = "recipes/tiny/protocol_full.yaml"
RUN = Path("runs/tiny/protocol_full/seed-42")
# Two epochs of six steps, a checkpoint every five; rows are shuffled, so that a wrong random state shows.
TRAIN = ("--config", RECIPE, "--num_train_epochs", "2", "--save_steps", "5")
NOTE = ("--note", "50 yo F, chronic knee pain, r/o meniscal tear")
REPO, TAG = "radiology/tiny-model", "v1.0"
PUBLISHED = [
    "README.md", "chat_template.jinja", "config.json", "decision_policy.json", "generation_config.json", "label_set.yaml",
    "manifest.json", "metrics.json", "model.safetensors", "recipe.yaml", "tokenizer.json", "tokenizer_config.json",
]  # fmt: skip
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


@pytest.mark.slow
def test_a_model_is_published_pulled_and_answers_without_its_base_model(workspace, hub, call):
    assert call("sft", "--config", RECIPE, "--num_train_epochs", "20").code == 0
    assert call("evaluate_model", "--run", RUN).code == 0
    expected = call("predict", "--adapter", RUN, *NOTE).stdout
    publish = ("adapter", "--run", str(RUN), "--repo", REPO, "--tag", TAG, "--base-license", "apache-2.0")
    refused = call("publish", *publish, "--merge", "--dry-run")
    assert refused.code == 2 and "--merge: the run trained all weights" in refused.stderr
    done = run_script(workspace, "scripts/publish.py", *publish, HF_HUB_OFFLINE="0")
    assert done.returncode == 0, done.stdout + done.stderr

    files = hub.repo(REPO).files(TAG)
    assert sorted(files) == PUBLISHED and json.loads(files["manifest.json"])["published"]["kind"] == "model"
    for name in ("model.safetensors", "config.json", "label_set.yaml", "decision_policy.json"):
        assert files[name] == (RUN / "model" / name).read_bytes()
    card = files["README.md"].decode()
    assert "base_model_relation: finetune" in card and "library_name: transformers" in card and "lora" not in card
    assert "Full fine-tuning: all weights of the base model, with the loss on the answers only" in card

    # Another machine: of the base model only its configuration and tokenizer, and no run
    shutil.rmtree("runs")
    BASE_WEIGHTS.unlink()
    pulled = run_script(workspace, "scripts/predict.py", "--adapter", f"{REPO}@{TAG}", *NOTE, HF_HUB_OFFLINE="0")
    assert pulled.returncode == 0 and pulled.stdout == expected, pulled.stderr
    # The card's own snippet, with Transformers alone
    script = re.search(r"```python\n(.*?)```", card, re.DOTALL)[1]
    Path("snippet.py").write_text(script, encoding="utf-8")
    written = run_script(workspace, "snippet.py", HF_HUB_OFFLINE="0")
    assert written.returncode == 0 and written.stdout.strip() in LABELS, written.stderr


@pytest.mark.slow
def test_a_result_over_seeds_is_recorded_and_its_first_losses_are_reproduced(workspace):
    for folder in (workspace, (workspace / RECIPE).parent):
        (folder / "README.md").write_text(f"{BEGIN}\n{END}\n", encoding="utf-8")
    recorded = run_script(workspace, "scripts/reproduce.py", "record", RECIPE, "--seeds", "2")
    assert recorded.returncode == 0, recorded.stderr
    results = json.loads(Path(RECIPE.replace(".yaml", ".results.json")).read_text("utf-8"))
    assert results["seeds"][0]["adapter_sha256"] == FullModel(RUN / "model").sha256
    assert Path("README.md").read_text("utf-8") == f"{BEGIN}\n{summary_table([results])}\n{END}\n"
    checked = run_script(workspace, "scripts/reproduce.py", "check", RECIPE, "--smoke")
    assert checked.returncode == 0 and "bit-identical" in checked.stdout, checked.stdout + checked.stderr


def test_a_plan_counts_all_weights_as_trained(workspace, call):
    for words in ((), ("--gpu", "l4", "--processes", "2")):
        planned = call("recipes", "plan", RECIPE, *words)
        assert planned.code == 0 and "31,392 of 31,392 trained (100.00%)" in planned.stdout, planned.stderr
    assert call("recipes", "check", RECIPE, "--launch", "accelerate_configs/fsdp2.yaml").code == 0
    refused = call("recipes", "check", RECIPE, "--launch", "accelerate_configs/fsdp1_qlora.yaml")
    assert refused.code == 2 and "use fsdp2.yaml" in refused.stderr


def test_what_all_weights_cannot_be_is_refused_in_one_line(workspace, call):
    for words, said in (
        (("--load_in_4bit", "true", "--dtype", "bfloat16"), "quantised weights cannot be trained"),
        (("--lora_r", "4"), "`lora_r` is for adapters"),
    ):
        refused = call("sft", "--config", RECIPE, *words)
        assert refused.code == 2 and said in refused.stderr and refused.stderr.count("\n") == 1
    assert not Path("runs").exists()
