"""A task: what the model reads and writes, how its output is compared, and its words and metrics."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from radrecipes.data.normalise import normalise_note
from radrecipes.errors import InputError

if TYPE_CHECKING:
    from radrecipes.data.prepared import PreparedDataset


@dataclass(frozen=True)
class HeadlineMetric:
    """A metric that every system of an evaluation has.

    Args:
        name: Its key in `metrics.json`, where it is a number or has `value`, `low` and `high`.
        published: Whether tables in documents and cards show it.
        optional: Whether not every evaluation has it; tables show it where one does.
        largest: Its largest possible value; the smallest is 0.
        hub_id: Its id among the metrics of the Hub, if any.
    """

    name: str
    title: str
    digits: int = 3
    lower_is_better: bool = False
    published: bool = True
    largest: float = 1.0
    hub_id: str | None = None
    optional: bool = False

    @property
    def heading(self) -> str:
        """The title, with an arrow if lower is better."""
        return f"{self.title} ↓" if self.lower_is_better else self.title


def metric_value(cell: float | Mapping[str, float] | None) -> float | None:
    """The value of a metric, with or without an interval."""
    return cell.get("value") if isinstance(cell, Mapping) else cell


@dataclass(frozen=True)
class TaskWords:
    """What cards, pages and tables call the parts of a task.

    Args:
        example: An invented input for commands and snippets.
        rows, groups: What a row is, and what rows are grouped by, plural.
        answer, answers: What the model returns, singular and plural.
        categories: What [`Task.categories`] returns, plural.
        summary, intended_use, limits: Sentences of the model card: what the model does, what for, and each limit.
    """

    title: str
    summary: str
    example: str
    rows: str = "rows"
    groups: str = "groups"
    answer: str = "answer"
    answers: str = "answers"
    categories: str = "categories"
    tags: tuple[str, ...] = ()
    intended_use: str = "Meant for research, and for evaluation on your own data before any use."
    limits: tuple[str, ...] = ("Every answer needs a qualified person who is responsible for it.",)


class Task(ABC):
    """Everything that is specific to a task; subclass [`LabelTask`] or [`TextTask`].

    Attributes:
        input_column, target_column: Columns of the prepared dataset that the model reads and learns to write.
        instruction: First line of the user's turn, so that all prompts have a shared prefix.
        headline: The metrics in summaries and tables, in this order.
        validation_metrics: The headline metrics that are measured during training; higher is better.
        main_system: The system in `metrics.json` that results are about.
        hub_task: Kind of task in the evaluation results on the Hub.
    """

    name: str
    input_column: str
    target_column: str
    instruction: str
    words: TaskWords
    headline: tuple[HeadlineMetric, ...]
    validation_metrics: tuple[str, ...]
    main_system: str
    hub_task: str

    @property
    def dataset_task(self) -> str:
        """The task that its datasets are prepared for; several tasks can share one."""
        return self.name

    def measured(self, *documents: Mapping[str, Any]) -> list[HeadlineMetric]:
        """The headline metrics of a `metrics.json`, or of results: without optional ones that none of their systems has."""
        systems = [system for document in documents for system in document["systems"].values() if system]
        return [metric for metric in self.headline if not metric.optional or any(metric.name in it for it in systems)]

    def published(self, *documents: Mapping[str, Any]) -> list[HeadlineMetric]:
        """The [`measured`] metrics that documents and cards show."""
        return [metric for metric in self.measured(*documents) if metric.published]

    def check_dataset(self, dataset: "PreparedDataset") -> None:
        """Reject a dataset that was prepared for another task."""
        if dataset.task != self.dataset_task:
            raise InputError(
                f"prepared for the task {dataset.task}, the recipe's task {self.name} needs one for {self.dataset_task}",
                str(dataset.folder),
            )

    def inputs(self, row: Mapping[str, Any]) -> dict[str, str]:
        """The input of a dataset row."""
        return {self.input_column: row[self.input_column]}

    def question(self, inputs: Mapping[str, str]) -> str:
        """The user's turn: the instruction, then the input."""
        return f"{self.instruction}\n{inputs[self.input_column]}"

    @property
    def probe(self) -> dict[str, str]:
        """An input whose question shows everything that decides how inputs are rendered, for the prompt's digest."""
        return {self.input_column: "{" + self.input_column + "}"}

    def target(self, row: Mapping[str, Any]) -> str:
        """What the model learns to write for a dataset row."""
        return row[self.target_column]

    @abstractmethod
    def categories(self, row: Mapping[str, Any]) -> list[str]:
        """What a dataset row is an example of, for counts: its label, or each observation with its status."""

    def read_input(self, text: str, where: str | None = None) -> dict[str, str]:
        """The input as the model reads it, from a user's text; an [`InputError`] if the text is unsuitable."""
        cleaned = normalise_note(text)
        if not cleaned:
            raise InputError(f"the {self.input_column} is empty; remove the row or give it a text", where)
        return {self.input_column: cleaned}
