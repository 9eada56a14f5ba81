"""The tasks: what the model reads, what it writes, and how its output is read back. Only this package knows a prompt."""

from radrecipes.tasks.protocol import ProtocolTask

TASKS = {"protocol": ProtocolTask()}
