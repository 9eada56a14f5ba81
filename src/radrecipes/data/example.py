"""The one shape in which every data reader hands over a row."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Example:
    """One row on its way from a source file to a prepared dataset.

    Args:
        id (`str`):
            Identifier of the row, unique in its source.
        group (`str`):
            What must not be torn apart by a split: a patient, an order, a clinical scenario.
        inputs (`dict[str, str]`):
            The task's input columns, for example `{"note": "..."}`.
        target (`str`):
            What the model is to write: a label or a report.
        where (`str`):
            Source of the row for error messages, for example `orders.csv:17`.
    """

    id: str
    group: str
    inputs: dict[str, str]
    target: str
    where: str = ""
