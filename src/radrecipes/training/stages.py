"""Training stages, which a recipe's fields `stage` and `decode` select; the rest of this package serves every stage.

A new stage needs an entry here, and its configuration class in `stage_configs.py`. What a stage trains, an adapter or all weights,
follows from the recipe: [`~models.weights.weights_to_train`].
"""

from collections.abc import Callable
from dataclasses import dataclass

from transformers import PreTrainedModel

from radrecipes.recipe import Recipe
from radrecipes.training.data import TrainingData, load_training_data
from radrecipes.training.drafts import load_with_drafts
from radrecipes.training.grpo_trainer import Writer, grpo_trainer, load_prompts
from radrecipes.training.head_trainer import head_trainer
from radrecipes.training.trainer import RunTrainer, sft_trainer


@dataclass(frozen=True)
class Stage:
    """How a stage loads its data (from a recipe; the flag writes the token cache) and makes its trainer."""

    load_data: Callable[..., TrainingData]
    make_trainer: Callable[[Recipe, PreTrainedModel, TrainingData, Writer | None], RunTrainer]


def _supervised(make: Callable[..., RunTrainer]) -> Callable[..., RunTrainer]:
    return lambda recipe, base, data, write: make(
        recipe, base, data.tokenizer, data.rows.rows, data.validation and data.validation.rows
    )


STAGES = {
    "sft": Stage(load_training_data, _supervised(sft_trainer)),
    "rejection": Stage(load_with_drafts, _supervised(sft_trainer)),
    "grpo": Stage(load_prompts, grpo_trainer),
}
_HEAD = Stage(load_training_data, _supervised(head_trainer))


def stage_of(recipe: Recipe) -> Stage:
    """The stage of a recipe; a classification head has a trainer of its own."""
    return _HEAD if recipe.has_head else STAGES[recipe.arguments.stage]
