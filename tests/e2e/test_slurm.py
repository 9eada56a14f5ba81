"""launch/slurm/train.sbatch around a real training: told to stop as Slurm does it, queued again, finished with the same adapter.

`srun` and `scontrol` are stand-ins; what `srun` starts is what a cluster would start.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from conftest import REPOSITORY
from sft_faults import Script

from e2e.conftest import RECIPE, adapter_hash

pytestmark = pytest.mark.slow

# A run that takes some seconds after its first step.
WORDS = ("--num_train_epochs", "8", "--lora_dropout", "0.2", "--output_dir")
PROGRAMS = {
    "srun": '#!/bin/bash\nwhile [[ $1 == --* ]]; do shift; done\nexec "$@"\n',
    "scontrol": '#!/bin/bash\necho "$@" >>scontrol.log\n',
}


@pytest.fixture
def start(workspace):
    """`start(restarts)` starts the batch script as Slurm does, on a node without GPUs."""
    for name, text in PROGRAMS.items():
        Path("bin", name).parent.mkdir(exist_ok=True)
        Path("bin", name).write_text(text)
        Path("bin", name).chmod(0o755)
    started = []

    def start_job(restarts):
        allocation = {"SLURM_JOB_ID": "4711", "SLURM_NNODES": "1", "SLURM_CPUS_PER_TASK": "1"}
        settings = {"CONFIGURATION": "accelerate_configs/cpu.yaml", "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
        with open("job.log", "ab") as log:
            job = subprocess.Popen(
                ["bash", REPOSITORY / "launch/slurm/train.sbatch", RECIPE, *WORDS, "runs/job"],
                env={
                    **os.environ,
                    **allocation,
                    **settings,
                    "PATH": f"{Path('bin').resolve()}:{os.environ['PATH']}",
                    "SLURM_RESTART_COUNT": str(restarts),
                },
                stdout=log,
                stderr=log,
                process_group=0,
            )
        started.append(job)
        return job

    yield start_job
    for job in started:
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)
            job.wait()


def test_a_job_that_reaches_its_time_limit_resumes_where_it_was(start, workspace):
    job = start(restarts=0)
    log = Path("runs/job/train_log.jsonl")
    until = time.monotonic() + 300
    while not log.exists() or not log.read_text("utf-8"):
        assert job.poll() is None and time.monotonic() < until, Path("job.log").read_text("utf-8")
        time.sleep(0.01)
    for process in psutil.Process(job.pid).children(recursive=True):
        process.send_signal(signal.SIGTERM)  # every process of the job's step, and not the script
    assert job.wait(120) == 75, Path("job.log").read_text("utf-8")
    assert Path("scontrol.log").read_text("utf-8") == "requeue 4711\n"
    assert not Path("runs/job/COMPLETE").exists()

    assert start(restarts=1).wait(300) == 0, Path("job.log").read_text("utf-8")
    assert "resuming after step" in Path("job.log").read_text("utf-8")
    assert Path("scontrol.log").read_text("utf-8") == "requeue 4711\n"
    whole = Script(workspace, "scripts/sft.py", "--config", RECIPE, *WORDS, "runs/whole").end(120)
    assert whole.code == 0, whole.stderr
    assert adapter_hash(Path("runs/job")) == adapter_hash(Path("runs/whole"))
