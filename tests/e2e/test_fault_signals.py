"""Signals, and processes that die: the run ends in order and by itself, and the same command finishes it to the same adapter.

F5, F6 and F15 of the fault suite. Processes and signals are real; most processes are forked from one that has imported its
libraries, those below a launcher are started as a user starts them.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import psutil
import pytest
from conftest import REPOSITORY, slow_after
from sft_faults import (
    Script,
    all_of,
    before,
    die,
    in_step,
    need_memory,
    need_too_much,
    tell,
    tell_twice,
    two_ranks,
    watch_group,
)

from e2e.conftest import INTERRUPTED, LAUNCH, adapter_hash
from radrecipes.training import checkpoints
from radrecipes.training.run_folder import read_manifest, read_train_log
from radrecipes.training.trainer import is_out_of_memory

RUN = Path("runs/interrupted")
STEPS = 18
SIGNALS = slow_after(1, (signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
# scripts/sft.py below a launcher, with a fault in it.
FAULTY = """\
import os, runpy, sys, time
from functools import partial
from pathlib import Path
from signal import SIGTERM
from sft_faults import *
rank = int(os.environ.get("RANK", "0"))
Path(f"pid.{rank}").write_text(str(os.getpid()))
FAULT
sys.argv[0] = "scripts/sft.py"
sys.path[0] = "scripts"
runpy.run_path("scripts/sft.py", run_name="__main__")
"""
# Slow enough that a signal from outside finds the run in its middle.
SLOW = "in_step(None, partial(time.sleep, 0.15))"


def logged_steps():
    return [line["step"] for line in read_train_log(RUN)]


def check_interrupted(at=None):
    """The run ended in order: complete checkpoints, the newest of the last logged step, and nothing that looks finished."""
    steps = logged_steps()
    assert steps == list(range(1, len(steps) + 1))
    found = checkpoints.find_last_valid(RUN)
    assert not found.rejected and found.newest.step == len(steps)
    if at is not None:
        assert len(steps) == at
    assert {path.name for path in RUN.iterdir()} == {
        ".radrecipes.json",
        "checkpoints",
        "recipe.yaml",
        "train_log.jsonl",
    }
    assert not list((RUN / "checkpoints" / "unfinished").glob("checkpoint-*"))


def check_finishes(workspace, hashes, processes=1, resumes=None):
    """The same command finishes the run to the adapter of the one that nothing happened to."""
    scripts = two_ranks(workspace, *INTERRUPTED) if processes == 2 else [Script(workspace, *INTERRUPTED)]
    for script in scripts:
        assert script.end().code == 0, script.stderr
    check_finished(hashes, processes)
    if resumes is not None:
        assert read_manifest(RUN)["training"]["resumes"] == [{"step": step, "changed": {}} for step in resumes]


def check_finished(hashes, processes):
    assert adapter_hash(RUN) == hashes[processes]
    assert logged_steps() == list(range(1, STEPS + 1))
    assert (RUN / "COMPLETE").exists() and not (RUN / "checkpoints").exists() and not (RUN / "LOCK").exists()


def said_once(script, words):
    lines = [line for line in script.stderr.splitlines() if line.startswith(("error: ", "stopped by "))]
    assert len(lines) == 1 and words in lines[0] and "Traceback" not in script.stderr, script.stderr


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_in_the_middle_of_a_step_ends_the_run_after_it(number, workspace, uninterrupted):
    stopped = Script(workspace, *INTERRUPTED, fault=partial(in_step, 7, partial(tell, number))).end()
    assert stopped.code == 75
    said_once(stopped, f"stopped by {number.name} after step 7 of 18, with a checkpoint; run the same command again")
    check_interrupted(at=7)
    check_finishes(workspace, uninterrupted, resumes=[7])


@pytest.mark.slow
@pytest.mark.parametrize(
    "place,step",
    [
        # The stop was requested after the step, so the next one ends it.
        (partial(before, "radrecipes.training.checkpoints", "seal", partial(tell, signal.SIGTERM)), 6),
        (
            partial(
                before, "radrecipes.training.checkpoints", "SealsCheckpoints.on_save", partial(tell, signal.SIGTERM)
            ),
            6,
        ),
        (partial(in_step, 5, partial(tell, signal.SIGTERM)), 5),
        (partial(in_step, 1, partial(tell, signal.SIGTERM)), 1),
        (partial(in_step, STEPS, partial(tell, signal.SIGTERM)), STEPS),
    ],
    ids=["while a checkpoint is sealed", "while it is written", "in a step that saves", "first step", "last step"],
)
def test_no_step_is_lost_wherever_training_is(place, step, workspace, uninterrupted):
    stopped = Script(workspace, *INTERRUPTED, fault=place).end()
    assert stopped.code == 75
    said_once(stopped, f"stopped by SIGTERM after step {step} of 18")
    check_interrupted(at=step)
    check_finishes(workspace, uninterrupted, resumes=[step])


@pytest.mark.slow
@pytest.mark.parametrize(
    "module,name", [("radrecipes.training.run", "load_base"), ("radrecipes.training.manifest", "weights_digest")]
)
def test_before_training_it_ends_at_once_and_leaves_nothing(module, name, workspace):
    stopped = Script(workspace, *INTERRUPTED, fault=partial(before, module, name, partial(tell, signal.SIGTERM))).end()
    assert stopped.code == 75
    said_once(stopped, "stopped by SIGTERM before training; run the same command again")
    assert not RUN.exists()


@pytest.mark.slow
def test_a_run_can_be_stopped_again_and_again(workspace, uninterrupted):
    """After a step, before training, by a second Ctrl-C, while the last checkpoint is loaded: four attempts, one result."""
    assert Script(workspace, *INTERRUPTED, "--stop-after", "3").end().code == 75
    check_interrupted(at=3)
    loading = partial(before, "radrecipes.training.run", "make_trainer", partial(tell, signal.SIGHUP))
    assert Script(workspace, *INTERRUPTED, fault=loading).end().code == 75
    check_interrupted(at=3)
    impatient = Script(
        workspace, *INTERRUPTED, fault=partial(in_step, 7, partial(tell_twice, signal.SIGINT, 2.1))
    ).end()
    assert impatient.code == 130 and "Traceback" not in impatient.stderr
    assert checkpoints.find_last_valid(RUN).newest.step == 5 and not (RUN / "LOCK").exists()
    assert not (RUN / "COMPLETE").exists() and not (RUN / "adapter").exists()
    check_finishes(workspace, uninterrupted, resumes=[3, 5])


@pytest.mark.slow
def test_a_signal_while_the_adapter_is_saved_lets_the_run_finish(workspace, uninterrupted):
    late = partial(before, "radrecipes.training.run", "save_and_verify", partial(tell, signal.SIGTERM))
    script = Script(workspace, *INTERRUPTED, fault=late).end()
    assert script.code == 0, script.stderr
    check_finished(uninterrupted, 1)


@pytest.mark.parametrize("rank,step", slow_after(1, [(1, 7), (0, 7), (1, STEPS)]))
def test_a_signal_to_one_of_two_processes_ends_both_after_the_same_step(rank, step, workspace, uninterrupted):
    faults = {0: watch_group, 1: watch_group}
    faults[rank] = partial(all_of, watch_group, partial(in_step, step, partial(tell, signal.SIGTERM)))
    scripts = [script.end() for script in two_ranks(workspace, *INTERRUPTED, faults=faults)]
    assert [script.code for script in scripts] == [75, 75], scripts[0].stderr + scripts[1].stderr
    said_once(scripts[0], f"stopped by {'another process' if rank else 'SIGTERM'} after step {step} of 18")
    assert "error" not in scripts[1].stderr
    assert all(script.stdout.count("DDP left: ") == script.stdout.count("DDP left: 0\n") == 1 for script in scripts)
    check_interrupted(at=step)
    check_finishes(workspace, uninterrupted, processes=2, resumes=[step])


@pytest.mark.slow
def test_a_signal_to_one_of_two_processes_while_the_other_writes_a_checkpoint(workspace, uninterrupted):
    faults = {
        1: partial(
            before, "radrecipes.training.checkpoints", "SealsCheckpoints.on_save", partial(tell, signal.SIGTERM)
        )
    }
    scripts = [script.end() for script in two_ranks(workspace, *INTERRUPTED, faults=faults)]
    assert [script.code for script in scripts] == [75, 75], scripts[0].stderr + scripts[1].stderr
    check_interrupted(at=6)
    check_finishes(workspace, uninterrupted, processes=2, resumes=[6])


@pytest.mark.slow
def test_the_death_of_one_of_two_processes_ends_the_other_and_the_same_command_resumes(workspace, uninterrupted):
    began = time.monotonic()
    scripts = [script.end() for script in two_ranks(workspace, *INTERRUPTED, faults={1: partial(in_step, 7, die)})]
    assert scripts[1].code == -signal.SIGKILL and scripts[0].code not in (0, 75) and time.monotonic() - began < 60
    assert checkpoints.find_last_valid(RUN).newest.step == 5
    assert not (RUN / "COMPLETE").exists() and not (RUN / "adapter").exists() and not (RUN / "LOCK").exists()
    check_finishes(workspace, uninterrupted, processes=2, resumes=[5])


class Launched:
    """A launcher as a user starts it, and the training below it."""

    def __init__(self, fault, *words, processes=1):
        shipped = REPOSITORY / "accelerate_configs" / ("cpu_2proc.yaml" if processes == 2 else "cpu.yaml")
        shutil.copy(shipped, "launch.yaml")
        Path("fault.py").write_text(FAULTY.replace("FAULT", fault), encoding="utf-8")
        self.processes = processes
        with open("said", "wb") as said:
            self.launcher = subprocess.Popen(
                [sys.executable, *map(str, words), "fault.py", *INTERRUPTED[1:]],
                env={**os.environ, "PYTHONPATH": str(REPOSITORY / "tests")},
                stdout=said,
                stderr=said,
                process_group=0,
            )

    @property
    def said(self):
        return Path("said").read_text("utf-8")

    @property
    def workers(self):
        return [int(Path(f"pid.{rank}").read_text("utf-8")) for rank in range(self.processes)]

    def wait_for_step(self, step):
        """Wait until training has logged a step; all its processes are frozen then, until `thaw`."""
        until = time.monotonic() + 120
        while not (RUN / "train_log.jsonl").exists() or len(logged_steps()) < step:
            assert self.launcher.poll() is None and time.monotonic() < until, self.said
            time.sleep(0.01)
        for worker in self.workers:
            os.kill(worker, signal.SIGSTOP)
        return len(logged_steps())

    def thaw(self):
        for worker in self.workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGCONT)

    def end(self, seconds=60):
        """Exit code of the launcher, once nothing of the job runs any more."""
        try:
            code = self.launcher.wait(seconds)
            workers = [psutil.Process(pid) for pid in self.workers if psutil.pid_exists(pid)]
            assert not psutil.wait_procs(workers, seconds)[1], self.said
            return code
        finally:
            self.kill()

    def kill(self):
        """Whatever of the job is left; its processes are those of the launcher's group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.launcher.pid, signal.SIGKILL)
        self.launcher.wait()


