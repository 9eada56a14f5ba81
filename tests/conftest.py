"""What many tests share: a workspace with a tiny model, a tiny prepared dataset and a tiny recipe."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

# Before any library reads them: no test reaches for the Hub.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from tiny_model import build_tiny_model

from radrecipes.data.example import Example
from radrecipes.data.preparation import COLUMNS, derive_label_set, prepare_labelled_notes
from radrecipes.data.prepared import write_prepared_dataset
from radrecipes.reporting.dataset_card import render_dataset_card

REPOSITORY = Path(__file__).resolve().parents[1]
TINY_MODEL = "tiny/llama"
TINY_RECIPE = """\
# Tiny Llama · LoRA · protocol labelling. Tests only, seconds. Global batch 8.
# accelerate launch --config_file accelerate_configs/cpu.yaml scripts/sft.py --config recipes/tiny/protocol_lora.yaml

task: protocol
dataset: data/tiny
max_length: 160
model_name_or_path: tiny/llama
dtype: float32
use_peft: true
lora_r: 4
lora_alpha: 8
lora_dropout: 0.0
lora_target_modules: all-linear
global_batch_size: 8
learning_rate: 1.0e-2
lr_scheduler_type: constant
num_train_epochs: 1
seed: 42
max_new_tokens: 12
"""
_QUESTIONS = {
    "CT Dedicated Kidney": "r/o renal recurrence, s/p partial nephrectomy",
    "CT Head": "worst headache of life, r/o bleed, no contrast",
    "MR Brain": "c/f stroke, sudden onset weakness",
    "MR Knee": "chronic knee pain, r/o meniscal tear",
}
_HISTORIES = ("HTN", "DM2 and CKD", "no prior imaging", "smoker", "s/p fall", "on warfarin", "asthma", "none given")


def write_tiny_dataset(folder: Path, rows: int = 64) -> None:
    """A prepared dataset of `rows` notes, each a group of its own, over four labels."""
    examples = []
    for number in range(rows):
        label = list(_QUESTIONS)[number % len(_QUESTIONS)]
        age, sex = 20 + number, "MF"[number // 4 % 2]
        history = _HISTORIES[number // 8 % len(_HISTORIES)]
        note = f"{age} yo {sex}, {_QUESTIONS[label]}. History: {history}"
        examples.append(Example(f"order-{number}", f"patient-{number}", {"note": note}, label, f"tiny:{number + 1}"))
    label_set = derive_label_set(examples, "tiny", "tiny")
    preparation = prepare_labelled_notes(examples, label_set, near_duplicate_threshold=1.0)
    manifest = {
        "name": folder.name,
        "task": "protocol",
        "access": "synthetic",
        "license": "apache-2.0",
        "language": "en",
        "source": [],
        "generator": {"name": "tests", "seed": 0, "rows": rows},
        "label_set_derived": True,
        **preparation.facts,
    }
    write_prepared_dataset(
        folder,
        splits=preparation.splits,
        columns=COLUMNS,
        manifest=manifest,
        card=render_dataset_card(manifest),
        label_set=label_set,
    )


@pytest.fixture(scope="session")
def shared_workspace(tmp_path_factory) -> Path:
    """A folder as a user's clone, made once: read it only; take `workspace` to write."""
    folder = tmp_path_factory.mktemp("workspace")
    build_tiny_model(folder / "models", TINY_MODEL)
    write_tiny_dataset(folder / "data" / "tiny")
    recipe = folder / "recipes" / "tiny" / "protocol_lora.yaml"
    recipe.parent.mkdir(parents=True)
    recipe.write_text(TINY_RECIPE, encoding="utf-8")
    for name in ("scripts", "accelerate_configs"):
        (folder / name).symlink_to(REPOSITORY / name)
    return folder


@pytest.fixture
def workspace(shared_workspace, tmp_path, monkeypatch) -> Path:
    """A copy of the shared workspace for one test, which is also the working directory of that test."""
    folder = tmp_path / "workspace"
    shutil.copytree(shared_workspace, folder, symlinks=True)
    monkeypatch.chdir(folder)
    return folder


def run_script(workspace: Path, *words: str | Path, timeout: int = 300, **environment: str):
    """Run `python WORDS…` in a workspace as a user does, offline and on one thread.

    Args:
        workspace (`Path`):
            The working directory.
        words (`str` or `Path`):
            The script and its arguments: `"scripts/recipes.py", "list"`. Words that begin with `-m` work too.
        timeout (`int`, *optional*, defaults to 300):
            Seconds.
        environment (`str`):
            Environment variables to set beside the test's own.

    Returns:
        `subprocess.CompletedProcess`: with `returncode`, `stdout` and `stderr` as text.
    """
    return subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=workspace,
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **environment},
    )
