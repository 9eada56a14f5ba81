"""Prediction over a table of any size: inputs of a task in, chunk by chunk, and a table of answers out."""

import csv
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from radrecipes.data.example import Example
from radrecipes.data.sources.tables import RejectedRow, iterate_examples
from radrecipes.errors import InputError
from radrecipes.tasks.task import Task

OUTPUT_SUFFIXES = (".csv", ".jsonl", ".parquet")
# Far beyond any order or report: a longer one is a whole document, or rows that an open quote swallowed. It would take memory
# that the rest of the file does not.
LONGEST_INPUT = 20_000


@dataclass(frozen=True)
class InputFacts:
    """What a table holds.

    Args:
        sha256 (`str`):
            Of the file.
        rows (`int`):
            Rows that can be predicted.
        rejected (`int`):
            Rows that cannot.
    """

    sha256: str
    rows: int
    rejected: int


def iterate_inputs(
    path: str | Path, task: Task, text_column: str, id_column: str | None
) -> Iterator[Example | RejectedRow]:
    """The inputs of a table, read as in training. What the task cannot read, and overlong texts, are rejected.

    Args:
        path (`str` or `Path`):
            A table as [`~radrecipes.data.sources.tables.iterate_examples`] reads it.
        task ([`Task`]):
            What reads them.
        text_column (`str`):
            Its column with the texts.
        id_column (`str` or `None`):
            Its column that identifies a row; `None` numbers them.

    Yields:
        `Example` (its inputs are the task's) or `RejectedRow`: in file order.

    Raises:
        InputError: as `iterate_examples`.
    """
    for row in iterate_examples(path, inputs={task.input_column: text_column}, id_column=id_column):
        if isinstance(row, RejectedRow):
            yield row
            continue
        text = row.inputs[task.input_column]
        if len(text) > LONGEST_INPUT:
            lines = text.count("\n") + 1
            yield RejectedRow(
                row.where,
                f"the text has {len(text)} characters on {lines} lines, the most is {LONGEST_INPUT}; shorten it, or close a quote",
            )
            continue
        try:
            yield replace(row, inputs=task.read_input(text))
        except InputError as error:
            yield RejectedRow(row.where, str(error))


def examine_input(path: str | Path, task: Task, text_column: str, id_column: str | None) -> InputFacts:
    """Read a table once from end to end, so that its faults show before any work. Arguments as for [`iterate_inputs`].

    Raises:
        InputError: as `iterate_examples`, or no row can be predicted; names the first fault.
    """
    kinds: Counter[bool] = Counter()
    first_rejected = None
    for row in iterate_inputs(path, task, text_column, id_column):
        kinds[isinstance(row, RejectedRow)] += 1
        if first_rejected is None and isinstance(row, RejectedRow):
            first_rejected = row
    if not kinds[False]:
        if first_rejected is None:
            raise InputError("the file has no rows below its header; give a table with rows", str(path))
        raise InputError(f"{first_rejected.reason} (none of the rows can be read)", first_rejected.where)
    with Path(path).open("rb") as stream:
        return InputFacts(hashlib.file_digest(stream, "sha256").hexdigest(), kinds[False], kinds[True])


def iterate_chunks(rows: Iterator[Example | RejectedRow], chunk_rows: int) -> Iterator[list[Example]]:
    """Cut a stream into chunks of `chunk_rows` good rows (the last may be shorter); rejected rows do not count."""
    chunk: list[Example] = []
    for row in rows:
        if isinstance(row, Example):
            chunk.append(row)
            if len(chunk) == chunk_rows:
                yield chunk
                chunk = []
    if chunk:
        yield chunk


def write_answers(parts: Sequence[Path], path: Path, suffix: str, counted_column: str) -> Counter[str | None]:
    """Write the chunks one behind the other, holding one at a time.

    Args:
        parts (`Sequence[Path]`):
            Parquet files of one schema, in order.
        path (`Path`):
            The file to write.
        suffix (`str`):
            Its format: `".csv"`, `".jsonl"` or `".parquet"` (a row group a chunk).
        counted_column (`str`):
            Column whose values are counted.

    Returns:
        `Counter[str | None]`: rows per value of `counted_column`, under `None` those that have none.
    """
    schema = pq.read_schema(parts[0])
    counted: Counter[str | None] = Counter()

    def counted_tables() -> Iterator[pa.Table]:
        for part in parts:
            table = pq.read_table(part)
            counted.update(table[counted_column].to_pylist())
            yield table

    def rows() -> Iterator[dict[str, Any]]:
        for table in counted_tables():
            yield from table.to_pylist()

    if suffix == ".parquet":
        with pq.ParquetWriter(path, schema) as writer:
            for table in counted_tables():
                writer.write_table(table)
    elif suffix == ".jsonl":
        with path.open("w", encoding="utf-8") as stream:
            for row in rows():
                stream.write(json.dumps(row, ensure_ascii=False) + "\n")
    else:
        with path.open("w", encoding="utf-8", newline="") as stream:
            table_writer = csv.DictWriter(stream, schema.names)
            table_writer.writeheader()
            for row in rows():
                table_writer.writerow(
                    {name: f"{value:.6f}" if isinstance(value, float) else value for name, value in row.items()}
                )
    return counted


def write_rejects(rows: Iterator[Example | RejectedRow], path: Path) -> None:
    """Write a CSV of `line` (`row 17` for Parquet) and `reason` of every rejected row."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["line", "reason"])
        writer.writerows([row.line, row.reason] for row in rows if isinstance(row, RejectedRow))
