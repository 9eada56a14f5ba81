"""Starts scripts as `accelerate launch` does, but keeps the scripts' own exit codes and forwards signals to them."""

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
from types import FrameType
from typing import NamedTuple, NoReturn

import psutil
import yaml
from accelerate.commands.launch import _validate_launch_command, deepspeed_launcher, multi_gpu_launcher
from accelerate.utils import prepare_simple_launcher_cmd_env
from torch.distributed import DistError
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous import RendezvousError

from radrecipes.errors import InputError, InterruptedRunError, RadrecipesError
from radrecipes.launch.spec import (
    LAUNCH_SPEC_VARIABLE,
    USE_CPU_VARIABLE,
    Engine,
    check_file,
    check_gpus,
    spec_from_arguments,
)
from radrecipes.shipped import find_shipped

# Tells the script that no parent process swallows its signals or its exit code.
LAUNCHER_VARIABLE = "RADRECIPES_LAUNCHER"
# Exit codes of radrecipes.errors for which the script itself prints the reason.
EXPLAINED = (2, 3, 4, 5)
# Exit code of a script that was asked to stop and did.
INTERRUPTED = InterruptedRunError.exit_code
# Seconds until torch kills workers that were asked to stop. Its default is 30, but a checkpoint may take longer;
# schedulers often grant five minutes.
_SHUTDOWN_VARIABLE, _SHUTDOWN_SECONDS = "TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "280"
_FORWARDED_SIGNALS = (signal.SIGTERM, signal.SIGINT, getattr(signal, "SIGHUP", signal.SIGINT))  # Windows has no SIGHUP
# torch's agent sets it for its workers only, not for helper processes that look for GPUs.
_WORKER_VARIABLE = "TORCHELASTIC_RUN_ID"
# How long torch's agent may take to end after its last worker.
_AGENT_SECONDS = 10
# torch must handle at least one signal; of its four defaults this is the one that we do not handle.
_TORCH_SIGNAL = "SIGQUIT"
# Minimum level at which torch's loggers are shown.
_LOG_LEVELS = {
    "torch.distributed.elastic.multiprocessing.api": logging.CRITICAL,
    "torch.distributed.elastic.agent.server.api": logging.ERROR,
}


class Outcome(NamedTuple):
    """How the launched processes ended; `unexplained` is torch's summary of failures that no exit code explains."""

    exit_code: int
    unexplained: str = ""


def launch(args: argparse.Namespace) -> Outcome:
    """Do what `accelerate launch` does. A single process replaces this one, and the call never returns.

    Several processes run under torch's agent in this process. SIGTERM, SIGINT and SIGHUP are forwarded to each of them once;
    workers that still run after `TORCH_ELASTIC_SHUTDOWN_TIMEOUT` seconds (default: 280) are killed. A signal that was ignored,
    as under nohup, stays ignored. `args` are parsed by `accelerate.commands.launch.launch_command_parser()`.
    """
    if os.name == "nt":
        raise InputError(
            "does not run on Windows; use `radrecipes train` for one process, or `accelerate launch`", "launch"
        )
    if args.config_file is not None:
        args.config_file = str(find_shipped(args.config_file))
        check_file(args.config_file)
    args.training_script = str(find_shipped(args.training_script))
    os.environ[LAUNCHER_VARIABLE] = "1"
    os.environ.setdefault(_SHUTDOWN_VARIABLE, _SHUTDOWN_SECONDS)
    _set_torch_options(args)
    codes: dict[int, int] = {}
    # With restarts there may be no worker until the machines have connected.
    watched = nullcontext() if args.max_restarts or sys.platform != "linux" else _exit_after_failed_workers()
    try:
        with _forward_signals(codes), watched:
            _start(args)
    except ChildFailedError as error:
        failures = sorted(error.failures.values(), key=lambda failure: failure.timestamp)
        code = exit_code_of_failures([failure.exitcode for failure in failures])
        return Outcome(code, "" if code in (*EXPLAINED, INTERRUPTED) else str(error).strip())
    except SignalException as error:
        return Outcome(exit_code_after_signal(list(codes.values()), error.sigval))
    except subprocess.CalledProcessError as error:
        return Outcome(_as_shell_code(error.returncode))
    except (RendezvousError, DistError) as error:
        why = " ".join(str(error).split()) or type(error).__name__
        raise RadrecipesError(
            f"the machines could not connect, or lost their connection ({why}); run the same command on each of them, and "
            f"check that all reach {args.main_process_ip}:{args.main_process_port}"
        ) from error
    except (ValueError, OSError, ImportError, yaml.YAMLError) as error:
        raise InputError(" ".join(str(error).split())) from error
    return Outcome(0)


def _set_torch_options(args: argparse.Namespace) -> None:
    # accelerate passes every argument that torchrun knows on to torchrun.
    args.signals_to_handle = _TORCH_SIGNAL
    if args.max_restarts and (args.num_machines or 1) == 1:
        # By default torch keeps one store for all attempts, where the second attempt may find an address of the first.
        os.environ.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
        args.rdzv_backend, args.rdzv_endpoint = "c10d", "localhost:0"
    # With quiet, accelerate turns every exit code of DeepSpeed's launcher for several machines into 1.
    args.quiet = False
    # torch logs every signal and failure, which the workers or the outcome already report. Filters, because torch
    # sets the levels when it imports these modules.
    for name, level in _LOG_LEVELS.items():
        logging.getLogger(name).addFilter(lambda record, level=level: record.levelno >= level)


