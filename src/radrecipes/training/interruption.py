"""Stopping a run from outside: every process ends after the same step, with a checkpoint."""

import ctypes
import os
import signal
import sys
import time
from types import FrameType

import torch
from accelerate import PartialState
from accelerate.utils import reduce
from transformers import TrainerCallback

from radrecipes.errors import InterruptedRunError

# A closing terminal, Ctrl-C, and what schedulers send before their time limit.
SIGNALS = (getattr(signal, "SIGHUP", signal.SIGINT), signal.SIGINT, signal.SIGTERM)  # Windows has no SIGHUP
# A second Ctrl-C ends at once. Within these seconds it counts as the first: the terminal and the launcher both deliver it.
_SECONDS_BETWEEN = 2.0
_PR_SET_PDEATHSIG = 1


class StopRequests(TrainerCallback):
    """Within the context, a signal ends the run in order: at once before training, after the current step during it.

    A signal to one process stops all: they ask each other after every step, and save together. Step `stop_after` acts as a signal.
    """

    def __init__(self, stop_after: int | None = None):
        self.stop_after = stop_after
        self.stopped_at: int | None = None
        self._signal: signal.Signals | None = None
        self._signalled_at = 0.0
        self._training = False
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> "StopRequests":
        """Handle the signals; one that is ignored, as under nohup, stays ignored."""
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *exception: object) -> None:
        """Restore the handlers."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def on_train_begin(self, args, state, control, **kwargs):
        """From here on, let signals wait for the end of a step."""
        self._training = True

    def on_step_end(self, args, state, control, **kwargs):
        """Ask all processes; if one was told to stop, have the Trainer save and end."""
        due = self._signal is not None or state.global_step == self.stop_after
        if in_any_process(due):
            self.stopped_at = state.global_step
            control.should_save = control.should_training_stop = True

    def raise_if_stopped(self, steps: int) -> None:
        """Raise an [`InterruptedRunError`] in every process if the run, of `steps` steps, was asked to stop."""
        if self.stopped_at is not None:
            raise InterruptedRunError(
                f"stopped by {self._reason} after step {self.stopped_at} of {steps}, with a checkpoint; run the same command "
                "again to continue"
            )

    @property
    def _reason(self) -> str:
        if self._signal:
            return self._signal.name
        return "--stop-after" if self.stopped_at == self.stop_after else "another process"

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._signal is not None and number == signal.SIGINT and now - self._signalled_at > _SECONDS_BETWEEN:
            raise KeyboardInterrupt
        first = self._signal is None
        self._signal, self._signalled_at = signal.Signals(number), now
        if first and not self._training:
            raise InterruptedRunError(f"stopped by {self._signal.name} before training; run the same command again")


def in_any_process(flag: bool) -> bool:
    """Whether `flag` is true in any process of the run; all processes must call this at the same point."""
    processes = PartialState()
    if processes.num_processes == 1:
        return flag
    return bool(reduce(torch.tensor([float(flag)], device=processes.device), "sum").item())


def stop_with_launcher() -> None:
    """Have the system send SIGTERM to this process when its launcher dies, because `accelerate launch` forwards no signal.

    Not if a shell started it: a shell may end while its jobs continue.
    """
    below_agent = "TORCHELASTIC_RUN_ID" in os.environ
    below_accelerate = "ACCELERATE_MIXED_PRECISION" in os.environ and "RADRECIPES_LAUNCHER" not in os.environ
    if (below_agent or below_accelerate) and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
