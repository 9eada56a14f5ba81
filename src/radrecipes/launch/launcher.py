"""Starting scripts as `accelerate launch` does, with the scripts' own exit codes, and with signals that reach them."""

import argparse
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from multiprocessing.connection import wait
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, NoReturn
from unittest.mock import patch

import psutil
import yaml
from accelerate.commands import launch as accelerate_launch
from accelerate.utils import prepare_simple_launcher_cmd_env
from torch.distributed import DistError
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous import RendezvousError

from radrecipes.errors import InputError, InterruptedRunError, RadrecipesError
from radrecipes.launch import spec as launch_promise

# accelerate's own, which its launcher calls first; the launcher below wraps it.
_fill_in_from_file = accelerate_launch._validate_launch_command
# In the environment of what is started: nothing stands above the script that would keep its signals and its exit code from it.
LAUNCHER_VARIABLE = "RADRECIPES_LAUNCHER"
# The codes of radrecipes.errors by which a script says, in one line, why it stopped for good.
EXPLAINED = (2, 3, 4, 5)
# The code of a script that was told to stop and did.
INTERRUPTED = InterruptedRunError.exit_code
# torch's variable and default meaning: seconds until workers that were told to end are killed. torch waits 30, a checkpoint
# may take longer; schedulers often give five minutes.
_SHUTDOWN_VARIABLE, _SHUTDOWN_SECONDS = "TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "280"
_HANDED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
# A variable that torch's agent gives its workers, and nobody the helpers that ask for GPUs.
_OF_A_WORKER = "TORCHELASTIC_RUN_ID"
# How long torch's agent may take to end behind its last worker.
_AGENT_SECONDS = 10
# It has to handle one at least; of the four that it handles by default this is the one that is left.
_LEFT_TO_TORCH = "SIGQUIT"
# From which level on torch's loggers are heard.
_HEARD = {
    "torch.distributed.elastic.multiprocessing.api": logging.CRITICAL,
    "torch.distributed.elastic.agent.server.api": logging.ERROR,
}


class Outcome(NamedTuple):
    """How the launched processes ended.

    Attributes:
        exit_code (`int`):
            0 where all ended with 0; else the code of what went wrong first, 128 + the signal where that was a signal.
        unexplained (`str`):
            torch's summary of the failures, where no worker's exit code says why; empty otherwise.
    """

    exit_code: int
    unexplained: str = ""


