"""`scripts/sft.py` in a process of its own that has its libraries already, and faults to put into it.

Python takes five seconds to import torch and TRL; a process forked from one that did has its own signals, limits and
exit code just the same.
"""

import contextlib
import faulthandler
import functools
import gc
import importlib
import json
import multiprocessing
import os
import resource
import runpy
import secrets
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

# What scripts/sft.py, evaluate_model.py and predict.py import.
_LIBRARIES = [
    "radrecipes.training.run",
    "radrecipes.evaluation.label_metrics",
]
_FROM_WARM_PROCESS = multiprocessing.get_context("forkserver")
_FROM_WARM_PROCESS.set_forkserver_preload(_LIBRARIES)


class Script:
    """A script that runs in a process of its own.

    Args:
        workspace (`Path`):
            Its working directory.
        words:
            Script and arguments: `"scripts/sft.py", "--config", …`.
        fault (`Callable`, *optional*):
            Called in the process before the script; of this module, or another one that can be imported.
        environment (`Mapping`, *optional*):
            Environment variables to set.
    """

    _started = 0

    def __init__(
        self,
        workspace: Path,
        *words: str | Path,
        fault: Callable[[], None] | None = None,
        environment: Mapping[str, str] | None = None,
    ):
        Script._started += 1
        self._output = [workspace / f".{name}-{os.getpid()}-{Script._started}" for name in ("out", "err")]
        # The warm process would hand on the environment of its own start.
        whole = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **(environment or {})}
        self._process = _FROM_WARM_PROCESS.Process(
            target=_run, args=(workspace, [str(word) for word in words], fault, whole, self._output)
        )
        self._process.start()
        self.pid = self._process.pid

    def signal(self, number: int) -> None:
        """Send a signal, if the process has not ended by itself."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def end(self, seconds: float = 60) -> "Script":
        """Wait for the end; a process that hangs is killed and fails the test."""
        self._process.join(seconds)
        hung = self._process.is_alive()
        if hung:
            self.signal(signal.SIGUSR1)  # says where it is
            self._process.join(1)
            self._process.kill()
            self._process.join()
        assert not hung, f"still running after {seconds} s:\n{self.stdout}\n{self.stderr}"
        return self

    @property
    def code(self) -> int | None:
        """Exit code, `-N` for signal `N`; `None` while it runs."""
        return self._process.exitcode

    @property
    def stdout(self) -> str:
        """What it printed so far."""
        return self._output[0].read_text("utf-8") if self._output[0].exists() else ""

    @property
    def stderr(self) -> str:
        """What it printed on standard error so far."""
        return self._output[1].read_text("utf-8") if self._output[1].exists() else ""


def two_ranks(
    workspace: Path,
    *words: str | Path,
    faults: Mapping[int, Callable[[], None]] | None = None,
    other_machine: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> list[Script]:
    """Two processes of one job on the CPU, as `accelerate launch` would start them, without a launcher above them.

    Where there is a workspace for it, the second one takes itself for one on another machine.
    """
    environment = {
        **(environment or {"ACCELERATE_USE_CPU": "true"}),
        "ACCELERATE_MIXED_PRECISION": "no",
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "1" if other_machine else "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        # As under scripts/launch.py, or the warm process would be taken for a launcher.
        "RADRECIPES_LAUNCHER": "1",
    }
    return [
        Script(
            (other_machine if rank else None) or workspace,
            *words,
            fault=(faults or {}).get(rank),
            environment={**environment, "RANK": str(rank), "LOCAL_RANK": "0" if other_machine else str(rank)},
        )
        for rank in (0, 1)
    ]


def losses_of(run: Path) -> list[float]:
    """The losses that a run logged."""
    lines = (run / "train_log.jsonl").read_text("utf-8").splitlines()
    return [entry["loss"] for entry in map(json.loads, lines) if "loss" in entry]


def free_port() -> int:
    """A port of this machine on which nothing listens.

    Of those below 32768, which Linux gives only to those who name one: another test's connections cannot take it meanwhile.
    """
    for _ in range(100):
        port = 20_000 + secrets.randbelow(12_000)
        with socket.socket() as free, contextlib.suppress(OSError):
            free.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no port is free")


def _run(workspace, words, fault, environment, output):
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(workspace)
    for path, stream in zip(output, (sys.stdout, sys.stderr), strict=True):
        with path.open("wb") as file:
            os.dup2(file.fileno(), stream.fileno())
    faulthandler.register(signal.SIGUSR1)
    sys.argv = words
    sys.path.insert(0, str(Path(words[0]).parent))
    gc.freeze()  # the libraries: nothing of theirs will be garbage
    if fault:
        fault()
    runpy.run_path(words[0], run_name="__main__")


def before(module: str, name: str, do: Callable[..., None], call: int = 1) -> None:
    """Have `do(*arguments)` called once, before call number `call` of a function or of a class's method.

    Args:
        module (`str`):
            `"radrecipes.training.checkpoints"`.
        name (`str`):
            `"seal"`, or `"Class.method"`.
        do (`Callable`):
            Gets the positional arguments of the call.
        call (`int`, *optional*, defaults to 1):
            Which call.
    """
    owner = importlib.import_module(module)
    *classes, name = name.split(".")
    for inner in classes:
        owner = vars(owner)[inner]
    original, calls = getattr(owner, name), 0

    @functools.wraps(original)
    def watched(*args, **options):
        nonlocal calls
        calls += 1
        if calls == call:
            do(*args)
        return original(*args, **options)

    setattr(owner, name, watched)


def in_step(step: int | None, do: Callable[[], None]) -> None:
    """Have `do()` called in the middle of an optimizer step, of every one if `step` is `None`."""
    _with_loss(lambda trainer, inputs, loss: do() if step in (None, trainer.state.global_step + 1) else None)


def multiply_loss(factor: float, step: int) -> None:
    """Make the loss of one step `factor` times as large; with NaN or infinity no number."""
    _with_loss(lambda trainer, inputs, loss: loss * factor if trainer.state.global_step + 1 == step else None)


def break_gradient(step: int) -> None:
    """Make the gradient of one step NaN and leave its loss as it is."""

    def broken(trainer, inputs, loss):
        if trainer.state.global_step + 1 == step:
            weight = next(param for param in trainer.model.parameters() if param.requires_grad)
            return loss + (weight * 0).sum().sqrt()  # 0, with the slope 0 · ∞

    _with_loss(broken)


def break_weight(step: int) -> None:
    """Make a trained weight infinite when the optimizer has done a step."""
    import torch
    from transformers import TrainerCallback

    from radrecipes.training.sharded import local_part

    class Breaks(TrainerCallback):
        def on_optimizer_step(self, args, state, control, model=None, **kwargs):
            if state.global_step + 1 == step:
                with torch.no_grad():
                    weight = next(param for param in model.parameters() if param.requires_grad)
                    local_part(weight).flatten()[0] = torch.inf

    _with_trainer(lambda trainer: trainer.add_callback(Breaks()))


def note_texts(path: Path) -> None:
    """Note the text of every batch that a loss is computed from: a JSON line of step and texts."""

    def noted(trainer, inputs, loss):
        texts = trainer.processing_class.batch_decode(inputs["input_ids"], skip_special_tokens=True)
        with path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps([trainer.state.global_step + 1, texts]) + "\n")

    _with_loss(noted)


def need_memory(gib_per_example: float, fits: float, from_step: int) -> None:
    """From a step on every example of a batch needs so many GiB more, and `fits` GiB are left of what the system gives."""
    import torch

    limited = False

    def larger(trainer, inputs, loss):
        nonlocal limited
        if trainer.state.global_step + 1 < from_step:
            return
        if not limited:
            pages = int(Path("/proc/self/statm").read_text("utf-8").split()[0])
            limit = pages * resource.getpagesize() + int(fits * 2**30)
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            limited = True
        torch.empty(int(len(inputs["index"]) * gib_per_example * 2**30), dtype=torch.uint8)

    _with_loss(larger)


def need_too_much(*ignored: object) -> None:
    """Ask for more memory than any machine has."""
    import torch

    torch.empty(2**50, dtype=torch.uint8)


def watch_group() -> None:
    """Print how many models of DDP are left when the process leaves its group.

    The last owner of the group destroys it with Python's lock held, and now and then the process never ends.
    """
    import torch
    from torch.nn.parallel import DistributedDataParallel

    destroy = torch.distributed.destroy_process_group

    def watched(*args, **options):
        left = sum(isinstance(thing, DistributedDataParallel) for thing in gc.get_objects())
        print(f"DDP left: {left}")
        destroy(*args, **options)

    torch.distributed.destroy_process_group = watched


def set_value(module: str, name: str, value: object) -> None:
    """Set a value of a module."""
    setattr(importlib.import_module(module), name, value)


def all_of(*faults: Callable[[], None]) -> None:
    """Several faults in one process."""
    for fault in faults:
        fault()


def tell(number: int, *ignored: object) -> None:
    """Send this process a signal."""
    os.kill(os.getpid(), number)


def tell_twice(number: int, seconds: float) -> None:
    """Send this process a signal, and again some seconds later."""
    tell(number)
    end = time.monotonic() + seconds
    while time.monotonic() < end:  # a sleep would end with the signal
        time.sleep(0.05)
    tell(number)


def die(*ignored: object) -> None:
    """Die as the system's out-of-memory killer does it."""
    tell(signal.SIGKILL)


