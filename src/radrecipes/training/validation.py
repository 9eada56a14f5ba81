"""Validation during training: the loss per token and the task's metrics on a sample of the validation split."""
# In the batches of one process, so that several processes give the same numbers, and without drawing a random number, so that
# training continues as it would without validation.

import contextlib
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from accelerate.utils import gather_object
from transformers import EarlyStoppingCallback, PreTrainedModel, TrainerCallback, TrainerState
from transformers.trainer_utils import IntervalStrategy

from radrecipes.files import write_atomically
from radrecipes.models.compute_dtype import linear_weights_cast
from radrecipes.recipe import Recipe

if TYPE_CHECKING:
    from radrecipes.training.trainer import RunTrainer

VALIDATION_LOG = "validation_log.jsonl"


class TaskMetrics(Protocol):
    """Measures the metrics of a task on the validation sample; all processes call it together with the complete model."""

    def check(self, model: PreTrainedModel) -> None:
        """Prepare for a model before it is trained; an [`InputError`] if it does not support what is measured."""

    def __call__(self, model: PreTrainedModel, batch_size: int) -> dict[str, float]:
        """The metrics by name."""


def check_metrics(trainer: "RunTrainer") -> None:
    """Find out before training whether the model supports what evaluations measure, see [`TaskMetrics.check`]."""
    if trainer.task_metrics:
        with evaluation_mode(trainer.model), torch.no_grad():
            trainer.task_metrics.check(trainer.model)


def measure(trainer: "RunTrainer") -> dict[str, float]:
    """The `loss` of the sample, what the trainer's `task_metrics` measure, and the `runtime` in seconds."""
    began = time.monotonic()
    with evaluation_mode(trainer.model_wrapped), torch.no_grad():
        found = {"loss": mean_loss(trainer)}
        if trainer.task_metrics:
            # PEFT generates with the base model, whose forward pass accelerate has not put under autocast.
            # A sharded model replaces its weights itself in every forward pass.
            cast = contextlib.nullcontext() if trainer.is_sharded else linear_weights_cast(trainer.model)
            with trainer.accelerator.autocast(), cast:
                found |= trainer.task_metrics(trainer.model, trainer.args.per_device_eval_batch_size)
    return {**found, "runtime": round(time.monotonic() - began, 3)}


def mean_loss(trainer: "RunTrainer") -> float:
    """Cross-entropy per scored token of the sample, without label smoothing; all processes share the batches."""
    size, state = trainer.args.per_device_eval_batch_size, trainer.accelerator
    rows = sorted(trainer.eval_dataset, key=lambda row: -len(row["input_ids"]))  # longest first: memory peaks first
    batches = [rows[start : start + size] for start in range(0, len(rows), size)]
    sums = []
    for first in range(0, len(batches), state.num_processes):
        own = first + state.process_index
        # A process without a batch takes part in the forward pass, which a sharded model needs.
        batch = trainer.validation_collator(batches[min(own, len(batches) - 1)])
        inputs = {key: value.to(trainer.args.device) for key, value in batch.items()}
        total, tokens, _ = trainer.summed_loss(trainer.model_wrapped, inputs)
        if own < len(batches):
            sums.append((own, float(total), tokens))
    gathered = sorted(gather_object(sums))
    return math.fsum(total for _, total, _ in gathered) / sum(tokens for _, _, tokens in gathered)


