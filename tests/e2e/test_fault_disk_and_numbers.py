"""A disk that fills up, and NaN or infinite losses: nothing half-written is left, and the same command finishes.

F4, F7 and F14 of the fault suite, on processes of their own and on a small disk of its own.
"""

import json
import math
import os
import shutil
import subprocess
from functools import partial
from pathlib import Path

import pytest
from conftest import run_script, slow_after
from sft_faults import (
    Script,
    all_of,
    before,
    break_gradient,
    break_weight,
    fill_disk,
    multiply_loss,
    note_texts,
    two_ranks,
    watch_group,
)

from e2e.conftest import INTERRUPTED, adapter_hash, files_in
from radrecipes.data.prepared import load_prepared_dataset
from radrecipes.training import checkpoints
from radrecipes.training.run_folder import read_train_log

DISK_MIB = 64
STEPS = 18
# Mounts a small disk that only processes below it see, until it ends; needs no rights if the system allows user namespaces.
MOUNT = f"mount -t tmpfs -o size={DISK_MIB}m none {{folder}} && echo mounted && read end"
# The demo's commands one after the other, without a network: names are not resolved, and only this machine is reached.
WITHOUT_NETWORK = """\
import runpy, socket, sys
def refuse(*words):
    with open("tried", "a") as stream:
        print(*words, file=stream)
    raise OSError("no network")
def guarded(original):
    def connect(self, address):
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1"):
            refuse("connect", address)
        return original(self, address)
    return connect
socket.socket.connect = guarded(socket.socket.connect)
socket.socket.connect_ex = guarded(socket.socket.connect_ex)
resolve = socket.getaddrinfo
def getaddrinfo(host, *words, **options):
    return resolve(host, *words, **options) if host in (None, "localhost", "127.0.0.1", "::1") else refuse("resolve", host)
socket.getaddrinfo = getaddrinfo
sys.path[0] = "scripts"
for words in (
    ["scripts/sft.py", "--config", "recipes/tiny/protocol_lora.yaml"],
    ["scripts/evaluate_model.py", "--run", "runs/tiny/protocol_lora/seed-42"],
    ["scripts/predict.py", "--adapter", "runs/tiny/protocol_lora/seed-42", "--note", "knee pain"],
):
    sys.argv = words
    try:
        runpy.run_path(words[0], run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise
"""


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory):
    """A folder on a disk of 64 MiB, full only if a test fills it."""
    folder = tmp_path_factory.mktemp("disk")
    holder = subprocess.Popen(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", MOUNT.format(folder=folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    if holder.stdout.readline() == "mounted\n":
        yield Path(f"/proc/{holder.pid}/root{folder}")
        holder.communicate("end\n")
        return
    # Plain containers may not mount, but have a small disk of their own.
    shared = Path("/dev/shm")
    facts = os.statvfs(shared)
    refused = holder.communicate()[1]
    assert facts.f_blocks * facts.f_frsize <= 2 * DISK_MIB * 2**20, f"no small disk to fill here: {refused}"
    folder = shared / f"radrecipes-{os.getpid()}"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def disk(small_disk):
    yield small_disk
    for entry in small_disk.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def on_disk(disk):
    """The command whose run is on the small disk."""
    return (*INTERRUPTED[:-2], "--output_dir", str(disk / "run"))


def error_of(script):
    errors = [line for line in script.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "Traceback" not in script.stderr, script.stderr
    return errors[0]


def check_nothing_torn(run):
    """No adapter, nothing that looks finished, no half-written checkpoint, and all others valid."""
    for name in ("adapter", "COMPLETE", "LOCK", "checkpoints/unfinished"):
        assert not (run / name).exists(), name
    for folder in (run / "checkpoints").glob("*"):
        checkpoints.verify(folder)


def check_finishes(workspace, words, run, expected, processes=1):
    scripts = two_ranks(workspace, *words) if processes == 2 else [Script(workspace, *words)]
    for script in scripts:
        assert script.end().code == 0, script.stderr
    assert adapter_hash(run) == expected
    assert [line["step"] for line in read_train_log(run)] == list(range(1, STEPS + 1))
    assert (run / "COMPLETE").exists() and not (run / "checkpoints").exists()
    assert not (run / "diverged.json").exists()


@pytest.mark.slow
def test_a_disk_that_is_too_full_is_refused_before_anything_is_written(disk, workspace, uninterrupted):
    words = on_disk(disk)
    fill_disk(disk, 20 * 2**20)
    refused = Script(workspace, *words).end()
    assert refused.code == 2 and "20 MiB are free, and checkpoints and adapter need" in error_of(refused)
    assert [path.name for path in disk.iterdir()] == ["filler"]
    # Not one block: not even the lock can be written.
    (disk / "filler").unlink()
    fill_disk(disk, 0)
    refused = Script(workspace, *words).end()
    assert refused.code == 2 and "cannot be written to (No space left on device)" in error_of(refused)
    assert [path.name for path in disk.iterdir()] == ["filler"]
    (disk / "filler").unlink()
    check_finishes(workspace, words, disk / "run", uninterrupted[1])


@pytest.mark.parametrize(
    "module,name,call,left,kept",
    slow_after(
        1,
        [
            ("radrecipes.training.checkpoints", "seal", 2, 0, 5),
            # Before the first line of the log; in the second checkpoint, at its beginning, in its weights and in its manifest; in
            # the last one.
            ("radrecipes.training.trainer", "TrainLog.on_log", 1, 0, None),
            ("radrecipes.training.trainer", "CompletionTrainer._save_checkpoint", 2, 0, 5),
            ("radrecipes.training.trainer", "CompletionTrainer._save_checkpoint", 2, 48 * 2**10, 5),
            ("radrecipes.training.checkpoints", "seal", 4, 0, 15),
            # After training: in the adapter, its tokenizer, the manifest.
            ("radrecipes.training.run", "save_and_verify", 1, 4096, 18),
            ("radrecipes.models.weights", "LoraAdapter.verify", 1, 0, 18),
            ("radrecipes.training.run_folder", "finish", 1, 0, 18),
        ],
    ),
    ids=["seal", "log", "checkpoint", "weights", "last seal", "adapter", "tokenizer", "manifest"],
)
def test_a_disk_that_fills_up_leaves_nothing_half_written(
    module, name, call, left, kept, disk, workspace, uninterrupted
):
    words, run = on_disk(disk), disk / "run"
    fault = partial(before, module, name, partial(fill_disk, disk, left), call)
    ended = Script(workspace, *words, fault=fault).end()
    assert ended.code == 1, ended.stderr
    whole = f"checkpoint-{kept} is complete; " if kept else ""
    assert f"{run}: the disk is full (" in error_of(ended)
    assert f" MiB free); {whole}make room and run the same command again" in error_of(ended)
    check_nothing_torn(run)
    # As long as no room is made the same command says so, and touches nothing.
    before_again = files_in(run)
    refused = Script(workspace, *words).end()
    assert refused.code == 2 and f"{run}: " in error_of(refused) and "make room" in error_of(refused)
    assert files_in(run) == before_again
    (disk / "filler").unlink()
    check_finishes(workspace, words, run, uninterrupted[1])


@pytest.mark.slow
def test_a_disk_that_is_full_for_one_of_two_processes_ends_both(disk, workspace, uninterrupted):
    words, run = on_disk(disk), disk / "run"
    fault = partial(before, "radrecipes.training.checkpoints", "seal", partial(fill_disk, disk, 0), 2)
    scripts = [script.end() for script in two_ranks(workspace, *words, faults={0: fault})]
    assert scripts[0].code == 1 and scripts[1].code not in (0, 75)
    assert "the disk is full" in error_of(scripts[0])
    check_nothing_torn(run)
    (disk / "filler").unlink()
    check_finishes(workspace, words, run, uninterrupted[2], processes=2)


@pytest.fixture(scope="session")
def ids_of_steps(shared_workspace, tmp_path_factory):
    """Ids of the rows of every step, found by their notes in what the model read: a layout in which each is in its own row."""
    workspace = tmp_path_factory.mktemp("texts") / "workspace"
    shutil.copytree(shared_workspace, workspace, symlinks=True)
    texts = workspace / "texts.jsonl"
    script = Script(workspace, *INTERRUPTED, "--batch_layout", "padded", fault=partial(note_texts, texts)).end()
    assert script.code == 0, script.stderr
    rows = load_prepared_dataset(workspace / "data" / "tiny").splits["train"]
    ids = {}
    for line in texts.read_text("utf-8").splitlines():
        step, read = json.loads(line)
        ids[step] = {row["id"] for row in rows if any(row["note"] in text for text in read)}
        assert len(ids[step]) == len(read) == 8
    return ids


NAN, INFINITE = partial(multiply_loss, math.nan), partial(multiply_loss, math.inf)


@pytest.mark.parametrize(
    "fault,step,processes,ends,gave",
    slow_after(
        1,
        [
            (NAN, 7, 1, 7, "loss nan"),
            (INFINITE, 7, 1, 7, "loss inf"),
            (break_gradient, 7, 1, 7, "gradient norm nan"),
            (NAN, 2, 1, 2, "loss nan"),
            # In a step that saves the weights tell; in another one the next loss does.
            (break_weight, 10, 1, 10, "NaN or infinite weights"),
            (break_weight, 7, 1, 8, "loss nan"),
            (NAN, 7, 2, 7, "loss nan"),
            (break_gradient, 10, 2, 10, "gradient norm nan"),
            (break_weight, 10, 2, 10, "NaN or infinite weights"),
        ],
    ),
)
def test_a_step_that_gives_no_number_ends_the_run(
    fault, step, processes, ends, gave, workspace, uninterrupted, ids_of_steps
):
    run = workspace / "runs" / "interrupted"
    broken = partial(fault, step=step)
    if processes == 2:  # in the one that neither writes nor prints
        faults = {0: watch_group, 1: partial(all_of, broken, watch_group)}
        scripts = [script.end() for script in two_ranks(workspace, *INTERRUPTED, faults=faults)]
        assert all(
            script.stdout.count("DDP left: ") == script.stdout.count("DDP left: 0\n") == 1 for script in scripts
        )
    else:
        scripts = [Script(workspace, *INTERRUPTED, fault=broken).end()]
    assert [script.code for script in scripts] == [4] * processes, "".join(script.stderr for script in scripts)
    assert f"step {ends} gave " in error_of(scripts[0]) and gave in error_of(scripts[0])
    assert not [script for script in scripts[1:] if "error" in script.stderr]
    facts = json.loads((run / "diverged.json").read_text("utf-8"))
    assert facts["step"] == ends and gave in facts["gave"]
    assert len(facts["rows"]) == 8 and set(facts["rows"]) == ids_of_steps[ends]
    # What was logged and saved before is complete, and what diverged is in neither.
    assert [line["step"] for line in read_train_log(run)] == list(range(1, ends))
    assert all(math.isfinite(line["loss"]) for line in read_train_log(run))
    newest = checkpoints.find_last_valid(run).newest
    assert (newest.step if newest else 0) == (ends - 1) // 5 * 5
    assert not [name for name in ("adapter", "COMPLETE", "LOCK") if (run / name).exists()]
    assert not list((run / "checkpoints" / "unfinished").glob("checkpoint-*"))
    check_finishes(workspace, INTERRUPTED, run, uninterrupted[processes], processes)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_loss_that_jumps_is_reported_once_and_logged(processes, workspace):
    run = workspace / "runs" / "interrupted"
    fault = partial(multiply_loss, 10.0, 12)
    if processes == 2:
        scripts = [script.end() for script in two_ranks(workspace, *INTERRUPTED, faults={0: fault, 1: fault})]
    else:
        scripts = [Script(workspace, *INTERRUPTED, fault=fault).end()]
    assert [script.code for script in scripts] == [0] * processes, scripts[0].stderr
    warned = [line for script in scripts for line in script.stderr.splitlines() if line.startswith("warning: ")]
    assert (
        len(warned) == 1 and "the loss of step 12 is 5" in warned[0] and "median of the steps before is 5" in warned[0]
    )
    assert [line["step"] for line in read_train_log(run) if "loss_spike" in line] == [12]


@pytest.mark.slow
def test_the_demo_needs_no_network(workspace):
    (workspace / "without_network.py").write_text(WITHOUT_NETWORK, encoding="utf-8")
    done = run_script(workspace, "without_network.py", HF_HUB_OFFLINE="0", HF_HOME=str(workspace / "hf_home"))
    assert done.returncode == 0, done.stderr
    assert not (workspace / "tried").exists(), (workspace / "tried").read_text("utf-8")
    assert "adapter checked and saved" in done.stdout and "report: " in done.stdout
