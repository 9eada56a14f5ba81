"""Old names of what a [`Task`] says itself; goes as soon as nothing imports it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from radrecipes.tasks import TASKS, HeadlineMetric, TextTask, metric_value

HeadlineFigure = HeadlineMetric
figure_value = metric_value


@dataclass(frozen=True)
class Headlines:
    """Title, main system, headline metrics and words of a task."""

    title: str
    system: str
    figures: tuple[HeadlineFigure, ...]
    rows: str
    groups: str

    @property
    def published(self) -> list[HeadlineFigure]:
        """The metrics in documents."""
        return [figure for figure in self.figures if figure.published]


HEADLINES = {
    name: Headlines(task.words.title, task.main_system, task.headline, task.words.rows, task.words.groups)
    for name, task in TASKS.items()
}


def task_of(document: Mapping[str, Any]) -> str:
    """The task of a `metrics.json` or a result."""
    return document["task"]


def writes_text(document: Mapping[str, Any]) -> bool:
    """Whether the task of a `metrics.json` or a result writes text."""
    return isinstance(TASKS[document["task"]], TextTask)
