"""What validation during training takes, compared with training."""

import math
from statistics import fmean

from transformers import TrainingArguments

from radrecipes.planning.basis import Basis
from radrecipes.planning.counting import Workload
from radrecipes.recipe import Recipe
from radrecipes.tasks import TASKS, LabelTask
from radrecipes.training.data import answer_lengths

# Time of a row of validation in rows of training: its loss, the scores of all labels, and each token that is generated. CPU time
# with SmolLM2-135M on one core: loss 0.26 to 0.43; 36 labels 1.6 with an untrained adapter, 0.8 with a trained one; a token 0.016.
LOSS, SCORES, TOKEN = 0.35, 1.0, 0.02


def count_evaluations(args: TrainingArguments, steps: int, steps_per_epoch: int) -> int:
    """Evaluations of a run of so many steps; the last step is always evaluated."""
    if args.eval_strategy == "no":
        return 0
    every = args.eval_steps if args.eval_strategy == "steps" else steps_per_epoch
    every = math.ceil(steps * every) if every < 1 else every
    return math.ceil(steps / every)


def row_cost(recipe: Recipe, basis: Basis) -> float:
    """Time of a row of validation, in rows of training."""
    if recipe.has_head:
        return 2 * LOSS  # the same pass for the loss and for the label
    if isinstance(TASKS[recipe.arguments.task], LabelTask) and recipe.arguments.decode == "score":
        return LOSS + SCORES
    return LOSS + TOKEN * fmean(answer_lengths(basis.validation["labels"]))


def describe(recipe: Recipe, basis: Basis, workload: Workload) -> list[str]:
    """The line of a plan about validation; none if the recipe does not validate."""
    if not basis.validation:
        return []
    count = count_evaluations(recipe.training, workload.steps, workload.steps_per_epoch)
    share = count * len(basis.validation) * row_cost(recipe, basis)
    share /= workload.steps * recipe.arguments.global_batch_size
    times = f"{count} evaluation{'s' if count != 1 else ''} of {len(basis.validation):,} rows"
    return [f"validation   {times}: about {share:.0%} of the time of training, in addition"]
