"""The trainer of the stage `grpo`: TRL's, with the task's rewards."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel
from trl import GRPOTrainer
from trl.trainer.utils import RepeatSampler

from radrecipes.errors import InputError
from radrecipes.models.compute_dtype import linear_weights_cast
from radrecipes.models.weights import lora_config
from radrecipes.recipe import Recipe
from radrecipes.tasks import TASKS
from radrecipes.training.data import TrainingData, load_training_data, prompts_of
from radrecipes.training.trainer import LanguageModelTrainer, check_trainable, collator_for, show_loss

# Writes a text to each prompt, given as token ids: the model, the prompts, a seed.
Writer = Callable[[PreTrainedModel, Sequence[list[int]], int], list[list[int]]]


class PromptsOfEpoch(RepeatSampler):
    """TRL's sampler, whose order depends on the epoch, so that a resumed run continues with the same prompts."""

    def set_epoch(self, epoch: int) -> None:
        """accelerate calls this at the beginning of each epoch."""
        self.generator.manual_seed(self.seed + epoch)


class GrpoTrainer(LanguageModelTrainer, GRPOTrainer):
    """[`~trl.GRPOTrainer`] that validates as supervised fine-tuning does: the loss of the dataset's texts, the task's metrics."""

    _collator: Callable[[list[dict]], dict[str, torch.Tensor]]
    _prompts: PromptsOfEpoch

    @property
    def validation_collator(self) -> Callable[[list[dict]], dict[str, torch.Tensor]]:
        """TRL's batches are only lists of prompts."""
        return self._collator

    def compute_loss(self, *args, **kwargs):
        """TRL's loss of the texts that the model wrote."""
        return GRPOTrainer.compute_loss(self, *args, **kwargs)

    def get_train_dataloader(self):
        """The epoch in which a run resumes has its own order, too."""
        dataloader = super().get_train_dataloader()
        # accelerate calls `set_epoch` of a sampler here; that within its batch samplers it misses once batches are skipped.
        dataloader.set_sampler(self._prompts)
        return dataloader

    def _get_train_sampler(self, dataset=None):
        sampler = super()._get_train_sampler(dataset)
        self._prompts = PromptsOfEpoch(
            sampler.data_source,
            sampler.mini_repeat_count,
            sampler.batch_size,
            sampler.repeat_count,
            sampler.shuffle,
            sampler.seed,
        )
        return self._prompts


class Rewards:
    """The task's rewards of the texts of a step, each computed once for all of TRL's reward functions."""

    def __init__(self, recipe: Recipe, data: TrainingData):
        self.task, self.data = TASKS[recipe.arguments.task], data
        self.rows = data.examples()
        self.trainer: GrpoTrainer | None = None
        self._known: tuple[Any, list[Mapping[str, float]]] = None, []

    def functions(self) -> list[Callable[..., list[float]]]:
        """A reward function for each of the task's `reward_names`, in this order."""

        def function(name: str) -> Callable[..., list[float]]:
            def reward(completion_ids: list[list[int]], index: list[int], **_) -> list[float]:
                return [rewards[name] for rewards in self._of_step(completion_ids, index)]

            reward.__name__ = name
            return reward

        return [function(name) for name in self.task.reward_names]

    def _of_step(self, completion_ids: list[list[int]], index: list[int]) -> list[Mapping[str, float]]:
        if self._known[0] is not completion_ids:
            self.trainer.rows_of_step.batches.append(torch.tensor(index))
            self._known = completion_ids, [self._of_text(*pair) for pair in zip(completion_ids, index, strict=True)]
        return self._known[1]

    def _of_text(self, token_ids: list[int], index: int) -> Mapping[str, float]:
        stopped = bool(token_ids) and token_ids[-1] in self.data.stops
        text = self.data.tokenizer.decode(token_ids[: -1 if stopped else None], skip_special_tokens=True).strip()
        return self.task.rewards(self.rows[index], text, stopped)


def load_prompts(recipe: Recipe, keep: bool = False) -> TrainingData:
    """What a recipe of the stage `grpo` trains on, as [`load_training_data`] loads it, enough for a step."""
    data = load_training_data(recipe, keep=keep)
    steps_of_epoch(recipe, len(data.rows.rows))
    return data


def steps_of_epoch(recipe: Recipe, prompts: int) -> int:
    """Optimizer steps of an epoch, of which TRL leaves out an incomplete one; an [`InputError`] if there is none."""
    wanted = recipe.arguments.global_batch_size // recipe.training.num_generations
    if prompts < wanted:
        raise InputError(
            f"global_batch_size {recipe.arguments.global_batch_size} takes {wanted} prompts with num_generations "
            f"{recipe.training.num_generations}, and there are {prompts}; set a smaller one",
            str(recipe.path),
        )
    return prompts // wanted


def grpo_trainer(recipe: Recipe, model: PreTrainedModel, data: TrainingData, write: Writer) -> GrpoTrainer:
    """The trainer of a recipe with `stage: grpo`; `write` writes the texts. Errors as in [`~training.trainer.sft_trainer`]."""
    check_trainable(recipe, model)
    args, rewards = recipe.training, Rewards(recipe, data)
    model.generation_config.eos_token_id = list(data.stops)
    rows = data.rows.rows
    prompts = prompts_of(rows)

    def rollout(batch: list[list[int]], trainer: GrpoTrainer) -> dict[str, Any]:
        # The seed follows from the step, so that a resumed run writes the same texts.
        seed = (args.seed * 1_000_003 + trainer.state.global_step) * trainer.accelerator.num_processes
        unwrapped = trainer.accelerator.unwrap_model(trainer.model)
        with trainer.accelerator.autocast(), linear_weights_cast(unwrapped):
            written = write(unwrapped, batch, seed + trainer.accelerator.process_index)
        return {"prompt_ids": batch, "completion_ids": written, "logprobs": None}

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "You are using 'rollout_func'", UserWarning)
        trainer = GrpoTrainer(
            model=model,
            reward_funcs=rewards.functions(),
            args=args,
            train_dataset=Dataset.from_dict({"prompt": prompts, "index": rows["index"][:]}),
            eval_dataset=data.validation and data.validation.rows,
            processing_class=data.tokenizer,
            peft_config=lora_config(recipe.model) if recipe.model.use_peft else None,
            rollout_func=rollout,
        )
    rewards.trainer = trainer
    trainer._collator = collator_for(recipe, data.tokenizer, torch.bfloat16 if args.bf16 else model.dtype)
    show_loss(trainer)
    return trainer
