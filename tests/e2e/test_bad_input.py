"""What a user gets wrong: one clear line on standard error, the exit code of the fault, and nothing written."""

import gzip
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
from conftest import TINY_RECIPE, run_script
from safetensors.torch import load_file, save_file

from e2e.conftest import LAUNCH, RECIPE, RUN, TRAIN, adapter_hash, edit_json, files_in
from radrecipes.errors import InputError
from radrecipes.files import lock
from radrecipes.inference import vllm_engine
from radrecipes.inference.predictors import load_predictor
from radrecipes.recipe import parse_recipe
from radrecipes.training import trainer as training

DATASET = Path("data/tiny")
BASE = Path("models/tiny/llama")
LEARNING_RATE_LINE = TINY_RECIPE.splitlines().index("learning_rate: 1.0e-2") + 1
SFT = ("sft", "--config", RECIPE, "--output_dir", "runs/new")
EVALUATE = ("evaluate_model", "--run", RUN, "--restart")
ONE = ("predict", "--adapter", RUN, "--note", "knee pain")
TABLE = ("predict", "--adapter", RUN, "--input", "table.csv", "--output", "out.csv")
WEIGHTS = "adapter_model.safetensors"
CHANGED_ADAPTER = [f"{RUN}/adapter/{WEIGHTS}: ", "changed since training"]
# Locks a folder as a run does, until it is ended.
HOLD = """
import fcntl, sys
stream = open(sys.argv[1], "a+")
fcntl.flock(stream, fcntl.LOCK_EX)
stream.write("process 1234 on elsewhere")
stream.flush()
print("held", flush=True)
sys.stdin.read()
"""


def replace(path, old, new):
    text = Path(path).read_text("utf-8")
    assert old in text
    Path(path).write_text(text.replace(old, new), encoding="utf-8")


def write(path, text):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text, encoding="utf-8")


def change_a_weight():
    weights = load_file(BASE / "model.safetensors")
    name = sorted(weights)[0]
    save_file({**weights, name: weights[name] + 1}, BASE / "model.safetensors", metadata={"format": "pt"})


def change_the_adapter():
    """One bit."""
    path = Path(RUN, "adapter", WEIGHTS)
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def change_tensors(change):
    """Other tensors, with the digest that a publisher's manifest would record."""
    path = Path(RUN, "adapter", WEIGHTS)
    save_file(change(load_file(path)), path, metadata={"format": "pt"})
    record_the_adapter()


def record_the_adapter():
    edit_json(Path(RUN, "manifest.json"), adapter={"sha256": adapter_hash(Path(RUN))})
    edit_json(Path(RUN, "adapter", "decision_policy.json"), adapter_sha256=adapter_hash(Path(RUN)))


def take_a_tensor_out():
    change_tensors(lambda tensors: {name: tensor for name, tensor in tensors.items() if name != min(tensors)})


