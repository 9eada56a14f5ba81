"""What the trainers of all stages share, and the one for supervised fine-tuning.

That is TRL's, with the LM head on scored positions only and batches without padding.
"""

import contextlib
import copy
import json
import math
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  (the field's usual name)
from accelerate.data_loader import SeedableRandomSampler
from accelerate.utils import extract_model_from_parallel, gather_object
from datasets import Dataset
from peft.helpers import disable_input_dtype_casting
from peft.optimizers import create_loraplus_optimizer
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from torch.nn import Linear
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
)
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.pytorch_utils import Conv1D
from transformers.trainer import TRAINER_STATE_NAME
from trl import SFTTrainer

from radrecipes.errors import (
    DivergedError,
    InputError,
    InterruptedRunError,
    NoCheckpointError,
    OutOfMemoryError,
    shown,
)
from radrecipes.launch.spec import Engine, engine_of
from radrecipes.models.base import load_base
from radrecipes.models.classification_head import output_layer
from radrecipes.models.lm_head import at_positions, lm_head_input
from radrecipes.models.weights import Weights, lora_config
from radrecipes.recipe import Recipe
from radrecipes.stage_configs import GrpoConfig
from radrecipes.training.checkpoints import InvalidCheckpointError, Progress, verify
from radrecipes.training.collators import IGNORED, PaddedCollator, SharedPrefixCollator
from radrecipes.training.interruption import StopRequests
from radrecipes.training.sampler import NO_ROW, EpochSampler, with_empty_row
from radrecipes.training.sharded import gather_trained, load_trained_weights, read_trained_weights
from radrecipes.training.validation import TaskMetrics, in_words, measure

# Positions that reach the LM head are padded to a multiple of this, so that batches share kernel shapes.
SCORED_ROUND_TO = 32
LOSS_ROWS_ON_CPU = 32


