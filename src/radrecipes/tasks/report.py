"""Task `report`: from structured observations write the Findings and Impression of a chest X-ray report."""

from collections.abc import Mapping
from typing import Any

from radrecipes.reports.consistency import REPORT_SECTIONS, format_report
from radrecipes.reports.observations import Labels, format_observations, parse_observations
from radrecipes.tasks.task import Task


class ReportTask(Task):
    """Columns, prompt and completion for report writing, and what a written report must agree with.

    Attributes:
        sections (`tuple[str, ...]`):
            Headers that a written report must have.
        states_all (`bool`):
            Whether every positive and uncertain observation of the request must be stated.
    """

    name = "report"
    dataset_task = "report"
    input_column = "observations"
    instruction = "Write the findings and impression of this chest X-ray."
    writes = "report"
    sections: tuple[str, ...] = REPORT_SECTIONS
    states_all = True

    def target(self, row: Mapping[str, Any]) -> str:
        """The sections that the row has, one a line behind its header."""
        return self.compose(row["findings"], row["impression"])

    def categories(self, row: Mapping[str, Any]) -> list[str]:
        """The observations, each with its status."""
        return [f"{name}: {status}" for name, status in parse_observations(row["observations"]).items()]

    def compose(self, findings: str, impression: str) -> str:
        """A report as the model writes it, without header where a section has no text."""
        return format_report(findings, impression)

    def read_input(self, text: str, where: str | None = None) -> dict[str, str]:
        """Observations in canonical names and order.

        Raises:
            [`InputError`]: see [`~reports.observations.parse_observations`].
        """
        return {self.input_column: format_observations(parse_observations(text, where))}

    def request(self, inputs: Mapping[str, str]) -> Labels:
        """What the written report must agree with."""
        return parse_observations(inputs[self.input_column])
