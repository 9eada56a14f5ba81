"""The metrics of a task for a model that is being trained, on its validation sample."""

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from statistics import fmean

from transformers import PreTrainedModel

from radrecipes.data.label_sets import LabelSet
from radrecipes.inference.answers import WrittenText
from radrecipes.inference.generation import generate
from radrecipes.inference.head_scoring import HeadScorer
from radrecipes.inference.label_scoring import LabelScorer
from radrecipes.models.base import check_token_ids, load_config
from radrecipes.recipe import Recipe
from radrecipes.tasks import TASKS, LabelTask, TextTask
from radrecipes.tasks.rendering import render_completions
from radrecipes.tasks.text_task import rouge_l
from radrecipes.training.data import TrainingData, prompts_of
from radrecipes.training.validation import TaskMetrics


def task_metrics(recipe: Recipe, data: TrainingData) -> TaskMetrics:
    """What measures a task's `validation_metrics` as the recipe decodes; an [`InputError`] if the model has no token of a label."""
    task, rows = TASKS[recipe.arguments.task], list(data.validation.examples)
    if not isinstance(task, LabelTask):
        return WrittenAnswers(recipe, data, partial(text_metrics, task, rows))
    if recipe.has_head:
        return ChosenLabels(data)
    if recipe.arguments.decode == "generate":
        return WrittenAnswers(recipe, data, partial(label_metrics, task, rows, data.dataset.label_set))
    return ScoredLabels(recipe, data, task)


class ScoredLabels:
    """The accuracy of the most likely label."""

    def __init__(self, recipe: Recipe, data: TrainingData, task: LabelTask):
        names = data.dataset.label_set.names
        completions = render_completions(task, names, data.tokenizer, recipe.arguments.prompt_style, data.stops)
        ids = itertools.chain.from_iterable(completions)
        check_token_ids(ids, load_config(recipe.model), recipe.model.model_name_or_path)
        self.prompts = prompts_of(data.validation.rows)
        self.right = [names.index(task.target(row)) for row in data.validation.examples]
        # The best of n labels has at least 1/n of the probability: it is in none of the branches that this prunes.
        self.options = {"completions": completions, "left_out_mass": 0.1 / len(names)}
        self.tokenizer = data.tokenizer
        self.scorer: LabelScorer | None = None

    def check(self, model: PreTrainedModel) -> None:
        """See [`TaskMetrics`]: the scorer compares its first scores with those of labels in rows of their own."""
        self.scorer = LabelScorer(model, self.tokenizer, **self.options)
        self.scorer.score(self.prompts[:2])

    def __call__(self, model: PreTrainedModel, batch_size: int) -> dict[str, float]:
        """See [`TaskMetrics`]."""
        scores = self.scorer.score(self.prompts, batch_size, distributed=True)
        best = scores.log_likelihoods.argmax(axis=1).tolist()
        return {"exact_accuracy": fmean(found == right for found, right in zip(best, self.right, strict=True))}


class ChosenLabels:
    """The accuracy of the label that a classification head chooses."""

    def __init__(self, data: TrainingData):
        self.data, rows = data, data.validation.rows
        self.prompts, self.right = rows["input_ids"][:], [labels[-1] for labels in rows["labels"]]

    def check(self, model: PreTrainedModel) -> None:
        """See [`TaskMetrics`]."""

    def __call__(self, model: PreTrainedModel, batch_size: int) -> dict[str, float]:
        """See [`TaskMetrics`]."""
        scorer = HeadScorer(model, self.data.tokenizer, range(len(self.data.labels)))
        best = scorer.score(self.prompts, batch_size, distributed=True).log_likelihoods.argmax(axis=1).tolist()
        return {"exact_accuracy": fmean(found == right for found, right in zip(best, self.right, strict=True))}


class WrittenAnswers:
    """What `judge` says of the answers that the model writes greedily."""

    def __init__(self, recipe: Recipe, data: TrainingData, judge: Callable[[Sequence[WrittenText]], dict[str, float]]):
        self.data, self.judge = data, judge
        self.prompts = prompts_of(data.validation.rows)
        self.longest = recipe.arguments.max_new_tokens

    def check(self, model: PreTrainedModel) -> None:
        """See [`TaskMetrics`]."""
        generate(model, self.data.tokenizer, self.prompts[:2], self.data.stops, 1, 1, distributed=True)

    def __call__(self, model: PreTrainedModel, batch_size: int) -> dict[str, float]:
        """See [`TaskMetrics`]."""
        parts = model, self.data.tokenizer, self.prompts, self.data.stops, self.longest, batch_size
        return self.judge(generate(*parts, distributed=True))


def label_metrics(
    task: LabelTask, rows: Sequence[dict], label_set: LabelSet, texts: Sequence[WrittenText]
) -> dict[str, float]:
    """The accuracy of the labels that generated texts name."""
    found = [task.read_output(text.text, label_set) for text in texts]
    return {"exact_accuracy": fmean(label == task.target(row) for label, row in zip(found, rows, strict=True))}


def text_metrics(task: TextTask, rows: Sequence[dict], texts: Sequence[WrittenText]) -> dict[str, float]:
    """ROUGE-L against the rows' own texts, and the fraction of texts that stop and pass the task's check."""
    pairs = list(zip(rows, texts, strict=True))
    return {
        "rouge_l": fmean(rouge_l(task.reference(row), task.comparable(text.text)) for row, text in pairs),
        "passed_rate": fmean(
            text.stopped and not task.check(task.inputs(row), text.text).reasons for row, text in pairs
        ),
    }
