"""Runs over several machines: all work on the same run, and when one is lost, all fail within a minute.

A machine that loses its network, or power, closes no connection, and its peers wait: gloo and NCCL for half an hour, torch's
launchers for good. A shorter timeout of collectives would end healthy runs in which one process writes for long. So every
process holds a connection to the first one on which nothing is said, and the operating systems ask each other every few
seconds whether it stands (TCP keepalive, tcp(7)). A process that is slow or was stopped is not taken for one that is gone.
"""

import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list, gather_object

from radrecipes.errors import InputError

# A machine is given up when its system was silent for so long, and is asked whenever it was silent for so long.
SILENT_SECONDS = 40
_ASKED_SECONDS = 5
# How long a process has to end by its own error when another one ended.
_GRACE_SECONDS = 10
# As long as a file system over the network may answer from memory, and a little (acdirmax of nfs(5) is 60).
_CACHED_SECONDS = 65
_DONE = b"done"


@contextmanager
def watched(environment: Mapping[str, str] = os.environ) -> Iterator[None]:
    """Within the context, this process ends with code 1 and one line when a machine or another process of the job is gone.

    All processes of the job have to enter it. Where they are on one machine, or the system is not Linux, nothing is watched.
    The main thread may be in a collective, where neither an exception nor a signal reaches it: hence `os._exit`. What was whole
    before is whole still; the lock of the run's folder ends with the process.

    Args:
        environment (`Mapping[str, str]`, *optional*):
            Where the launcher's variables stand: `RANK`, `LOCAL_RANK`, `WORLD_SIZE`, `LOCAL_WORLD_SIZE`, `MASTER_ADDR`.
    """
    if not _on_several_machines(environment) or sys.platform != "linux":
        yield
        return
    connections = _connect(int(environment["RANK"]), int(environment["WORLD_SIZE"]), environment["MASTER_ADDR"])
    over = threading.Event()
    speaks = environment["LOCAL_RANK"] == "0"  # one line a machine
    threading.Thread(target=_watch, args=(connections, over, speaks), daemon=True).start()
    try:
        yield
        _tell(connections, _DONE)
    finally:
        over.set()
        for connection in connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_WR)  # `close` would tell nobody while the thread reads


def check_same_run(
    folder: Path, identity: Mapping[str, Any], step: int, environment: Mapping[str, str] = os.environ
) -> None:
    """Refuse machines that do not share the run's folder, or would train something else. On one machine nothing is done.

    Nobody else would notice: gradients are averaged whatever they are of.

    Args:
        folder (`Path`):
            The run's folder, held by the first process.
        identity (`Mapping`):
            From [`~run_folder.run_identity`].
        step (`int`):
            Of the checkpoint that this process would resume from.
        environment (`Mapping[str, str]`, *optional*):
            Where the launcher's variables stand.

    Raises:
        [`InputError`]: in all processes; names a machine and what differs there.
    """
    if not _on_several_machines(environment):
        return
    lock = broadcast_object_list([_read(folder / "LOCK")])[0]
    until = time.monotonic() + _CACHED_SECONDS
    while _read(folder / "LOCK") != lock and time.monotonic() < until:
        time.sleep(0.5)
    shared = _read(folder / "LOCK") == lock
    (first, _, expected), *others = gather_object([(socket.gethostname(), shared, {"checkpoint": step, **identity})])
    for rank, (host, shared, found) in enumerate(others, 1):
        if not shared:
            raise InputError(
                f"process {rank} on {host} does not find here what the first process wrote on {first}; set --output_dir to a "
                "folder that all machines share",
                str(folder),
            )
        different = [name.removeprefix("recipe.") for name in expected if found[name] != expected[name]]
        if different:
            raise InputError(
                f"process {rank} on {host} would train something else than the first on {first} ({', '.join(different)}); "
                "give all machines the same checkout, data, base and command",
                str(folder),
            )


def _on_several_machines(environment: Mapping[str, str]) -> bool:
    processes = int(environment.get("WORLD_SIZE", 1))
    return int(environment.get("LOCAL_WORLD_SIZE", processes)) < processes


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return None


def _connect(rank: int, processes: int, address: str) -> list[socket.socket]:
    """The first process's connections to all others, or that of another one to it; fewer, with a warning, where refused."""
    connections = []
    try:
        if rank == 0:
            both = socket.has_dualstack_ipv6()
            family = socket.AF_INET6 if both else socket.AF_INET
            with socket.create_server(("", 0), family=family, dualstack_ipv6=both) as server:
                _accept(server, processes - 1, connections)
        else:
            port, greeting = broadcast_object_list([None])[0]
            connections.append(socket.create_connection((address, port), SILENT_SECONDS))
            connections[0].sendall(greeting)
    except OSError as error:
        reason = f"no connection to port {port} of {address}" if rank else "another process made no connection"
        print(f"warning: a machine that is lost will not be noticed: {reason} ({error})", file=sys.stderr)
    for connection in connections:
        connection.settimeout(None)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _ASKED_SECONDS)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _ASKED_SECONDS)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENT_SECONDS * 1000)
    return connections


def _accept(server: socket.socket, count: int, connections: list[socket.socket]) -> None:
    greeting = secrets.token_bytes(16)  # whoever else tries this port does not know it
    broadcast_object_list([(server.getsockname()[1], greeting)])
    server.settimeout(SILENT_SECONDS)
    while len(connections) < count:
        connection, _ = server.accept()
        connection.settimeout(_ASKED_SECONDS)
        with suppress(OSError):
            if connection.recv(len(greeting)) == greeting:
                connections.append(connection)


def _watch(connections: list[socket.socket], over: threading.Event, speaks: bool) -> None:
    """End this process when a connection ends on which the other side did not say that it is done."""
    waiting = list(connections)
    while waiting:
        for connection in wait(waiting):
            waiting.remove(connection)
            try:
                said = connection.recv(1000)
            except ConnectionResetError:
                said = b""
            except OSError:
                said = f"another machine was silent for {SILENT_SECONDS} s (its network, or itself, is gone)".encode()
            if said == _DONE or (not said and over.wait(_GRACE_SECONDS)) or over.is_set():
                continue
            said = said or b"another process of this run ended (its own lines say why)"
            _tell(connections, said)
            if speaks:
                # The Trainer's bar may stand in this line.
                line = f"\nerror: {said.decode()}; run the same command again on all machines to continue"
                print(line, file=sys.stderr, flush=True)
            os._exit(1)


def _tell(connections: list[socket.socket], words: bytes) -> None:
    for connection in connections:
        with suppress(OSError):
            connection.sendall(words)
