"""What the tasks have in common that write the text of a chest X-ray report."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from radrecipes.radiology.observations import Labels, parse_observations
from radrecipes.tasks.task import Task


class WritingTask(Task):
    """A task on prepared reports, whose written text must agree with a request.

    Attributes:
        sections (`tuple[str, ...]`):
            Sections that a written text must have.
        states_all (`bool`):
            Whether every positive and uncertain observation of the request must be stated.
    """

    dataset_task = "report"
    writes = "report"
    sections: tuple[str, ...]
    states_all: bool

    def target(self, row: Mapping[str, Any]) -> str:
        """What the row's findings and impression are composed to."""
        return self.compose(row["findings"], row["impression"])

    def categories(self, row: Mapping[str, Any]) -> list[str]:
        """The observations, each with its status."""
        return [f"{name}: {status}" for name, status in parse_observations(row["observations"]).items()]

    @abstractmethod
    def compose(self, findings: str, impression: str) -> str:
        """The text as the model writes it."""

    @abstractmethod
    def request(self, inputs: Mapping[str, str]) -> Labels:
        """What the written text must agree with."""
