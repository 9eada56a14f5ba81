"""What a recipe trains on: its dataset as token ids, checked before training starts."""

import hashlib
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from radrecipes.data.prepared import MADE_BY, PreparedDataset, load_prepared_dataset
from radrecipes.data.table_cache import TOKENS, cached_table
from radrecipes.errors import InputError
from radrecipes.files import file_sha256
from radrecipes.models import control_tokens
from radrecipes.models.base import (
    carries_state,
    check_token_ids,
    folder_on_this_machine,
    load_config,
    load_tokenizer,
    stop_token_ids,
)
from radrecipes.models.classification_head import is_encoder
from radrecipes.recipe import Recipe
from radrecipes.statistics import spread_evenly
from radrecipes.tasks import TASKS, rendering
from radrecipes.tasks.rendering import (
    RenderedExample,
    check_answers,
    check_prompts,
    prompt_template_digest,
    render_examples,
    render_prompts,
)
from radrecipes.tasks.task import Task
from radrecipes.training.collators import IGNORED
from radrecipes.training.token_cache import cache_key

# Rows to render together.
_ROWS_AT_ONCE = 1000
_SCHEMA = pa.schema([("input_ids", pa.list_(pa.int32())), ("labels", pa.list_(pa.int32()))])
# The code between a row's text and its token ids, part of the cache key like the text itself.
_RENDERING_CODE = (Path(rendering.__file__), Path(__file__), Path(control_tokens.__file__))


@dataclass(frozen=True)
class TokenisedRows:
    """A split as token ids.

    Args:
        rows: Columns `input_ids`, `labels` and `index`, the row's position in `ids`.
        ids: Ids of these rows.
        too_long: Numbers, from 1, of rows longer than `max_length`, which are dropped: a truncated answer would be learned
            without its end.
        longest, tokens, scored_tokens: Tokens of the longest of these rows, of all, and those in the loss.
    """

    rows: Dataset
    ids: list[str]
    too_long: list[int]
    longest: int
    tokens: int
    scored_tokens: int


@dataclass(frozen=True)
class ValidationRows:
    """A sample of the validation split as token ids and as rows of the dataset, without `too_long` rows."""

    rows: Dataset
    examples: Dataset
    too_long: int


@dataclass(frozen=True)
class TrainingData:
    """A verified dataset, the base model's tokenizer with its stop tokens, and the training split as token ids.

    `validation` is `None` unless the recipe validates. With a classification head there are no stop tokens, and the last token of
    each row has a label: the index in `labels`. `drafts` is what the manifest records of drafts among the rows.
    """

    dataset: PreparedDataset
    tokenizer: PreTrainedTokenizerBase
    stops: list[int]
    rows: TokenisedRows
    validation: ValidationRows | None = None
    labels: list[str] | None = None
    drafts: dict[str, Any] | None = None

    @property
    def places(self) -> list[int]:
        """Indices in the training split of its rows that are not too long."""
        left_out = {number - 1 for number in self.rows.too_long}
        return [place for place in range(len(self.dataset.splits["train"])) if place not in left_out]

    def examples(self) -> Dataset:
        """The rows of the training split that are not too long."""
        return self.dataset.splits["train"].select(self.places)

    def prompt_and_answer(self, number: int) -> tuple[str, str]:
        """A training row as text: the prompt, which carries no loss, and the answer with its stop token, or the label."""
        row = self.rows.rows[number]
        if self.labels:
            return self.tokenizer.decode(row["input_ids"]), self.labels[row["labels"][-1]]
        first_scored = next(index for index, label in enumerate(row["labels"]) if label != IGNORED)
        prompt, answer = row["input_ids"][:first_scored], row["input_ids"][first_scored:]
        return self.tokenizer.decode(prompt), self.tokenizer.decode(answer)

    def example(self, number: int) -> str:
        """A training row as text, with what is in the loss in double brackets."""
        prompt, answer = self.prompt_and_answer(number)
        return f"{prompt} ⟦{answer}⟧" if self.labels else f"{prompt}⟦{answer}⟧"

    def explain_example(self, learns: bool = True) -> str:
        """What the brackets of [`example`] mean; without `learns` they are what the model's own texts are compared with."""
        if not learns:
            return "the model writes in place of ⟦…⟧, with which its reward for likeness compares"
        if self.labels:
            return "the head learns to choose ⟦…⟧"
        stop = self.tokenizer.decode(self.rows.rows[0]["input_ids"][-1:])
        return f"only ⟦…⟧ contributes to the loss, and {stop} stops the model"


