"""Task `report`: write the findings and impression of a chest X-ray report from a list of observations."""

from collections.abc import Mapping
from typing import Any

from radrecipes.radiology.consistency import REPORT_SECTIONS, format_report
from radrecipes.radiology.observations import NONE_STATED, Labels, Status, format_observations, parse_observations
from radrecipes.tasks.report_writing import ReportWritingTask
from radrecipes.tasks.task import TaskWords

_HEADINGS = {Status.POSITIVE: "Present", Status.UNCERTAIN: "Possible", Status.NEGATIVE: "Absent"}


class ReportTask(ReportWritingTask):
    """Reports from observations."""

    name = "report"
    input_column = "observations"
    instruction = "Write the findings and impression of this chest X-ray."
    sections = REPORT_SECTIONS
    states_all = True
    words = TaskWords(
        title="Reports from findings",
        summary="Drafts findings and impression of a chest X-ray report from a list of observations.",
        example="Pleural Effusion: positive; Pneumothorax: negative; Pneumonia: uncertain",
        rows="studies",
        groups="patients",
        answer="report",
        answers="reports",
        categories="observations",
        tags=("chest-x-ray", "radiology-report"),
        intended_use=(
            "For drafting a chest X-ray report from observations that a person has made, for a radiologist to review. Meant "
            "for research."
        ),
        limits=(
            "It sees no image and detects nothing: what is missing or wrong in the list of observations is missing or wrong "
            "in the report.",
            "A draft may state what was not requested, or leave out what was. The metrics below say how often; a "
            "radiologist must read every draft.",
            "It learned the sentences of its training data, without sides, measurements or comparisons with earlier studies "
            "if these were removed from them.",
        ),
    )

    @property
    def probe(self) -> dict[str, str]:
        """One observation of each status."""
        return {self.input_column: "Edema: positive; Pneumonia: uncertain; Fracture: negative"}

    def question(self, inputs: Mapping[str, str]) -> str:
        """The instruction, then a line per status with its observations: shorter and read more reliably than pairs."""
        request = parse_observations(inputs[self.input_column])
        lines = [
            f"{heading}: {', '.join(name for name, found in request.items() if found == status)}"
            for status, heading in _HEADINGS.items()
            if status in request.values()
        ]
        return "\n".join([self.instruction, *(lines or [NONE_STATED])])

    def compose(self, findings: str, impression: str) -> str:
        """Both sections after their headers; a section without text has no header."""
        return format_report(findings, impression)

    def reference(self, row: Mapping[str, Any]) -> str:
        """Both sections of the row, without headers."""
        return f"{row['findings']} {row['impression']}"

    def read_input(self, text: str, where: str | None = None) -> dict[str, str]:
        """Observations in canonical names and order, by [`~radiology.observations.parse_observations`]."""
        return {self.input_column: format_observations(parse_observations(text, where))}

    def request(self, inputs: Mapping[str, str]) -> Labels:
        """The observations themselves."""
        return parse_observations(inputs[self.input_column])
