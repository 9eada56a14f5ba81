"""Runs that are killed, damaged or misconfigured: they resume and end with exactly the same adapter, or stop with a clear message.

Real processes and real signals on the tiny model. Dropout is on, so that a lost state of a random generator shows.
"""

import functools
import hashlib
import json
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
import torch
from conftest import REPOSITORY, TINY_MODEL, run_script, slow_after, write_tiny_dataset
from kill_points import record, signal_at
from safetensors.torch import load_file, save_file
from sft_faults import Script, two_ranks

from e2e.conftest import LAUNCH, RECIPE, RUN, files_in
from radrecipes.training.run_folder import read_train_log

TRAIN = ("scripts/sft.py", "--config", RECIPE, "--lora_dropout", "0.1", "--num_train_epochs", "2")
# 48 rows in batches of 8: 12 steps, an epoch ends after step 6, every second step has a checkpoint.
STEPS = 12
ACCUMULATED = ("--per_device_train_batch_size", "4")
# Four rows a step and process, two at a time
TWO_RANKS = ("--per_device_train_batch_size", "2")
WEIGHTS = "adapter/adapter_model.safetensors"
# A launcher's worker of which one rank is killed if the environment says so.
KILLED_RANK = """\
import os, runpy, sys
if os.environ.get("KILL_RANK") == os.environ["RANK"]:
    sys.path.insert(0, os.environ["TESTS"])
    from kill_points import signal_at
    signal_at(os.environ["RUN"], "batch", 15)
    sys.path.pop(0)
runpy.run_path("scripts/sft.py", run_name="__main__")
"""


class Reference(NamedTuple):
    """A run that nothing interrupted."""

    folder: Path
    adapter: str
    losses: list[float]
    files: set[str]
    events: list[str]


def adapter_of(folder: Path) -> str:
    return hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()


def losses_of(folder: Path) -> list[float]:
    """The losses of a run; every step is in its log once and in order."""
    lines = [json.loads(line) for line in (folder / "train_log.jsonl").read_text("utf-8").splitlines()]
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    return [line["loss"] for line in lines]


def described(folder: Path, events: Path | None = None) -> Reference:
    names = set(files_in(folder))
    seen = events.read_text("utf-8").splitlines() if events else []
    return Reference(folder, adapter_of(folder), losses_of(folder), names, seen)


def assert_is(folder: Path, reference: Reference) -> None:
    """A run is byte for byte the one that nothing interrupted, and nothing of the interruption is left."""
    assert adapter_of(folder) == reference.adapter
    assert losses_of(folder) == reference.losses
    assert set(files_in(folder)) == reference.files
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    assert manifest["adapter"]["sha256"] == reference.adapter
    assert manifest["training"]["first_losses"] == reference.losses[:10]


def killed(workspace: Path, point: str, nth: int = 1, *words: str) -> Script:
    """Train until the process kills itself at a point."""
    fault = functools.partial(signal_at, workspace / RUN, point, nth)
    script = Script(workspace, *TRAIN, *words, fault=fault).end()
    assert script.code == -signal.SIGKILL, script.stderr
    return script


def trained(workspace: Path, *words: str, fault: Callable[[], None] | None = None) -> Script:
    """Train to the end."""
    script = Script(workspace, *TRAIN, *words, fault=fault).end()
    assert script.code == 0, script.stderr
    return script


def trained_by_two(workspace: Path, *words: str) -> Script:
    """Train to the end in two processes; the first one is returned."""
    both = [script.end() for script in two_ranks(workspace, *TRAIN, *TWO_RANKS, *words)]
    assert [script.code for script in both] == [0, 0], both[0].stderr + both[1].stderr
    return both[0]


def resumed_after(script: Script) -> int:
    """The step after which a run said that it resumed; 0 if it started from scratch."""
    lines = [line for line in script.stdout.splitlines() if line.startswith("resuming after step ")]
    return int(lines[0].split()[3]) if lines else 0


def resumes_in(folder: Path) -> list[dict]:
    return json.loads((folder / "manifest.json").read_text("utf-8"))["training"]["resumes"]


def copy_of(workspace: Path, to: Path) -> Path:
    shutil.copytree(workspace, to, symlinks=True)
    return to


