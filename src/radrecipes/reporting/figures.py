"""The figures of the report page: a loss curve as SVG, and the geometry of the confusion matrix."""

import io
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from radrecipes.data.label_sets import Label

# Plain colours for the file in figures/; the page replaces them by its own, which follow light and dark.
INK, FAINT, ACCENT, CONTRAST = "#33414e", "#9fb3c0", "#0b6e75", "#b3402a"

NO_LABEL = "not a label"
_LARGEST_MATRIX = 60
_LONGEST_NAME = 34


def loss_curve_svg(train_log: Sequence[Mapping[str, Any]]) -> str | None:
    """Draw the training loss over the optimiser steps.

    Args:
        train_log (`Sequence[Mapping[str, Any]]`):
            Entries of `train_log.jsonl`. Those without a `step` and a finite `loss` or `eval_loss` are passed over.

    Returns:
        `str` or `None`: an SVG document from its `<svg` tag on; `None` where fewer than two steps have a loss.
    """
    steps, losses = _series(train_log, "loss")
    if len(steps) < 2:
        return None
    validation_steps, validation_losses = _series(train_log, "eval_loss")
    # Text stays text, and the same log gives the same bytes.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "radrecipes", "font.size": 10}):
        figure = Figure(figsize=(10.6, 3.2), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        window = max(1, len(losses) // 20)
        if window > 1:
            axes.plot(steps, losses, color=FAINT, linewidth=0.9, label="each logged step")
            smooth = np.convolve(losses, np.ones(window) / window, mode="valid")
            middles = np.convolve(steps, np.ones(window) / window, mode="valid")
            axes.plot(middles, smooth, color=ACCENT, linewidth=2, label=f"mean of {window} entries")
        else:
            axes.plot(steps, losses, color=ACCENT, linewidth=2, label="each logged step")
        if len(validation_steps):
            axes.plot(
                validation_steps, validation_losses, color=CONTRAST, marker="o", markersize=4, label="validation"
            )
        axes.set_xlabel("optimiser step", color=INK)
        axes.set_ylabel("loss per token", color=INK)
        # An early spike must not press the rest of the curve flat.
        if min(losses) > 0 and max(losses) / min(losses) > 30:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter(NullFormatter())
        else:
            axes.set_ylim(bottom=0)
        axes.tick_params(colors=INK)
        axes.grid(axis="y", color=FAINT, linewidth=0.5, alpha=0.5)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(INK)
        axes.legend(frameon=False, labelcolor=INK)
        target = io.StringIO()
        figure.savefig(
            target,
            format="svg",
            transparent=True,
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )
    text = target.getvalue()
    return text[text.index("<svg") :]


def _series(train_log: Sequence[Mapping[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    """The steps at which `key` was logged, and its values."""
    points = [
        (entry["step"], entry[key])
        for entry in train_log
        if all(isinstance(entry.get(name), int | float) and math.isfinite(entry[name]) for name in ("step", key))
    ]
    return np.array([step for step, _ in points]), np.array([value for _, value in points], dtype=float)


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