def die_once(marker: Path) -> None:
    """Die, unless a process did before."""
    if not marker.exists():
        marker.touch()
        die()


def fill_disk(folder: Path, left: int, *ignored: object) -> None:
    """Fill the disk of `folder` except for `left` bytes, with a file named `filler` in it."""
    facts = os.statvfs(folder)
    with (folder / "filler").open("wb") as stream:
        os.posix_fallocate(stream.fileno(), 0, facts.f_bavail * facts.f_frsize - left)


def _with_loss(change: Callable) -> None:
    """Have `change(trainer, inputs, loss)` called for every batch of training; the loss is what it returns, unless `None`."""
    from radrecipes.training.trainer import CompletionTrainer

    original = CompletionTrainer.compute_loss

    @functools.wraps(original)
    def changed(self, model, inputs, *args, **options):
        loss = original(self, model, inputs, *args, **options)
        if not model.training:  # the layout is checked before
            return loss
        other = change(self, inputs, loss)
        return loss if other is None else other

    CompletionTrainer.compute_loss = changed


def _with_trainer(do: Callable) -> None:
    """Have `do(trainer)` called once the trainer is made."""
    from radrecipes.training import run

    original = run.make_trainer

    @functools.wraps(original)
    def made(*args, **options):
        trainer = original(*args, **options)
        do(trainer)
        return trainer

    run.make_trainer = made