@pytest.fixture(scope="module")
def reference(shared_workspace, tmp_path_factory) -> Reference:
    """One process."""
    workspace = copy_of(shared_workspace, tmp_path_factory.mktemp("reference") / "workspace")
    events = workspace / "events"
    ended = Script(workspace, *TRAIN, fault=functools.partial(record, workspace / RUN, events)).end()
    assert ended.code == 0, ended.stderr
    return described(workspace / RUN, events)


@pytest.fixture(scope="module")
def reference_accumulated(shared_workspace, tmp_path_factory) -> Reference:
    """One process, two batches a step."""
    workspace = copy_of(shared_workspace, tmp_path_factory.mktemp("accumulated") / "workspace")
    trained(workspace, *ACCUMULATED)
    return described(workspace / RUN)


@pytest.fixture(scope="module")
def reference_two(shared_workspace, tmp_path_factory) -> Reference:
    """Two processes, two batches a step."""
    workspace = copy_of(shared_workspace, tmp_path_factory.mktemp("two") / "workspace")
    trained_by_two(workspace)
    return described(workspace / RUN)


@pytest.fixture(scope="module")
def stopped_once(shared_workspace, tmp_path_factory) -> Path:
    """A workspace whose run was stopped after step 8, with checkpoints of steps 6 and 8. Read only."""
    workspace = copy_of(shared_workspace, tmp_path_factory.mktemp("stopped") / "workspace")
    ended = Script(workspace, *TRAIN, "--stop-after", "8").end()
    assert ended.code == 75, ended.stderr
    assert "stopped by --stop-after after step 8 of 12, with a checkpoint" in ended.stderr
    assert sorted(path.name for path in (workspace / RUN / "checkpoints").glob("checkpoint-*")) == [
        "checkpoint-6",
        "checkpoint-8",
    ]
    return workspace


@pytest.fixture
def stopped(stopped_once, tmp_path) -> Path:
    """A copy of it for one test."""
    return copy_of(stopped_once, tmp_path / "workspace")


# F1: kill -9

_CHECKPOINT = "checkpoints/unfinished/checkpoint-8"


@pytest.mark.parametrize(
    ("point", "nth", "after"),
    slow_after(
        2,
        [
            ("batch", 6, 4),
            ("write checkpoints/unfinished/adapter/", 3, 12),
            ("rename .recipe.yaml", 1, 0),
            ("batch", 1, 0),
            ("batch", 2, 0),
            ("batch", 7, 6),
            (f"write {_CHECKPOINT}/adapter_config.json", 1, 6),
            (f"write {_CHECKPOINT}/trainer_state.json", 1, 6),
            (f"write {_CHECKPOINT}/MANIFEST.json", 1, 6),
            (f"rename {_CHECKPOINT}", 1, 6),
            ("remove checkpoints/checkpoint-4/", 3, 8),
            ("write checkpoints/unfinished/adapter/", 1, 12),
            ("write .manifest.json", 1, 12),
            ("rename checkpoints/unfinished/adapter", 1, 12),
            ("write COMPLETE", 1, 12),
        ],
    ),
)
def test_a_killed_run_resumes_and_ends_with_the_same_adapter(point, nth, after, workspace, reference):
    first = killed(workspace, point, nth)
    assert not (workspace / RUN / "COMPLETE").exists()
    second = trained(workspace)
    assert f"took over the lock of a killed run (process {first.pid} on {socket.gethostname()})" in second.stdout
    assert resumed_after(second) == after
    assert resumes_in(workspace / RUN) == ([{"step": after, "changed": {}}] if after else [])
    assert_is(workspace / RUN, reference)


@pytest.mark.slow
def test_a_run_killed_after_its_end_is_finished_and_tidied_up(workspace, reference):
    killed(workspace, "remove checkpoints/checkpoint-12/")
    second = trained(workspace)
    assert second.stdout == f"{RUN} contains this run, finished; nothing to do (--restart trains from scratch)\n"
    assert_is(workspace / RUN, reference)


@pytest.mark.slow
def test_a_run_that_ends_within_an_epoch_trains_no_step_too_many(workspace):
    # At the end of an epoch the Trainer stops by itself; in its middle it would continue with the next batch.
    words = ("--max_steps", "9")
    trained(workspace, *words)
    alone = described(workspace / RUN)
    shutil.rmtree(workspace / RUN)
    killed(workspace, "write checkpoints/unfinished/adapter/", 1, *words)
    assert resumed_after(trained(workspace, *words)) == len(alone.losses) == 9
    assert_is(workspace / RUN, alone)


