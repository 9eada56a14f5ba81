"""Which figures tell in short how well a run does: one description for each kind of task."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class HeadlineFigure:
    """A figure that every system of an evaluation has.

    Args:
        name (`str`):
            Its key in `metrics.json`, where it is a number or holds `value`, `low` and `high`.
        title (`str`):
            What it is called in tables.
        digits (`int`, *optional*, defaults to 3):
            Decimals that tables show.
        lower_is_better (`bool`, *optional*, defaults to `False`):
            Whether it counts something bad.
        published (`bool`, *optional*, defaults to `True`):
            Whether the tables of the READMEs show it.
        largest (`float`, *optional*, defaults to 1.0):
            The largest value that it can have; the smallest is 0.
    """

    name: str
    title: str
    digits: int = 3
    lower_is_better: bool = False
    published: bool = True
    largest: float = 1.0

    @property
    def heading(self) -> str:
        """The title, with an arrow where lower is better."""
        return f"{self.title} ↓" if self.lower_is_better else self.title


@dataclass(frozen=True)
class Headlines:
    """What tables tell of a kind of task.

    Args:
        title (`str`):
            What the task is called above its table.
        system (`str`):
            The system that a result is about.
        figures (`tuple[HeadlineFigure, ...]`):
            In the order of the tables.
        rows (`str`):
            What a row is, in the plural.
        groups (`str`):
            What rows are grouped by, in the plural.
    """

    title: str
    system: str
    figures: tuple[HeadlineFigure, ...]
    rows: str
    groups: str

    @property
    def published(self) -> list[HeadlineFigure]:
        """The figures that the READMEs show."""
        return [figure for figure in self.figures if figure.published]


_WRITING_FIGURES = (
    HeadlineFigure("passed_rate", "passes all checks"),
    HeadlineFigure("rouge_l", "ROUGE-L"),
    HeadlineFigure("bleu", "BLEU", digits=1, largest=100.0),
    HeadlineFigure("label_recall", "label recall"),
    HeadlineFigure("label_precision", "label precision"),
    HeadlineFigure("contradiction_rate", "contradictions", lower_is_better=True),
    HeadlineFigure("invented_positive_rate", "invented positives", lower_is_better=True),
    HeadlineFigure("never_stopped_rate", "never stopped", lower_is_better=True),
)
HEADLINES = {
    "protocol": Headlines(
        title="Protocols from orders",
        system="adapter",
        figures=(
            HeadlineFigure("exact_accuracy", "exact accuracy"),
            HeadlineFigure("macro_f1", "macro-F1"),
            HeadlineFigure("out_of_vocabulary_rate", "out of vocabulary", lower_is_better=True),
            HeadlineFigure("semantic_similarity", "similarity", published=False),
        ),
        rows="orders",
        groups="scenarios",
    ),
    "report": Headlines("Reports from findings", "adapter_guarded", _WRITING_FIGURES, "studies", "patients"),
    "impression": Headlines(
        "Impressions from findings sections", "adapter_guarded", _WRITING_FIGURES, "studies", "patients"
    ),
}


def task_of(document: Mapping[str, Any]) -> str:
    """The task of a `metrics.json` or a result; one that names none chooses protocols.

    Args:
        document (`Mapping[str, Any]`):
            Content of the file.

    Returns:
        `str`: a key of `HEADLINES`.
    """
    return document.get("task", "protocol")


def writes_text(document: Mapping[str, Any]) -> bool:
    """Whether the task of a `metrics.json` or a result writes text instead of choosing a label."""
    return HEADLINES[task_of(document)].figures is _WRITING_FIGURES


def figure_value(cell: float | Mapping[str, float] | None) -> float | None:
    """The figure itself, whether or not it has an interval."""
    return cell["value"] if isinstance(cell, Mapping) else cell
