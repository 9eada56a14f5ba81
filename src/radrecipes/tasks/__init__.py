"""The tasks: what the model reads, what it writes, and how its output is read back. Only this package knows a prompt."""

from radrecipes.tasks.impression import ImpressionTask
from radrecipes.tasks.protocol import ProtocolTask
from radrecipes.tasks.report import ReportTask
from radrecipes.tasks.task import Task

TASKS: dict[str, Task] = {task.name: task for task in (ProtocolTask(), ReportTask(), ImpressionTask())}
