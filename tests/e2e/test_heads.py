"""A recipe with `decode: head` goes through every step that another recipe does; a head takes no new labels."""

import csv
import functools
import json
import re
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY, run_script
from kill_points import signal_at
from sft_faults import Script, losses_of, two_ranks
from tiny_model import build_tiny_encoder, build_tiny_model

from e2e.conftest import ORDERS, edit_json
from radrecipes.data.label_sets import LabelSet
from radrecipes.data.prepared import load_prepared_dataset
from radrecipes.evaluation.label_baselines import BASELINES
from radrecipes.inference.predictors import load_predictor
from radrecipes.publishing.merging import merge_adapter
from radrecipes.publishing.release import assemble_model, read_finished_run
from radrecipes.tasks import TASKS

RECIPE, RUN = "recipes/tiny/protocol_head.yaml", "runs/tiny/protocol_head/seed-42"
REPO, TAG = "radiology/tiny-head", "v1.0"
# Enough steps that the tiny model learns its four questions by heart.
EPOCHS = ("--num_train_epochs", "8")
# A wrong random state shows after a resume.
DROPOUT = ("--lora_dropout", "0.1")


ENCODER_RECIPE = """\
# bert · full fine-tuning, head · protocol labelling. Tests only, seconds. Global batch 8.

task: protocol
dataset: data/tiny
prompt_style: input
batch_layout: padded
model_name_or_path: tiny/bert
model_revision: 0a1b2c3d4e5f60718293a4b5c6d7e8f901234567
dtype: float32
use_peft: false
global_batch_size: 8
learning_rate: 5.0e-3
num_train_epochs: 1
seed: 42
decode: head
"""


def use_an_encoder(workspace):
    build_tiny_encoder(workspace / "models", "tiny/bert", max_position_embeddings=160)
    Path(RECIPE).write_text(ENCODER_RECIPE, encoding="utf-8")


