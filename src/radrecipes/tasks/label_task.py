"""Tasks whose answer is a label of a closed set."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from radrecipes.data.label_sets import LabelSet
from radrecipes.errors import InputError
from radrecipes.tasks.task import HeadlineMetric, Task

if TYPE_CHECKING:
    from radrecipes.data.prepared import PreparedDataset


class LabelTask(Task):
    """A task that chooses a label; `generate` makes synthetic rows with the labels of `synthetic_label_set`."""

    generate: Callable[..., list[dict[str, str]]] | None = None
    synthetic_label_set: str | None = None

    target_column = "label"
    main_system = "adapter"
    hub_task = "text-classification"
    validation_metrics = ("exact_accuracy",)
    headline = (
        HeadlineMetric("exact_accuracy", "exact accuracy", hub_id="accuracy"),
        HeadlineMetric("macro_f1", "macro-F1", hub_id="f1"),
        HeadlineMetric("out_of_vocabulary_rate", "out of vocabulary", lower_is_better=True),
        HeadlineMetric("semantic_similarity", "similarity", published=False),
    )

    def check_dataset(self, dataset: "PreparedDataset") -> None:
        """Reject a dataset of another task or without a label set."""
        super().check_dataset(dataset)
        if dataset.label_set is None:
            raise InputError("has no label set; prepare it again with scripts/prepare_data.py", str(dataset.folder))

    def categories(self, row: Mapping[str, Any]) -> list[str]:
        """The label."""
        return [row[self.target_column]]

    def read_output(self, text: str, label_set: LabelSet) -> str | None:
        """The canonical label that a generated text (without its stop token) names; `None` if none."""
        return label_set.canonical(text)

    def reward(self, row: Mapping[str, Any], text: str) -> float:
        """1 for the canonical name of the correct label, otherwise 0; an alias is not what training teaches."""
        return float(text.strip() == self.target(row))
