"""From training to prediction with real commands: what they print, and which files they write."""

import csv
import json
import os
import re
import shutil
import socket
import sys
from pathlib import Path

import conftest
import pandas as pd
import pytest
import yaml
from conftest import REPOSITORY, TINY_MODEL, run_script, write_tiny_dataset
from sft_faults import losses_of

from e2e.conftest import LAUNCH, ORDERS, RECIPE, RUN, TRAIN, edit_json, files_in
from radrecipes.data.label_sets import LabelSet
from radrecipes.data.prepared import load_prepared_dataset
from radrecipes.evaluation.label_baselines import BASELINES
from radrecipes.inference.predictors import load_predictor

# scripts/sft.py, which says what of DDP is left when the processes leave their group.
WATCHED = """\
import gc, runpy, torch
from torch.nn.parallel import DistributedDataParallel
destroy = torch.distributed.destroy_process_group
def watched(*args, **options):
    left = sum(isinstance(thing, DistributedDataParallel) for thing in gc.get_objects())
    print(f"DDP left: {left}\\n", end="", flush=True)  # in one piece, because two processes write
    destroy(*args, **options)
torch.distributed.destroy_process_group = watched
runpy.run_path("scripts/sft.py", run_name="__main__")
"""
SECRET = "Mrs qzvmark of Lantern Lane"


def test_the_run_folder_contains_what_is_documented_and_nothing_else(finished):
    names = {name for name in finished.before_again if not name.startswith("adapter/")}
    assert names == {".radrecipes.json", "recipe.yaml", "manifest.json", "train_log.jsonl", "COMPLETE"}
    adapter = {name for name in finished.before_again if name.startswith("adapter/")}
    assert adapter == {
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        "adapter/chat_template.jinja",
        "adapter/label_set.yaml",
        "adapter/tokenizer.json",
        "adapter/tokenizer_config.json",
    }
    label_set = (finished.workspace / "data" / "tiny" / "label_set.yaml").read_bytes()
    assert finished.before_again["adapter/label_set.yaml"] == label_set


