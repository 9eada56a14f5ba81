"""Divergence: a NaN or infinite loss ends the run before it is saved; a loss spike is reported."""

import json
import math
import statistics
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn
from transformers import TrainerCallback

from radrecipes.errors import DivergedError
from radrecipes.files import write_atomically
from radrecipes.training.interruption import in_any_process
from radrecipes.training.sharded import local_part
from radrecipes.training.trainer import RowsOfStep, logged_steps

DIVERGED_FILE = "diverged.json"
# A spike is a loss this many nats per token, and this many times, above the median of the last steps.
_SPIKE_NATS = 1.0
_SPIKE_RATIO = 3.0
_SPIKE_STEPS = 50
_FEWEST_STEPS = 10


class DivergenceGuard(TrainerCallback):
    """Checks every step's loss and gradient norm, and the weights before they are saved; must precede callbacks that log or seal.

    The Trainer logs the mean loss and the gradient norm over all processes, so all stop after the same step. A step whose loss is
    three times the median of the 50 before it, and at least 1 nat above, is logged with `loss_spike: true`.

    Args:
        run: The run's folder; on divergence it gets `diverged.json` with the step and the ids of its rows.
        on_spike: Called in the first process with a message.
    """

    def __init__(self, run: Path, rows: RowsOfStep, ids: Sequence[str], on_spike: Callable[[str], None]):
        self.run, self.rows, self.ids, self.on_spike = run, rows, ids, on_spike
        self._losses: deque[float] = deque(maxlen=_SPIKE_STEPS)

    def on_train_begin(self, args, state, control, **kwargs):
        """Continue with the steps before the checkpoint."""
        self._losses.extend(line["loss"] for line in logged_steps(state))

    def on_log(self, args, state, control, logs=None, model=None, **kwargs):
        """Check a step's metrics, or an evaluation's; the Trainer saves after this."""
        if not math.isfinite((logs or {}).get("eval_loss", 0.0)):
            self._end(state, logs, f"validation loss {logs['eval_loss']:g}")
        if not logs or "loss" not in logs:
            return
        loss, grad_norm = logs["loss"], logs.get("grad_norm", 0.0)
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            self._end(state, logs, f"loss {loss:g} and gradient norm {grad_norm:g}")
        if control.should_save:
            self._check_weights(state, model, logs)
        if len(self._losses) >= _FEWEST_STEPS:
            median = statistics.median(self._losses)
            if loss > _SPIKE_RATIO * median and loss > median + _SPIKE_NATS:
                logs["loss_spike"] = True
                if state.is_world_process_zero:
                    self.on_spike(
                        f"warning: the loss of step {state.global_step} is {loss:.3f}; "
                        f"the median of the steps before is {median:.3f}"
                    )
        self._losses.append(loss)

    def on_save(self, args, state, control, model=None, **kwargs):
        """Check the weights before they are sealed: an epoch's are saved although its last step was logged without that."""
        self._check_weights(state, model, {})

    def on_train_end(self, args, state, control, model=None, **kwargs):
        """Check the weights of a run without checkpoints, too."""
        self._check_weights(state, model, {})

    def _check_weights(self, state, model: nn.Module, logs: dict[str, float]) -> None:
        # Under FSDP and ZeRO each process has weights that no other process has.
        if in_any_process(not trained_weights_are_finite(model)):
            self._end(state, logs, "NaN or infinite weights")

    def _end(self, state, logs: dict[str, float], gave: str) -> None:
        ids = [self.ids[index] for index in self.rows.of_all_processes()]
        if state.is_world_process_zero:
            facts = {
                "step": state.global_step,
                "gave": gave,
                **{key: str(value) for key, value in logs.items()},
                "rows": ids,
            }
            write_atomically(self.run / DIVERGED_FILE, json.dumps(facts, indent=2) + "\n")
        raise DivergedError(
            f"{self.run}: step {state.global_step} gave {gave}; nothing after the last checkpoint was kept. Look at its rows "
            f"(listed in {DIVERGED_FILE}), or lower learning_rate"
        )


def trained_weights_are_finite(model: nn.Module) -> bool:
    """Whether every trained weight of this process is finite."""
    trained = (local_part(param) for param in model.parameters() if param.requires_grad)
    return all(bool(torch.isfinite(part).all()) for part in trained)
