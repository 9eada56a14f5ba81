"""Task `impression`: write the impression of a chest X-ray report from its findings, on the data of task `report`."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from radrecipes.errors import InputError
from radrecipes.radiology.consistency import IMPRESSION_SECTIONS
from radrecipes.radiology.labeller import label_report
from radrecipes.radiology.observations import Labels
from radrecipes.tasks.report_writing import ReportWritingTask
from radrecipes.tasks.task import HeadlineMetric, TaskWords

if TYPE_CHECKING:
    from radrecipes.data.prepared import PreparedDataset


class ImpressionTask(ReportWritingTask):
    """Impressions from findings; they may leave minor findings out but contradict none."""

    name = "impression"
    input_column = "findings"
    instruction = "Write the impression for these findings of a chest X-ray."
    headline = (
        *ReportWritingTask.headline[:-1],
        HeadlineMetric("finding_recall", "finding recall"),
        HeadlineMetric("finding_precision", "finding precision"),
        ReportWritingTask.headline[-1],
    )
    sections = IMPRESSION_SECTIONS
    states_all = False
    words = TaskWords(
        title="Impressions from findings sections",
        summary="Drafts the impression of a chest X-ray report from its findings.",
        example="There is a small pleural effusion. The heart is enlarged. No pneumothorax.",
        rows="studies",
        groups="patients",
        answer="impression",
        answers="impressions",
        categories="observations",
        tags=("chest-x-ray", "radiology-report"),
        intended_use=(
            "For drafting the impression of a chest X-ray report from its findings, for a radiologist to review. Meant for "
            "research."
        ),
        limits=(
            "It sees no image: what the findings lack, the impression lacks too.",
            "An impression may weigh findings wrongly, leave one out or state another. The metrics below say how often; "
            "a radiologist must read every draft.",
            "It learned the sentences of its training data; other departments write differently.",
        ),
    )

    def check_dataset(self, dataset: "PreparedDataset") -> None:
        """Reject a dataset of another task, or with reports that lack a section."""
        super().check_dataset(dataset)
        for name, split in dataset.splits.items():
            if not all(split["findings"]) or not all(split["impression"]):
                raise InputError(
                    f"reports of the {name} split lack findings or impression; prepare it with --sections both",
                    str(dataset.folder),
                )

    def compose(self, findings: str, impression: str) -> str:
        """The impression alone."""
        return impression

    def reference(self, row: Mapping[str, Any]) -> str:
        """The impression of the row."""
        return row["impression"]

    def read_input(self, text: str, where: str | None = None) -> dict[str, str]:
        """The findings on one line; they must not be empty."""
        findings = " ".join(text.split())
        if not findings:
            raise InputError("the findings are empty; remove the row or give it a text", where)
        return {self.input_column: findings}

    def request(self, inputs: Mapping[str, str]) -> Labels:
        """What the findings state, according to the rule labeller."""
        return label_report(inputs[self.input_column])
