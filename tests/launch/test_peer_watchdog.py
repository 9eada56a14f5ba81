"""The watch over other machines, and what they must have in common: real processes that take each other for other machines."""

import re
import signal
import socket
import threading
import time
from pathlib import Path

import pytest
from sft_faults import Script, free_port

from radrecipes.launch import peer_watchdog

# What every process does, followed by the rest of it.
BEGIN = """\
import os, signal, sys, time
from pathlib import Path
import radrecipes
from accelerate import PartialState
from radrecipes import cli as command_line, errors
from radrecipes.launch import peer_watchdog
peer_watchdog.SILENT_SECONDS, peer_watchdog._PROBE_SECONDS = 4, 1
peer_watchdog._GRACE_SECONDS, peer_watchdog._CACHED_SECONDS = 2, 2
state = PartialState(cpu=True)
rank = state.process_index

def main():
    with peer_watchdog.watched():
        Path(f"began.{rank}").touch()
        WHAT

command_line.run(main)
state.destroy_process_group()
"""
ENDED = (
    "error: another process of this run ended (its own output says why); run the same command again on all machines"
)


@pytest.fixture
def machines(tmp_path):
    """`machines(what, processes, on_each)` starts as many processes as if there were `on_each` of them on a machine."""
    started = []

    def start(what, processes=3, on_each=1):
        port = free_port()
        for rank in range(processes):
            folder = tmp_path / f"machine-{rank // on_each}"
            folder.mkdir(exist_ok=True)
            (folder / "script.py").write_text(BEGIN.replace("WHAT", what), encoding="utf-8")
            places = {"RANK": rank, "LOCAL_RANK": rank % on_each, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": on_each}
            network = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true"}
            environment = {name: str(value) for name, value in {**places, **network}.items()}
            started.append(Script(folder, "script.py", environment=environment))
        until = time.monotonic() + 60
        while len(list(tmp_path.glob("*/began.*"))) < processes and time.monotonic() < until:
            time.sleep(0.05)
        return started

    yield start
    for script in started:
        script.signal(signal.SIGKILL)


def said(script):
    return [line for line in script.stderr.splitlines() if line.startswith(("error: ", "warning: "))]


@pytest.mark.slow
def test_a_finished_process_may_leave_and_the_others_continue(machines):
    three = machines("time.sleep(4 * (rank == 0))")
    assert [script.end().code for script in three] == [0, 0, 0]
    assert not any(said(script) for script in three)


@pytest.mark.parametrize("dead", [0, 2])
def test_the_death_of_one_ends_all_others_soon_and_each_machine_says_it_once(dead, machines):
    four = machines("time.sleep(60)", processes=4, on_each=2)
    four[dead].signal(signal.SIGKILL)
    began = time.monotonic()
    codes = [script.end().code for script in four]
    assert time.monotonic() - began < 10
    assert codes == [-signal.SIGKILL if rank == dead else 1 for rank in range(4)]
    for rank, script in enumerate(four):
        lines = said(script)
        if rank % 2 or rank == dead:  # not the first process of its machine, or the dead one
            assert not lines
        else:
            assert len(lines) == 1 and lines[0].startswith(ENDED)


def test_an_error_of_one_is_printed_by_it_and_ends_the_others(machines):
    three = machines("if rank == 1: raise errors.FullDiskError('the disk is full')\n        time.sleep(60)")
    assert [script.end().code for script in three] == [1, 1, 1]
    assert said(three[1]) == ["error: the disk is full"]
    assert [len(said(script)) for script in three] == [1, 1, 1] and said(three[2])[0].startswith(ENDED)


def test_an_error_of_all_is_printed_by_all_although_one_is_earlier(machines):
    three = machines("time.sleep(rank / 2)\n        raise errors.NoCheckpointError(f'none for {rank}')")
    assert [script.end().code for script in three] == [3, 3, 3]
    assert [said(script) for script in three] == [[f"error: none for {rank}"] for rank in range(3)]


@pytest.mark.slow
def test_a_process_that_was_stopped_or_holds_pythons_lock_is_not_gone(machines):
    # Functions of a `PyDLL` keep the lock.
    three = machines("if rank == 2: import ctypes; ctypes.PyDLL(None).sleep(6)\n        time.sleep(6 * (rank < 2))")
    three[1].signal(signal.SIGSTOP)
    time.sleep(6)
    three[1].signal(signal.SIGCONT)
    assert [script.end().code for script in three] == [0, 0, 0]


def test_other_connections_are_not_mistaken_for_a_process(monkeypatch):
    told = []
    monkeypatch.setattr(peer_watchdog, "broadcast_object_list", told.extend)
    monkeypatch.setattr(peer_watchdog, "_PROBE_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        connections = []
        accepting = threading.Thread(target=peer_watchdog._accept, args=(server, 1, connections))
        accepting.start()
        address = server.getsockname()
        with socket.create_connection(address), socket.create_connection(address) as wrong:
            wrong.sendall(b"x" * 16)
            with socket.create_connection(address) as right:
                while not told:
                    time.sleep(0.01)
                right.sendall(told[0][1])
                accepting.join(10)
                assert [connection.getpeername() for connection in connections] == [right.getsockname()]
        connections[0].close()


def test_without_a_connection_the_run_continues_and_says_that_it_is_not_watched(monkeypatch, capsys):
    monkeypatch.setattr(peer_watchdog, "broadcast_object_list", lambda words: [(1, b"secret")])
    assert peer_watchdog._connect(1, 2, "127.0.0.1") == []
    assert re.fullmatch(
        r"warning: the loss of a machine will go unnoticed: no connection to port 1 of 127.0.0.1 \(.*refused\)\n",
        capsys.readouterr().err,
    )


def test_on_one_machine_nothing_is_watched_and_nothing_asked():
    before = threading.active_count()
    for environment in ({}, {"WORLD_SIZE": "2"}, {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}):
        with peer_watchdog.watched(environment):
            assert threading.active_count() == before
        peer_watchdog.check_same_run(Path("nowhere"), {}, 0, environment)


CHECK = "peer_watchdog.check_same_run(Path({folder}), {identity}, {step})"
HOLD = "(rank or (Path({folder}).mkdir(exist_ok=True), Path({folder}, 'LOCK').write_text('process 7')))\n        "


@pytest.mark.parametrize(
    "folder,identity,step,code,words",
    [
        ("'../run'", "{'data.digest': 'a'}", "5", 0, ""),
        (
            "'run'",
            "{'data.digest': 'a'}",
            "0",
            2,
            "run: process 1 on .* cannot see the files that the first process wrote",
        ),
        (
            "'../run'",
            "{'data.digest': 'ab'[rank], 'recipe.seed': 3 + rank}",
            "5",
            2,
            r"\(data.digest, seed\); give all",
        ),
        *(
            (
                "'../run'",
                f"{{'data.digest': 'a', **({{'recipe.weight_decay': 0.1}} if rank == {rank} else {{}})}}",
                "5",
                2,
                r"\(weight_decay\); give all",
            )
            for rank in range(2)
        ),
        (
            "'../run'",
            "{'data.digest': 'a'}",
            "5 * (1 - rank)",
            2,
            r"something different from the first on .* \(checkpoint\)",
        ),
    ],
    ids=[
        *("the same", "another folder", "other data and seed", "a field of the first", "a field of the other"),
        "another checkpoint",
    ],
)
def test_machines_that_would_not_train_the_same_run_are_refused(folder, identity, step, code, words, machines):
    what = (HOLD + CHECK).replace("{folder}", folder).replace("{identity}", identity).replace("{step}", step)
    two = machines(what, processes=2)
    for script in two:
        assert script.end().code == code, script.stderr
        assert [bool(re.search(words, line)) for line in said(script)] == ([True] if words else [])
