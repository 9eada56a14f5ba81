"""Reads any table into examples, by the names of its columns."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from radrecipes.data.example import ACCEPTABLE_SEPARATOR, Example
from radrecipes.data.normalise import is_missing
from radrecipes.data.sources.fhir_orders import SUFFIXES, ServiceRequestTable
from radrecipes.data.sources.table_form import TableForm
from radrecipes.data.sources.table_rows import Table, open_table
from radrecipes.errors import InputError


@dataclass(frozen=True)
class RejectedRow:
    """A row that cannot be read; `reason` says what is wrong and how to fix it, and never quotes a cell."""

    where: str
    reason: str

    @property
    def line(self) -> str:
        """`17`, or `row 17` for Parquet."""
        return self.where.rpartition(":")[2]


def open_orders(path: Path, columns: Sequence[str], form: TableForm | None = None) -> Table | ServiceRequestTable:
    """A table as [`open_table`] reads it, or FHIR resources as [`ServiceRequestTable`] does, by the name of the file."""
    return (ServiceRequestTable if str(path).lower().endswith(SUFFIXES) else open_table)(path, columns, form)


class ExampleTable:
    """The rows of a table as examples, in constant memory; iteration continues after a row that cannot be read.

    A CSV row with a broken quote is rejected with the line that it starts on, and reading continues with the next
    line, so that an open quote cannot swallow the rows below it. The next lines may be the rest of that row, so they
    are rejected too as long as they have the wrong number of fields or an odd number of quotes. A row with the wrong
    number of fields but intact quotes is rejected with all lines that it spans.

    Without `target` every target is empty; without `id_column` all rows, also rejected ones, are numbered from 1;
    without `group_column` each row is its own group. Empty cells are empty text. `where` is
    `file:line`, with the line on which the row starts in a text editor, or `file:row number` for Parquet and Excel. The
    apostrophe before a formula in a cell of a CSV file, see [`~data.csv_cells.guarded`], is not part of it.

    Attributes:
        table: The open table, which tells how it is written.

    Args:
        path: A table as [`open_table`] reads it, or FHIR resources as [`ServiceRequestTable`] does.
        inputs: Column of the file for each input of the task, for example `{"note": "order_text"}`, or several by the names under
            which [`render_cells`] writes them: `{"note": {"exam": "Exam", "age": "Age"}}`.
        target: Column of the target, or several by name in the same way; [`compound_label`] joins them.
        slice_columns: Columns that evaluation slices by.
        acceptable_column: Column of other acceptable labels, separated by semicolons.
        form: What the user says about how the table is written.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        inputs: Mapping[str, str | Mapping[str, str]],
        target: str | Mapping[str, str] | None = None,
        id_column: str | None = None,
        group_column: str | None = None,
        slice_columns: Sequence[str] = (),
        acceptable_column: str | None = None,
        form: TableForm | None = None,
    ):
        self._inputs, self._target = inputs, target
        self._id, self._group = id_column, group_column
        self._slices, self._acceptable = slice_columns, acceptable_column
        named = [*inputs.values(), target, id_column, group_column, *slice_columns, acceptable_column]
        self._columns = list(dict.fromkeys(column for one in named for column in _columns_of(one)))
        self.table = open_orders(Path(path), self._columns, form)
        self._label_parts: dict[str, dict[str, str]] = {}

    @property
    def rendered(self) -> dict[str, Any]:
        """For the manifest: the columns of an input and of a label that were joined, and the parts of each label."""
        several = [list(column) for column in self._inputs.values() if _several(column)]
        facts = {"input_columns": several[0]} if several else {}
        if _several(self._target):
            facts |= {"label_columns": list(self._target), "label_parts": self._label_parts}
        return facts

    def __iter__(self) -> Iterator[Example | RejectedRow]:
        """The examples and rejected rows, in the order of the file."""
        parts = {column for one in (*self._inputs.values(), self._target) if _several(one) for column in one.values()}
        parts.update(self._slices)
        for number, (where, cells) in enumerate(self.table.rows(self._columns, parts), start=1):
            if isinstance(cells, str):
                yield RejectedRow(where, cells)
                continue
            row_id = _identifier(cells[self._id]) if self._id else str(number)
            target = _joined(cells, self._target, compound_label) if self._target else ""
            if _several(self._target) and target and target not in self._label_parts:
                self._label_parts[target] = {name: cells[of] for name, of in self._target.items()}
            yield Example(
                id=row_id,
                group=_identifier(cells[self._group]) if self._group else row_id,
                inputs={name: _joined(cells, column, render_cells) for name, column in self._inputs.items()},
                target=target,
                where=where,
                slices={name: " ".join(cells[name].split()) for name in self._slices},
                acceptable=_listed(cells[self._acceptable]) if self._acceptable else None,
            )

    def read(self, rejected: list[str] | None = None) -> list[Example]:
        """All examples; a rejected row is an [`InputError`], or its place is added to `rejected`."""
        examples = []
        for row in self:
            if isinstance(row, Example):
                examples.append(row)
            elif rejected is None:
                raise InputError(row.reason, where=row.where)
            else:
                rejected.append(row.where)
        if not examples:
            path = str(self.table.path)
            raise InputError("the file has no rows below its header; give a table with rows", where=path)
        return examples


def check_columns(inputs: Sequence[str], targets: Sequence[str]) -> None:
    """Refuse a column that is named twice: in the text, a label would be its own answer."""
    columns = [*inputs, *targets]
    for column in columns:
        if columns.count(column) > 1:
            raise InputError(f"column {column!r} is named twice; name each column once, as text or as answer")


def named_columns(columns: Sequence[str]) -> str | dict[str, str]:
    """Columns for [`ExampleTable`]: one alone, or several each under its own name."""
    return columns[0] if len(columns) == 1 else {column: column for column in columns}


def render_cells(cells: Mapping[str, str]) -> str:
    """Several cells as one text: a line `name: cell` for each that is not empty, in their order."""
    return "\n".join(f"{name}: {text}" for name, cell in cells.items() if (text := " ".join(cell.split())))


def compound_label(cells: Mapping[str, str]) -> str:
    """Several cells as one label, `CT Abdomen | contrast: yes`: empty if the first is, without the others that are."""
    (_, first), *others = ((name, " ".join(cell.split())) for name, cell in cells.items())
    return " | ".join([first, *(f"{name}: {cell}" for name, cell in others if cell)]) if first else ""


def _identifier(cell: str) -> str:
    return "" if is_missing(cell) else cell.strip()


def _listed(cell: str) -> tuple[str, ...]:
    return tuple(name for part in cell.split(ACCEPTABLE_SEPARATOR) if (name := " ".join(part.split())))


def _several(column: str | Mapping[str, str] | None) -> bool:
    return isinstance(column, Mapping)


def _columns_of(column: str | Mapping[str, str] | None) -> list[str]:
    return list(column.values()) if _several(column) else [column] if column else []


def _joined(
    cells: Mapping[str, str], column: str | Mapping[str, str], join: Callable[[Mapping[str, str]], str]
) -> str:
    if not _several(column):
        return cells[column]
    return join({name: "" if is_missing(cells[of], none=False) else cells[of] for name, of in column.items()})
