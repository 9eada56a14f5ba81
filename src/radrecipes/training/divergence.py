"""Divergence: a loss that is no number ends the run before anything of it is saved; one that jumps is told."""

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
from radrecipes.training.interruption import in_any_process
from radrecipes.training.sharded_adapter import part_of_this_process
from radrecipes.training.trainer import RowsOfStep

DIVERGED_FILE = "diverged.json"
# A jump is a loss so many nats per token, and so many times, above the median of the last steps.
_SPIKE_NATS = 1.0
_SPIKE_RATIO = 3.0
_SPIKE_STEPS = 50
_FEWEST_STEPS = 10


class DivergenceGuard(TrainerCallback):
    """Looks at every step's loss and gradient norm, and at the weights before they are saved.

    The Trainer logs both after every step, the loss as the mean over all processes, the norm of the gradient that all share: what
    is not finite in one process is not finite in any, and all stop behind the same step. It must come before callbacks that write
    what is logged. A step whose loss is three times the median of the 50 before it, and a nat above, is logged with
    `loss_spike: true`.

    Args:
        run (`Path`):
            The run's folder; gets `diverged.json` with the step and the ids of its rows.
        rows ([`~training.RowsOfStep`]):
            The rows of the running step.
        ids (`Sequence[str]`):
            Ids of all rows.
        on_spike (`Callable[[str], None]`):
            Called in the first process with a line on the spike.
        losses (`Sequence[float]`, *optional*):
            Losses of the steps before the run was resumed.
    """

    def __init__(
        self,
        run: Path,
        rows: RowsOfStep,
        ids: Sequence[str],
        on_spike: Callable[[str], None],
        losses: Sequence[float] = (),
    ):
        self.run, self.rows, self.ids, self.on_spike = run, rows, ids, on_spike
        self._losses = deque(losses, maxlen=_SPIKE_STEPS)

    def on_log(self, args, state, control, logs=None, model=None, **kwargs):
        """Check what a step gave; the Trainer saves after this."""
        if not logs or "loss" not in logs:
            return
        loss, grad_norm = logs["loss"], logs.get("grad_norm", 0.0)
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            self._end(state, logs, f"loss {loss:g} and gradient norm {grad_norm:g}")
        # A process may hold weights that no other one has: the shards of FSDP and ZeRO.
        if control.should_save and in_any_process(not trained_weights_are_finite(model)):
            self._end(state, logs, "weights that are no finite numbers")
        if len(self._losses) >= _FEWEST_STEPS:
            median = statistics.median(self._losses)
            if loss > _SPIKE_RATIO * median and loss > median + _SPIKE_NATS:
                logs["loss_spike"] = True
                if state.is_world_process_zero:
                    self.on_spike(
                        f"the loss of step {state.global_step} is {loss:.3f}; the median of the steps before is {median:.3f}"
                    )
        self._losses.append(loss)

    def _end(self, state, logs: dict[str, float], gave: str) -> None:
        ids = [self.ids[index] for index in self.rows.of_all_processes()]
        if state.is_world_process_zero:
            facts = {
                "step": state.global_step,
                "gave": gave,
                **{key: str(value) for key, value in logs.items()},
                "rows": ids,
            }
            (self.run / DIVERGED_FILE).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        raise DivergedError(
            f"{self.run}: step {state.global_step} gave {gave}; nothing after the last checkpoint was kept. Look at its rows "
            f"({', '.join(ids[:3])} …, all in {DIVERGED_FILE}), or lower learning_rate"
        )


def trained_weights_are_finite(model: nn.Module) -> bool:
    """Whether every trained weight of this process is a finite number."""
    trained = (part_of_this_process(param) for param in model.parameters() if param.requires_grad)
    return all(bool(torch.isfinite(part).all()) for part in trained)
