"""Task `report`: from structured observations write the Findings and Impression of a chest X-ray report."""

from collections.abc import Mapping

from radrecipes.radiology.consistency import REPORT_SECTIONS, format_report
from radrecipes.radiology.observations import NONE_STATED, Labels, Status, format_observations, parse_observations
from radrecipes.tasks.writing import WritingTask

_HEADINGS = {Status.POSITIVE: "Present", Status.UNCERTAIN: "Possible", Status.NEGATIVE: "Absent"}


class ReportTask(WritingTask):
    """Prompt and completion of report writing."""

    name = "report"
    input_column = "observations"
    instruction = "Write the findings and impression of this chest X-ray."
    sections = REPORT_SECTIONS
    states_all = True

    @property
    def probe(self) -> dict[str, str]:
        """See [`Task`]: one observation of each status."""
        return {self.input_column: "Edema: positive; Pneumonia: uncertain; Fracture: negative"}

    def question(self, inputs: Mapping[str, str]) -> str:
        """The instruction, then a line a status with its observations: shorter than pairs, and read more surely."""
        request = parse_observations(inputs[self.input_column])
        lines = [
            f"{heading}: {', '.join(name for name, found in request.items() if found == status)}"
            for status, heading in _HEADINGS.items()
            if status in request.values()
        ]
        return "\n".join([self.instruction, *(lines or [NONE_STATED])])

    def compose(self, findings: str, impression: str) -> str:
        """Both sections behind their headers; without header where a section has no text."""
        return format_report(findings, impression)

    def read_input(self, text: str, where: str | None = None) -> dict[str, str]:
        """Observations in canonical names and order.

        Raises:
            [`InputError`]: see [`~reports.observations.parse_observations`].
        """
        return {self.input_column: format_observations(parse_observations(text, where))}

    def request(self, inputs: Mapping[str, str]) -> Labels:
        """The observations themselves."""
        return parse_observations(inputs[self.input_column])
