"""The form in which every data reader returns a row."""

from collections.abc import Mapping
from dataclasses import dataclass, field

# Column of the labels that are acceptable in place of the label of a row, and what separates them in a cell
ACCEPTABLE = "acceptable"
ACCEPTABLE_SEPARATOR = ";"


@dataclass(frozen=True)
class Example:
    """One row on its way from a source file to a prepared dataset or a prediction.

    `group` is what a split must keep together (a patient, an order, a scenario), `where` the location for errors
    (`orders.csv:17`), `slices` the values of columns that evaluation slices by, `acceptable` the labels that a department would
    accept in place of `target`, or `None` if the source does not say.
    """

    id: str
    group: str
    inputs: dict[str, str]
    target: str
    where: str = ""
    slices: Mapping[str, str] = field(default_factory=dict)
    acceptable: tuple[str, ...] | None = None