def launch(args: argparse.Namespace) -> Outcome:
    """Do what `accelerate launch` does. One process takes the place of this one, and the call never returns.

    Several processes run below torch's agent in this process. SIGTERM, SIGINT and SIGHUP to this process go to each of
    them, once; then it waits for them, and kills what still runs after `TORCH_ELASTIC_SHUTDOWN_TIMEOUT` seconds (280
    unless the environment says otherwise). A signal that was ignored, as under nohup, stays ignored.

    Args:
        args (`argparse.Namespace`):
            What `accelerate.commands.launch.launch_command_parser()` made of the command line.

    Returns:
        [`Outcome`]: of several processes.

    Raises:
        [`InputError`]: when the configuration file is missing, accelerate finds a fault in it or in the arguments, would start
            something else than what was asked for, or lacks a package for it.
        [`RadrecipesError`]: several machines did not meet in time.
    """
    if args.config_file is not None and not Path(args.config_file).is_file():
        raise InputError(
            "no such configuration of accelerate; those shipped are in accelerate_configs/", args.config_file
        )
    os.environ[LAUNCHER_VARIABLE] = "1"
    os.environ.setdefault(_SHUTDOWN_VARIABLE, _SHUTDOWN_SECONDS)
    # accelerate copies to torchrun whatever torchrun has an argument for.
    args.signals_to_handle = _LEFT_TO_TORCH
    if args.max_restarts and (args.num_machines or 1) == 1:
        # Else torch keeps one store over all tries, where a process of the second may find the address of one of the first.
        os.environ.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
        args.rdzv_backend, args.rdzv_endpoint = "c10d", "localhost:0"
    # Otherwise accelerate makes 1 of the exit code of DeepSpeed's launcher for several machines.
    args.quiet = False
    # torch announces every signal and failure; the workers say it themselves, or the outcome does. Filters, because torch
    # sets the levels when it imports these modules.
    for name, level in _HEARD.items():
        logging.getLogger(name).addFilter(lambda record, level=level: record.levelno >= level)

    codes: dict[int, int] = {}
    try:
        # accelerate decides which of its launchers fits; only the one for a single process is another. Where it may use
        # rich and --debug is given, it prints a failure and then leaves with 0.
        with (
            patch.object(accelerate_launch, "_validate_launch_command", _with_promise),
            patch.object(accelerate_launch, "simple_launcher", _replace_this_process),
            patch.object(accelerate_launch, "is_rich_available", return_value=False),
            _signals_handed_on(codes),
            # Where workers are started again, none may run for as long as the machines take to meet.
            nullcontext() if args.max_restarts or sys.platform != "linux" else _ended_behind_failed_workers(),
        ):
            accelerate_launch.launch_command(args)
    except ChildFailedError as error:
        failures = sorted(error.failures.values(), key=lambda failure: failure.timestamp)
        code = exit_code_of_failures([failure.exitcode for failure in failures])
        return Outcome(code, "" if code in (*EXPLAINED, INTERRUPTED) else str(error).strip())
    except SignalException as error:
        return Outcome(exit_code_after_signal(list(codes.values()), error.sigval))
    except subprocess.CalledProcessError as error:
        return Outcome(_as_shells_do(error.returncode))
    except (RendezvousError, DistError) as error:
        why = " ".join(str(error).split()) or type(error).__name__
        raise RadrecipesError(
            f"the machines did not find each other, or lost each other ({why}); start the same command on each of them, and "
            f"see that all reach {args.main_process_ip}:{args.main_process_port}"
        ) from error
    except (ValueError, OSError, ImportError, yaml.YAMLError) as error:
        raise InputError(" ".join(str(error).split())) from error
    return Outcome(0)


def exit_code_of_failures(codes: Sequence[int]) -> int:
    """The exit code of a job of which workers failed.

    Args:
        codes (`Sequence[int]`):
            Exit codes of the failed workers in the order in which they ended, `-N` for signal `N`. When one fails, torch
            sends SIGTERM to the others, so that theirs may be the answer to that.

    Returns:
        `int`: the first of the codes by which a script says why it stopped for good; else that of the first failure, of
        which a SIGTERM counts for less than a worker that saved and left with 75.
    """
    explained = [code for code in codes if code in EXPLAINED]
    if explained:
        return explained[0]
    if codes[0] == -signal.SIGTERM and INTERRUPTED in codes:
        return INTERRUPTED
    return _as_shells_do(codes[0])


def exit_code_after_signal(codes: Sequence[int], number: int) -> int:
    """The exit code of a job that was told to stop by a signal.

    Args:
        codes (`Sequence[int]`):
            Exit codes of all workers, `-N` for signal `N`; none where the signal came before they started.
        number (`int`):
            The signal.

    Returns:
        `int`: the first of the codes by which a script says why it stopped for good; 0 where all had finished; 75 where
        all finished or saved; else 128 + the signal.
    """
    explained = [code for code in codes if code in EXPLAINED]
    if explained:
        return explained[0]
    if codes and set(codes) <= {0, INTERRUPTED}:
        return max(codes)
    return 128 + number


