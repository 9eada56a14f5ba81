"""scripts/launch.py with real processes and real signals. The workers import nothing but Python's own."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from accelerate.utils import str_to_bool
from conftest import REPOSITORY, slow_after

from radrecipes.launch.spec import Engine, LaunchSpec, spec_from_environment

LAUNCH = REPOSITORY / "scripts" / "launch.py"
# Runs until a signal comes, then saves for as many seconds as its rank's argument says, and exits with 75. Notes each signal.
SAVES = """\
import os, signal, sys, time
rank = int(os.environ.get("RANK", 0))
told = False
def note(number, frame):
    global told
    told = True
    with open(f"signals.{rank}", "a") as stream:
        print(signal.Signals(number).name, file=stream)
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(number) is not signal.SIG_IGN:
        signal.signal(number, note)
open(f"ready.{rank}", "w").write(str(os.getpid()))
while not told:
    time.sleep(0.02)
end = time.monotonic() + float(sys.argv[1 + rank])
while time.monotonic() < end:
    time.sleep(0.02)
open(f"saved.{rank}", "w").close()
sys.exit(75)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for processes, name in ((1, "cpu"), (2, "cpu_2proc")):
        shutil.copy(REPOSITORY / "accelerate_configs" / f"{name}.yaml", f"{processes}.yaml")
    Path("saves.py").write_text(SAVES)
    Path("ends.py").write_text("import sys\nsys.exit(int(sys.argv[1]))\n")
    return tmp_path


@pytest.fixture
def start(folder):
    """`start(processes, script, *words, ignored=…, **environment)` starts the launcher as a shell does in the foreground."""
    started = []

    def start_launcher(processes, *words, ignored=None, **environment):
        def as_a_shell_does():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN if number == ignored else signal.SIG_DFL)

        process = subprocess.Popen(
            [sys.executable, LAUNCH, "--config_file", f"{processes}.yaml", *map(str, words)],
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
            preexec_fn=as_a_shell_does,
        )
        started.append(process)
        return process

    yield start_launcher
    for process in started:
        if process.poll() is None:
            process.kill()
            process.communicate()
    for path in folder.glob("ready.*"):
        if psutil.pid_exists(int(path.read_text())):
            os.kill(int(path.read_text()), signal.SIGKILL)


def wait_until_ready(processes):
    """Process ids of the workers, once each has its signal handlers."""
    paths = [Path(f"ready.{rank}") for rank in range(processes)]
    until = time.monotonic() + 60
    while not all(path.exists() and path.read_text() for path in paths):
        assert time.monotonic() < until
        time.sleep(0.02)
    return [int(path.read_text()) for path in paths]


def end_of(process):
    """Exit code and standard error."""
    _, said = process.communicate(timeout=60)
    assert "Traceback" not in said
    return process.returncode, said


def signals(rank):
    path = Path(f"signals.{rank}")
    return path.read_text().split() if path.exists() else []


# One process becomes the script; with two the launcher tells an error from a stop and from success.
@pytest.mark.parametrize("code,processes", slow_after(2, [(75, 1), (75, 2), (0, 2), (2, 2)]))
def test_the_exit_code_is_the_script_s_own_and_it_alone_says_why(processes, code, start):
    assert end_of(start(processes, "ends.py", code)) == (code, "")


@pytest.mark.parametrize("processes", slow_after(1, [2, 1]))
@pytest.mark.parametrize("number", slow_after(1, [signal.SIGTERM, signal.SIGINT]))
def test_a_signal_reaches_each_worker_once_and_the_launcher_waits_for_them(processes, number, start):
    launcher = start(processes, "saves.py", 0.5, 0.5)
    workers = wait_until_ready(processes)
    assert processes == 2 or workers == [launcher.pid]
    # A scheduler tells the launcher, a terminal all of its group.
    (os.killpg if number == signal.SIGINT else os.kill)(launcher.pid, number)
    assert end_of(launcher) == (75, "")
    assert [signals(rank) for rank in range(processes)] == [[number.name]] * processes
    assert all(Path(f"saved.{rank}").exists() for rank in range(processes))


@pytest.mark.slow
def test_a_worker_that_saved_sooner_does_not_cut_the_other_one_short(start):
    launcher = start(2, "saves.py", 0, 2)
    wait_until_ready(2)
    launcher.terminate()
    assert end_of(launcher) == (75, "")
    assert signals(1) == ["SIGTERM"] and Path("saved.1").exists()


@pytest.mark.slow
def test_a_stop_of_one_worker_stops_the_other_one(start):
    launcher = start(2, "saves.py", 0, 0.5)
    workers = wait_until_ready(2)
    os.kill(workers[0], signal.SIGTERM)
    assert end_of(launcher) == (75, "")
    assert Path("saved.1").exists()


@pytest.mark.slow
def test_a_worker_that_was_killed_ends_the_job_and_is_named(start):
    launcher = start(2, "saves.py", 0, 0)
    workers = wait_until_ready(2)
    began = time.monotonic()
    os.kill(workers[1], signal.SIGKILL)
    code, said = end_of(launcher)
    assert code == 137 and time.monotonic() - began < 30
    assert f"Signal 9 (SIGKILL) received by PID {workers[1]}" in said
    assert not any(psutil.pid_exists(worker) for worker in workers)


