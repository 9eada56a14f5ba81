"""FSDP and ZeRO by the shipped configurations: sharded, trained, killed, resumed to the same bits. Two processes on the CPU."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY, run_script
from sharded_runs import BASE, METHODS, WEIGHTS, Proved, environment_of, forget_the_table, prove, train
from tiny_model import build_tiny_model

pytestmark = pytest.mark.slow

ZERO = ("zero2/full", "zero3/full", "zero2/LoRA", "zero3/LoRA", "zero2/8bit", "zero2/4bit", "zero3/4bit")
# `make test` puts it there: among the other packages it would print lines of its own in every run.
DEEPSPEED = Path(sys.prefix) / ".deepspeed"


@pytest.fixture(scope="module")
def sharded_workspace(shared_workspace, tmp_path_factory):
    """A workspace with a base wide enough for blocks of 4-bit weights."""
    workspace = tmp_path_factory.mktemp("sharded") / "workspace"
    shutil.copytree(shared_workspace, workspace, symlinks=True)
    build_tiny_model(workspace / "models", BASE, hidden_size=128)
    return workspace


@pytest.fixture(scope="module")
def proved_with_deepspeed(sharded_workspace):
    """What is proved of each cell of `ZERO`, by one process that has DeepSpeed."""
    if not DEEPSPEED.is_dir():
        pytest.skip("DeepSpeed is not next to this environment; `make test` puts it there")
    search = os.pathsep.join(map(str, (DEEPSPEED, REPOSITORY / "tests")))
    done = run_script(sharded_workspace, REPOSITORY / "tests" / "sharded_runs.py", *ZERO, PYTHONPATH=search)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('["')]
    return {cell: Proved(*figures) for cell, *figures in lines}


def check(proved, share, bits):
    assert share - 0.1 < proved.share < share + 0.1
    if bits == 32:  # sums in another order; measured up to 5e-6 and 2e-5
        assert proved.losses_off < 5e-5 and proved.weights_off < 2e-4
    else:  # bfloat16 has three digits, and DDP keeps an adapter in it that others keep in float32; measured up to 2e-2
        assert proved.losses_off < 0.1


@pytest.mark.parametrize("method", ["full", "LoRA"])
def test_fsdp2_shards_an_unquantised_base_and_resumes(method, sharded_workspace, monkeypatch):
    monkeypatch.chdir(sharded_workspace)
    check(prove("fsdp2", method, sharded_workspace), share=0.5, bits=32)


def test_fsdp1_shards_a_4_bit_base_and_resumes(sharded_workspace, monkeypatch):
    # PEFT finds no adapter under FSDP1, and accelerate no optimizer to load into: without our fix both start from scratch.
    monkeypatch.chdir(sharded_workspace)
    check(prove("fsdp1_qlora", "4bit", sharded_workspace), share=0.55, bits=16)


@pytest.mark.parametrize(("configuration", "method"), [("fsdp2", "LoRA"), ("fsdp1_qlora", "4bit")])
def test_a_sharded_model_is_validated_by_its_loss_and_keeps_its_best_step(
    configuration, method, sharded_workspace, monkeypatch
):
    monkeypatch.chdir(sharded_workspace)
    words = (*METHODS[method], "--learning_rate", "30")  # too large, so that a later loss is not the best
    validated = ("--eval_strategy", "steps", "--eval_steps", "5", "--load_best_model_at_end", "true")
    folders = [sharded_workspace / f"{configuration}-{name}" for name in ("validated", "plain")]
    environment = environment_of(configuration)
    losses = train(sharded_workspace, folders[0], *words, *validated, environment=environment)
    facts = json.loads((folders[0] / "manifest.json").read_text("utf-8"))["training"]["validation"]
    found = {line["step"]: line["eval_loss"] for line in facts["evaluations"]}
    best = min(found, key=found.__getitem__)
    assert list(found) == [5, 10, 12] and facts["kept_step"] == best < 12
    assert not [name for line in facts["evaluations"] for name in line if "accuracy" in name]
    plain = train(sharded_workspace, folders[1], *words, "--max_steps", str(best), environment=environment)
    assert plain == losses[:best]
    kept, reached = (next(folder.glob(WEIGHTS)).read_bytes() for folder in folders)
    assert kept == reached


@pytest.mark.parametrize("cell", ZERO)
def test_zero_trains_and_resumes(cell, proved_with_deepspeed):
    check(
        proved_with_deepspeed[cell],
        share=0.5 if cell.startswith("zero3") else 1.0,
        bits=32 if cell.endswith(("full", "LoRA")) else 16,
    )


@pytest.mark.parametrize(
    ("configuration", "reason"),
    [
        ("fsdp1_qlora", "Cannot flatten integer dtype tensors"),
        ("fsdp2", "Creating a Parameter from an instance of type Int8Params"),
    ],
)
def test_an_8_bit_base_is_refused_under_fsdp_because_it_fails(configuration, reason, sharded_workspace, monkeypatch):
    """Fails if a new version can do it: then the table has to change."""
    monkeypatch.chdir(sharded_workspace)
    with pytest.raises(AssertionError, match=reason):
        train(
            sharded_workspace,
            sharded_workspace / configuration,
            *METHODS["8bit"],
            environment=environment_of(configuration),
            faults=[forget_the_table] * 2,
        )
