"""The form in which every data reader returns a row."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Example:
    """One row on its way from a source file to a prepared dataset or a prediction.

    `group` is what a split must keep together (a patient, an order, a scenario), `where` the location for errors
    (`orders.csv:17`), `slices` the values of columns that evaluation slices by.
    """

    id: str
    group: str
    inputs: dict[str, str]
    target: str
    where: str = ""
    slices: Mapping[str, str] = field(default_factory=dict)

    @property
    def line(self) -> str:
        """`17`, or `row 17` for Parquet."""
        return self.where.rpartition(":")[2]