def test_the_run_names_the_hub_id_and_no_path_of_this_machine(finished):
    config = json.loads(finished.before_again["adapter/adapter_config.json"])
    assert config["base_model_name_or_path"] == TINY_MODEL
    machine = [str(finished.workspace), str(REPOSITORY), str(Path.home()) + "/", sys.prefix]
    host = re.compile(rf"\b{re.escape(socket.gethostname())}\b")  # a whole word: `vm` is also in `svm`
    for name, content in files_in(finished.folder).items():
        if not name.endswith((".safetensors", ".parquet")):
            text = content.decode("utf-8")
            assert not [word for word in machine if word in text] and not host.search(text), name
        # A pickle begins with its protocol, 2 to 5; a zip of pickles, as torch writes it, with PK.
        assert not content.startswith((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK")), name


def test_the_manifest_says_what_was_trained_on_what(finished):
    manifest = json.loads((finished.folder / "manifest.json").read_text("utf-8"))
    dataset = load_prepared_dataset(finished.workspace / "data" / "tiny")
    rows = len(dataset.splits["train"])
    steps = -(-rows // 8) * 20
    assert manifest["base"]["model_id"] == TINY_MODEL and len(manifest["base"]["weights_sha256"]) == 64
    assert manifest["data"]["digest"] == dataset.digest and manifest["data"]["rows"]["train"] == rows
    assert (manifest["training"]["steps"], manifest["training"]["processes"]) == (steps, 1)
    assert manifest["training"]["truncated"] == manifest["training"]["left_out_as_too_long"] == 0
    assert manifest["adapter"]["output_change"] > 0
    assert {"torch", "transformers", "trl", "peft"} <= manifest["packages"].keys()
    log = losses_of(finished.folder)
    assert len(log) == steps and log[-1] < log[0]
    recipe = yaml.safe_load((finished.folder / "recipe.yaml").read_text("utf-8"))
    assert recipe["num_train_epochs"] == 20 and recipe["learning_rate"] == 0.01


def test_training_shows_an_example_the_counts_and_the_trained_share(finished):
    out = finished.trained.stdout
    dataset = load_prepared_dataset(finished.workspace / "data" / "tiny")
    first = dataset.splits["train"][0]
    shown = re.search(r"⟦(.*?)⟧", out.split("\n", 1)[1], re.DOTALL)
    assert shown.group(1) == first["label"] + "<|im_end|>"
    assert first["note"] in out and "Choose the imaging protocol" in out
    rows = len(dataset.splits["train"])
    assert re.search(
        rf"^{rows} rows, longest \d+ tokens; 0 truncated, 0 left out as longer than 160;", out, re.MULTILINE
    )
    assert re.search(r"^[\d,]+ of [\d,]+ parameters are trained \(\d+\.\d\d%\)$", out, re.MULTILINE)
    assert f"adapter checked and saved: {RUN}/adapter" in out


def test_the_same_command_again_changes_nothing(finished):
    assert finished.again.returncode == 0
    assert (
        finished.again.stdout == f"{RUN} contains this run, finished; nothing to do (--restart trains from scratch)\n"
    )


def test_the_evaluation_compares_the_model_with_its_base_and_every_baseline(finished):
    assert finished.evaluated.returncode == 0, finished.evaluated.stderr
    folder = finished.folder / "evaluation"
    metrics = json.loads((folder / "metrics.json").read_text("utf-8"))
    systems = metrics["systems"]
    assert set(systems) == {"adapter", "base", *BASELINES}
    test = load_prepared_dataset(finished.workspace / "data" / "tiny").splits["test"]
    predictions = pd.read_parquet(folder / "predictions.parquet")
    assert predictions["id"].tolist() == test["id"][:]
    for name, system in systems.items():
        accuracy = system["exact_accuracy"]
        assert accuracy["value"] == pytest.approx(
            (predictions[f"{name}_label"].fillna("") == predictions["reference"]).mean()
        )
        assert accuracy["low"] <= accuracy["value"] <= accuracy["high"]
    # Four questions learned by heart, against a random base; what is scored is always a label.
    assert systems["adapter"]["exact_accuracy"]["value"] > systems["base"]["exact_accuracy"]["value"]
    assert (
        systems["adapter"]["out_of_vocabulary_rate"]["value"]
        == systems["base"]["out_of_vocabulary_rate"]["value"]
        == 0
    )
    assert metrics["decoding"]["method"] == "score"
    for name in ("adapter", *BASELINES):
        assert systems[name]["calibration"]["after"]["bins"] and systems[name]["selective"]["thresholds"]
        assert predictions[f"{name}_top1_probability"].tolist() == predictions[f"{name}_confidence"].tolist()
    for name, system in systems.items():
        assert (system["cost"]["training_seconds"] is None) == (name == "base")
        assert system["cost"]["rows_per_second"] > 0 and "thread" in system["cost"]["answered_on"]
    manifest = json.loads(finished.before_again["manifest.json"])
    assert systems["adapter"]["cost"]["training_seconds"] == manifest["training"]["seconds"]
    (recommended,) = re.findall(r"^Use (\w+) for these orders: .*\.$", finished.evaluated.stdout, re.MULTILINE)
    assert recommended == metrics["recommendation"]["system"]
    assert finished.evaluated.stdout.splitlines()[-1].startswith(f"Use {recommended} ")
    assert not list(finished.folder.glob("*.unfinished"))


def test_the_report_stands_alone_and_names_the_recipe(finished):
    report = (finished.folder / "evaluation" / "report.html").read_text("utf-8")
    assert "Tiny llama" in report
    assert not re.findall(r"""(?:src|href)=["'](?:https?:)?//""", report)
    assert f"report: {RUN}/evaluation/report.html" in finished.evaluated.stdout
    assert "adapter" in finished.evaluated.stdout and "majority" in finished.evaluated.stdout


def test_an_evaluation_that_is_there_is_shown_again(finished_copy, call):
    before = files_in(finished_copy)
    shown = call("evaluate_model", "--run", RUN)
    assert shown.code == 0 and "exists already" in shown.stdout and "words_characters_svm" in shown.stdout
    assert files_in(finished_copy) == before


def test_a_quick_look_at_another_split_replaces_the_evaluation_on_request(finished_copy, call):
    quick = call(
        "evaluate_model", "--run", RUN, "--restart", "--skip-base", "--split", "validation", "--max-rows", "3"
    )
    assert quick.code == 0, quick.stderr
    validation = load_prepared_dataset("data/tiny").splits["validation"]
    predictions = pd.read_parquet(f"{RUN}/evaluation/predictions.parquet")
    assert predictions["id"].tolist() == validation["id"][:3]
    assert "base_label" not in predictions
    metrics = json.loads(Path(RUN, "evaluation", "metrics.json").read_text("utf-8"))
    assert set(metrics["systems"]) == {"adapter", *BASELINES}


def test_a_table_in_is_a_table_out(finished, monkeypatch):
    monkeypatch.chdir(finished.workspace)
    assert finished.predicted.returncode == 0, finished.predicted.stderr
    with (finished.workspace / "answers.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["id"] for row in rows] == [row_id for row_id, _ in ORDERS]
    assert "note" not in rows[0], "notes are copied only when asked"
    predictor = load_predictor(finished.folder)
    for row, (_, note) in zip(rows, ORDERS, strict=True):
        (alone,) = predictor.answer([{"note": note}])
        assert (alone.label, alone.top[0][1]) == (row["label"], pytest.approx(float(row["probability"]), abs=1e-5))
    assert finished.predicted.stdout.startswith("4 answers in answers.csv: ")
    assert not list(finished.workspace.glob("*.unfinished"))


def test_one_note_prints_a_label_and_also_from_the_adapter_folder(finished_copy, call):
    answers = []
    for folder in (RUN, f"{RUN}/adapter"):
        one = call("predict", "--adapter", folder, "--note", "50 yo F, chronic knee pain, r/o meniscal tear")
        assert one.code == 0, one.stderr
        answers.append(one.stdout)
    assert answers[0] == answers[1] and answers[0].splitlines()[0] in LabelSet.load("data/tiny/label_set.yaml").names


def test_an_answer_outside_the_label_set_is_reported_as_no_label(workspace, call):
    # One epoch teaches the random model nothing, so it cannot write a label.
    assert call("sft", "--config", RECIPE, "--decode", "generate").code == 0
    one = call("predict", "--adapter", RUN, "--note", "50 yo F, chronic knee pain")
    assert one.code == 0 and one.stdout.startswith("no label from the label set; the model wrote:")


def test_thresholds_travel_with_the_adapter_and_belong_to_it_alone(finished_copy, call):
    policy = finished_copy / RUN / "adapter" / "decision_policy.json"
    fitted = json.loads(policy.read_text("utf-8"))
    assert [choice["target_accuracy"] for choice in fitted["thresholds"]] == [0.90, 0.95, 0.98]
    assert fitted["target_accuracy"] == 0.95 and fitted["temperature"] > 0
    policy.write_text(json.dumps({**fitted, "adapter_sha256": "0" * 64}), encoding="utf-8")
    refused = call("predict", "--adapter", RUN, "--note", "knee pain")
    assert refused.code == 2 and "thresholds of another model" in refused.stderr and "evaluate again" in refused.stderr
    # The fix that it names works, with or without the broken file
    policy.write_text("{", encoding="utf-8")
    assert call("evaluate_model", "--run", RUN, "--restart", "--skip-base").code == 0
    assert json.loads(policy.read_text("utf-8")) == fitted
    assert call("predict", "--adapter", RUN, "--note", "knee pain").code == 0


def test_a_target_that_validation_cannot_support_ends_the_evaluation(finished_copy, call):
    before = files_in(finished_copy)
    refused = call("evaluate_model", "--run", RUN, "--restart", "--skip-base", "--target-accuracy", "0.999")
    assert refused.code == 2 and "can support; they support at most 0" in refused.stderr
    assert files_in(finished_copy) == before


def test_generated_answers_have_their_own_evaluation_and_leave_the_thresholds_alone(finished_copy, call):
    before = files_in(finished_copy)
    assert call("evaluate_model", "--run", RUN, "--decode", "generate", "--skip-base").code == 0
    after = files_in(finished_copy)
    assert {name: after[name] for name in before} == before
    metrics = json.loads(after[f"{RUN}/evaluation-generate/metrics.json"])
    assert metrics["decoding"]["method"] == "generate" and metrics["recommendation"] is None
    assert not {"selective", "calibration"} & metrics["systems"]["adapter"].keys()
    assert "<svg" in after[f"{RUN}/evaluation-generate/report.html"].decode("utf-8")


def test_a_quick_look_fits_no_thresholds(finished_copy, call):
    (finished_copy / RUN / "adapter" / "decision_policy.json").unlink()
    assert call("evaluate_model", "--run", RUN, "--restart", "--skip-base", "--max-rows", "3").code == 0
    assert not (finished_copy / RUN / "adapter" / "decision_policy.json").exists()


def test_an_evaluation_elsewhere_says_that_it_stores_no_thresholds(finished_copy, call, monkeypatch):
    weights = Path(RUN, "adapter")
    (weights / "decision_policy.json").unlink()
    asked = []
    monkeypatch.setattr("radrecipes.files.check_writable", lambda path: asked.append(Path(path)))
    quick = ("--run", RUN, "--skip-base", "--encoder", "none")
    other = call("evaluate_model", *quick, "--output", "elsewhere")
    assert other.code == 0, other.stderr
    assert f"no thresholds were stored with the weights: --output is not {RUN}/evaluation\n" in other.stdout
    assert not asked, "the weights of a run that is only read need not be writable"
    shown = call("evaluate_model", "--run", RUN)
    assert "no thresholds are stored with the weights; --restart fits them" in shown.stdout
    same = call("evaluate_model", *quick, "--output", f"./{RUN}/evaluation", "--restart")
    assert same.code == 0 and "no thresholds" not in same.stdout, same.stderr
    assert [path.resolve() for path in asked] == [weights.resolve()] and (weights / "decision_policy.json").is_file()
    again = call("evaluate_model", "--run", RUN, "--split", "validation", "--count-acceptable", "--encoder", "none")
    assert "it was made with another --split, --count-acceptable, --skip-base; --restart evaluates" in again.stdout
    assert "it was made with" not in call("evaluate_model", *quick).stdout


def test_a_target_accuracy_of_generated_answers_is_refused(finished_copy, call):
    refused = call("evaluate_model", "--run", RUN, "--decode", "generate", "--target-accuracy", "0.9")
    assert refused.code == 2 and "error: --target-accuracy: needs probabilities" in refused.stderr


@pytest.mark.parametrize("decode", ["score", "generate"])
def test_rows_that_the_model_cannot_read_are_left_out_counted_and_named(finished_copy, call, decode):
    words = ("--run", RUN, "--restart", "--skip-base", "--decode", decode)
    predictor, split = load_predictor(RUN, decode=decode), load_prepared_dataset("data/tiny").splits["test"]
    lengths = sorted(len(prompt) for prompt in predictor.prompts([{"note": note} for note in split["note"]]))
    for_answers, longest = predictor.positions - predictor.longest_prompt, lengths[len(lengths) // 2]
    expected = sum(length > longest for length in lengths)
    edit_json(Path("models/tiny/llama/config.json"), max_position_embeddings=int(longest + for_answers))
    done = call("evaluate_model", *words)
    assert done.code == 0, done.stderr
    folder = Path(RUN, "evaluation" if decode == "score" else "evaluation-generate")
    metrics = json.loads((folder / "metrics.json").read_text("utf-8"))
    left_out = metrics["left_out"]["test"]
    assert 0 < left_out == expected and metrics["rows"] == len(lengths) - expected
    assert f"test split: {left_out} more rows left out, because the model cannot read them" in done.stdout
    (named,) = re.findall(r"^left out of test, which the model cannot read: (order-.*)$", done.stdout, re.MULTILINE)
    assert len(named.split(", ")) == min(left_out, 6)
    assert f"{left_out} more orders of test were left out" in (folder / "report.html").read_text("utf-8")
    edit_json(Path("models/tiny/llama/config.json"), max_position_embeddings=30)
    none = call("evaluate_model", *words)
    assert none.code == 2 and "data/tiny: none of the " in none.stderr


@pytest.mark.slow
def test_a_seed_decides_every_byte_of_the_adapter(finished_copy, call, finished):
    # The first run had a process of its own; this one trains after whatever this interpreter did before.
    for seed, folder in ((42, "runs/same"), (43, "runs/other")):
        trained = call("sft", *TRAIN, "--seed", seed, "--output_dir", folder)
        assert trained.code == 0, trained.stderr
    weights = "adapter/adapter_model.safetensors"
    assert Path("runs/same", weights).read_bytes() == finished.before_again[weights]
    assert Path("runs/other", weights).read_bytes() != finished.before_again[weights]


def test_restart_trains_from_scratch(workspace, call):
    assert call("sft", "--config", RECIPE).code == 0
    first = Path(RUN, "adapter/adapter_model.safetensors").read_bytes()
    note = Path(RUN, "note.txt")
    note.write_text("mine", encoding="utf-8")
    refused = call("sft", "--config", RECIPE, "--restart", "--learning_rate", "5e-3")
    assert (refused.code, note.exists(), Path(RUN, "COMPLETE").exists()) == (2, True, True)
    note.unlink()
    again = call("sft", "--config", RECIPE, "--restart", "--learning_rate", "5e-3")
    assert again.code == 0, again.stderr
    assert Path(RUN, "adapter/adapter_model.safetensors").read_bytes() != first


def test_a_resumed_run_keeps_the_dtype_that_was_faster_when_it_began(workspace, call, monkeypatch):
    words = ("--config", RECIPE, "--dtype", "auto")
    monkeypatch.setattr("radrecipes.models.compute_dtype.measured_rates", lambda: {"float32": 2e9, "bfloat16": 1e9})
    begun = call("sft", *words, "--stop-after", "2")
    assert begun.code == 75, begun.stderr
    assert "dtype: float32; matrix products run here at 2 GFLOP/s in float32 and 1 GFLOP/s in bfloat16" in begun.stdout
    monkeypatch.setattr("radrecipes.models.compute_dtype.measured_rates", lambda: {"float32": 1e9, "bfloat16": 2e9})
    resumed = call("sft", *words)
    assert resumed.code == 0, resumed.stderr
    assert "dtype: float32, as this run began;" in resumed.stdout
    manifest = json.loads(Path(RUN, "manifest.json").read_text("utf-8"))
    assert (manifest["base"]["dtype"], manifest["recipe"]["fields"]["dtype"]) == ("float32", "auto")


def test_rows_that_are_too_long_are_counted_in_print_and_manifest(workspace, call):
    lengths = call("sft", "--config", RECIPE, "--output_dir", "runs/all")
    longest = int(re.search(r"longest (\d+) tokens", lengths.stdout).group(1))
    words = ("--max_length", longest - 1, "--max_dropped_fraction", "0.9", "--output_dir", "runs/shorter")
    trained = call("sft", "--config", RECIPE, *words)
    assert trained.code == 0, trained.stderr
    manifest = json.loads(Path("runs/shorter/manifest.json").read_text("utf-8"))
    left_out = manifest["training"]["left_out_as_too_long"]
    assert left_out > 0 and manifest["training"]["rows"] + left_out == manifest["data"]["rows"]["train"]
    assert f"{left_out} left out as longer than {longest - 1}" in trained.stdout


def test_notes_of_credentialed_data_appear_nowhere(workspace, call):
    # The sentence is in every note, so it would be seen whichever note were shown.
    write_secret_dataset(workspace / "data" / "tiny")
    said = []
    shutil.rmtree("runs", ignore_errors=True)
    os.umask(0o022)
    for words in (
        ("recipes", "inspect", RECIPE),
        ("sft", "--config", RECIPE),
        ("evaluate_model", "--run", RUN),
        ("evaluate_model", "--run", RUN),
    ):
        done = call(*words)
        assert done.code == 0, done.stderr
        said += [done.stdout, done.stderr]
    for shown in (said[0], said[2]):
        assert "no example is shown, because texts of credentialed datasets are never printed" in shown
    assert "qzvmark" not in "".join(said)
    for name, content in files_in(workspace / "runs").items():
        assert b"qzvmark" not in content, name
    predictions = pd.read_parquet(f"{RUN}/evaluation/predictions.parquet")
    assert not [name for name in predictions if name in ("note", "id", "group") or name.endswith("_text")]
    assert "qzvmark" not in predictions.to_json()
    # Whatever the umask was, only the owner reads them: the run, the token cache, a table of answers.
    os.umask(0o022)
    Path("in.csv").write_text("note\nknee pain\n", encoding="utf-8")
    assert call("predict", "--adapter", RUN, "--input", "in.csv", "--output", "out.csv").code == 0
    written = [Path("out.csv"), *Path("runs").rglob("*"), *Path("data/tiny/.tokenised").rglob("*")]
    assert len(written) > 20 and not [path for path in written if path.stat().st_mode & 0o077]


def write_secret_dataset(folder):
    """The tiny dataset with a name in every note, prepared as credentialed."""
    shutil.rmtree(folder)
    questions = {label: f"{text}, {SECRET}" for label, text in conftest._QUESTIONS.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conftest, "_QUESTIONS", questions)
        write_tiny_dataset(folder)
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    manifest["access"] = "credentialed"
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    assert SECRET in load_prepared_dataset(folder).splits["train"]["note"][0]


@pytest.mark.slow
def test_two_processes_train_as_one_does(workspace, call):
    (workspace / "watched.py").write_text(WATCHED, encoding="utf-8")
    launch = (*LAUNCH, "accelerate_configs/cpu_2proc.yaml", "watched.py", "--config", RECIPE)
    two = run_script(workspace, *launch, "--output_dir", "runs/two")
    assert two.returncode == 0, two.stderr
    # A group of which DDP is the last owner is destroyed while Python's lock is held, and now and then the process never ends.
    assert two.stdout.count("DDP left: 0\n") == two.stdout.count("DDP left") == 2
    one = call("sft", "--config", RECIPE, "--output_dir", "runs/one")
    assert one.code == 0, one.stderr
    assert two.stdout.count("⟦") == one.stdout.count("⟦"), "only the first process prints"
    assert sorted(os.listdir("runs/two")) == sorted(os.listdir("runs/one"))
    manifests = [json.loads(Path(f"runs/{name}/manifest.json").read_text("utf-8")) for name in ("one", "two")]
    assert [manifest["training"]["processes"] for manifest in manifests] == [1, 2]
    assert len(losses_of(Path("runs/one"))) == len(losses_of(Path("runs/two"))) > 1
    assert losses_of(Path("runs/two")) == pytest.approx(losses_of(Path("runs/one")), abs=1e-4)
    one_predicts = call("predict", "--adapter", "runs/two", "--note", "knee pain")
    assert one_predicts.code == 0, one_predicts.stderr