@pytest.mark.slow
def test_accumulated_gradients_are_lost_and_computed_again(workspace, reference_accumulated):
    # Batches 11 and 12 make step 6.
    killed(workspace, "batch", 12, *ACCUMULATED)
    assert resumed_after(trained(workspace, *ACCUMULATED)) == 4
    assert_is(workspace / RUN, reference_accumulated)


@pytest.mark.slow
@pytest.mark.parametrize("quarter", [1, 2, 3])
def test_a_run_that_is_killed_again_while_it_resumes_ends_with_the_same_adapter(quarter, workspace, reference):
    # Anywhere in what a run does; the points that differ in kind are those above.
    last = reference.events.index("write COMPLETE")
    for nth in (quarter * last // 4, 5 * quarter):
        killed(workspace, "", nth)
    trained(workspace)
    assert_is(workspace / RUN, reference)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rank", "point", "nth", "after"),
    [
        (1, "batch", 13, 6),
        (1, "batch", 12, 4),
        (0, f"rename {_CHECKPOINT}", 1, 6),
        (0, "write checkpoints/unfinished/adapter/", 2, 12),
    ],
)
def test_a_killed_rank_ends_both_and_both_resume_and_end_with_the_same_adapter(
    rank, point, nth, after, workspace, reference_two
):
    fault = functools.partial(signal_at, workspace / RUN, point, nth)
    both = two_ranks(workspace, *TRAIN, *TWO_RANKS, faults={rank: fault})
    both[rank].end()
    assert both[rank].code == -signal.SIGKILL, both[rank].stderr
    # As a launcher would; alone the other one waits for it.
    both[1 - rank].signal(signal.SIGKILL)
    both[1 - rank].end()
    assert resumed_after(trained_by_two(workspace)) == after
    assert_is(workspace / RUN, reference_two)


@pytest.mark.slow
def test_a_rank_killed_below_the_launcher_ends_the_job_and_the_same_command_resumes(workspace, reference_two):
    (workspace / "train.py").write_text(KILLED_RANK, encoding="utf-8")
    command = (*LAUNCH, "accelerate_configs/cpu_2proc.yaml", "train.py", *TRAIN[1:], *TWO_RANKS)
    environment = {"KILL_RANK": "1", "TESTS": str(REPOSITORY / "tests"), "RUN": RUN}
    first = run_script(workspace, *command, timeout=60, **environment)
    assert first.returncode != 0 and "SIGKILL" in first.stderr
    assert not (workspace / RUN / "COMPLETE").exists()
    second = run_script(workspace, *command)
    assert second.returncode == 0, second.stderr
    assert "resuming after step 6 " in second.stdout
    assert_is(workspace / RUN, reference_two)


# F2: the newest checkpoint is not what was written


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def empty_folder(path: Path) -> None:
    shutil.rmtree(path.parent)
    path.parent.mkdir()


@pytest.mark.parametrize(
    ("name", "fault", "reason"),
    slow_after(
        1,
        [
            ("adapter_model.safetensors", flip_a_bit, "was changed or cut since it was written"),
            ("trainer_state.json", cut, "was changed or cut since it was written"),
            ("optimizer.pt", Path.unlink, "is missing"),
            ("MANIFEST.json", Path.unlink, "is missing, so it was not finished"),
            ("MANIFEST.json", cut, "cannot be read"),
            ("MANIFEST.json", empty_folder, "is missing, so it was not finished"),
        ],
    ),
)
def test_a_faulty_checkpoint_is_named_and_the_one_before_is_taken(name, fault, reason, stopped, reference):
    fault(stopped / RUN / "checkpoints" / "checkpoint-8" / name)
    second = trained(stopped)
    assert f"skipped: {RUN}/checkpoints/checkpoint-8: {name} {reason}" in second.stdout
    assert resumed_after(second) == 6
    assert_is(stopped / RUN, reference)


# F3: no checkpoint, or none that is valid


@pytest.mark.slow
def test_without_a_checkpoint_the_run_starts_from_scratch(stopped, reference):
    shutil.rmtree(stopped / RUN / "checkpoints")
    (stopped / RUN / "checkpoints").mkdir()
    assert resumed_after(trained(stopped)) == 0
    assert_is(stopped / RUN, reference)