@pytest.mark.parametrize("base", ["causal", "encoder"])
def test_a_head_is_trained_evaluated_and_predicts(base, workspace, call):
    more, weights = DROPOUT, "adapter/adapter_model.safetensors"
    if base == "encoder":  # which has dropout of its own
        use_an_encoder(workspace)
        more, weights = (), "model/model.safetensors"
    checked = call("recipes", "check", RECIPE)
    assert checked.code == 0 and "0 left out, 4 labels" in checked.stdout
    # Killed in the third epoch, resumed, and the same to the bit as what nothing interrupted
    words = ("scripts/sft.py", "--config", RECIPE, *EPOCHS, *more)
    killed = Script(workspace, *words, fault=functools.partial(signal_at, RUN, "batch", 14)).end()
    assert killed.code < 0, killed.stderr
    resumed = call("sft", *words[1:])
    assert resumed.code == 0 and "resuming after step" in resumed.stdout, resumed.stderr
    assert "; the head learns to choose ⟦…⟧:" in resumed.stdout and "4 labels" in resumed.stdout
    whole = call("sft", *words[1:], "--output_dir", "runs/whole")
    assert whole.code == 0, whole.stderr
    assert losses_of(Path(RUN)) == losses_of(Path("runs/whole"))
    assert Path(RUN, weights).read_bytes() == Path("runs/whole", weights).read_bytes()
    assert call("sft", *words[1:]).stdout.endswith("nothing to do (--restart trains from scratch)\n")

    evaluated = call("evaluate_model", "--run", RUN)
    assert evaluated.code == 0, evaluated.stderr
    assert "base model is left out, because without training it has no head" in evaluated.stdout
    metrics = json.loads(Path(RUN, "evaluation/metrics.json").read_text("utf-8"))
    assert set(metrics["systems"]) == {"adapter", *BASELINES} and metrics["decoding"]["method"] == "head"
    accuracy, losses = metrics["systems"]["adapter"]["exact_accuracy"]["value"], losses_of(Path(RUN))
    # The tiny encoder begins with words that all look alike.
    assert accuracy == 1.0 if base == "causal" else losses[-1] < losses[0]
    assert metrics["systems"]["adapter"]["calibration"]["temperature"] > 0
    assert len(metrics["systems"]["adapter"]["selective"]["thresholds"]) == 3
    assert call("evaluate_model", "--run", RUN, "--decode", "score", "--restart").code == 2

    one = call("predict", "--adapter", RUN, "--note", "50 yo F, chronic knee pain, r/o meniscal tear")
    assert one.code == 0 and re.match(r"(CT|MR) [\w ]+\nprobability 0\.\d+|MR Knee\nprobability 1", one.stdout), (
        one.stderr
    )
    lines = ["mrn,order", *(f'{row_id},"{note.replace(chr(34), chr(34) * 2)}"' for row_id, note in ORDERS)]
    Path("orders.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    table = ("--input", "orders.csv", "--text-column", "order", "--id-column", "mrn", "--output", "answers.csv")
    answered = call("predict", "--adapter", RUN, *table, "--audit-log", "log.jsonl")
    assert answered.code == 0, answered.stderr
    assert call("audit_log", "verify", "log.jsonl").code == 0
    with Path("answers.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    predictor = load_predictor(RUN)
    for row, (_, note) in zip(rows, ORDERS, strict=True):
        (alone,) = predictor.answer([{"note": note}])
        assert (alone.label, alone.confidence) == (row["label"], pytest.approx(float(row["probability"]), abs=1e-5))


def test_a_head_is_validated_during_training_and_the_best_step_is_kept(workspace, call):
    validates = (
        "--eval_strategy",
        "epoch",
        "--load_best_model_at_end",
        "true",
        "--metric_for_best_model",
        "exact_accuracy",
    )
    trained = call("sft", "--config", RECIPE, *EPOCHS, *validates)
    assert trained.code == 0, trained.stderr
    lines = [json.loads(line) for line in Path(RUN, "validation_log.jsonl").read_text("utf-8").splitlines()]
    best = next(
        line for line in lines if line["eval_exact_accuracy"] == max(it["eval_exact_accuracy"] for it in lines)
    )
    assert len(lines) == 8 and lines[0]["eval_loss"] > best["eval_loss"]
    split = load_prepared_dataset("data/tiny").splits["validation"]
    answers = load_predictor(RUN).answer([{"note": note} for note in split["note"]])
    right = sum(answer.label == label for answer, label in zip(answers, split["label"], strict=True))
    assert right / len(split) == best["eval_exact_accuracy"]
    losses = losses_of(Path(RUN))
    assert call("sft", "--config", RECIPE, *EPOCHS, "--output_dir", "runs/without").code == 0
    assert losses_of(Path("runs/without")) == losses


def test_a_head_takes_no_new_labels_and_reads_a_set_in_another_order(workspace, call):
    assert call("sft", "--config", RECIPE).code == 0
    own = yaml.safe_load(Path("data/tiny/label_set.yaml").read_text("utf-8"))
    more = {**own, "labels": [*own["labels"], {"name": "XR Chest"}]}
    Path("more.yaml").write_text(yaml.safe_dump(more), encoding="utf-8")
    refused = call("predict", "--adapter", RUN, "--note", "knee pain", "--label-set", "more.yaml")
    assert refused.code == 2
    assert (
        "more.yaml: has 1 labels that the classification head was not trained on, first 'XR Chest'" in refused.stderr
    )
    assert "only a run with `decode: score` takes new labels" in refused.stderr

    Path("other.yaml").write_text(yaml.safe_dump({**own, "labels": own["labels"][::-1]}), encoding="utf-8")
    notes = [{"note": note} for _, note in ORDERS]
    reversed_set = load_predictor(RUN, label_set="other.yaml", load_policy=False)
    assert reversed_set.label_set.names == LabelSet.load("data/tiny/label_set.yaml").names[::-1]
    plain = load_predictor(RUN, load_policy=False)
    assert [it.label for it in reversed_set.answer(notes)] == [it.label for it in plain.answer(notes)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--max_new_tokens", "12"), "a head writes no answer, and this has no effect on it; remove the key"),
        (("--decode", "score", "--prompt_style", "input"), "only a head reads the input alone; set `decode: head`"),
        (("--label_smoothing_factor", "2"), "is a fraction and must be between 0 and 1"),
    ],
)
def test_what_does_not_go_with_a_head_is_refused(workspace, call, words, message):
    refused = call("sft", "--config", RECIPE, *words)
    assert refused.code == 2 and message in refused.stderr and not Path("runs").exists()


def test_a_changed_template_or_label_set_is_noticed(workspace, call):
    assert call("sft", "--config", RECIPE).code == 0
    label_set = Path(RUN, "adapter/label_set.yaml")
    kept = label_set.read_text("utf-8")
    label_set.write_text(kept.replace("MR Knee", "MR Hip"), encoding="utf-8")
    refused = call("predict", "--adapter", RUN, "--note", "knee pain")
    assert refused.code == 2 and "label_set.yaml: changed since training" in refused.stderr
    label_set.write_text(kept, encoding="utf-8")
    template = Path("models/tiny/llama/chat_template.jinja")
    template.write_text(template.read_text("utf-8").replace("assistant", "radiologist"), encoding="utf-8")
    refused = call("predict", "--adapter", RUN, "--note", "knee pain")
    assert refused.code == 2 and "the prompt template differs from that of training" in refused.stderr


@pytest.mark.parametrize("quantisation", ["load_in_4bit", pytest.param("load_in_8bit", marks=pytest.mark.slow)])
def test_a_head_on_a_quantised_base(quantisation, workspace, call):
    build_tiny_model(workspace / "models", "tiny/wide", hidden_size=64)
    words = ("--model_name_or_path", "tiny/wide", f"--{quantisation}", "true", "--dtype", "bfloat16")
    trained = call("sft", "--config", RECIPE, *words, *EPOCHS)
    assert trained.code == 0, trained.stderr
    losses = losses_of(Path(RUN))
    assert losses[-1] < 0.8 * losses[0]
    predictor = load_predictor(RUN)
    assert predictor.model.get_base_model().is_quantized
    dataset = load_prepared_dataset("data/tiny").splits["test"]
    answers = [it.label for it in predictor.answer([{"note": note} for note in dataset["note"]])]
    assert sum(a == b for a, b in zip(answers, dataset["label"], strict=True)) > len(answers) / 2


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["shared_prefix", "padded"])
def test_two_processes_train_a_head_as_one_does(layout, workspace, call):
    # 45 rows of 48: the last step of an epoch is not full, and one process has an empty row.
    longest = int(re.search(r"longest (\d+) of", call("recipes", "check", RECIPE).stdout)[1])
    words = ("--config", RECIPE, "--num_train_epochs", "2", "--batch_layout", layout)
    words = (*words, "--max_length", str(longest - 1), "--max_dropped_fraction", "0.5")
    for process in two_ranks(workspace, "scripts/sft.py", *words, "--output_dir", "runs/two"):
        assert process.end(300).code == 0, process.stderr
    assert json.loads(Path("runs/two/manifest.json").read_text("utf-8"))["training"]["processes"] == 2
    one = call("sft", *words, "--output_dir", "runs/one")
    assert one.code == 0, one.stderr
    assert losses_of(Path("runs/two")) == pytest.approx(losses_of(Path("runs/one")), abs=1e-4)