def load_training_data(recipe: Recipe, max_dropped_fraction: float | None = None, keep: bool = False) -> TrainingData:
    """Load and tokenise what a recipe trains and validates on, as `scripts/sft.py` does; an [`InputError`] if anything is wrong.

    `max_dropped_fraction` overrides the recipe's fraction of rows that may be too long; `keep` writes the token cache.
    """
    dataset = load_prepared_dataset(recipe.arguments.dataset)
    task, style, split = TASKS[recipe.arguments.task], recipe.arguments.prompt_style, dataset.splits["train"]
    task.check_dataset(dataset)
    tokenizer = load_tokenizer(recipe.model, recipe.training.chat_template_path)
    labels = dataset.label_set.names if recipe.has_head else None
    config = load_config(recipe.model, labels)
    if is_encoder(config) and labels is None:
        raise InputError(
            f"{recipe.model.model_name_or_path} is an encoder, which writes no text; set `decode: head`",
            str(recipe.path),
        )
    stops = stop_token_ids(tokenizer) if labels is None else []

    fraction = recipe.arguments.max_dropped_fraction if max_dropped_fraction is None else max_dropped_fraction

    def fitting(table: pa.Table) -> TokenisedRows:
        rows = fitting_rows(table, split["id"][:], recipe.training.max_length, fraction)
        check_readable(rows.rows)
        return rows

    def check_readable(rows: Dataset) -> None:
        tokens = rows.data["input_ids"]
        check_base(recipe, config, pc.max(pc.list_value_length(tokens)).as_py())
        largest = pc.max(pc.list_flatten(tokens)).as_py()
        check_token_ids([largest, *stops, tokenizer.pad_token_id], config, recipe.model.model_name_or_path)

    render = partial(label_rows, labels=labels) if labels else partial(render_rows, stops=stops)

    def make() -> pa.Table:
        table = render(split, task, tokenizer, style)
        fitting(table)  # an error comes before anything is cached
        return table

    key = rows_key(dataset.digest, split, task, tokenizer, style, stops, labels)
    rows = fitting(cached_table(dataset.folder / TOKENS, key, make, keep))
    if not recipe.validates:
        return TrainingData(dataset, tokenizer, stops, rows, labels=labels)
    sample = sample_validation(dataset.splits["validation"], recipe.arguments.eval_rows)
    validation = validation_rows(sample, render(sample, task, tokenizer, style), recipe.training.max_length)
    check_readable(validation.rows)
    return TrainingData(dataset, tokenizer, stops, rows, validation, labels)


def with_examples(
    data: TrainingData,
    names: Sequence[str],
    examples: Sequence[RenderedExample],
    max_length: int,
    drafts: dict[str, Any],
) -> TrainingData:
    """Training data with further examples, at least one, after its rows, except those longer than `max_length`."""
    rows = data.rows
    added = pa.Table.from_batches([_batch([_masked(example) for example in examples])])
    table = pa.concat_tables([rows.rows.data.table.drop_columns("index"), added])
    # The numbers of rows that are too long are those of the split.
    together = replace(fitting_rows(table, [*rows.ids, *names], max_length, 1.0), too_long=rows.too_long)
    return replace(data, rows=together, drafts={**drafts, "kept": len(together.ids) - len(rows.ids)})


def sample_validation(split: Dataset, wanted: int) -> Dataset:
    """`wanted` rows of a validation split, or all if it has fewer: spread evenly, so that they are the same for every seed."""
    if not len(split):
        raise InputError("the validation split contains no rows; remove eval_strategy, or prepare the dataset again")
    return split.select(spread_evenly(len(split), wanted))


def validation_rows(sample: Dataset, table: pa.Table, max_length: int) -> ValidationRows:
    """The rows of a sample with at most `max_length` tokens, an [`InputError`] without any; `table` is from [`render_rows`]."""
    lengths = pc.list_value_length(table["input_ids"]).to_pylist()
    places = [place for place, length in enumerate(lengths) if length <= max_length]
    if not places:
        raise InputError(
            f"all {len(lengths)} rows of the validation sample are longer than max_length {max_length} tokens; raise max_length"
        )
    table = table.take(places).append_column("index", pa.array(range(len(places)), pa.int32()))
    return ValidationRows(Dataset(table), sample.select(places), len(lengths) - len(places))