@pytest.fixture
def launch(workspace):
    launched = []

    def start(*words, **options):
        launched.append(Launched(*words, **options))
        return launched[-1]

    yield start
    for job in launched:
        job.kill()


ACCELERATE = (*LAUNCH, "launch.yaml")
OWN = ("scripts/launch.py", "--config_file", "launch.yaml")


@pytest.mark.slow
@pytest.mark.parametrize(
    "words,processes,told,code",
    [
        ((), 1, "launcher", 75),
        # It ends at once and does not wait: what it started must save and end by itself.
        (ACCELERATE, 1, "launcher", -signal.SIGTERM),
        (ACCELERATE, 2, "launcher", 1),
        (OWN, 2, "launcher", 75),
        (OWN, 2, "second process", 75),
    ],
    ids=["no launcher", "accelerate, one", "accelerate, two", "launch.py, two", "launch.py, one of two"],
)
def test_a_signal_from_outside_ends_the_whole_job_within_a_step(words, processes, told, code, launch, uninterrupted):
    job = launch(SLOW, *words, processes=processes)
    logged = job.wait_for_step(3)
    os.kill(job.launcher.pid if told == "launcher" else job.workers[1], signal.SIGTERM)
    job.thaw()
    assert job.end() == code, job.said
    # One step may have been done and not yet logged when the processes were frozen, and one more be running.
    assert logged <= len(logged_steps()) <= logged + 2
    assert len(re.findall(r"\bstopped by .* after step", job.said)) == 1, job.said
    check_interrupted()
    check_finishes(Path.cwd(), uninterrupted, processes)