@contextlib.contextmanager
def evaluation_mode(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode of a model that is trained further."""
    bitsandbytes = sys.modules.get("bitsandbytes")  # not there unless the base is quantised
    model.eval()
    for module in model.modules():
        if bitsandbytes and isinstance(module, bitsandbytes.nn.Linear4bit):
            # Eval mode would permanently repack a 4-bit layer's weights for AVX512-BF16, and a packed layer passes no gradient.
            module.train()
    try:
        yield
    finally:
        model.train()


def validation_callbacks(recipe: Recipe, log: Path, tell: Callable[[str], None]) -> list[TrainerCallback]:
    """The callbacks of a run that validates; `log` is its [`VALIDATION_LOG`], `tell` gets lines for the user."""
    callbacks = [EvaluatesEpochs(), ValidationLog(log, tell)]
    if patience := recipe.arguments.early_stopping_patience:
        callbacks.append(StopsEarly(patience, tell))
    return callbacks


class EvaluatesEpochs(TrainerCallback):
    """With `eval_strategy: epoch`, evaluates after the last step of an epoch and of the run, before that step's checkpoint."""

    # The Trainer would do so after the checkpoint, which would lack it, and wherever a run is stopped within an epoch.

    def on_step_end(self, args, state, control, **kwargs):
        """Whether this step is the last one."""
        if args.eval_strategy == IntervalStrategy.EPOCH:
            control.should_evaluate = state.epoch.is_integer() or state.global_step >= state.max_steps

    def on_epoch_end(self, args, state, control, **kwargs):
        """It was done."""
        control.should_evaluate = False


class StopsEarly(EarlyStoppingCallback):
    """Transformers' early stopping; a resumed run continues to count, and ends at once if training was over."""

    def __init__(self, early_stopping_patience: int, tell: Callable[[str], None]):
        super().__init__(early_stopping_patience)
        self.tell = tell

    def on_train_begin(self, args, state, control, **kwargs):
        """Continue with the checkpoint's count."""
        before = state.stateful_callbacks.setdefault(type(self).__name__, self.state())
        self.early_stopping_patience_counter = before["attributes"]["early_stopping_patience_counter"]
        control.should_training_stop = self.early_stopping_patience_counter >= self.early_stopping_patience

    def on_evaluate(self, args, state, control, metrics, **kwargs):
        """Compare with the best evaluation so far."""
        super().on_evaluate(args, state, control, metrics, **kwargs)
        if self.early_stopping_patience_counter >= self.early_stopping_patience and state.is_world_process_zero:
            self.tell(
                f"stopping after step {state.global_step} of {state.max_steps}: no better {args.metric_for_best_model} than "
                f"that of step {state.best_global_step} in {self.early_stopping_patience} evaluations in a row"
            )


class ValidationLog(TrainerCallback):
    """Writes the evaluations so far to a file, and a line about each with `tell`, in the first process."""

    # They are taken from the Trainer's state, of which every checkpoint has a copy, so resuming needs no other source.

    def __init__(self, path: Path, tell: Callable[[str], None]):
        self.path, self.tell = path, tell

    def on_train_begin(self, args, state, control, **kwargs):
        """Write those before the checkpoint."""
        if state.is_world_process_zero and evaluations(state):
            self._write(state)

    def on_evaluate(self, args, state, control, metrics, **kwargs):
        """Add one."""
        if state.is_world_process_zero:
            self._write(state)
            self.tell(f"step {state.global_step}: {in_words(metrics)} ({metrics['eval_runtime']:.0f} s)")

    def _write(self, state: TrainerState) -> None:
        write_atomically(self.path, "".join(json.dumps(line) + "\n" for line in evaluations(state)))


def evaluations(state: TrainerState) -> list[dict[str, Any]]:
    """All evaluations of a run in order: `step`, `epoch`, `eval_loss`, the task's metrics and `eval_runtime`."""
    return [{"step": line["step"], **line} for line in state.log_history if "eval_loss" in line]


def in_words(metrics: dict[str, Any]) -> str:
    """The metrics of an evaluation for the terminal: `validation loss 0.1234, exact accuracy 0.912`."""
    named = {
        name.removeprefix("eval_"): value
        for name, value in metrics.items()
        if name.startswith("eval_") and name not in ("eval_loss", "eval_runtime")
    }
    others = [f"{name.replace('_', ' ')} {value:.3f}" for name, value in named.items()]
    return ", ".join([f"validation loss {metrics['eval_loss']:.4f}", *others])
