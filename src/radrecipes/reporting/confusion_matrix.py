"""The confusion matrix of the evaluation page: counts and layout."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

NO_LABEL = "not a label"
_LARGEST_MATRIX = 60


@dataclass(frozen=True)
class Cell:
    """A non-empty cell; the column after the last label is for answers that are not a label."""

    row: int
    column: int
    count: int
    share: float
    expected: str
    answered: str

    @property
    def is_right(self) -> bool:
        """Whether answer and reference match."""
        return self.expected == self.answered


@dataclass(frozen=True)
class ConfusionMatrix:
    """A confusion matrix, with `blocks` (title, first index, number of labels), and how many labels were `left_out`."""

    names: list[str]
    cells: list[Cell]
    blocks: list[tuple[str, int, int]]
    left_out: int


def label_title(label: Mapping[str, Any]) -> str:
    """Modality and body region of a label; empty if it has neither."""
    return " ".join(filter(None, (label["modality"], label["body_region"])))


def confusion_matrix(
    references: Sequence[str], predictions: Sequence[str | None], labels: Sequence[Mapping[str, Any]]
) -> ConfusionMatrix:
    """Count the answers by reference, in the order of modality and body region; without `labels` that do not occur."""
    pairs = Counter(zip(references, predictions, strict=True))
    support = Counter(references)
    wrong = Counter()
    for (expected, answered), count in pairs.items():
        if expected != answered:
            wrong[expected] += count
            wrong[answered] += count
    used = [label for label in labels if label["name"] in support or wrong[label["name"]]]
    kept = sorted(used, key=lambda label: -wrong[label["name"]])[:_LARGEST_MATRIX]
    # sorted() is stable, so labels of one body region keep the order of the label set.
    ordered = sorted(
        (label for label in used if label in kept),
        key=lambda label: (label["modality"] or "", label["body_region"] or ""),
    )
    names = [label["name"] for label in ordered]
    index = {name: position for position, name in enumerate([*names, None])}
    cells = [
        Cell(index[expected], index[answered], count, count / support[expected], expected, answered or NO_LABEL)
        for (expected, answered), count in pairs.items()
        if expected in index and answered in index
    ]
    cells.sort(key=lambda cell: (cell.row, cell.column))
    titles = [label_title(label) for label in ordered]
    blocks = [(title, titles.index(title), count) for title, count in Counter(titles).items()]
    return ConfusionMatrix(names, cells, blocks, len(used) - len(ordered))
