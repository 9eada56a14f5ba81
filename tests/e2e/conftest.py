"""What the end-to-end tests share: one finished run, made by the real commands, and scripts called in this interpreter."""

import hashlib
import json
import runpy
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import run_script
from sft_faults import Script, two_ranks

# A launch configuration for the CPU: `kind` is "NO" or MULTI_GPU, and a free port is taken.
CONFIGURATION = """\
compute_environment: LOCAL_MACHINE
distributed_type: {kind}
use_cpu: true
num_machines: 1
num_processes: {processes}
machine_rank: 0
mixed_precision: "no"
main_process_port: 0
"""
LAUNCH = ("-m", "accelerate.commands.accelerate_cli", "launch", "--config_file")
RECIPE = "recipes/tiny/protocol_lora.yaml"
RUN = "runs/tiny/protocol_lora/seed-42"
# Enough steps that the tiny model learns its four questions by heart; about three seconds.
TRAIN = ("--config", RECIPE, "--num_train_epochs", "20")
# Three epochs of six steps, a checkpoint every five, and dropout, so that a wrong random state shows.
INTERRUPTED = (
    *("scripts/sft.py", "--config", RECIPE, "--num_train_epochs", "3", "--save_steps", "5", "--lora_dropout", "0.2"),
    *("--output_dir", "runs/interrupted"),
)
ORDERS = [
    ("a7", "44 yo F, chronic knee pain, r/o meniscal tear"),
    ("a3", "61 yo M, worst headache of life,\nr/o bleed, no contrast"),
    ("a9", '30 yo F, c/f stroke, "sudden onset" weakness'),
    ("a1", "zzz"),
]


class Called(NamedTuple):
    """How a script ended."""

    code: int
    stdout: str
    stderr: str


class Finished(NamedTuple):
    """The one finished run, and what its commands said."""

    workspace: Path
    folder: Path
    trained: subprocess.CompletedProcess
    evaluated: subprocess.CompletedProcess
    predicted: subprocess.CompletedProcess
    again: subprocess.CompletedProcess
    before_again: dict[str, bytes]


def files_in(folder: Path) -> dict[str, bytes]:
    """Content of every file under a folder, links not followed."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


def edit_json(path: Path, **changes) -> None:
    """Change keys of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **changes}, indent=2), encoding="utf-8")


def adapter_hash(run: Path) -> str:
    """sha256 of a run's trained weights."""
    return hashlib.sha256((run / "adapter" / "adapter_model.safetensors").read_bytes()).hexdigest()


@pytest.fixture(scope="session")
def uninterrupted(shared_workspace, build_once) -> dict[int, str]:
    """Hash of the adapter that `INTERRUPTED` gives if nothing happens, for one and for two processes."""
    return build_once("uninterrupted", partial(train_uninterrupted, shared_workspace))


def train_uninterrupted(shared_workspace: Path, folder: Path) -> dict[int, str]:
    """See [`uninterrupted`]."""
    workspace = shutil.copytree(shared_workspace, folder / "workspace", symlinks=True)
    hashes = {}
    for processes in (1, 2):
        words = (*INTERRUPTED, "--restart")
        for script in two_ranks(workspace, *words) if processes == 2 else [Script(workspace, *words)]:
            assert script.end().code == 0, script.stderr
        hashes[processes] = adapter_hash(workspace / "runs" / "interrupted")
    return hashes


@pytest.fixture(scope="session")
def finished(shared_workspace, build_once) -> Finished:
    """Train, evaluate and predict as the documentation says. Read only."""
    return build_once("finished", partial(train_evaluate_predict, shared_workspace))


def train_evaluate_predict(shared_workspace: Path, folder: Path) -> Finished:
    """See [`finished`]."""
    workspace = shutil.copytree(shared_workspace, folder / "workspace", symlinks=True)
    lines = ["mrn,order", *(f'{row_id},"{note.replace(chr(34), chr(34) * 2)}"' for row_id, note in ORDERS)]
    (workspace / "orders.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    train = (*LAUNCH, "accelerate_configs/cpu.yaml", "scripts/sft.py", *TRAIN)
    trained = run_script(workspace, *train)
    assert trained.returncode == 0, trained.stderr
    before_again = files_in(workspace / RUN)
    table = ("--input", "orders.csv", "--text-column", "order", "--id-column", "mrn", "--output", "answers.csv")
    # The evaluation fits the thresholds that prediction uses.
    again = run_script(workspace, "scripts/sft.py", *TRAIN)
    assert files_in(workspace / RUN) == before_again
    evaluated = run_script(workspace, "scripts/evaluate_model.py", "--run", RUN)
    predicted = run_script(workspace, "scripts/predict.py", "--adapter", RUN, *table)
    return Finished(workspace, workspace / RUN, trained, evaluated, predicted, again, before_again)


@pytest.fixture
def finished_copy(finished, tmp_path, monkeypatch) -> Path:
    """A copy of the finished workspace, which is also the working directory of the test."""
    folder = tmp_path / "workspace"
    shutil.copytree(finished.workspace, folder, symlinks=True)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def call(monkeypatch, capfd):
    """Call a script in this interpreter, which saves the seconds that Python takes to import torch.

    `call("predict", "--adapter", ...)` returns [`Called`].
    """

    def call_script(name: str, *words: str | Path) -> Called:
        monkeypatch.setattr(sys, "argv", [f"scripts/{name}.py", *map(str, words)])
        # As Python does for a script: modules next to it can be imported.
        monkeypatch.syspath_prepend("scripts")
        capfd.readouterr()
        code = 0
        try:
            runpy.run_path(f"scripts/{name}.py", run_name="__main__")
        except SystemExit as end:
            code = end.code or 0
        return Called(code, *capfd.readouterr())

    return call_script
