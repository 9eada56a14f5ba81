"""What a recipe will train on, made visible and checked before anything is trained."""

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset
from huggingface_hub import try_to_load_from_cache
from transformers import PreTrainedTokenizerBase

from radrecipes.data.prepared import PreparedDataset, load_prepared_dataset
from radrecipes.errors import InputError
from radrecipes.models import base as models
from radrecipes.recipe import Recipe
from radrecipes.tasks import TASKS
from radrecipes.tasks.task import Task
from radrecipes.training import token_cache as kept_rows
from radrecipes.training import trainer as training
from radrecipes.training.collators import IGNORED


@dataclass(frozen=True)
class TrainingData:
    """What a recipe trains on: its dataset through its tokenizer.

    Args:
        dataset ([`~data.prepared.PreparedDataset`]):
            The verified dataset.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The base model's tokenizer.
        stops (`list[int]`):
            Tokens that end an answer.
        rows ([`~training.TokenisedRows`]):
            The training split as token ids.
    """

    dataset: PreparedDataset
    tokenizer: PreTrainedTokenizerBase
    stops: list[int]
    rows: training.TokenisedRows


@dataclass(frozen=True)
class Lengths:
    """Distribution of row lengths in tokens: smallest, median, 95th percentile, largest."""

    smallest: int
    median: float
    percentile_95: int
    largest: int


def load_training_data(recipe: Recipe, max_dropped_fraction: float | None = None, keep: bool = False) -> TrainingData:
    """Load and tokenise the training split of a recipe as `scripts/sft.py` does.

    Args:
        recipe ([`Recipe`]):
            The recipe.
        max_dropped_fraction (`float`, *optional*):
            Share of rows that may be too long; the recipe's own where left out.
        keep (`bool`, *optional*, defaults to `False`):
            Keep the token ids beside the dataset for other processes and for the next time, see [`kept_rows`].

    Returns:
        [`TrainingData`]

    Raises:
        [`InputError`]: dataset, tokenizer, chat template or row lengths are wrong, or rows are longer than the base can read.
    """
    dataset = load_prepared_dataset(recipe.arguments.dataset)
    task = TASKS[recipe.arguments.task]
    task.check_dataset(dataset)
    tokenizer = models.load_tokenizer(recipe.model, recipe.training.chat_template_path)
    stops = models.stop_token_ids(tokenizer)
    key = kept_rows.rows_key(
        tokenizer, dataset=dataset.digest, task=task.name, style=recipe.arguments.prompt_style, stops=stops
    )
    rows = training.tokenise(
        dataset.splits["train"],
        task,
        tokenizer,
        recipe.arguments.prompt_style,
        stops,
        recipe.training.max_length,
        recipe.arguments.max_dropped_fraction if max_dropped_fraction is None else max_dropped_fraction,
        kept=lambda make: kept_rows.rows_of(dataset.folder, key, make, keep),
    )
    positions = getattr(models.load_config(recipe.model), "max_position_embeddings", None)
    if positions and rows.longest > positions:
        raise InputError(
            f"the longest row has {rows.longest} tokens, {recipe.model.model_name_or_path} reads {positions} at most; set "
            f"max_length: {positions}",
            str(recipe.path),
        )
    return TrainingData(dataset, tokenizer, stops, rows)


def check_data(recipe: Recipe) -> str:
    """Check a recipe's dataset and, where its tokenizer is on this machine, everything that depends on it.

    Args:
        recipe ([`Recipe`]):
            The parsed recipe.

    Returns:
        `str`: what was found, in one line, and what could not be checked.

    Raises:
        [`InputError`]: the dataset is not the one of its manifest, the template writes no stop token or rewrites the
            prompt, too many rows are longer than `max_length`, or an answer is longer than `max_new_tokens`.
    """
    if not tokenizer_is_local(recipe):
        dataset = load_prepared_dataset(recipe.arguments.dataset)
        TASKS[recipe.arguments.task].check_dataset(dataset)
        model_id = recipe.model.model_name_or_path
        return (
            f"{len(dataset.splits['train']):,} rows; template and lengths not checked: the tokenizer of {model_id} is "
            f"neither under models/{model_id}/ nor in the Hub's cache"
        )
    data = load_training_data(recipe)
    longest_answer = max(answer_lengths(data.rows.rows["labels"]))
    if longest_answer > recipe.arguments.max_new_tokens:
        raise InputError(
            f"the longest answer has {longest_answer} tokens with its stop token; raise max_new_tokens from "
            f"{recipe.arguments.max_new_tokens}"
        )
    return (
        f"{len(data.rows.rows):,} rows, longest {data.rows.longest} of {recipe.training.max_length} tokens, "
        f"{len(data.rows.too_long)} left out, longest answer {longest_answer} of {recipe.arguments.max_new_tokens}"
    )


def tokenizer_is_local(recipe: Recipe) -> bool:
    """Whether the recipe's tokenizer lies under `models/` or in the Hub's cache, so that no download is needed."""
    location = models.locate_base(recipe.model.model_name_or_path)
    if Path(location).is_dir():
        return True
    cached = try_to_load_from_cache(location, "tokenizer_config.json", revision=recipe.model.model_revision)
    return isinstance(cached, str)


def prompt_and_answer(row: dict[str, list[int]], tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """One training row as text: what carries no loss, and what does.

    Args:
        row (`dict[str, list[int]]`):
            `input_ids` and `labels`.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Decodes them.

    Returns:
        `tuple[str, str]`: prompt, and answer with its stop token.
    """
    first_scored = next(index for index, label in enumerate(row["labels"]) if label != IGNORED)
    return tokenizer.decode(row["input_ids"][:first_scored]), tokenizer.decode(row["input_ids"][first_scored:])


def masked_example(row: dict[str, list[int]], tokenizer: PreTrainedTokenizerBase) -> str:
    """One training row as text, the tokens that carry loss between double brackets.

    Args:
        row (`dict[str, list[int]]`):
            `input_ids` and `labels`.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Decodes them.

    Returns:
        `str`: a line of explanation, then the example.
    """
    prompt, answer = prompt_and_answer(row, tokenizer)
    stop = tokenizer.decode(row["input_ids"][-1:])
    return f"One training example; only ⟦…⟧ carries loss, and {stop} stops the model:\n{prompt}⟦{answer}⟧"


def answer_lengths(labels: Sequence[Sequence[int]]) -> list[int]:
    """Tokens of each row that carry loss, the stop token included."""
    return [sum(label != IGNORED for label in row) for row in labels]


def summarise_lengths(lengths: Sequence[int]) -> Lengths:
    """Smallest, median, 95th percentile (the value that 95 % of rows do not exceed) and largest of `lengths`."""
    ordered = sorted(lengths)
    rank = -(-95 * len(ordered) // 100)  # nearest rank: ceil(0.95 n), counted from 1
    return Lengths(ordered[0], statistics.median(ordered), ordered[rank - 1], ordered[-1])


def count_categories(split: Dataset, task: Task) -> list[tuple[str, int]]:
    """Rows of a split per [`~tasks.task.Task.categories`], the most frequent first, equals by name."""
    counts = Counter(category for row in split for category in task.categories(row))
    return sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))
