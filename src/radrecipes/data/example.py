"""The form in which every data reader returns a row."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Example:
    """One row on its way from a source file to a prepared dataset or a prediction.

    `group` is what a split must keep together (a patient, an order, a scenario), `where` the location for errors
    (`orders.csv:17`).
    """

    id: str
    group: str
    inputs: dict[str, str]
    target: str
    where: str = ""

    @property
    def line(self) -> str:
        """`17`, or `row 17` for Parquet."""
        return self.where.rpartition(":")[2]
