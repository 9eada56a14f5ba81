"""Training stages, which a recipe's fields `stage` and `decode` select; the rest of this package serves every stage.

A new stage needs an entry here and in `recipe.py`, which parses its configuration class. GRPO, for example, needs a trainer with
`rows_of_step` and `is_sharded` as in [`RunTrainer`], data of prompts, and the task's reward. What a stage trains, an adapter or all
weights, follows from the recipe: [`~models.weights.weights_to_train`].
"""

from collections.abc import Callable
from dataclasses import dataclass

from radrecipes.recipe import Recipe
from radrecipes.training.data import TrainingData, load_training_data
from radrecipes.training.head_trainer import head_trainer
from radrecipes.training.trainer import RunTrainer, sft_trainer


@dataclass(frozen=True)
class Stage:
    """How a stage loads its data (from a recipe; the flag writes the token cache) and makes its trainer."""

    load_data: Callable[..., TrainingData]
    make_trainer: Callable[..., RunTrainer]


STAGES = {"sft": Stage(load_training_data, sft_trainer)}
_HEAD = Stage(load_training_data, head_trainer)


def stage_of(recipe: Recipe) -> Stage:
    """The stage of a recipe; a classification head has a trainer of its own."""
    return _HEAD if recipe.has_head else STAGES[recipe.arguments.stage]