def _with_promise(args: argparse.Namespace) -> tuple[argparse.Namespace, Any, bool]:
    """Have accelerate fill the arguments in from its file, and tell the processes what that promises."""
    validated = _fill_in_from_file(args)
    promise = launch_promise.promised_by(validated[0])
    launch_promise.check_gpus(promise)
    os.environ[launch_promise.PROMISE_VARIABLE] = promise.to_json()
    if promise.on_cpu:
        os.environ[launch_promise.USE_CPU_VARIABLE] = "true"  # accelerate tells no worker of several
    return validated


def _as_shells_do(code: int) -> int:
    """Exit code of a process, where `subprocess` gives `-N` for one that signal `N` ended."""
    return code if code >= 0 else 128 - code


def _replace_this_process(args: argparse.Namespace) -> NoReturn:
    """Become the command, with the environment that accelerate gives it."""
    command, environment = prepare_simple_launcher_cmd_env(args)
    # As `subprocess` does for accelerate: Python ignores SIGPIPE, other programs expect not to. What is handled here is
    # handed back before it can be lost between here and there.
    for number in (signal.SIGPIPE, *_HANDED_ON):
        if number == signal.SIGPIPE or callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execvpe(command[0], command, environment)


@contextmanager
def _signals_handed_on(codes: dict[int, int]) -> Iterator[None]:
    """Within the context, a signal goes to the children of this process, and ends what runs here once they ended.

    torch's agent does the same by its own handler, but says nothing of the workers' exit codes, and leaves the workers
    behind when a second signal comes.

    Args:
        codes (`dict[int, int]`):
            Where the exit code of every child goes that ended behind the first signal, by its process id.
    """
    waiting = False

    def note(child: psutil.Process) -> None:
        if child.returncode is not None:
            codes[child.pid] = int(child.returncode)

    def hand_on(number: int, frame: FrameType | None) -> None:
        nonlocal waiting
        children = psutil.Process().children()
        for child in children:
            with suppress(psutil.NoSuchProcess):
                child.send_signal(number)
        # A further signal is handed on too, but the first one waits for all.
        if waiting:
            return
        waiting = True
        seconds = int(os.environ[_SHUTDOWN_VARIABLE])
        _, running = psutil.wait_procs(children, seconds, note)
        for child in running:
            with suppress(psutil.NoSuchProcess):
                for process in (*child.children(recursive=True), child):
                    process.kill()
        psutil.wait_procs(running, seconds, note)
        raise SignalException(f"ended by {signal.Signals(number).name}", signal.Signals(number))

    before = {number: signal.getsignal(number) for number in _HANDED_ON}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, hand_on)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _ended_behind_failed_workers() -> Iterator[None]:
    """Within the context, this process ends at the latest ten seconds behind its last worker, where one of them failed.

    torch's agent asks a store on another machine how the job stands. If that machine is gone it waits for the answer until TCP
    gives up, a quarter of an hour, and no signal reaches it there.
    """
    over = threading.Event()
    threading.Thread(target=_end_behind_failed_workers, args=(over,), daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _end_behind_failed_workers(over: threading.Event) -> None:
    known: set[int] = set()
    running: list[int] = []  # a descriptor for each process
    failed: list[int] = []
    while not over.is_set():
        for child in psutil.Process().children():
            with suppress(psutil.Error, OSError):
                if child.pid not in known and _OF_A_WORKER in child.environ():
                    running.append(os.pidfd_open(child.pid))
                    known.add(child.pid)
        # Only behind that look: it may be the first that sees a worker which started later than the others, and still saves.
        if failed and not running and not over.wait(_AGENT_SECONDS):
            os._exit(exit_code_of_failures(failed))
        # The agent starts all at once; to look for more reads what the system says of every process.
        for worker in wait(running, timeout=10 if known else 1):
            running.remove(worker)
            with suppress(ChildProcessError):  # the agent was faster, and so does not hang
                end = os.waitid(os.P_PIDFD, worker, os.WEXITED | os.WNOWAIT)
                if end.si_status:
                    failed.append(end.si_status if end.si_code == os.CLD_EXITED else -end.si_status)
            os.close(worker)
