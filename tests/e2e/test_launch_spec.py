"""scripts/sft.py under launchers that requested something other than what runs: one line, exit code 2, nothing written."""

from dataclasses import replace
from pathlib import Path

import pytest

from e2e.conftest import RECIPE
from radrecipes.launch import compatibility
from radrecipes.launch.compatibility import LORA, TABLE, Verdict
from radrecipes.launch.spec import Engine, LaunchSpec


@pytest.fixture
def refused(workspace, call, monkeypatch):
    """`refused(**environment)` starts training and returns the one line that it ends with."""

    def start(**environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        ended = call("sft", "--config", RECIPE)
        errors = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
        assert ended.code == 2 and len(errors) == 1, ended.stderr
        assert not [path for path in Path("runs").rglob("*") if path.is_file()]
        return errors[0]

    return start


def test_another_number_of_processes_than_requested(refused):
    said = refused(RADRECIPES_LAUNCH_SPEC=LaunchSpec(2, Engine.DDP, True).to_json())
    assert said == "error: the launcher requested 2 processes (DDP) on the CPU, but the world size is 1"


def test_fsdp_on_a_machine_without_a_gpu(refused, monkeypatch):
    """As under plain `accelerate launch`, which continues with DDP on the CPU."""
    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
    said = refused(WORLD_SIZE="1", ACCELERATE_USE_FSDP="true", FSDP_VERSION="2")
    assert "requests 1 process (FSDP2) on GPUs, but PyTorch finds no GPU here" in said


def test_one_process_of_several(refused):
    said = refused(ACCELERATE_USE_CPU="True", MASTER_ADDR="127.0.0.1", MASTER_PORT="29500")
    assert "accelerate started one process although several were requested" in said


def test_another_engine_than_requested(refused, monkeypatch):
    monkeypatch.setattr(compatibility, "configuration_of", lambda spec: "cpu")
    said = refused(RADRECIPES_LAUNCH_SPEC=LaunchSpec(1, Engine.FSDP2, True).to_json())
    assert "requested 1 process (FSDP2) on the CPU, but accelerate runs one process" in said


def test_a_method_that_its_configuration_cannot_run(refused, monkeypatch):
    entry = replace(TABLE[LORA, "cpu"], verdict=Verdict.REFUSED, note="it fails; use another", sources=("some#1",))
    monkeypatch.setitem(TABLE, (LORA, "cpu"), entry)
    assert refused().endswith("with cpu.yaml: it fails; use another (some#1)")


def test_a_setting_that_would_change_what_the_recipe_trains(refused):
    said = refused(ACCELERATE_MIXED_PRECISION="bf16")
    assert "mixed_precision (ACCELERATE_MIXED_PRECISION) is 'bf16', which would change what the recipe trains" in said