def move_half_of_the_vocabulary():
    """As the tokenizer of another model would have it."""
    tokenizer = json.loads((BASE / "tokenizer.json").read_text("utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    moved = {token: number + 5000 * (number > len(vocabulary) // 2) for token, number in vocabulary.items()}
    edit_json(BASE / "tokenizer.json", model=tokenizer["model"] | {"vocab": moved})


def one_long_note():
    """The dataset with one note that is far too long (2 % of the rows), its manifest consistent."""
    train = datasets.Dataset.from_parquet(str(DATASET / "train.parquet"), cache_dir="cache", keep_in_memory=True)
    notes = train["note"][:]
    train = train.remove_columns("note").add_column("note", [notes[0] * 10, *notes[1:]])
    train.to_parquet(DATASET / "train.parquet")
    shutil.rmtree("cache", ignore_errors=True)
    trust_files()


def trust_files():
    """Write the manifest's hashes again, as a preparation would."""
    manifest = json.loads((DATASET / "manifest.json").read_text("utf-8"))
    entries = {f"{split}.parquet": manifest["splits"][split] for split in ("train", "validation", "test")}
    entries["label_set.yaml"] = manifest["label_set"]
    for name, entry in entries.items():
        entry["sha256"] = hashlib.sha256((DATASET / name).read_bytes()).hexdigest()
    lines = [f"{name} {entry['sha256']}\n" for name, entry in entries.items()]
    manifest["digest"] = hashlib.sha256("".join(lines).encode()).hexdigest()
    edit_json(DATASET / "manifest.json", **manifest)


def template_with_date():
    """It shows in no conversation of this project."""
    path = BASE / "chat_template.jinja"
    write(path, "{% if tools %}{{ strftime_now('%Y') }}{% endif %}" + path.read_text("utf-8"))


def other_label_set():
    replace(DATASET / "label_set.yaml", "MR Knee", "MR Joint")
    trust_files()


def without_label_set():
    manifest = json.loads((DATASET / "manifest.json").read_text("utf-8"))
    del manifest["label_set"]
    lines = [f"{split}.parquet {manifest['splits'][split]['sha256']}\n" for split in ("train", "validation", "test")]
    manifest["digest"] = hashlib.sha256("".join(lines).encode()).hexdigest()
    (DATASET / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


# What is wrong: (what to do to the workspace, the command, what the line must say)
FAULTS = {
    "a template that writes the date, for training": (
        template_with_date,
        SFT,
        ["writes the current date (strftime_now)"],
    ),
    "a template that writes the date, for prediction": (
        template_with_date,
        ONE,
        ["writes the current date (strftime_now)"],
    ),
    "misspelt key": (
        lambda: replace(RECIPE, "learning_rate", "learning_rat"),
        SFT,
        [f"{RECIPE}:{LEARNING_RATE_LINE}: ", "did you mean `learning_rate`?"],
    ),
    "misspelt override": (None, (*SFT, "--lerning_rate", "1"), ["--lerning_rate: ", "did you mean `learning_rate`?"]),
    "a tracker that is not installed": (None, (*SFT, "--report_to", "wandb"), ["`report_to: wandb` here", "wandb"]),
    "an optimizer that is not installed": (None, (*SFT, "--optim", "galore_adamw"), ["`optim: galore_adamw` here"]),
    "no recipe": (lambda: Path(RECIPE).unlink(), SFT, ["no such recipe", RECIPE]),
    "no dataset": (lambda: shutil.rmtree(DATASET), SFT, ["data/tiny"]),
    "changed Parquet": (
        lambda: shutil.copy(DATASET / "test.parquet", DATASET / "train.parquet"),
        SFT,
        ["data/tiny/train.parquet: ", "changed since the manifest"],
    ),
    "changed label set of the dataset": (
        lambda: replace(DATASET / "label_set.yaml", "MR Knee", "MR Joint"),
        SFT,
        ["data/tiny/label_set.yaml: ", "changed since the manifest"],
    ),
    "dataset of another task": (
        lambda: edit_json(DATASET / "manifest.json", task="report"),
        SFT,
        ["data/tiny: ", "prepared for the task report"],
    ),
    "dataset without labels": (without_label_set, SFT, ["data/tiny: ", "has no label set"]),
    "no base model": (
        lambda: shutil.rmtree(BASE),
        SFT,
        ["cannot load tiny/llama", "models/tiny/llama/"],
    ),
    "base model by its path": (
        None,
        (*SFT, "--model_name_or_path", "./models/tiny/llama"),
        ["is a path", "name the Hub id"],
    ),
    "too long note": (one_long_note, SFT, ["1 of ", "longer than max_length 160", "max_dropped_fraction"]),
    "batch that cannot be divided": (
        None,
        (*SFT, "--global_batch_size", "9", "--per_device_train_batch_size", "2"),
        ["global_batch_size 9", "per_device_train_batch_size 2"],
    ),
    "output folder with other files": (
        lambda: write("runs/new/letter.txt", "mine"),
        SFT,
        ["runs/new: ", "files that are not a run", "--output_dir"],
    ),
    "output folder is a file": (lambda: write("runs/new", "mine"), SFT, ["runs/new: ", "is a file"]),
    "run of another recipe": (
        None,
        ("sft", *TRAIN, "--learning_rate", "0.5"),
        [f"{RUN}: ", "learning_rate: 0.01 there, 0.5 here", "--restart"],
    ),
    "evaluate an unfinished run": (lambda: Path(RUN, "COMPLETE").unlink(), EVALUATE, [RUN, "no finished run"]),
    "predict with an unfinished run": (lambda: Path(RUN, "COMPLETE").unlink(), ONE, [RUN, "no finished run"]),
    "evaluate without a run": (None, ("evaluate_model", "--run", "runs/none"), ["runs/none: ", "no finished run"]),
    "adapter of another base": (
        lambda: edit_json(Path(RUN, "adapter", "adapter_config.json"), base_model_name_or_path="tiny/other"),
        ONE,
        ["belongs to tiny/other, not to tiny/llama"],
    ),
    "adapter without its tensors": (
        lambda: Path(RUN, "adapter", "adapter_model.safetensors").unlink(),
        ONE,
        ["adapter_model.safetensors is missing"],
    ),
    "adapter of another rank": (
        lambda: edit_json(Path(RUN, "adapter", "adapter_config.json"), r=2),
        ONE,
        ["adapter_config.json: ", "`r` is not 4"],
    ),
    "adapter of another scale": (
        lambda: edit_json(Path(RUN, "adapter", "adapter_config.json"), lora_alpha=800),
        EVALUATE,
        ["adapter_config.json: ", "`lora_alpha` is not 8"],
    ),
    "predict with a changed adapter": (change_the_adapter, ONE, CHANGED_ADAPTER),
    "predict a table with a changed adapter": (
        lambda: (change_the_adapter(), write("table.csv", "note\nknee pain\n")),
        TABLE,
        CHANGED_ADAPTER,
    ),
    "evaluate a changed adapter": (change_the_adapter, EVALUATE, CHANGED_ADAPTER),
    "train a run again whose adapter changed": (change_the_adapter, ("sft", *TRAIN), CHANGED_ADAPTER),
    "adapter without one of its tensors": (take_a_tensor_out, ONE, ["1 tensors do not fit tiny/llama", "lora_A"]),
    "adapter with a tensor that is not finite": (
        lambda: change_tensors(lambda tensors: tensors | {min(tensors): tensors[min(tensors)] / 0}),
        EVALUATE,
        ["NaN or infinite"],
    ),
    "adapter that is no safetensors": (
        lambda: (Path(RUN, "adapter", WEIGHTS).write_bytes(b"knee pain"), record_the_adapter()),
        ONE,
        [f"{WEIGHTS}: ", "is not a complete safetensors file"],
    ),
    "manifest without the adapter's digest": (
        lambda: edit_json(Path(RUN, "manifest.json"), adapter={}),
        ONE,
        [f"{RUN}/manifest.json: ", "does not record adapter.sha256"],
    ),
    "recipe of the run changed": (
        lambda: replace(Path(RUN, "recipe.yaml"), "max_new_tokens: 12", "max_new_tokens: 9"),
        ONE,
        [f"{RUN}/recipe.yaml: ", "is not the recipe that was trained"],
    ),
    "train with tokens that the model does not have": (
        move_half_of_the_vocabulary,
        SFT,
        ["the tokenizer of tiny/llama has a token with id ", "the model's embeddings end at "],
    ),
    "predict with tokens that the model does not have": (
        move_half_of_the_vocabulary,
        ONE,
        ["the tokenizer of tiny/llama has a token with id ", "the model's embeddings end at "],
    ),
    "predict on other weights": (change_a_weight, ONE, ["trained on other weights", "--allow-other-weights"]),
    "evaluate on other weights": (change_a_weight, EVALUATE, ["trained on other weights", "--allow-other-weights"]),
    "another chat template": (
        lambda: replace(BASE / "chat_template.jinja", "assistant", "helper"),
        ONE,
        ["the prompt template differs from that of training"],
    ),
    "changed label set of the run": (
        lambda: replace(Path(RUN, "adapter", "label_set.yaml"), "MR Knee", "MR Joint"),
        ONE,
        ["label_set.yaml: ", "changed since training"],
    ),
    "dataset prepared again": (other_label_set, EVALUATE, [RUN, "the dataset changed since training"]),
    "encoder missing": (None, (*EVALUATE, "--encoder", "none/such"), ["cannot load none/such"]),
    "similarity model missing": (None, (*EVALUATE, "--similarity-model", "none/such"), ["none/such"]),
    "empty note": (None, ("predict", "--adapter", RUN, "--note", " \n"), ["--text: ", "the note is empty"]),
    "table of empty notes": (
        lambda: write("table.csv", 'note\n" "\n" "\n'),
        TABLE,
        ["table.csv:2: ", "the note is empty", "none of the rows"],
    ),
    "missing column": (
        lambda: write("table.csv", "notes\nknee pain\n"),
        TABLE,
        ["table.csv: ", "no column 'note'", "did you mean 'notes'?"],
    ),
    "table of broken rows": (
        lambda: write("table.csv", "note,id\nknee, pain,2\n"),
        TABLE,
        ["table.csv:2: ", "3 fields, the header 2", "none of the rows"],
    ),
    "cut gzip file": (
        lambda: Path("table.csv.gz").write_bytes(gzip.compress(b"note\n" + os.urandom(2000).hex().encode())[:-99]),
        (*TABLE[:4], "table.csv.gz", *TABLE[5:]),
        ["table.csv.gz:", "not a complete gzip file"],
    ),
    "output of no known format": (
        lambda: write("table.csv", "note\nknee pain\n"),
        (*TABLE[:-1], "out.xlsx"),
        ["out.xlsx: ", ".parquet"],
    ),
    "rejects file of another prediction": (
        lambda: (write("table.csv", "note\nknee pain\n"), write("out.rejects.csv", "mine")),
        TABLE,
        ["out.rejects.csv: ", "exists already"],
    ),
    "empty table": (lambda: write("table.csv", ""), TABLE, ["table.csv: ", "empty"]),
    "no table": (None, TABLE, ["table.csv: ", "no such file"]),
    "output exists": (
        lambda: (write("table.csv", "note\nknee pain\n"), write("out.csv", "mine")),
        TABLE,
        ["out.csv: ", "exists already"],
    ),
    "output is a dangling link": (
        lambda: (write("table.csv", "note\nknee pain\n"), Path("out.csv").symlink_to("none")),
        TABLE,
        ["out.csv: ", "exists already"],
    ),
    "evaluation is a dangling link": (
        lambda: Path("there").symlink_to("none"),
        (*EVALUATE, "--output", "there"),
        ["there: ", "is a link"],
    ),
    "evaluation in a loop of links": (
        lambda: Path("there").symlink_to("there"),
        (*EVALUATE, "--output", "there/evaluation"),
        ["there/evaluation: ", "cannot be written"],
    ),
    "run below a file": (
        None,
        ("sft", "--config", RECIPE, "--output_dir", "data/tiny/manifest.json/run"),
        ["manifest.json is not a folder"],
    ),
    "run with too long a name": (
        None,
        ("sft", "--config", RECIPE, "--output_dir", "n" * 300),
        ["the name is too long"],
    ),
    "evaluation below a file": (None, (*EVALUATE, "--output", f"{RECIPE}/evaluation"), ["cannot be written: "]),
    "run is a dangling link": (
        lambda: (Path("runs").mkdir(exist_ok=True), Path("runs/new").symlink_to("none")),
        SFT,
        ["runs/new: ", "cannot be written"],
    ),
    "recipe is a pipe": (lambda: (Path(RECIPE).unlink(), os.mkfifo(RECIPE)), SFT, [RECIPE, "only regular files"]),
    "base model of any size": (
        lambda: edit_json(BASE / "config.json", num_hidden_layers=10**9),
        SFT,
        ["models/tiny/llama: ", "`num_hidden_layers` is more than 1024"],
    ),
    "no output": (lambda: write("table.csv", "note\nknee pain\n"), TABLE[:5], ["--output"]),
    "output in no folder": (
        lambda: write("table.csv", "note\nknee pain\n"),
        (*TABLE[:-1], "none/out.csv"),
        ["none/out.csv: ", "folder"],
    ),
}


def check_refused(done, said, code=2):
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    assert not [part for part in said if part not in lines[0]], lines[0]
    assert "Traceback" not in done.stderr
    assert (done.code if hasattr(done, "code") else done.returncode) == code


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_gets_one_line_and_nothing_is_written(name, finished_copy, call):
    spoil, words, said = FAULTS[name]
    if spoil:
        spoil()
    before = files_in(finished_copy)
    done = call(*words)
    check_refused(done, said)
    assert files_in(finished_copy) == before
    assert "⟦" not in done.stdout


def test_vllm_which_reads_the_adapter_itself_gets_none_that_does_not_fit(finished_copy, monkeypatch):
    loaded = []
    monkeypatch.setattr(vllm_engine, "VllmEngine", lambda recipe, weights, stops: loaded.append(weights.folder))
    load_predictor(RUN, engine="vllm", decode="generate", load_policy=False)
    assert loaded == [Path(RUN, "adapter")]
    for change, said in ((take_a_tensor_out, "1 tensors do not fit"), (change_the_adapter, "changed since training")):
        change()
        with pytest.raises(InputError, match=said):
            load_predictor(RUN, engine="vllm", decode="generate", load_policy=False)
    assert len(loaded) == 1


@pytest.mark.slow
def test_real_processes_end_with_the_code_and_without_a_traceback(finished_copy):
    refused = run_script(finished_copy, "scripts/sft.py", "--config", "recipes/none.yaml")
    check_refused(refused, ["no such recipe"])
    launched = run_script(
        finished_copy,
        *LAUNCH,
        "accelerate_configs/cpu.yaml",
        "--quiet",
        "scripts/sft.py",
        "--config",
        "recipes/none.yaml",
    )
    # The launcher has one exit code for every fault of its script.
    check_refused(launched, ["no such recipe"], code=1)


def test_a_folder_held_by_a_live_process_is_refused_and_freed_by_its_death(finished_copy, call):
    folder = Path("runs/new")
    write(folder / "LOCK", "")
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder / "LOCK")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "held\n"
        before = files_in(finished_copy)
        check_refused(call(*SFT), ["runs/new: ", "another run uses this folder (process 1234 on elsewhere)"], code=5)
        assert files_in(finished_copy) == before
    finally:
        os.kill(holder.pid, signal.SIGKILL)
        holder.communicate()
    trained = call(*SFT)
    assert trained.code == 0, trained.stderr
    assert (folder / "COMPLETE").is_file() and not (folder / "LOCK").exists()


def test_two_evaluations_of_one_run_do_not_meet(finished_copy, call):
    with lock(Path(RUN, ".evaluation.LOCK")):
        before = files_in(finished_copy)
        refused = call(*EVALUATE)
        check_refused(refused, [f"{RUN}/evaluation: another process writes it", "set --output"], code=5)
        assert files_in(finished_copy) == before


def test_processes_that_do_not_divide_the_batch_are_refused(workspace):
    recipe = parse_recipe(RECIPE)
    with pytest.raises(InputError, match="global_batch_size 8 cannot be divided by 3 processes"):
        training.divide_batch(recipe, 3)


def test_other_weights_can_be_accepted(finished_copy, call):
    change_a_weight()
    assert call(*ONE, "--allow-other-weights").code == 0


@pytest.mark.parametrize("words", [(*ONE, "--batch-size", "0"), (*EVALUATE, "--max-rows", "0")])
def test_counts_below_one_are_refused(words, finished_copy, call):
    before = files_in(finished_copy)
    done = call(*words)
    assert done.code == 2 and f"error: argument {words[-2]}: invalid positive value: '0'" in done.stderr
    assert files_in(finished_copy) == before