@pytest.mark.slow
def test_a_launcher_restarts_the_job_after_the_death_of_a_process(launch, uninterrupted):
    job = launch("if rank == 1: in_step(7, partial(die_once, Path('died')))", *OWN, "--max_restarts", 1, processes=2)
    assert job.end(120) == 0, job.said
    assert Path("died").exists()
    check_finished(uninterrupted, 2)
    assert read_manifest(RUN)["training"]["resumes"] == [{"step": 5, "changed": {}}]


@pytest.mark.slow
def test_a_signal_to_one_of_two_processes_before_training_ends_the_whole_job(launch):
    job = launch(
        "if rank == 1: before('radrecipes.training.run', 'load_base', partial(tell, SIGTERM))", *OWN, processes=2
    )
    began = time.monotonic()
    assert job.end() == 75, job.said
    assert time.monotonic() - began < 60 and not RUN.exists()


def test_memory_that_runs_out_names_the_option_that_helps_and_the_change_is_recorded(workspace):
    # Four examples per batch fit, eight do not.
    fault = partial(need_memory, gib_per_example=1, fits=6, from_step=7)
    ended = Script(workspace, *INTERRUPTED, fault=fault).end()
    assert ended.code == 1
    said_once(ended, "memory ran out with 8 examples per batch")
    fix = "--per_device_train_batch_size 4 --allow-change recipe"
    assert f"run the same command with {fix}; the global batch stays 8" in ended.stderr
    assert checkpoints.find_last_valid(RUN).newest.step == 5
    refused = Script(workspace, *INTERRUPTED, *fix.split()[:2], fault=fault).end()
    assert refused.code == 2 and "per_device_train_batch_size: 8 there, 4 here" in refused.stderr
    fixed = Script(workspace, *INTERRUPTED, *fix.split(), fault=fault).end()
    assert fixed.code == 0, fixed.stderr
    training = read_manifest(RUN)["training"]
    changed = {"recipe.per_device_train_batch_size": [8, 4]}
    assert training["resumes"] == [{"step": 5, "changed": changed}]
    assert (training["global_batch_size"], training["per_device_batch_size"]) == (8, 4)
    assert logged_steps() == list(range(1, STEPS + 1))


@pytest.mark.slow
def test_memory_that_runs_out_before_training_names_the_option_as_well(workspace):
    fault = partial(before, "radrecipes.training.trainer", "CompletionTrainer.compute_loss", need_too_much)
    ended = Script(workspace, *INTERRUPTED, fault=fault).end()
    assert ended.code == 1
    said_once(
        ended, "memory ran out with 8 examples per batch; run the same command with --per_device_train_batch_size 4"
    )


def test_what_onednn_says_without_memory_is_not_a_defect_of_ours():
    # Measured with bfloat16 weights and a limit of the address space that leaves too little for oneDNN's work space.
    assert is_out_of_memory(RuntimeError("could not create a primitive"))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied (1x3 and 4x5)"))