@pytest.mark.slow
def test_a_run_without_checkpoints_writes_one_only_when_it_is_stopped(workspace, reference):
    words = ("--save_strategy", "no")
    killed(workspace, "batch", 12, *words)
    assert not list((workspace / RUN).glob("checkpoints/checkpoint-*"))
    assert Script(workspace, *TRAIN, *words, "--stop-after", "5").end().code == 75
    assert [path.name for path in (workspace / RUN).glob("checkpoints/checkpoint-*")] == ["checkpoint-5"]
    assert resumed_after(trained(workspace, *words)) == 5
    assert_is(workspace / RUN, reference)
    assert "nothing to do" in trained(workspace, *words).stdout

    alone = trained(
        workspace, *words, "--restart", fault=functools.partial(record, workspace / RUN, workspace / "events")
    )
    assert resumed_after(alone) == 0 and "checkpoint-" not in (workspace / "events").read_text("utf-8")
    assert_is(workspace / RUN, reference)


@pytest.mark.slow
def test_where_no_checkpoint_is_valid_the_user_decides(stopped, reference):
    for step in (6, 8):
        (stopped / RUN / f"checkpoints/checkpoint-{step}/optimizer.pt").unlink()
    before = files_in(stopped / RUN)
    refused = Script(stopped, *TRAIN).end()
    assert refused.code == 3 and refused.stderr.splitlines()[-1].startswith("error: no checkpoint is valid (")
    for step in (6, 8):
        assert f"checkpoint-{step}: optimizer.pt is missing" in refused.stderr
    assert "--restart" in refused.stderr and "Traceback" not in refused.stderr
    assert files_in(stopped / RUN) == before
    trained(stopped, "--restart")
    assert_is(stopped / RUN, reference)


@pytest.mark.parametrize("fault", slow_after(1, [cut, Path.unlink]))
def test_a_log_that_lost_steps_is_written_again_from_the_checkpoint(fault, stopped, reference):
    before = read_train_log(stopped / RUN)
    fault(stopped / RUN / "train_log.jsonl")  # also cut within a line
    trained(stopped)
    assert_is(stopped / RUN, reference)
    assert read_train_log(stopped / RUN)[:8] == before


# F9: the command, its data or its base is no longer that of the checkpoint


def other_data(workspace: Path) -> None:
    shutil.rmtree(workspace / "data" / "tiny")
    write_tiny_dataset(workspace / "data" / "tiny", rows=60)


def other_base(workspace: Path) -> None:
    path = workspace / "models" / TINY_MODEL / "model.safetensors"
    tensors = load_file(path)
    tensors["model.norm.weight"] = tensors["model.norm.weight"] + 0.5
    assert torch.isfinite(tensors["model.norm.weight"]).all()
    save_file(tensors, path, metadata={"format": "pt"})


def other_prompt(workspace: Path) -> None:
    path = workspace / "models" / TINY_MODEL / "chat_template.jinja"
    path.write_text(path.read_text("utf-8").replace("<|im_end|>", " <|im_end|>"), encoding="utf-8")


def nothing(workspace: Path) -> None:
    pass


CHANGES = {
    "recipe": (nothing, ("--learning_rate", "5e-3"), "recipe.learning_rate", [0.01, 0.005]),
    "batch": (nothing, ACCUMULATED, "recipe.per_device_train_batch_size", [8, 4]),
    "data": (other_data, (), "data.digest", None),
    "base": (other_base, (), "base.weights_sha256", None),
    "prompt": (other_prompt, (), "prompt.sha256", None),
}