@pytest.mark.slow
def test_a_crash_keeps_its_code_and_torch_s_summary(start):
    # accelerate with --debug and rich leaves with 0.
    code, said = end_of(start(2, "--debug", "ends.py", 1, ACCELERATE_ENABLE_RICH="true"))
    assert code == 1 and "ends.py FAILED" in said


@pytest.mark.slow
def test_a_second_signal_is_forwarded_and_leaves_no_worker(start):
    launcher = start(2, "saves.py", 0.8, 1)
    workers = wait_until_ready(2)
    os.killpg(launcher.pid, signal.SIGINT)
    time.sleep(0.4)
    os.killpg(launcher.pid, signal.SIGINT)
    assert end_of(launcher) == (75, "")
    assert [signals(rank) for rank in (0, 1)] == [["SIGINT"] * 2] * 2
    assert not any(psutil.pid_exists(worker) for worker in workers)


@pytest.mark.slow
def test_workers_that_do_not_end_are_killed_in_time(start):
    launcher = start(2, "saves.py", 60, 60, TORCH_ELASTIC_SHUTDOWN_TIMEOUT="1")
    workers = wait_until_ready(2)
    launcher.terminate()
    assert end_of(launcher) == (143, "")
    assert signals(0) == signals(1) == ["SIGTERM"], "torch would tell them again, and wait as long again"
    assert not any(psutil.pid_exists(worker) for worker in workers)


@pytest.mark.slow
def test_a_job_that_was_told_to_stop_is_not_restarted(start):
    launcher = start(2, "--max_restarts", 3, "saves.py", 0, 0)
    wait_until_ready(2)
    launcher.terminate()
    assert end_of(launcher) == (75, "")
    assert signals(0) == signals(1) == ["SIGTERM"]


@pytest.mark.slow
def test_a_signal_that_was_ignored_stays_ignored(start):
    launcher = start(2, "saves.py", 0, 0, ignored=signal.SIGHUP)
    wait_until_ready(2)
    launcher.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    launcher.terminate()
    assert end_of(launcher) == (75, "")
    assert signals(0) == ["SIGTERM"]


@pytest.mark.parametrize("processes", slow_after(1, [1, 2]))
def test_arguments_and_environment_are_those_that_accelerate_gives(processes, folder):
    script = "import json, os, sys\nname = sys.argv.pop(1) + os.environ.get('RANK', '')\n"
    Path("tells.py").write_text(f"{script}json.dump([sys.argv, dict(os.environ)], open(name, 'w'))\n")
    words = ["--config_file", f"{processes}.yaml", "--mixed_precision", "bf16", "tells.py"]
    accelerate = ["-m", "accelerate.commands.accelerate_cli", "launch"]
    for name, program in (("ours", [LAUNCH]), ("theirs", accelerate)):
        subprocess.run([sys.executable, *program, *words, name, "--a", "b c"], check=True, timeout=60)
    for rank in ("",) if processes == 1 else ("0", "1"):
        (our_words, ours), (their_words, theirs) = (json.loads(Path(n + rank).read_text()) for n in ("ours", "theirs"))
        assert our_words == their_words == ["tells.py", "--a", "b c"]
        different = {name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)}
        assert different - {"MASTER_PORT", "TORCHELASTIC_ERROR_FILE"} == {
            "RADRECIPES_LAUNCHER", "RADRECIPES_LAUNCH_SPEC", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT",
        } | ({"TORCHELASTIC_SIGNALS_TO_HANDLE", "ACCELERATE_USE_CPU"} if processes == 2 else set())  # fmt: skip
        assert str_to_bool(ours["ACCELERATE_USE_CPU"])  # accelerate tells no worker of several
        assert spec_from_environment(ours) == LaunchSpec(
            processes, Engine.DDP if processes == 2 else Engine.ONE_PROCESS, True
        )


@pytest.mark.slow
def test_a_program_that_is_not_a_python_script_finds_the_usual_signals(start):
    # Python ignores SIGPIPE, and whatever it becomes would too.
    assert end_of(start(1, "--no_python", "sh", "-c", "kill -s PIPE $$; exit 3"))[0] == -signal.SIGPIPE


def test_errors_in_the_arguments_are_one_line_and_exit_code_2(start):
    Path("3.yaml").write_text("compute_environment: LOCAL_MACHINE\ndistributed_type: MULTI_GPU\nnumber_of_gpus: 3\n")
    code, said = end_of(start(9, "ends.py", 0))
    assert code == 2 and said.startswith("error: 9.yaml: no such accelerate configuration") and said.count("\n") == 1
    code, said = end_of(start(3, "ends.py", 0))
    assert code == 2 and said.startswith("error: ") and "number_of_gpus" in said and said.count("\n") == 1
    code, said = end_of(start(1, "--no_such_option"))
    assert code == 2 and "error: " in said


def test_what_needs_gpus_is_not_degraded_to_a_cpu(start):
    shutil.copy(REPOSITORY / "accelerate_configs" / "fsdp2.yaml", "3.yaml")
    code, said = end_of(start(3, "ends.py", 0, CUDA_VISIBLE_DEVICES=""))
    assert (code, said.count("\n")) == (2, 1)
    assert said.startswith(
        "error: the launch configuration requests 8 processes (FSDP2) on GPUs, but PyTorch finds no GPU"
    )
