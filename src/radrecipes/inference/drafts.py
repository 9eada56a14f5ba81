"""Writes texts to training prompts: the drafts of the stage `rejection`, and the groups of texts of the stage `grpo`."""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers import PreTrainedModel

from radrecipes.errors import OutputInUseError
from radrecipes.files import LockedError, check_writable, lock
from radrecipes.inference.generation import Sampling, as_text, generate_ids, positions_of
from radrecipes.inference.predictors import TextPredictor
from radrecipes.recipe import Recipe
from radrecipes.training.data import TrainingData
from radrecipes.training.drafts import Drafts, write_part
from radrecipes.training.start import find_start
from radrecipes.training.validation import evaluation_mode

# Texts that are generated together
BATCH = 32


def write_drafts(recipe: Recipe, data: TrainingData, drafts: Drafts, on_progress: Callable[[int], None]) -> None:
    """Write the parts of drafts that are missing. The processes of a job share them, and every process would write the same.

    `on_progress` gets the number of prompts of each part that this process wrote.
    """
    state = PartialState()
    # Every process takes its share of all parts, so that a part which is written meanwhile does not shift the shares.
    own = list(enumerate(drafts.parts))[state.process_index :: state.num_processes]
    missing = [(number, path, places) for number, (path, places) in own if not path.is_file()]
    with _locked(drafts.folder) if state.is_main_process else contextlib.nullcontext():
        if missing:
            predictor, split = TextPredictor(drafts.start.folder), data.dataset.splits["train"]
        for number, path, places in missing:
            rows = [split[place] for place in places]
            seed = recipe.training.seed * 1_000_003 + number
            write_part(
                path,
                predictor.task,
                rows,
                places,
                _write(recipe, predictor, rows, seed, recipe.training.num_generations),
            )
            on_progress(len(places))
        state.wait_for_everyone()


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let only one job write drafts into a folder; an [`OutputInUseError`] if another one does."""
    check_writable(folder)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with lock(folder / "LOCK", wait=False):
            yield
    except LockedError as error:
        raise OutputInUseError(f"{folder}: another run writes the same texts ({error}); wait for it") from None


def write_rewarded(recipe: Recipe, data: TrainingData, place: int, count: int) -> list[tuple[str, dict[str, float]]]:
    """Texts that the starting run of a recipe writes to the prompt of a training row, with their rewards."""
    predictor, row = TextPredictor(find_start(recipe, data.dataset).folder), data.dataset.splits["train"][place]
    (texts,) = _write(recipe, predictor, [row], recipe.training.seed, count)
    return [(text, predictor.task.rewards(row, text, stopped)) for text, stopped in texts]


def _write(
    recipe: Recipe, predictor: TextPredictor, rows: Sequence[Mapping[str, Any]], seed: int, count: int
) -> list[list[tuple[str, bool]]]:
    """Texts to the prompts of rows, so many to each, and whether they stopped."""
    prompts = predictor.readable_prompts([predictor.task.inputs(row) for row in rows])
    texts = generate_ids(
        predictor.model,
        predictor.tokenizer,
        prompts,
        predictor.stops,
        int(min(recipe.arguments.max_new_tokens, predictor.positions - max(map(len, prompts)))),
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
        with evaluation_mode(model), torch.no_grad():
            texts = generate_ids(
                model,
                self.data.tokenizer,
                [prompt for prompt, _ in groups],
                self.data.stops,
                int(min(self.recipe.arguments.max_new_tokens, positions_of(model.config) - max(map(len, prompts)))),
                BATCH,
                Sampling(self.recipe.training.temperature, seed),
                samples=samples,
            )
        return list(itertools.chain.from_iterable(texts))