def test_an_adapter_without_its_head_is_refused(workspace, call):
    assert call("sft", "--config", RECIPE).code == 0
    edit_json(Path(RUN, "adapter/adapter_config.json"), modules_to_save=["score"])
    refused = call("predict", "--adapter", RUN, "--note", "knee pain")
    assert refused.code == 2 and "`modules_to_save` is not ['classifier', 'score'], as in the recipe" in refused.stderr


@pytest.fixture
def evaluated(workspace, call):
    """A trained and evaluated head, and where its base model is found by the name that a card gives."""
    assert call("sft", "--config", RECIPE, *EPOCHS).code == 0
    assert call("evaluate_model", "--run", RUN).code == 0
    return workspace


@pytest.mark.parametrize("merged", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_snippet_of_the_card_chooses_with_the_probability_of_radrecipes(merged, evaluated, call, monkeypatch):
    words = ("--run", RUN, "--repo", REPO, "--tag", TAG, "--base-license", "apache-2.0", "--dry-run")
    shown = call("publish", "adapter", *words, *["--merge"] * merged)
    assert shown.code == 0, shown.stdout + shown.stderr
    assert "pipeline_tag: text-classification" in shown.stdout
    assert "and a classification head on 4 protocols, with cross-entropy as the loss" in shown.stdout
    assert "The classification head gives every label of `label_set.yaml` a probability" in shown.stdout
    card = "---\n" + re.search(r"^---\n(.*?)^files +ok", shown.stdout, re.MULTILINE | re.DOTALL)[1]
    run, folder = read_finished_run(RUN), Path(REPO)
    if merged:
        merge_adapter(run.recipe, Path(RUN, "adapter"), folder)
    assemble_model(run, folder, repo=REPO, tag=TAG, card=card, merged=merged)
    Path("tiny").symlink_to("models/tiny")
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda repository, name, revision: Path(repository, name))
    found = {}
    exec(re.search(r"```python\n(.*?)```", card, re.DOTALL)[1], found)
    task = TASKS["protocol"]
    (answer,) = load_predictor(RUN).answer([task.read_input(task.words.example)])
    assert found["labels"][found["best"]] == answer.label
    assert float(found["probabilities"].detach().max()) == pytest.approx(answer.confidence, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("base", ["causal", "encoder"])
def test_a_head_is_published_and_pulled(base, workspace, call, hub):
    if base == "encoder":
        use_an_encoder(workspace)
    assert call("sft", "--config", RECIPE, *EPOCHS).code == 0
    assert call("evaluate_model", "--run", RUN).code == 0
    words = ("adapter", "--run", RUN, "--repo", REPO, "--tag", TAG, "--base-license", "apache-2.0")
    done = run_script(workspace, "scripts/publish.py", *words, HF_HUB_OFFLINE="0")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "generation_config.json" not in hub.repo(REPO).files(TAG)
    note = ("--note", "50 yo F, chronic knee pain, r/o meniscal tear")
    here, pulled = (
        run_script(workspace, "scripts/predict.py", "--adapter", name, *note, HF_HUB_OFFLINE="0")
        for name in (RUN, f"{REPO}@{TAG}")
    )
    assert pulled.returncode == 0, pulled.stderr
    assert pulled.stdout == here.stdout and "\nprobability " in pulled.stdout
    assert base == "encoder" or pulled.stdout.startswith("MR Knee\n")


@pytest.mark.parametrize(
    ("folder", "architecture"),
    [
        ("all-minilm-l6-v2", "bert"),
        ("bioclinical-modernbert-base", "modernbert"),
        ("modernbert-base", "modernbert"),
    ],
)
def test_the_recipe_of_an_encoder_runs_on_a_tiny_one(folder, architecture, workspace, call):
    recipe = REPOSITORY / "recipes" / folder / "protocol_head.yaml"
    name = yaml.safe_load(recipe.read_text("utf-8"))["model_name_or_path"]
    build_tiny_encoder(workspace / "models", name, architecture, max_position_embeddings=256)
    words = ("--dataset", "data/tiny", "--dtype", "float32", "--max_steps", "4", "--output_dir", "runs/encoder")
    trained = call("sft", "--config", recipe, *words)
    assert trained.code == 0, trained.stderr
    config = json.loads(Path("runs/encoder/model/config.json").read_text("utf-8"))
    assert config["architectures"][0].endswith("ForSequenceClassification") and len(config["id2label"]) == 4
    assert call("evaluate_model", "--run", "runs/encoder").code == 0
    # The baseline encoder is left out where it is what was trained.
    metrics = json.loads(Path("runs/encoder/evaluation/metrics.json").read_text("utf-8"))
    assert ("fine_tuned_encoder" in metrics["systems"]) == (folder != "all-minilm-l6-v2")
    one = call("predict", "--adapter", "runs/encoder", "--note", "50 yo F, chronic knee pain")
    assert one.code == 0 and "probability 0." in one.stdout, one.stderr
