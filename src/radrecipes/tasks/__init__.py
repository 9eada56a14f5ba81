"""The tasks: everything that is specific to one of them. A new task is a file in this folder and a line below."""

from radrecipes.tasks.impression import ImpressionTask
from radrecipes.tasks.label_task import LabelTask, SyntheticRows
from radrecipes.tasks.protocol import ProtocolTask
from radrecipes.tasks.report import ReportTask
from radrecipes.tasks.report_writing import ReportWritingTask
from radrecipes.tasks.task import HeadlineMetric, Task, TaskWords, metric_value
from radrecipes.tasks.text_task import TextCheck, TextTask

__all__ = [
    "TASKS",
    "HeadlineMetric",
    "LabelTask",
    "ReportWritingTask",
    "SyntheticRows",
    "Task",
    "TaskWords",
    "TextCheck",
    "TextTask",
    "metric_value",
]

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        ProtocolTask(),
        ReportTask(),
        ImpressionTask(),
    )
}
