"""The confusion matrix of the report page: what is counted, and where it stands."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from radrecipes.data.label_sets import Label

NO_LABEL = "not a label"
_LARGEST_MATRIX = 60
_LONGEST_NAME = 34


@dataclass(frozen=True)
class Cell:
    """One cell of the confusion matrix that holds rows.

    Args:
        row (`int`):
            Index of the expected label.
        column (`int`):
            Index of the answered label; one past the last label stands for an answer that is no label.
        count (`int`):
            Number of rows.
        share (`float`):
            Part of the rows with this expected label.
        expected (`str`):
            Name of the expected label.
        answered (`str`):
            Name of the answered label.
    """

    row: int
    column: int
    count: int
    share: float
    expected: str
    answered: str

    @property
    def is_right(self) -> bool:
        """Whether answer and expectation agree."""
        return self.expected == self.answered


@dataclass(frozen=True)
class ConfusionMatrix:
    """What the page needs to draw a confusion matrix.

    Args:
        names (`list[str]`):
            The labels in the order of rows and columns.
        short_names (`list[str]`):
            The same, cut where too long for the margin.
        cells (`list[Cell]`):
            The cells that hold rows.
        blocks (`list[tuple[str, int, int]]`):
            Title, first index and number of labels of each run of labels with one modality and body region.
        left_out (`int`):
            Labels that were left out because the matrix would be too large, those with the fewest wrong answers.
    """

    names: list[str]
    short_names: list[str]
    cells: list[Cell]
    blocks: list[tuple[str, int, int]]
    left_out: int

    @property
    def widest_title(self) -> int:
        """Room in pixels that the titles of the blocks need, at 7 pixels a character."""
        return 7 * max((len(title) for title, _, _ in self.blocks), default=0)


def confusion_matrix(
    references: Sequence[str], predictions: Sequence[str | None], labels: Sequence[Label]
) -> ConfusionMatrix:
    """Count which label was answered where which was expected.

    Args:
        references (`Sequence[str]`):
            The right labels.
        predictions (`Sequence[str]` or `Sequence[None]`):
            The predicted labels; `None` where the answer was no label.
        labels (`Sequence[Label]`):
            The label set. Labels that neither were expected nor answered are left out; the others are put in order by
            modality and body region.

    Returns:
        [`ConfusionMatrix`]: the counts and where they stand.
    """
    pairs = Counter(zip(references, predictions, strict=True))
    support = Counter(references)
    wrong = Counter()
    for (expected, answered), count in pairs.items():
        if expected != answered:
            wrong[expected] += count
            wrong[answered] += count
    used = [label for label in labels if label.name in support or wrong[label.name]]
    kept = {label.name for label in sorted(used, key=lambda label: -wrong[label.name])[:_LARGEST_MATRIX]}
    # sorted() is stable, so labels of one body region keep the order of the label set.
    ordered = sorted((label for label in used if label.name in kept), key=_place)
    index = {label.name: position for position, label in enumerate(ordered)}
    cells = [
        Cell(
            index[expected],
            len(ordered) if answered is None else index[answered],
            count,
            count / support[expected],
            expected,
            NO_LABEL if answered is None else answered,
        )
        for (expected, answered), count in pairs.items()
        if expected in index and (answered is None or answered in index)
    ]
    blocks: list[tuple[str, int, int]] = []
    for position, label in enumerate(ordered):
        title = " ".join(part for part in (label.modality, label.body_region) if part)
        if blocks and blocks[-1][0] == title:
            blocks[-1] = (title, blocks[-1][1], blocks[-1][2] + 1)
        else:
            blocks.append((title, position, 1))
    names = [label.name for label in ordered]
    short_names = [name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…" for name in names]
    cells.sort(key=lambda cell: (cell.row, cell.column))
    return ConfusionMatrix(names, short_names, cells, blocks, len(used) - len(ordered))


def _place(label: Label) -> tuple[str, str]:
    """Where a label stands in the matrix."""
    return (label.modality or "", label.body_region or "")