@pytest.mark.parametrize("change", slow_after(1, CHANGES))
def test_what_changed_since_the_checkpoint_is_refused_or_recorded(change, stopped, reference):
    apply, words, name, values = CHANGES[change]
    apply(stopped)
    before = files_in(stopped / RUN)
    refused = Script(stopped, *TRAIN, *words).end()
    assert refused.code == 2, refused.stderr
    part = name.partition(".")[0]
    assert f"{name.removeprefix('recipe.')}: " in refused.stderr and f"--allow-change {part}" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert files_in(stopped / RUN) == before

    # Leave for another change is none for this one
    other = "processes" if part == "recipe" else "recipe"
    assert Script(stopped, *TRAIN, *words, "--allow-change", other).end().code == 2
    assert files_in(stopped / RUN) == before

    assert resumed_after(trained(stopped, *words, "--allow-change", part)) == 8
    (resume,) = resumes_in(stopped / RUN)
    assert resume["step"] == 8 and list(resume["changed"]) == [name]
    (then, now) = resume["changed"][name]
    assert then != now and (values is None or [then, now] == values)
    assert losses_of(stopped / RUN)[:8] == reference.losses[:8]
    assert json.loads((stopped / RUN / "manifest.json").read_text("utf-8"))["training"]["steps"] >= STEPS


@pytest.mark.slow
def test_another_number_of_processes_is_refused_or_recorded(stopped, reference):
    before = files_in(stopped / RUN)
    both = [script.end() for script in two_ranks(stopped, *TRAIN)]
    assert [script.code for script in both] == [2, 2]
    assert "processes: 1 there, 2 here" in both[0].stderr and "--allow-change processes" in both[0].stderr
    assert files_in(stopped / RUN) == before
    both = [script.end() for script in two_ranks(stopped, *TRAIN, "--allow-change", "processes")]
    assert [script.code for script in both] == [0, 0], both[0].stderr + both[1].stderr
    assert resumed_after(both[0]) == 8
    assert resumes_in(stopped / RUN) == [{"step": 8, "changed": {"processes": [1, 2]}}]
    assert losses_of(stopped / RUN)[:8] == reference.losses[:8] and len(losses_of(stopped / RUN)) == STEPS


# F10: a finished run


@pytest.fixture
def finished_run(reference, tmp_path) -> Path:
    """A copy of the workspace with the finished run."""
    workspace = reference.folder.parents[len(Path(RUN).parts) - 1]
    return copy_of(workspace, tmp_path / "workspace")


@pytest.mark.slow
def test_a_finished_run_is_left_as_it_is(finished_run, reference):
    def state():
        return {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in (finished_run / RUN).rglob("*")}

    before, content = state(), files_in(finished_run / RUN)
    both = [script.end() for script in two_ranks(finished_run, *TRAIN)]
    for again in (trained(finished_run), *both):
        assert again.code == 0
    assert again.stdout == "" and "nothing to do" in both[0].stdout
    assert state() == before and files_in(finished_run / RUN) == content
    assert_is(finished_run / RUN, reference)


@pytest.mark.parametrize("change", slow_after(1, ["recipe", "data", "base", "prompt"]))
def test_a_finished_run_is_not_mistaken_for_another_one(change, finished_run):
    apply, words, name, _ = CHANGES[change]
    apply(finished_run)
    before = files_in(finished_run / RUN)
    # Nothing of it can be trained on, whatever is allowed
    refused = Script(finished_run, *TRAIN, *words, "--allow-change", name.partition(".")[0]).end()
    assert refused.code == 2, refused.stderr
    assert f"{name.removeprefix('recipe.')}: " in refused.stderr and "--restart" in refused.stderr
    assert "--allow-change" not in refused.stderr
    assert files_in(finished_run / RUN) == before


# F11: two runs in one folder


@pytest.mark.slow
def test_a_second_run_in_the_same_folder_is_refused_and_the_first_one_undisturbed(workspace, reference):
    # The first one pauses in its fifth step
    fault = functools.partial(signal_at, workspace / RUN, "batch", 5, signal.SIGSTOP)
    first = Script(workspace, *TRAIN, fault=fault)
    try:
        until = time.monotonic() + 60
        while psutil.Process(first.pid).status() != psutil.STATUS_STOPPED:
            assert time.monotonic() < until and first.code is None, first.stderr
            time.sleep(0.02)
        before = files_in(workspace / RUN)
        for words in ((), ("--restart",)):
            second = Script(workspace, *TRAIN, *words).end()
            assert second.code == 5, second.stderr
            holder = f"process {first.pid} on {socket.gethostname()}"
            assert f"another run uses this folder ({holder})" in second.stderr and "Traceback" not in second.stderr
        assert files_in(workspace / RUN) == before
    finally:
        first.signal(signal.SIGCONT)
    assert first.end().code == 0, first.stderr
    assert_is(workspace / RUN, reference)
