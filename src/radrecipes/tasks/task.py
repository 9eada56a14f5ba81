"""What every task says of itself: its columns, its prompt, its completion."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Literal

from radrecipes.data.prepared import PreparedDataset
from radrecipes.errors import InputError


class Task(ABC):
    """A task reads one column and writes one text: a label of a closed set, or a report.

    Attributes:
        name (`str`):
            As in a recipe's `task`.
        dataset_task (`str`):
            Task that its datasets were prepared for; several tasks can share them.
        input_column (`str`):
            Column of the prepared dataset that the model reads.
        instruction (`str`):
            First line of the user's turn. It comes first so that prompts share their beginning.
        writes (`"label"` or `"report"`):
            What is written, which decides how it is predicted and evaluated.
    """

    name: str
    dataset_task: str
    input_column: str
    instruction: str
    writes: Literal["label", "report"]

    def check_dataset(self, dataset: PreparedDataset) -> None:
        """Refuse a dataset that was prepared for another task.

        Raises:
            [`InputError`]: the dataset's manifest names another task.
        """
        if dataset.task != self.dataset_task:
            raise InputError(
                f"prepared for the task {dataset.task}, the recipe's task {self.name} needs one for {self.dataset_task}",
                str(dataset.folder),
            )

    def inputs(self, row: Mapping[str, Any]) -> dict[str, str]:
        """The input of a dataset's row."""
        return {self.input_column: row[self.input_column]}

    def question(self, inputs: Mapping[str, str]) -> str:
        """The user's turn: the instruction, then the input."""
        return f"{self.instruction}\n{inputs[self.input_column]}"

    @property
    def probe(self) -> dict[str, str]:
        """An input that shows in [`question`] all that decides how inputs are rendered; the prompt's digest is made of it."""
        return {self.input_column: "{" + self.input_column + "}"}

    @abstractmethod
    def target(self, row: Mapping[str, Any]) -> str:
        """What the model is to write for a dataset's row."""

    @abstractmethod
    def categories(self, row: Mapping[str, Any]) -> list[str]:
        """What a dataset's row is an example of: its label, or each observation with its status."""

    @abstractmethod
    def read_input(self, text: str, where: str | None = None) -> dict[str, str]:
        """The input as training saw it, from what a user gave.

        Raises:
            [`InputError`]: the text is empty or not what the task reads.
        """