def check_base(recipe: Recipe, config: PreTrainedConfig, longest: int) -> None:
    """Refuse a base model that cannot read examples of `longest` tokens, or several in one row where the recipe asks for that."""
    model_id, where = recipe.model.model_name_or_path, str(recipe.path)
    positions = getattr(config, "max_position_embeddings", None)
    if positions and longest > positions:
        raise InputError(
            f"the longest row has {longest} tokens, {model_id} reads {positions} at most; set max_length: {positions}",
            where,
        )
    if recipe.arguments.batch_layout != "shared_prefix":
        return
    if is_encoder(config):
        raise InputError(
            f"{model_id} is an encoder, in a shared-prefix batch each example would read the others; set `batch_layout: padded`",
            where,
        )
    window = getattr(config, "sliding_window", None)
    if window and longest > window:
        raise InputError(
            f"{model_id} attends to {window} tokens at most, the longest example has {longest}, and a shared-prefix batch would "
            "switch that window off; set `batch_layout: padded`",
            where,
        )
    if carries_state(config):
        raise InputError(
            f"layers of {model_id} carry a state from token to token, in a shared-prefix batch also from one example to the next; "
            "set `batch_layout: padded`",
            where,
        )


def fitting_rows(table: pa.Table, ids: list[str], max_length: int, max_dropped_fraction: float) -> TokenisedRows:
    """The rows of at most `max_length` tokens, of a table from [`render_rows`]; `ids` are those of all rows.

    An [`InputError`] if there is none, or if a larger fraction of rows than `max_dropped_fraction` is longer.
    """
    if not ids:
        raise InputError("the training split contains no rows; prepare the dataset again")
    fits = pc.less_equal(pc.list_value_length(table["input_ids"]), max_length)
    too_long = [number for number, row_fits in enumerate(fits.to_pylist(), start=1) if not row_fits]
    if len(too_long) > max_dropped_fraction * len(ids) or len(too_long) == len(ids):
        raise InputError(
            f"{len(too_long)} of {len(ids)} rows are longer than max_length {max_length} tokens (first: row {too_long[0]} of "
            "train.parquet); raise max_length, or allow it with max_dropped_fraction"
        )
    if too_long:
        table = table.filter(fits)
        ids = [row_id for row_id, row_fits in zip(ids, fits.to_pylist(), strict=True) if row_fits]
    lengths = pc.list_value_length(table["input_ids"])
    scored = pc.sum(pc.not_equal(pc.list_flatten(table["labels"]), IGNORED)).as_py()
    table = table.append_column("index", pa.array(range(len(ids)), pa.int32()))
    return TokenisedRows(Dataset(table), ids, too_long, pc.max(lengths).as_py(), pc.sum(lengths).as_py(), scored)


def render_rows(
    split: Dataset, task: Task, tokenizer: PreTrainedTokenizerBase, style: str, stops: list[int]
) -> pa.Table:
    """Render and tokenise a split of a prepared dataset: columns `input_ids` and `labels`, with the prompt masked."""
    check_answers(_answers(split, task), "rows", tokenizer)

    def render(rows: Dataset) -> list[tuple[list[int], list[int]]]:
        inputs, targets = [task.inputs(row) for row in rows], [task.target(row) for row in rows]
        examples = render_examples(task, inputs, targets, tokenizer, style, stops, rows["id"][:])
        return [_masked(example) for example in examples]

    return _rendered(split, render)


def label_rows(
    split: Dataset, task: Task, tokenizer: PreTrainedTokenizerBase, style: str, labels: Sequence[str]
) -> pa.Table:
    """Like [`render_rows`] for a head: only the prompt, whose last token has the index of the row's label."""
    classes = {label: index for index, label in enumerate(labels)}

    def render(rows: Dataset) -> list[tuple[list[int], list[int]]]:
        prompts = render_prompts(task, [task.inputs(row) for row in rows], tokenizer, style)
        check_prompts(prompts, task, tokenizer, style, rows["id"][:])
        targets = [classes[task.target(row)] for row in rows]
        return [
            (prompt, [IGNORED] * (len(prompt) - 1) + [target]) for prompt, target in zip(prompts, targets, strict=True)
        ]

    return _rendered(split, render)


def _rendered(split: Dataset, render: Callable[[Dataset], list[tuple[list[int], list[int]]]]) -> pa.Table:
    """What `render` makes of the rows of a split, a thousand at once."""
    starts = range(0, len(split), _ROWS_AT_ONCE)
    batches = (_batch(render(split.select(range(it, min(it + _ROWS_AT_ONCE, len(split)))))) for it in starts)
    return pa.Table.from_batches(batches, _SCHEMA)


def _batch(rows: Sequence[tuple[list[int], list[int]]]) -> pa.RecordBatch:
    """Token ids and labels of some rows."""
    return pa.record_batch([pa.array(column, pa.list_(pa.int32())) for column in zip(*rows, strict=True)], _SCHEMA)


