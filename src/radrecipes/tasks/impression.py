"""Task `impression`: from the findings of a chest X-ray report write its impression, on the data of task `report`."""

from collections.abc import Mapping

from radrecipes.data.prepared import SPLITS, PreparedDataset
from radrecipes.errors import InputError
from radrecipes.radiology.consistency import IMPRESSION_SECTIONS
from radrecipes.radiology.labeller import label_report
from radrecipes.radiology.observations import Labels
from radrecipes.tasks.writing import WritingTask


class ImpressionTask(WritingTask):
    """Prompt and completion of impressions, which may leave minor findings out but contradict none."""

    name = "impression"
    input_column = "findings"
    instruction = "Write the impression for these findings of a chest X-ray."
    sections = IMPRESSION_SECTIONS
    states_all = False

    def check_dataset(self, dataset: PreparedDataset) -> None:
        """Refuse a dataset of another task, or with reports that lack a section.

        Raises:
            [`InputError`]: see above.
        """
        super().check_dataset(dataset)
        for split in SPLITS:
            if not all(dataset.splits[split]["findings"]) or not all(dataset.splits[split]["impression"]):
                raise InputError(
                    f"reports of the {split} split lack findings or impression; prepare it with --sections both",
                    str(dataset.folder),
                )

    def compose(self, findings: str, impression: str) -> str:
        """The impression alone."""
        return impression

    def read_input(self, text: str, where: str | None = None) -> dict[str, str]:
        """The findings on one line.

        Raises:
            [`InputError`]: they are empty.
        """
        findings = " ".join(text.split())
        if not findings:
            raise InputError("the findings are empty; remove the row or give it a text", where)
        return {self.input_column: findings}

    def request(self, inputs: Mapping[str, str]) -> Labels:
        """What the findings state, by the rule labeller."""
        return label_report(inputs[self.input_column])
