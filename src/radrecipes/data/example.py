"""The form in which every data reader returns a row."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Example:
    """One row on its way from a source file to a prepared dataset or a prediction.

    Args:
        group: What a split must keep together: a patient, an order, a clinical scenario.
        inputs: The task's input columns, for example `{"note": "..."}`.
        where: Location in the source for error messages, for example `orders.csv:17`.
    """

    id: str
    group: str
    inputs: dict[str, str]
    target: str
    where: str = ""
