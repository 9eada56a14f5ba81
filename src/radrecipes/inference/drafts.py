"""Writes texts to training prompts: the drafts of the stage `rejection`, and the groups of texts of the stage `grpo`."""

import itertools
from collections.abc import Callable, Sequence

import torch
from accelerate import PartialState
from transformers import PreTrainedModel

from radrecipes.inference.generation import Sampling, as_text, generate_ids
from radrecipes.inference.predictors import TextPredictor
from radrecipes.recipe import Recipe
from radrecipes.training.data import TrainingData
from radrecipes.training.drafts import Drafts, write_part
from radrecipes.training.validation import evaluation_mode

# Texts that are generated together
BATCH = 32


def write_drafts(recipe: Recipe, data: TrainingData, drafts: Drafts, on_progress: Callable[[int], None]) -> None:
    """Write the parts of drafts that are missing. The processes of a job share them; a part is the same whoever writes it.

    `on_progress` gets the number of prompts of each part that this process wrote.
    """
    state = PartialState()
    missing = [part for part in enumerate(drafts.parts) if not part[1][0].is_file()]
    if missing:
        predictor, split, args = TextPredictor(drafts.start.folder), data.dataset.splits["train"], recipe.training
        for number, (path, places) in missing[state.process_index :: state.num_processes]:
            rows = [split[place] for place in places]
            texts = generate_ids(
                predictor.model,
                predictor.tokenizer,
                predictor.readable_prompts([predictor.task.inputs(row) for row in rows]),
                predictor.stops,
                recipe.arguments.max_new_tokens,
                BATCH,
                Sampling(args.temperature, seed=args.seed * 1_000_003 + number),
                samples=args.num_generations,
            )
            written = [[as_text(ids, predictor.stops, predictor.tokenizer) for ids in of_row] for of_row in texts]
            write_part(
                path, predictor.task, rows, places, [[(it.text, it.stopped) for it in of_row] for of_row in written]
            )
            on_progress(len(places))
    state.wait_for_everyone()


class GroupWriter:
    """Writes the groups of texts of a step of the stage `grpo`, with the model as it is trained so far."""

    def __init__(self, recipe: Recipe, data: TrainingData):
        self.recipe, self.data = recipe, data

    def __call__(self, model: PreTrainedModel, prompts: Sequence[list[int]], seed: int) -> list[list[int]]:
        """Token ids of a text to each prompt; the same prompt in a row is a group, which is computed once."""
        groups = [(prompt, len(list(same))) for prompt, same in itertools.groupby(prompts)]
        samples = groups[0][1]
        if any(size != samples for _, size in groups):  # the group of another process begins or ends here
            groups, samples = [(prompt, 1) for prompt in prompts], 1
        own_settings = model.generation_config
        try:
            with evaluation_mode(model), torch.no_grad():
                texts = generate_ids(
                    model,
                    self.data.tokenizer,
                    [prompt for prompt, _ in groups],
                    self.data.stops,
                    self.recipe.arguments.max_new_tokens,
                    BATCH,
                    Sampling(self.recipe.training.temperature, seed),
                    samples=samples,
                )
        finally:
            model.generation_config = own_settings
        return list(itertools.chain.from_iterable(texts))
