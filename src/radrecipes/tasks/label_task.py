"""Tasks whose answer is a label of a closed set."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from radrecipes.data.label_sets import LabelSet
from radrecipes.errors import InputError
from radrecipes.tasks.task import HeadlineMetric, Task

if TYPE_CHECKING:
    from radrecipes.data.prepared import PreparedDataset


@dataclass(frozen=True)
class SyntheticRows:
    """Rows that a generator can make for a task.

    Args:
        generate: From `seed` and `rows`, and `style` if there are `test_styles`, to rows with the columns of the dataset.
        label_set: Path of their labels in the repository.
        rows: How many there are by default.
        groups: What the rows are grouped by, for the card, unless it is the scenario.
        slice_columns: Columns that evaluation slices by.
        test_styles: Other styles in which the test split can be written.
        about: A paragraph of the card.
    """

    generate: Callable[..., list[dict[str, str]]]
    label_set: str
    rows: int
    groups: str | None = None
    slice_columns: tuple[str, ...] = ()
    test_styles: tuple[str, ...] = ()
    about: str | None = None


class LabelTask(Task):
    """A task that chooses a label; `synthetic` has the rows that can be generated for it, by name, the default first."""

    synthetic: Mapping[str, SyntheticRows] = MappingProxyType({})

    target_column = "label"
    main_system = "adapter"
    hub_task = "text-classification"
    validation_metrics = ("exact_accuracy",)
    headline = (
        HeadlineMetric("exact_accuracy", "exact accuracy", hub_id="accuracy"),
        HeadlineMetric("macro_f1", "macro-F1", hub_id="f1"),
        HeadlineMetric("acceptable_accuracy", "acceptable accuracy", optional=True),
        HeadlineMetric("acceptable_macro_f1", "acceptable macro-F1", optional=True),
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
