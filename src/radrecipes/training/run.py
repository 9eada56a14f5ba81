"""The phases of a training run, as `scripts/sft.py` goes through them: open it, make its trainer, save what it trained."""

import contextlib
import shutil
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, set_seed

from radrecipes.access import may_show
from radrecipes.data.dataset_folder import LABEL_SET_FILE
from radrecipes.errors import InputError, OutputInUseError
from radrecipes.launch import peer_watchdog
from radrecipes.launch.spec import LaunchSpec, check_engine
from radrecipes.models.base import load_base, training_dtype
from radrecipes.models.compute_dtype import AUTO, describe_choice
from radrecipes.models.weights import count_parameters, weights_to_train
from radrecipes.recipe import Recipe
from radrecipes.tasks import TASKS
from radrecipes.training import checkpoints, run_folder
from radrecipes.training.construction import building, check_construction
from radrecipes.training.data import TrainingData, load_training_data
from radrecipes.training.divergence import DivergenceGuard
from radrecipes.training.grpo_trainer import Writer
from radrecipes.training.identity import identity_of
from radrecipes.training.interruption import StopRequests
from radrecipes.training.layout_check import ChecksLayout
from radrecipes.training.manifest import describe_run, made_of
from radrecipes.training.sharded import SavesTrainedWeights
from radrecipes.training.stages import stage_of
from radrecipes.training.start import Start, find_start
from radrecipes.training.trainer import RunTrainer, TrainLog, divide_batch, longest_row, save_and_verify
from radrecipes.training.validation import VALIDATION_LOG, TaskMetrics, validation_callbacks


class Run:
    """A run that is being trained, or was; [`open_run`] makes it.

    If `is_finished`, the folder already contains this run, and only data and folder are set. `facts` and `identity` say what it is
    made of, `killed` names the process of an earlier attempt that was killed; empty if none.
    """

    base: PreTrainedModel
    facts: dict[str, Any]
    identity: dict[str, Any]
    resumption: checkpoints.Resumption
    progress: checkpoints.Progress
    killed = ""

    def __init__(self, recipe: Recipe, launch: LaunchSpec, data: TrainingData, stack: contextlib.ExitStack):
        self.recipe, self.launch, self.data = recipe, launch, data
        self.folder, self.stage = recipe.output_dir, stage_of(recipe)
        self.continues: Start | None = None
        self.is_finished = False
        self._state = recipe.training.distributed_state
        self.is_main_process = self._state.is_main_process
        self._stack = stack

    def check_finished(self) -> None:
        """Check that the finished run in the folder is this one, and remove what it left."""
        self._identify()
        run_folder.check_finished(self.folder, self.identity, self.recipe.arguments.start_from)
        with contextlib.suppress(InputError):  # what it continued from may be gone
            self.continues = find_start(self.recipe, self.data.dataset)
        recorded = run_folder.read_manifest(self.folder).get("start", {}).get("weights_sha256")
        if self.continues and self.continues.weights.sha256 != recorded:
            raise InputError(
                f"continued from other weights than {self.continues.folder} has now; --restart trains it again",
                str(self.folder),
            )
        if self.is_main_process:
            run_folder.remove_leftovers(self.folder)
        self.is_finished = True

    def load(self, restart: bool, allowed: Collection[str]) -> None:
        """Find what cannot be built, lock the folder in the first process, load the base model, and find the last checkpoint."""
        check_construction(self.recipe)
        self.continues = find_start(self.recipe, self.data.dataset)
        if self.is_main_process:
            self.killed = self._stack.enter_context(run_folder.locked(self.folder))
        set_seed(self.recipe.training.seed)  # a new head is random
        model = self.recipe.model
        self.base = load_base(model, longest_row(self.recipe), self.data.labels, training_dtype(model))
        if self.is_main_process and run_folder.is_complete(self.folder) and not restart:
            raise OutputInUseError(f"{self.folder}: another run finished here in the meantime; run the command again")
        self._identify()  # the base model is on this machine now
        found = (
            checkpoints.Resumption() if restart else run_folder.find_resumption(self.folder, self.identity, allowed)
        )
        peer_watchdog.check_same_run(self.folder, self.identity, found.step)
        self.resumption, self.progress = found, checkpoints.Progress(found.newest, found.changed)
        self.recipe.training.output_dir = str(self.folder)

    def start(self, trainer: RunTrainer) -> None:
        """Check the free disk space and write into the folder for the first time; all input has been checked by now."""
        keeps_best = self.recipe.training.load_best_model_at_end
        self._stack.enter_context(checkpoints.room_for(self.folder, trainer.model, trainer.is_sharded, keeps_best))
        self._state.wait_for_everyone()  # all processes have read the checkpoints before the first one removes any
        if self.is_main_process:
            run_folder.start(self.folder, self.recipe, keep_checkpoints=self.resumption.step > 0)

    def describe(self, trainer: RunTrainer) -> list[str]:
        """Lines for the user: where the run begins, what it trains on, and how much of the model."""
        resumed, dataset, rows = self.resumption, self.data.dataset, self.data.rows
        lines = [f"took over the lock of a killed run ({self.killed})"] if self.killed else []
        lines += [f"skipped: {line}" for line in resumed.rejected]
        if resumed.newest:
            lines.append(f"resuming after step {resumed.step} ({resumed.newest.folder})")
        if may_show(dataset.access):
            explanation = self.data.explain_example(learns=self.recipe.arguments.stage != "grpo")
            lines.append(f"One training example; {explanation}:\n{self.data.example(0)}")
        else:
            lines.append(f"no example is shown, because texts of {dataset.access} datasets are never printed")
        in_loss = f"{rows.scored_tokens:,} of {rows.tokens:,} tokens are in the loss"
        lines.append(
            f"{len(rows.rows):,} rows, longest {rows.longest} tokens; 0 truncated, {len(rows.too_long)} left out as longer than "
            f"{self.recipe.training.max_length}; {f'{len(self.data.labels)} labels' if self.data.labels else in_loss}"
        )
        if self.recipe.fields.get("dtype") == AUTO:
            lines.append(f"dtype: {describe_choice(self.recipe.model.dtype)}")
        if validation := self.data.validation:
            measured = [
                "loss",
                *(TASKS[self.recipe.arguments.task].validation_metrics if trainer.task_metrics else ()),
            ]
            lines.append(
                f"validated on {len(validation.rows):,} of {len(dataset.splits['validation']):,} rows "
                f"({', '.join(measured)}); {validation.too_long} left out as too long"
            )
        trainable, total = count_parameters(trainer.model)
        lines.append(f"{trainable:,} of {total:,} parameters are trained ({trainable / total:.2%})")
        return lines

    @property
    def checkpoint(self) -> Path | None:
        """The checkpoint to resume from."""
        return self.resumption.newest.folder if self.resumption.newest else None

    def _identify(self) -> None:
        self.facts = made_of(self.recipe, self.data.dataset, self.data.tokenizer)
        if self.continues:
            self.continues.check_fits(self.facts)
            self.facts["start"] = self.continues.facts
        self.identity = identity_of(self.facts, self.launch, self.data.drafts)


