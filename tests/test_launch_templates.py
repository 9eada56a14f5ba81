"""The templates under launch/: what they start is what the real parsers take, and they do with exit codes what they say."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY

LAUNCH = REPOSITORY / "launch"
RECIPE = "recipes/smollm2-135m/protocol_lora.yaml"
SHELLCHECK = Path(sys.executable).with_name("shellcheck")
# Programs of Slurm: they note their words as JSON, and answer as the test says.
STAND_IN = f"""#!{sys.executable}
import json, os, sys
name = os.path.basename(sys.argv[0])
with open(os.environ["NOTES"], "a") as stream:
    stream.write(json.dumps([name, *sys.argv[1:]]) + "\\n")
if name == "srun":
    sys.exit(int(os.environ["CODE"]))
if sys.argv[1:3] == ["show", "hostnames"]:
    print("node-1\\nnode-2")
"""


@pytest.fixture
def slurm(tmp_path):
    """`slurm(nodes, *words, code=0)` runs the batch script: its exit code, and the words of each program that it called."""
    for name in ("srun", "scontrol"):
        (tmp_path / name).write_text(STAND_IN)
        (tmp_path / name).chmod(0o755)

    def run(nodes, *words, code=0, **environment):
        notes = tmp_path / "notes"
        notes.unlink(missing_ok=True)
        allocation = {
            "SLURM_JOB_ID": "64711",
            "SLURM_JOB_NODELIST": "node-[1-2]",
            "SLURM_NNODES": str(nodes),
            "SLURM_GPUS_ON_NODE": "8",
            "SLURM_CPUS_PER_TASK": "16",
        }
        programs = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "NOTES": str(notes), "CODE": str(code)}
        ended = subprocess.run(
            ["bash", LAUNCH / "slurm" / "train.sbatch", *words],
            cwd=REPOSITORY,
            env={**os.environ, **allocation, **programs, **environment},
            capture_output=True,
            text=True,
            timeout=20,
        )
        called = [json.loads(line) for line in notes.read_text().splitlines()] if notes.exists() else []
        return ended.returncode, called

    return run


@pytest.mark.parametrize(
    "code,restarts,queued",
    [
        (75, None, True),
        (75, "19", True),
        (75, "20", False),
        (0, None, False),
        (1, None, False),
        (2, None, False),
        (143, None, False),
    ],
)
def test_slurm_queues_again_what_saved_and_nothing_else(code, restarts, queued, slurm):
    ended, called = slurm(1, RECIPE, code=code, **({"SLURM_RESTART_COUNT": restarts} if restarts else {}))
    assert ended == code
    assert (["scontrol", "requeue", "64711"] in called) == queued


def test_slurm_without_a_recipe_starts_nothing(slurm):
    code, called = slurm(1)
    assert code != 0 and not called


def test_the_shell_scripts_have_no_fault_that_shellcheck_knows():
    scripts = [path for path in LAUNCH.rglob("*") if path.suffix in (".sbatch", ".sh")]
    assert scripts
    checked = subprocess.run([SHELLCHECK, "--shell=bash", *scripts], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout
