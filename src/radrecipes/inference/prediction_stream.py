"""Streaming over a table of any size: read a task's inputs in chunks, write a table of answers."""

import contextlib
import csv
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from radrecipes.data.csv_cells import guarded
from radrecipes.data.example import Example
from radrecipes.data.sources.table_form import TableForm
from radrecipes.data.sources.tables import ExampleTable, RejectedRow
from radrecipes.errors import InputError
from radrecipes.files import file_sha256
from radrecipes.tasks.task import Task
from radrecipes.training import run_folder

OUTPUT_SUFFIXES = (".csv", ".jsonl", ".parquet")
# Far longer than any order or report: a longer text is a whole document, or rows swallowed by an unclosed quote.
LONGEST_INPUT = 20_000  # characters


@dataclass(frozen=True)
class InputFacts:
    """The digest of a table, how many of its rows can and cannot be predicted, and how it is written if that is said."""

    sha256: str
    rows: int
    rejected: int
    said: str = ""


# One column, or several by the names under which the run was trained on them.
InputColumns = str | Mapping[str, str]


def input_columns(run: Path, task: Task, given: Sequence[str] | None) -> InputColumns:
    """The columns that a run reads, by default as in training; an [`InputError`] if `given` has another number of them."""
    trained = run_folder.read_manifest(run)["data"].get("input_columns")
    if not trained:
        if given and len(given) > 1:
            raise InputError("the run was trained on one column of texts; name one", "--text-column")
        return given[0] if given else task.input_column
    given = given or trained
    if len(given) != len(trained):
        raise InputError(
            f"the run was trained on the {len(trained)} columns {', '.join(trained)}; name one for each, in this order, or leave"
            " the option out if they have the same names",
            "--text-column",
        )
    return dict(zip(trained, given, strict=True))


def iterate_inputs(
    path: str | Path, task: Task, columns: InputColumns, id_column: str | None, form: TableForm | None = None
) -> Iterator[Example | RejectedRow]:
    """The rows of a table, read as in training and numbered without `id_column`; what the task cannot read is rejected."""
    return _checked(ExampleTable(path, inputs={task.input_column: columns}, id_column=id_column, form=form), task)


def _checked(rows: Iterable[Example | RejectedRow], task: Task) -> Iterator[Example | RejectedRow]:
    for row in rows:
        if isinstance(row, RejectedRow):
            yield row
            continue
        text = row.inputs[task.input_column]
        if len(text) > LONGEST_INPUT:
            lines = text.count("\n") + 1
            yield RejectedRow(
                row.where,
                f"the text has {len(text)} characters on {lines} lines, the limit is {LONGEST_INPUT}; shorten it, or close a quote",
            )
            continue
        try:
            yield replace(row, inputs=task.read_input(text))
        except InputError as error:
            yield RejectedRow(row.where, str(error))


def examine_input(
    path: str | Path, task: Task, columns: InputColumns, id_column: str | None, form: TableForm | None = None
) -> InputFacts:
    """Read a table once, so that its errors show before any work; an [`InputError`] with the first if no row can be predicted."""
    kinds: Counter[bool] = Counter()
    first_rejected = None
    source = ExampleTable(path, inputs={task.input_column: columns}, id_column=id_column, form=form)
    for row in _checked(source, task):
        kinds[isinstance(row, RejectedRow)] += 1
        if first_rejected is None and isinstance(row, RejectedRow):
            first_rejected = row
    if not kinds[False]:
        if first_rejected is None:
            raise InputError("the file has no rows after its header; give a table with rows", str(path))
        raise InputError(f"{first_rejected.reason} (none of the rows can be read)", first_rejected.where)
    return InputFacts(file_sha256(Path(path)), kinds[False], kinds[True], source.table.said)


def iterate_chunks(rows: Iterator[Example | RejectedRow], chunk_rows: int) -> Iterator[list[Example]]:
    """Chunks of `chunk_rows` rows (the last may be shorter); rejected rows are skipped."""
    examples = (row for row in rows if isinstance(row, Example))
    while chunk := list(itertools.islice(examples, chunk_rows)):
        yield chunk


def write_answers(
    parts: Sequence[Path], path: Path, suffix: str, counted_column: str, plain_csv: bool = False
) -> Counter[str | None]:
    """Concatenate Parquet files of one schema into one file in the format of `suffix`, one at a time in memory.

    Cells of a CSV file that a spreadsheet would run are [`guarded`], unless `plain_csv`. Returns the number of rows per value of
    `counted_column`.
    """
    counted: Counter[str | None] = Counter()
    with _writer(path, suffix, pq.read_schema(parts[0]), str if plain_csv else guarded) as write:
        for part in parts:
            table = pq.read_table(part)
            counted.update(table[counted_column].to_pylist())
            write(table)
    return counted


@contextlib.contextmanager
def _writer(
    path: Path, suffix: str, schema: pa.Schema, csv_cell: Callable[[str], str]
) -> Iterator[Callable[[pa.Table], None]]:
    """Yields a function that appends the rows of a table to a new file."""

    def as_csv(value: str | float | None) -> str | None:
        if isinstance(value, float):
            return f"{value:.6f}"
        return value and csv_cell(value)

    if suffix == ".parquet":
        with pq.ParquetWriter(path, schema) as parquet:
            yield parquet.write_table
        return
    with path.open("w", encoding="utf-8", newline="") as stream:
        if suffix == ".jsonl":
            yield lambda table: stream.writelines(
                json.dumps(row, ensure_ascii=False) + "\n" for row in table.to_pylist()
            )
        else:
            writer = csv.DictWriter(stream, schema.names)
            writer.writeheader()
            yield lambda table: writer.writerows(
                {name: as_csv(value) for name, value in row.items()} for row in table.to_pylist()
            )


def without_refused(
    chunk: Sequence[Example], refusals: Sequence[str | None]
) -> tuple[list[Example], list[RejectedRow]]:
    """The rows of a chunk that can be answered, and the others with the reason."""
    paired = list(zip(chunk, refusals, strict=True))
    refused = [RejectedRow(row.where, reason) for row, reason in paired if reason]
    return [row for row, reason in paired if not reason], refused


def write_rejects(rows: Iterator[Example | RejectedRow], refused: Iterator[RejectedRow], path: Path) -> int:
    """Write `line` and `reason` of every row without an answer as CSV, with the `refused` ones in order; returns the number."""
    written, next_refused = 0, next(refused, None)
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["line", "reason"])
        for row in rows:
            if next_refused and row.where == next_refused.where:
                row, next_refused = next_refused, next(refused, None)
            if isinstance(row, RejectedRow):
                writer.writerow([row.line, row.reason])
                written += 1
    return written