@contextlib.contextmanager
def open_run(recipe: Recipe, launch: LaunchSpec, restart: bool, allowed: Collection[str]) -> Iterator[Run]:
    """Open the folder of a recipe: check its content, load the data, then lock it and load the base model.

    Within the context, losing another machine ends this process, see [`~launch.peer_watchdog.watched`].

    Args:
        restart: Replace the folder's content.
        allowed: Members of [`~training.PARTS`] that may differ from an earlier attempt.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(peer_watchdog.watched())
        run_folder.check_can_hold(recipe, restart, allowed)
        divide_batch(recipe, recipe.training.distributed_state.num_processes)
        is_complete = run_folder.is_complete(recipe.output_dir) and not restart
        load = load_training_data if is_complete else stage_of(recipe).load_data  # drafts may be gone by then
        run = Run(recipe, launch, load(recipe, keep=True), stack)
        if is_complete:
            run.check_finished()
        else:
            run.load(restart, allowed)
        yield run


def make_trainer(
    run: Run,
    stop: StopRequests,
    tell: Callable[[str], None],
    task_metrics: TaskMetrics | None = None,
    write: Writer | None = None,
) -> RunTrainer:
    """The trainer of a run's stage, with the callbacks of every stage: divergence, logs, validation, stop requests, checkpoints.

    In the first process, `tell` gets a line about each loss spike and each evaluation. `task_metrics` are measured in every
    evaluation unless the model is sharded; `write` writes the texts of a stage that learns from them. An [`InputError`] if the
    recipe does not fit the base model, or accelerate runs another engine than requested.
    """
    rows = run.data.rows
    with building(run.recipe):
        trainer = run.stage.make_trainer(run.recipe, run.base, run.data, write)
    if run.continues:
        run.continues.weights.put_into(trainer.model)
    trainer.loraplus_lr_ratio = run.recipe.arguments.loraplus_lr_ratio
    trainer.task_metrics = None if trainer.is_sharded else task_metrics
    check_engine(run.launch, trainer.accelerator)
    trainer.args.output_dir = str(checkpoints.unfinished_folder(run.folder))
    for callback in (
        DivergenceGuard(run.folder, trainer.rows_of_step, rows.ids, tell),
        TrainLog(run.folder / run_folder.TRAIN_LOG, run.progress),
        *(validation_callbacks(run.recipe, run.folder / VALIDATION_LOG, tell) if run.recipe.validates else ()),
        stop,
        ChecksLayout(trainer),
        SavesTrainedWeights(),
        checkpoints.SealsCheckpoints(run.folder, run.identity, run.progress),
    ):
        trainer.add_callback(callback)
    return trainer


def save(trainer: RunTrainer, run: Run) -> dict[str, Any]:
    """Save and verify the trained weights and finish the folder, in all processes; returns what [`Progress`] counted before."""
    counted = run.progress.so_far()
    trainer.accelerator.wait_for_everyone()
    weights, dataset = weights_to_train(run.recipe.model, checkpoints.unfinished_folder(run.folder)), run.data.dataset
    probe, folder = run.data.rows.rows[0]["input_ids"], weights.folder
    found = save_and_verify(trainer, run.recipe, weights, probe)
    if run.is_main_process:
        run.data.tokenizer.save_pretrained(folder)
        if dataset.label_set:
            shutil.copyfile(dataset.folder / LABEL_SET_FILE, folder / LABEL_SET_FILE)
        run_folder.finish(run.folder, describe_run(run, trainer, counted, {weights.NAME: found}), folder)
    return counted
