"""Writes texts to training prompts: the drafts of the stage `rejection`, and the groups of texts of the stage `grpo`."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from accelerate import PartialState
from transformers import PreTrainedModel

from radrecipes.inference.generation import Sampling, as_text, generate_ids
from radrecipes.inference.predictors import TextPredictor
from radrecipes.recipe import Recipe
from radrecipes.training.data import TrainingData
from radrecipes.training.drafts import Drafts, write_part
from radrecipes.training.start import find_start
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
        predictor, split = TextPredictor(drafts.start.folder), data.dataset.splits["train"]
        for number, (path, places) in missing[state.process_index :: state.num_processes]:
            rows = [split[place] for place in places]
            texts = _write(
                recipe, predictor, rows, recipe.training.seed * 1_000_003 + number, recipe.training.num_generations
            )
            write_part(path, predictor.task, rows, places, texts)
            on_progress(len(places))
    state.wait_for_everyone()


def write_rewarded(recipe: Recipe, data: TrainingData, place: int, count: int) -> list[tuple[str, dict[str, float]]]:
    """Texts that the starting run of a recipe writes to the prompt of a training row, with their rewards."""
    predictor, row = TextPredictor(find_start(recipe).folder), data.dataset.splits["train"][place]
    (texts,) = _write(recipe, predictor, [row], recipe.training.seed, count)
    return [(text, predictor.task.rewards(row, text, stopped)) for text, stopped in texts]


def _write(
    recipe: Recipe, predictor: TextPredictor, rows: Sequence[Mapping[str, Any]], seed: int, count: int
) -> list[list[tuple[str, bool]]]:
    """Texts to the prompts of rows, so many to each, and whether they stopped."""
    texts = generate_ids(
        predictor.model,
        predictor.tokenizer,
        predictor.readable_prompts([predictor.task.inputs(row) for row in rows]),
        predictor.stops,
        recipe.arguments.max_new_tokens,
        BATCH,
        Sampling(recipe.training.temperature, seed),
        samples=count,
    )
    written = [[as_text(ids, predictor.stops, predictor.tokenizer) for ids in of_row] for of_row in texts]
    return [[(it.text, it.stopped) for it in of_row] for of_row in written]


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