def _start(args: argparse.Namespace) -> None:
    """What accelerate's `launch_command` does, but with the spec checked first."""
    args, defaults, precision_from_file = _validate_launch_command(args)
    spec = spec_from_arguments(args)
    check_gpus(spec)
    os.environ[LAUNCH_SPEC_VARIABLE] = spec.to_json()
    if spec.on_cpu:
        os.environ[USE_CPU_VARIABLE] = "true"  # with several processes accelerate does not set it
    if args.debug:
        os.environ["ACCELERATE_DEBUG_MODE"] = "true"
        args.debug = False  # with --debug and rich, accelerate prints a failure and then exits with 0
    if spec.engine in (Engine.ZERO2, Engine.ZERO3):
        from_file = [*defaults.deepspeed_config] if defaults else []
        from_file += ["mixed_precision"] if precision_from_file else []
        args.deepspeed_fields_from_accelerate_config = ",".join(from_file)
        deepspeed_launcher(args)
    elif spec.engine == Engine.ONE_PROCESS:
        _replace_this_process(args)
    else:
        multi_gpu_launcher(args)


def exit_code_of_failures(codes: Sequence[int]) -> int:
    """The exit code of a job with failed workers: the first that explains why a script stopped, or the first of all.

    `codes` are in the order in which workers ended, `-N` for signal `N`. After a failure torch sends SIGTERM to the
    other workers, so code 75 of a worker that saved takes precedence over SIGTERM.
    """
    explained = [code for code in codes if code in EXPLAINED]
    if explained:
        return explained[0]
    if codes[0] == -signal.SIGTERM and INTERRUPTED in codes:
        return INTERRUPTED
    return _as_shell_code(codes[0])


def exit_code_after_signal(codes: Sequence[int], number: int) -> int:
    """The exit code of a job that signal `number` asked to stop.

    The first of the workers' `codes` that explains why a script stopped; 0 if all finished; 75 if all finished or
    saved; otherwise, or if no worker had started, 128 + the signal.
    """
    explained = [code for code in codes if code in EXPLAINED]
    if explained:
        return explained[0]
    if codes and set(codes) <= {0, INTERRUPTED}:
        return max(codes)
    return 128 + number


def _as_shell_code(code: int) -> int:
    """Convert `-N` for signal `N`, as `subprocess` returns it, to a shell's 128 + N."""
    return code if code >= 0 else 128 - code


def _replace_this_process(args: argparse.Namespace) -> NoReturn:
    command, environment = prepare_simple_launcher_cmd_env(args)
    # Python ignores SIGPIPE, and `subprocess` resets it as this does. Our own handlers are reset here, because a signal that
    # they received between here and the new program would be lost.
    for number in (signal.SIGPIPE, *_FORWARDED_SIGNALS):
        if number == signal.SIGPIPE or callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execvpe(command[0], command, environment)


@contextmanager
def _forward_signals(codes: dict[int, int]) -> Iterator[None]:
    """Forward signals to the children of this process, and raise `SignalException` after they have ended.

    torch's own handler does not report the workers' exit codes and leaves workers running after a second signal. After
    the first signal `codes` receives the exit code of every child that ends, by process id.
    """
    waiting = False

    def note(child: psutil.Process) -> None:
        if child.returncode is not None:
            codes[child.pid] = int(child.returncode)

    def forward(number: int, frame: FrameType | None) -> None:
        nonlocal waiting
        children = psutil.Process().children()
        for child in children:
            with suppress(psutil.NoSuchProcess):
                child.send_signal(number)
        # Later signals are forwarded too, but the first one waits for all children.
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

    before = {number: signal.getsignal(number) for number in _FORWARDED_SIGNALS}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, forward)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _exit_after_failed_workers() -> Iterator[None]:
    """End this process at most ten seconds after its last worker, if one of them failed.

    torch's agent asks a store on another machine for the state of the job. If that machine is gone, it waits for a TCP
    timeout of a quarter of an hour, and handles no signal meanwhile.
    """
    over = threading.Event()
    threading.Thread(target=_watch_workers, args=(over,), daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _watch_workers(over: threading.Event) -> None:
    known: set[int] = set()
    running: list[int] = []  # one pidfd per process
    failed: list[int] = []
    while not over.is_set():
        for child in psutil.Process().children():
            with suppress(psutil.Error, OSError):
                if child.pid not in known and _WORKER_VARIABLE in child.environ():
                    running.append(os.pidfd_open(child.pid))
                    known.add(child.pid)
        # Only after that scan: it may be the first to see a worker that started later than the others and still saves.
        if failed and not running and not over.wait(_AGENT_SECONDS):
            os._exit(exit_code_of_failures(failed))
        # The agent starts all workers at once; every further scan reads the state of every process.
        for worker in wait(running, timeout=10 if known else 1):
            running.remove(worker)
            with suppress(ChildProcessError):  # the agent reaped it first, so it does not hang
                end = os.waitid(os.P_PIDFD, worker, os.WEXITED | os.WNOWAIT)
                if end.si_status:
                    failed.append(end.si_status if end.si_code == os.CLD_EXITED else -end.si_status)
            os.close(worker)