def divide_batch(recipe: Recipe, processes: int) -> None:
    """Derive batch size per device and accumulation from the global batch, in place; an [`InputError`] if it cannot be divided."""
    batch, args = recipe.arguments.global_batch_size, recipe.training
    if batch % processes:
        raise InputError(f"global_batch_size {batch} cannot be divided by {processes} processes", str(recipe.path))
    micro = min(args.per_device_train_batch_size, batch // processes)
    if (batch // processes) % micro:
        raise InputError(
            f"{batch // processes} examples per process cannot be divided into batches of per_device_train_batch_size {micro}",
            str(recipe.path),
        )
    args.per_device_train_batch_size = micro
    args.gradient_accumulation_steps = batch // processes // micro
    if isinstance(args, GrpoConfig):  # all texts of a step are written before it
        args.steps_per_generation, args.generation_batch_size = args.gradient_accumulation_steps, batch


class RunTrainer(Trainer):
    """A Trainer that sees each row of an epoch once, whatever the number of processes, and knows the rows of a step.

    A subclass says which labels of a batch are scored, and gives their logits. `task_metrics`, if set, are measured in every
    evaluation.
    """

    def __init__(self, *args, **kwargs):
        with warnings.catch_warnings():
            # TRL would compute every position for it; `compute_loss` here does not.
            warnings.filterwarnings("ignore", "`label_smoothing_factor` is deprecated", FutureWarning)
            super().__init__(*args, **kwargs)
        self.task_metrics: TaskMetrics | None = None
        self.best_weights: dict[str, torch.Tensor] | None = None  # under FSDP1, where the Trainer cannot load them
        self.loraplus_lr_ratio: float | None = None
        self.resumes_fsdp1 = False
        self.rows_of_step = RowsOfStep()
        self.add_callback(self.rows_of_step)

    @property
    def validation_collator(self) -> Callable[[list[dict]], dict[str, torch.Tensor]]:
        """What makes a batch of validation rows."""
        return self.data_collator

    @property
    def is_sharded(self) -> bool:
        """Whether the model is trained under FSDP or ZeRO."""
        return self.is_fsdp_enabled or self.is_deepspeed_enabled

    def get_train_dataloader(self):
        """Several processes, too, see each row of an epoch once; orders that are not random stay as they are."""
        dataloader = super().get_train_dataloader()
        random = dataloader.get_sampler()
        if isinstance(random, SeedableRandomSampler):
            processes = self.args.world_size
            step_rows = self.args.train_batch_size * self.args.gradient_accumulation_steps * processes
            # Several processes have an empty row in addition.
            order = self.order_of_rows(len(self.train_dataset) - (processes > 1), step_rows, random.initial_seed)
            dataloader.set_sampler(EpochSampler(order, step_rows) if processes > 1 else order)
        return dataloader

    def order_of_rows(self, rows: int, step_rows: int, seed: int) -> SeedableRandomSampler:
        """The order of `rows` rows in one process, of which a step takes `step_rows`."""
        return SeedableRandomSampler(range(rows), data_seed=seed)

    def create_optimizer(self, *args):
        """The optimizer, that of LoRA+ if it has a ratio; under FSDP1 it is ready to load a checkpoint's state."""
        if self.optimizer is None and self.loraplus_lr_ratio:
            kind, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            self.optimizer = create_loraplus_optimizer(
                self.model,
                kind,
                loraplus_lr_ratio=self.loraplus_lr_ratio,
                loraplus_weight_decay=self.args.weight_decay,
                **options,
            )
        optimizer = super().create_optimizer(*args)
        if self.resumes_fsdp1:
            # accelerate loads into an existing state, and under FSDP1 there is none before the first step: the moments would
            # silently start from zero. This takes a step with learning rate zero, as torch does when it loads for FSDP2.
            # Imported here, so that only this case fails if torch moves it.
            from torch.distributed.checkpoint.state_dict import _init_optim_state

            _init_optim_state(optimizer)
        return optimizer

    def scored(self, labels: torch.Tensor) -> torch.Tensor:
        """The labels of a batch that are scored, row by row, from those of shape `(rows, length)`."""
        raise NotImplementedError

    def score(self, model, inputs):
        """The model's output on a batch, its logits only those of the [`scored`] labels; padding follows them."""
        raise NotImplementedError

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Mean cross-entropy of the scored labels: this batch's sum divided by their number in the optimizer step."""
        if "index" in inputs:
            self.rows_of_step.batches.append(inputs["index"])
        total, tokens, outputs = self.summed_loss(model, inputs, self.args.label_smoothing_factor)
        count = tokens if num_items_in_batch is None else num_items_in_batch
        loss = total / torch.as_tensor(count, device=total.device).clamp(min=1)
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes  # DDP averages gradients; the count is over all processes
        return (loss, outputs) if return_outputs else loss

    def summed_loss(self, model, inputs, label_smoothing: float = 0.0):
        """Sum of the cross-entropy over a batch's scored labels, their number, and the model's output."""
        targets = self.scored(inputs["labels"])
        outputs = self.score(model, inputs)
        logits = outputs.logits[: len(targets)]
        # In parts that fit into a processor's cache, where one call for all takes three times as long
        size = LOSS_ROWS_ON_CPU if logits.device.type == "cpu" else max(len(targets), 1)
        total = sum(
            F.cross_entropy(part.float(), its_targets, reduction="sum", label_smoothing=label_smoothing)
            for part, its_targets in zip(logits.split(size), targets.split(size), strict=True)
        )
        return total, targets.numel(), outputs

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval") -> dict[str, float]:
        """Measure the validation sample, in all processes together."""
        # The Trainer's own loop would count a short batch as much as a full one, and draw random numbers that training needs.
        try:
            found = measure(self)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            size = self.args.per_device_eval_batch_size
            raise OutOfMemoryError(
                f"memory ran out in validation with {size} examples per batch; run the same command with a smaller "
                "--per_device_eval_batch_size and --allow-change recipe"
            ) from error
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in found.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _load_best_model(self) -> None:
        """Nothing: the Trainer calls this after an interruption, too, and does not look whether a checkpoint is damaged."""

    def load_best(self) -> None:
        """Load the weights of the best step if the recipe wants them; a [`NoCheckpointError`] if its checkpoint is damaged."""
        if not self.args.load_best_model_at_end or self.state.best_model_checkpoint is None:
            return
        folder = Path(self.state.best_model_checkpoint)
        try:
            verify(folder)
        except InvalidCheckpointError as error:
            raise NoCheckpointError(
                f"{folder}: {error}; it has the weights to keep: restore it and run the same command again, or train from the "
                "beginning with --restart"
            ) from None
        if engine_of(self.accelerator) == Engine.FSDP1:
            self.best_weights = read_trained_weights(folder)
        else:
            super()._load_best_model()


class LanguageModelTrainer(RunTrainer):
    """A [`RunTrainer`] of a model that writes: it scores completions, and only their positions reach the vocabulary.

    TRL's fused head needs Triton; without it TRL scores all positions, over 90 % of which are masked in protocol labelling.
    """

    def scored(self, labels: torch.Tensor) -> torch.Tensor:
        """The token ids that the model learns to write."""
        targets = labels[:, 1:]
        return targets[targets != IGNORED]

    def score(self, model, inputs):
        """The model's output on a batch, its logits only where they predict a scored token; padding follows those."""
        scored = F.pad(inputs["labels"][:, 1:] != IGNORED, (0, 1))  # position i predicts token i + 1
        forward_inputs = {key: value for key, value in inputs.items() if key not in ("labels", "index")}
        with lm_head_input(self.accelerator.unwrap_model(model), at_positions(scored_positions(scored))):
            return model(**forward_inputs, use_cache=False)


class CompletionTrainer(LanguageModelTrainer, SFTTrainer):
    """[`~trl.SFTTrainer`] that projects only scored positions onto the vocabulary, on every device."""

    def _prepare_dataset(self, dataset, processing_class, args, packing, formatting_func, dataset_name):
        """Use the rows as they are; TRL would copy them twice, in the first process and in the others."""
        if args.world_size == 1 or dataset_name == "eval":
            return dataset
        return with_empty_row(dataset, processing_class.pad_token_id)


class RowsOfStep(TrainerCallback):
    """The indices of the rows of the current optimizer step, one tensor per batch of this process."""

    def __init__(self):
        self.batches: list[torch.Tensor] = []

    def on_step_begin(self, args, state, control, **kwargs):
        """Forget the previous step."""
        self.batches.clear()

    def of_all_processes(self) -> list[int]:
        """The indices over all processes, which must all call this at the same point."""
        own = [index for batch in self.batches for index in batch.tolist() if index != NO_ROW]
        return sorted(gather_object(own))


def scored_positions(scored: torch.Tensor) -> torch.Tensor:
    """Positions where `scored` of shape `(rows, length)` is `True`, padded with the first one to a multiple of 32.

    The padding keeps the number of kernel shapes small, see [`SharedPrefixCollator`].
    """
    positions = scored.flatten().nonzero().flatten()
    # A batch of empty rows has no scored position: its process only takes part in the step's collectives.
    return F.pad(positions, (0, -len(positions) % SCORED_ROUND_TO if len(positions) else SCORED_ROUND_TO))


def sft_trainer(
    recipe: Recipe,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Dataset,
    validation: Dataset | None = None,
) -> CompletionTrainer:
    """The trainer of a recipe, to which [`divide_batch`] has been applied: a base model, a new adapter if any, the batch layout.

    `rows` and `validation`, needed if the recipe validates, have columns `input_ids`, `labels` and `index`. An [`InputError`] if
    the recipe does not fit the base model.
    """
    check_trainable(recipe, model)
    args = copy.copy(recipe.training)
    args.chat_template_path = None  # the tokenizer has it already, and TRL does not look where shipped ones are
    trainer = CompletionTrainer(
        model=model,
        args=args,
        data_collator=collator_for(recipe, tokenizer, torch.bfloat16 if recipe.training.bf16 else model.dtype),
        train_dataset=rows,
        eval_dataset=validation,
        processing_class=tokenizer,
        peft_config=lora_config(recipe.model) if recipe.model.use_peft else None,
    )
    show_loss(trainer)
    return trainer


def show_loss(trainer: Trainer) -> None:
    """Let a trainer's progress bar show the loss, if it has one."""
    if trainer.pop_callback(ProgressCallback):
        trainer.add_callback(LossProgress())


def check_trainable(recipe: Recipe, model: PreTrainedModel) -> None:
    """Refuse a base model that lacks a layer which the recipe adapts, or all of whose weights cannot be trained."""
    if recipe.model.use_peft:
        _check_targets(recipe, model)
    elif get_model_conversion_mapping(model, add_legacy=False):
        # The Trainer saves a checkpoint under the names of such a model's files, and loads it by those of its modules.
        raise InputError(
            f"use_peft: the weights of {recipe.model.model_name_or_path} have other names and shapes in files than in memory, so "
            "a checkpoint of all of them could not be resumed; set `use_peft: true`",
            str(recipe.path),
        )


def _check_targets(recipe: Recipe, model: PreTrainedModel) -> None:
    """Refuse `lora_target_modules` that match no linear layer, something else, or the head.

    PEFT ignores a name that matches nothing, as long as another one matches, and fails at other modules.
    """
    targets, model_id = lora_config(recipe.model).target_modules, recipe.model.model_name_or_path
    if targets == "all-linear":
        return
    if targets is None:
        targets = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.get(model.config.model_type, ())
    modules, head = dict(model.named_modules()), output_layer(model)
    linear = {path for path, module in modules.items() if isinstance(module, Linear | Conv1D) and module is not head}
    for name in sorted(targets) or [""]:
        matched = {path for path in modules if name and f".{path}".endswith(f".{name}")}
        if not matched or matched - linear:
            layers = ", ".join(sorted({path.rpartition(".")[2] for path in linear}))
            wrong = "layer" if not matched else "linear layer besides its head that is called"
            raise InputError(
                f"lora_target_modules: {model_id} has no {wrong} {name or 'that PEFT adapts by default'}; it has {layers}",
                str(recipe.path),
            )


def collator_for(
    recipe: Recipe, tokenizer: PreTrainedTokenizerBase, dtype: torch.dtype
) -> SharedPrefixCollator | PaddedCollator:
    """The collator of a recipe's `batch_layout`."""
    if recipe.arguments.batch_layout == "shared_prefix":
        return SharedPrefixCollator(tokenizer.pad_token_id, dtype)
    return PaddedCollator(tokenizer.pad_token_id)


def train(trainer: RunTrainer, checkpoint: Path | None, stop: StopRequests) -> None:
    """Train to the end, from a verified checkpoint if there is one; `stop` is one of the trainer's callbacks.

    From a checkpoint of the last step nothing is trained; the Trainer by itself would train one more step. Raises an
    [`InterruptedRunError`], a [`DivergedError`] (NaN or infinite loss, gradient or weights) or an [`OutOfMemoryError`].
    """
    trainer.add_callback(_EndIfDone())
    if checkpoint:
        _resolve_fractions(trainer.args, checkpoint)
    if checkpoint and engine_of(trainer.accelerator) == Engine.FSDP1:
        load_trained_weights(trainer.model, checkpoint)
        trainer.resumes_fsdp1 = True
    try:
        # PEFT casts an adapter's input to float32, and autocast casts it back: the same bits, but with copies in memory.
        under_autocast = trainer.args.bf16 and not trainer.is_deepspeed_enabled
        with (
            contextlib.suppress(_AllStepsDoneError),
            disable_input_dtype_casting(trainer.model, active=under_autocast),
        ):
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        stop.raise_if_stopped(trainer.state.max_steps)
        trainer.load_best()
    except (DivergedError, InterruptedRunError, NoCheckpointError, InputError) as error:
        # All processes get here. The traceback's frames reference DDP, which must not outlive the process group: see `close`.
        traceback.clear_frames(error.__traceback__)
        close(trainer)
        raise
    except (RuntimeError, MemoryError) as error:
        if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise InputError(
                f"torch_compile does not work here ({type(error).__name__}: {shown(error, 120)}); remove it from the recipe"
            ) from error
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(smaller_batch(trainer)) from error
    finally:
        # After an error the Trainer leaves the bar open, and the error message would continue its line.
        bar = trainer.pop_callback(LossProgress)
        if bar and bar.training_bar is not None:
            bar.training_bar.close()


def _resolve_fractions(args: TrainingArguments, checkpoint: Path) -> None:
    """Turn fractions of all steps into steps; the Trainer would warn that they differ from those in the checkpoint."""
    steps = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME)).max_steps
    for name in ("save_steps", "eval_steps"):
        every = getattr(args, name)
        if every and every < 1:
            setattr(args, name, math.ceil(steps * every))


