"""For runs over several machines: all train the same run, and if one is lost, all fail within a minute.

A machine that loses its network or power closes no connection, and its peers wait: gloo and NCCL for half an hour,
torch's launchers forever. A shorter timeout of collectives would end healthy runs in which one process writes for
long. So every process keeps an idle connection to the first one, probed by TCP keepalive (tcp(7)) every few seconds. A
slow or stopped process does not count as lost.
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
from radrecipes.recipe import diff_values

# A machine counts as lost after this many seconds without an answer, and is probed after this many idle seconds.
SILENT_SECONDS = 40
_PROBE_SECONDS = 5
# Time for a process to end with its own error after another one ended.
_GRACE_SECONDS = 10
# A network file system may answer from its cache for 60 seconds (acdirmax in nfs(5)); plus a margin.
_CACHED_SECONDS = 65
_DONE = b"done"


@contextmanager
def watched(environment: Mapping[str, str] = os.environ) -> Iterator[None]:
    """Within the context, exit with code 1 and one line when another machine or process of the job is lost.

    All processes of the job have to enter it. On one machine, or on a system other than Linux, nothing is watched.
    Exits by `os._exit`, because the main thread may be in a collective that neither an exception nor a signal
    interrupts; complete files stay complete, and the lock of the run folder ends with the process.
    """
    if not _on_several_machines(environment) or sys.platform != "linux":
        yield
        return
    connections = _connect(int(environment["RANK"]), int(environment["WORLD_SIZE"]), environment["MASTER_ADDR"])
    over = threading.Event()
    prints = environment["LOCAL_RANK"] == "0"  # one line per machine
    threading.Thread(target=_watch, args=(connections, over, prints), daemon=True).start()
    try:
        yield
        _send(connections, _DONE)
    finally:
        over.set()
        for connection in connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_WR)  # `close` would not notify the other side while the thread reads


def check_same_run(
    folder: Path, identity: Mapping[str, Any], step: int, environment: Mapping[str, str] = os.environ
) -> None:
    """Reject machines that do not share the run folder, or would train something different; a no-op on one machine.

    Nothing else would notice: gradients are averaged whatever they belong to. All processes raise the [`InputError`].
    `step` is that of the checkpoint from which this process would resume.
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
                f"process {rank} on {host} cannot see the files that the first process wrote on {first}; set --output_dir "
                "to a folder that all machines share",
                str(folder),
            )
        different = [name.removeprefix("recipe.") for name in diff_values(expected, found)]
        if different:
            raise InputError(
                f"process {rank} on {host} would train something different from the first on {first} ({', '.join(different)}); "
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
    """The first process's connections to all others, or another one's to the first; warns if any is missing."""
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
        reason = f"no connection to port {port} of {address}" if rank else "another process did not connect"
        print(f"warning: the loss of a machine will go unnoticed: {reason} ({error})", file=sys.stderr)
    for connection in connections:
        connection.settimeout(None)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _PROBE_SECONDS)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _PROBE_SECONDS)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENT_SECONDS * 1000)
    return connections


def _accept(server: socket.socket, count: int, connections: list[socket.socket]) -> None:
    greeting = secrets.token_bytes(16)  # secret, in case something else connects to this port
    broadcast_object_list([(server.getsockname()[1], greeting)])
    server.settimeout(SILENT_SECONDS)
    while len(connections) < count:
        connection, _ = server.accept()
        connection.settimeout(_PROBE_SECONDS)
        with suppress(OSError):
            if connection.recv(len(greeting)) == greeting:
                connections.append(connection)


def _watch(connections: list[socket.socket], over: threading.Event, prints: bool) -> None:
    """Exit when a connection ends before the other side has sent that it is done."""
    waiting = list(connections)
    while waiting:
        for connection in wait(waiting):
            waiting.remove(connection)
            try:
                message = connection.recv(1000)
            except ConnectionResetError:
                message = b""
            except OSError:
                message = f"another machine was silent for {SILENT_SECONDS} s (it, or its network, is down)".encode()
            if message == _DONE or (not message and over.wait(_GRACE_SECONDS)) or over.is_set():
                continue
            message = message or b"another process of this run ended (its own output says why)"
            _send(connections, message)
            if prints:
                # A new line, because the Trainer's progress bar may be on this one.
                line = f"\nerror: {message.decode()}; run the same command again on all machines to continue"
                print(line, file=sys.stderr, flush=True)
            os._exit(1)


def _send(connections: list[socket.socket], message: bytes) -> None:
    for connection in connections:
        with suppress(OSError):
            connection.sendall(message)
