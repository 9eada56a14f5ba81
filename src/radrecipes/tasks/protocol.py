"""Task `protocol`: from the free text of an imaging order choose the imaging protocol."""

from collections.abc import Mapping
from typing import Any

from radrecipes.data.label_sets import LabelSet
from radrecipes.data.normalise import normalise_note
from radrecipes.data.prepared import PreparedDataset
from radrecipes.errors import InputError
from radrecipes.tasks.task import Task


class ProtocolTask(Task):
    """Columns, prompt, completion, and reading an output back, for protocol labelling."""

    name = "protocol"
    dataset_task = "protocol"
    input_column = "note"
    instruction = "Choose the imaging protocol for this order."
    writes = "label"

    def check_dataset(self, dataset: PreparedDataset) -> None:
        """Refuse a dataset that was prepared for another task.

        Raises:
            [`InputError`]: the dataset's manifest names another task, or it has no label set.
        """
        super().check_dataset(dataset)
        if dataset.label_set is None:
            raise InputError("has no label set; prepare it again with scripts/prepare_data.py", str(dataset.folder))

    def target(self, row: Mapping[str, Any]) -> str:
        """The canonical label as it is."""
        return row["label"]

    def categories(self, row: Mapping[str, Any]) -> list[str]:
        """The label."""
        return [row["label"]]

    def read_input(self, text: str, where: str | None = None) -> dict[str, str]:
        """The note, normalised.

        Raises:
            [`InputError`]: it is empty.
        """
        note = normalise_note(text)
        if not note:
            raise InputError("the note is empty; remove the row or give it a text", where)
        return {self.input_column: note}

    def read_output(self, text: str, label_set: LabelSet) -> str | None:
        """The canonical label that a generated text names.

        Args:
            text (`str`):
                What the model wrote, without its stop token.
            label_set ([`LabelSet`]):
                The labels and their aliases.

        Returns:
            `str` or `None`: `None` where the text is no label of the set.
        """
        return label_set.canonical(text)
