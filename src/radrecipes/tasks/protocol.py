"""Task `protocol`: from the free text of an imaging order choose the imaging protocol."""

from radrecipes.data.label_sets import LabelSet
from radrecipes.data.prepared import PreparedDataset
from radrecipes.errors import InputError


class ProtocolTask:
    """Columns, prompt, completion, and reading an output back, for protocol labelling."""

    name = "protocol"
    input_columns = ("note",)
    target_column = "label"
    instruction = "Choose the imaging protocol for this order."

    def check_dataset(self, dataset: PreparedDataset) -> None:
        """Refuse a dataset that was prepared for another task.

        Raises:
            [`InputError`]: the dataset's manifest names another task, or it has no label set.
        """
        if dataset.task != self.name:
            raise InputError(
                f"prepared for the task {dataset.task}, the recipe's task is {self.name}", str(dataset.folder)
            )
        if dataset.label_set is None:
            raise InputError("has no label set; prepare it again with scripts/prepare_data.py", str(dataset.folder))

    def question(self, inputs: dict[str, str]) -> str:
        """The user's turn.

        Args:
            inputs (`dict[str, str]`):
                The row's input columns: `{"note": "..."}`.

        Returns:
            `str`: the instruction, then the note; the instruction comes first so that prompts share their beginning.
        """
        return f"{self.instruction}\n{inputs['note']}"

    def answer(self, target: str) -> str:
        """The model's turn: the canonical label as it is."""
        return target

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
