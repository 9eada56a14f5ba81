"""Signals to a run: handlers are set and restored, all processes learn of a signal, and the run stops after a step."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from transformers import TrainerControl

from radrecipes.errors import InterruptedRunError
from radrecipes.training import interruption
from radrecipes.training.interruption import SIGNALS, StopRequests

# For each environment a process that starts another one and dies; that one notes whether it was told.
LAUNCHERS = """\
import json, os, signal, sys, time
from radrecipes.training.interruption import stop_with_launcher
def told(number, frame):
    open(name, "w").write(signal.Signals(number).name)
    os._exit(0)
for name, environment in json.loads(sys.argv[1]).items():
    if os.fork() == 0:
        os.environ.update(environment)
        heard, hearing = os.pipe()
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, told)
            stop_with_launcher()
            os.write(hearing, b"x")
            time.sleep(1.5)
            os._exit(0)
        os.read(heard, 1)
        os._exit(0)
"""


def step(stop, number):
    """Whether the run is told to stop after a step."""
    control = TrainerControl()
    stop.on_step_end(None, SimpleNamespace(global_step=number), control)
    assert control.should_save == control.should_training_stop
    return control.should_training_stop


@pytest.mark.parametrize("ends_with", [None, ZeroDivisionError])
def test_handlers_are_restored(ends_with):
    before = [signal.getsignal(number) for number in SIGNALS]
    try:
        with StopRequests():
            assert all(signal.getsignal(number) not in before for number in SIGNALS)
            if ends_with:
                raise ends_with
    except ZeroDivisionError:
        pass
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_a_signal_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequests() as stop:
            stop.on_train_begin(None, None, None)
            os.kill(os.getpid(), signal.SIGHUP)
            assert not step(stop, 1)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", SIGNALS)
def test_before_training_a_signal_ends_the_run_at_once(number):
    with (
        pytest.raises(InterruptedRunError, match=f"stopped by {number.name} before training") as ended,
        StopRequests(),
    ):
        os.kill(os.getpid(), number)
    assert ended.value.exit_code == 75


@pytest.mark.parametrize("number", SIGNALS)
def test_during_training_it_waits_for_the_end_of_the_step(number):
    with StopRequests() as stop:
        stop.on_train_begin(None, None, None)
        assert not step(stop, 1)
        stop.raise_if_stopped(9)
        os.kill(os.getpid(), number)
        assert step(stop, 2)
        with pytest.raises(
            InterruptedRunError, match=f"stopped by {number.name} after step 2 of 9, with a checkpoint"
        ):
            stop.raise_if_stopped(9)


def test_a_signal_that_a_library_swallowed_while_loading_ends_the_run_after_its_first_step():
    with StopRequests() as stop:
        with contextlib.suppress(Exception):  # as libraries write it around what may fail
            os.kill(os.getpid(), signal.SIGTERM)
        stop.on_train_begin(None, None, None)
        assert step(stop, 1)


def test_a_second_ctrl_c_ends_at_once_and_one_that_came_with_the_first_does_not(monkeypatch):
    monkeypatch.setattr(interruption, "_SECONDS_BETWEEN", 0.2)
    with StopRequests() as stop:
        stop.on_train_begin(None, None, None)
        for _ in range(3):  # the terminal's, and the launcher's that passes it on
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGTERM)  # a scheduler's reminder is not a second Ctrl-C
        time.sleep(0.3)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_two_seconds_lie_between_what_counts_as_one_and_as_two():
    assert interruption._SECONDS_BETWEEN == 2.0


def test_stop_after_is_the_step_itself():
    stop = StopRequests(stop_after=3)
    assert [step(stop, number) for number in (1, 2, 3)] == [False, False, True]
    with pytest.raises(InterruptedRunError, match="stopped by --stop-after after step 3 of 4"):
        stop.raise_if_stopped(4)


@pytest.mark.slow
def test_the_death_of_a_launcher_is_noticed_and_that_of_a_shell_is_not(tmp_path):
    environments = {
        "accelerate": {"ACCELERATE_MIXED_PRECISION": "no"},
        "agent": {"TORCHELASTIC_RUN_ID": "none"},
        "agent of launch.py": {"TORCHELASTIC_RUN_ID": "none", "RADRECIPES_LAUNCHER": "1"},
        # scripts/launch.py became this very process: its parent is a shell, which may end.
        "launch.py": {"ACCELERATE_MIXED_PRECISION": "no", "RADRECIPES_LAUNCHER": "1"},
        "shell": {},
    }
    known = {
        name: value for name, value in os.environ.items() if not name.startswith(("ACCELERATE_", "TORCHELASTIC_"))
    }
    # Its output ends when the last of the processes below has.
    subprocess.run(
        [sys.executable, "-c", LAUNCHERS, json.dumps(environments)],
        cwd=tmp_path,
        env=known,
        stdout=subprocess.PIPE,
        check=True,
        timeout=60,
    )
    told = {path.name: path.read_text("utf-8") for path in tmp_path.iterdir()}
    assert told == dict.fromkeys(["accelerate", "agent", "agent of launch.py"], "SIGTERM")