class _AllStepsDoneError(Exception):
    """There is no step left to train."""


class _EndIfDone(TrainerCallback):
    """Ends training before its first step if the checkpoint is of the last one, or training ended early there."""

    def on_train_begin(self, args, state, control, **kwargs):
        if state.global_step >= state.max_steps or control.should_training_stop:
            raise _AllStepsDoneError


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error of torch means that memory ran out."""
    # On a CPU torch's allocator and oneDNN raise a plain RuntimeError; oneDNN's does not mention memory if scratch space is short.
    message = str(error)
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        text in message for text in ("can't allocate memory", "could not create a primitive")
    )


def smaller_batch(trainer: RunTrainer) -> str:
    """What to do if a batch does not fit into memory."""
    micro = trainer.args.per_device_train_batch_size
    batch = micro * trainer.args.gradient_accumulation_steps * trainer.accelerator.num_processes
    if micro == 1:
        fix = "set a shorter max_length, or use a smaller base model"
    else:
        words = f"--per_device_train_batch_size {micro // 2} --allow-change recipe"
        fix = f"run the same command with {words}; the global batch stays {batch}"
    return f"memory ran out with {micro} examples per batch; {fix}"


def longest_row(recipe: Recipe) -> int:
    """Longest row of a batch in tokens: `max_length`, or the target length of a shared-prefix row."""
    shared = SharedPrefixCollator.row_tokens if recipe.arguments.batch_layout == "shared_prefix" else 0
    return max(shared, recipe.training.max_length)


def save_and_verify(
    trainer: RunTrainer, recipe: Recipe, weights: Weights, probe_ids: list[int]
) -> dict[str, float] | None:
    """Save the trained weights, gathered from all processes, in the first one; load them back and verify them on `probe_ids`.

    Returns what [`Weights.verify`] found in the first process, `None` in the others.
    """
    state_dict = trainer.best_weights or gather_trained(trainer.model)  # every process takes part
    if not trainer.accelerator.is_main_process:
        return None
    # Unwrap every layer, too, or PEFT saves an empty adapter under FSDP1, see `SavesTrainedWeights`.
    model = extract_model_from_parallel(trainer.model, recursive=True)
    weights.save(model, recipe.model, state_dict)
    if trainer.is_sharded:
        return weights.verify(model, recipe.model, None, state_dict)
    labels = list(model.config.id2label.values()) if recipe.has_head else None
    base = None if weights.needs_base else load_base(recipe.model, labels=labels)
    return weights.verify(model, recipe.model, probe_ids, state_dict, base)


def close(trainer: RunTrainer) -> None:
    """Shut down the trainer and leave the process group.

    DDP is freed first. If it were the group's last owner, it would destroy the group while holding the GIL, and deadlock if a
    collective that just ended waits for the GIL to free its tensors (pytorch#56297).
    """
    trainer.model_wrapped = trainer.model
    trainer.accelerator.free_memory()
    trainer.end()


class LossProgress(ProgressCallback):
    """The Trainer's progress bar with the loss and the last evaluation, instead of a printed line per logged step."""

    def __init__(self):
        super().__init__()
        self._shown: dict[str, str] = {}

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Show the newest loss after the bar."""
        if logs and "loss" in logs:
            self._show(loss=f"loss {float(logs['loss']):.4f}")

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        """Show the newest evaluation after the loss."""
        self._show(validation=in_words(metrics))

    def _show(self, **parts: str) -> None:
        self._shown = {**self._shown, **parts}
        if self.training_bar is not None:
            self.training_bar.set_postfix_str(", ".join(self._shown.values()))


class TrainLog(TrainerCallback):
    """Appends each step once to `train_log.jsonl` in the first process, with the seconds of training so far."""

    # Every checkpoint has the steps before it in its state, from which a resumed run writes them again.

    def __init__(self, path: Path, progress: Progress):
        self.path, self.progress = path, progress

    def on_train_begin(self, args, state, control, **kwargs):
        """Write the steps before the checkpoint, and start the clock."""
        if state.is_world_process_zero:
            for line in logged_steps(state):
                self._append(line)
        self.progress.begin()

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Write a line per step, and keep it in the state."""
        if logs and "loss" in logs:
            state.log_history[-1] = {"step": state.global_step, **logs, "seconds": self.progress.seconds}
            if state.is_world_process_zero:
                self._append(state.log_history[-1])

    def _append(self, line: dict[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"step": line["step"], **line}) + "\n")


def logged_steps(state: TrainerState) -> list[dict[str, Any]]:
    """What was logged of each step of a run, in order."""
    return [line for line in state.log_history if "loss" in line]