def _masked(example: RenderedExample) -> tuple[list[int], list[int]]:
    """Its token ids, and its labels, where the prompt carries no loss."""
    return example.prompt_ids + example.completion_ids, [IGNORED] * len(example.prompt_ids) + example.completion_ids


def prompts_of(rows: Dataset) -> list[list[int]]:
    """Token ids of the prompts of tokenised rows: everything before the first scored token."""
    return [
        [token for token, label in zip(row["input_ids"], row["labels"], strict=True) if label == IGNORED]
        for row in rows
    ]


def _answers(split: Dataset, task: Task) -> list[str]:
    return [task.target(row) for row in split]


def rows_key(
    dataset_digest: str,
    split: Dataset,
    task: Task,
    tokenizer: PreTrainedTokenizerBase,
    style: str,
    stops: list[int],
    labels: Sequence[str] | None = None,
) -> str:
    """Key of a split's rows in the token cache: the text that the task composes for every row, and what turns it into tokens."""
    texts = hashlib.sha256()
    for row in split:
        texts.update(f"{task.question(task.inputs(row))}\0{task.target(row)}\0".encode())
    return cache_key(
        tokenizer,
        dataset=dataset_digest,
        texts=texts.hexdigest(),
        prompt=prompt_template_digest(task, tokenizer, style),
        code=[file_sha256(path) for path in _RENDERING_CODE],
        stops=stops,
        **({"labels": labels} if labels else {}),
    )


def check_data(recipe: Recipe) -> str:
    """Check a recipe's dataset and, if its tokenizer is on this machine, everything that depends on it.

    Returns one line with what was found and what could not be checked. An [`InputError`] if the dataset does not match its
    manifest, the template writes no stop token or rewrites the prompt, too many rows are too long, or an answer exceeds
    `max_new_tokens`.
    """
    folder = recipe.arguments.dataset
    if folder in MADE_BY and not Path(folder).exists():
        return f"rows and lengths not checked: {folder} is not here; make it with `{MADE_BY[folder]}`"
    if not tokenizer_is_local(recipe):
        dataset = load_prepared_dataset(recipe.arguments.dataset)
        TASKS[recipe.arguments.task].check_dataset(dataset)
        check_answers(_answers(dataset.splits["train"], TASKS[recipe.arguments.task]), "rows")
        model_id = recipe.model.model_name_or_path
        return (
            f"{len(dataset.splits['train']):,} rows; template and lengths not checked: the tokenizer of {model_id} is "
            f"neither under models/{model_id}/ nor in the Hub's cache"
        )
    data = load_training_data(recipe)
    found = (
        f"{len(data.rows.rows):,} rows, longest {data.rows.longest} of {recipe.training.max_length} tokens, "
        f"{len(data.rows.too_long)} left out"
    )
    if data.labels:
        return f"{found}, {len(data.labels)} labels"
    longest_answer = max(answer_lengths(data.rows.rows["labels"]))
    if longest_answer > recipe.arguments.max_new_tokens:
        raise InputError(
            f"the longest answer has {longest_answer} tokens with its stop token; raise max_new_tokens from "
            f"{recipe.arguments.max_new_tokens}"
        )
    return f"{found}, longest answer {longest_answer} of {recipe.arguments.max_new_tokens}"


def tokenizer_is_local(recipe: Recipe) -> bool:
    """Whether the recipe's tokenizer is under `models/` or in the Hub's cache, so no download is needed."""
    model = recipe.model
    return bool(folder_on_this_machine(model.model_name_or_path, model.model_revision, "tokenizer_config.json"))


def answer_lengths(labels: Sequence[Sequence[int]]) -> list[int]:
    """Number of tokens of each row in the loss, including the stop token."""
    return [sum(label != IGNORED for label in row) for row in labels]


def summarise_lengths(lengths: Sequence[int]) -> str:
    """Smallest, median, 95th percentile (nearest rank) and largest of `lengths`, for the terminal."""
    ordered = sorted(lengths)
    percentile_95 = ordered[-(-95 * len(ordered) // 100) - 1]  # nearest rank: ceil(0.95 n), counted from 1
    return f"min {ordered[0]}, median {statistics.median(ordered):g}, 95 % {percentile_95}, max {ordered[-1]}"


def count_categories(split: Dataset, task: Task) -> list[tuple[str, int]]:
    """Number of rows of a split per [`~tasks.task.Task.categories`], the most frequent first, ties by name."""
    counts = Counter(category for row in split for category in task.categories(row))
    return sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))
