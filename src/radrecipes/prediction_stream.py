"""Prediction over a table of any size: notes in, chunk by chunk, and a table of answers out."""

import csv
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from radrecipes.abstention import AUTO, NEEDS_REVIEW
from radrecipes.data.example import Example
from radrecipes.data.normalise import normalise_note
from radrecipes.data.tables import RejectedRow, iterate_examples
from radrecipes.errors import InputError
from radrecipes.evaluation import SystemOutput

OUTPUT_SUFFIXES = (".csv", ".jsonl", ".parquet")
# Far beyond any order: a longer one is a whole document, or rows that an open quote swallowed. It would take memory that the
# rest of the file does not.
LONGEST_NOTE = 20_000
_TOP = 3


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


def iterate_notes(path: str | Path, text_column: str, id_column: str | None) -> Iterator[Example | RejectedRow]:
    """The notes of a table, normalised as in training. Empty and overlong ones are rejected.

    Args:
        path (`str` or `Path`):
            A table as [`~radrecipes.data.tables.iterate_examples`] reads it.
        text_column (`str`):
            Its column with the notes.
        id_column (`str` or `None`):
            Its column that identifies a row; `None` numbers them.

    Yields:
        `Example` (its input is `note`) or `RejectedRow`: in file order.

    Raises:
        InputError: as `iterate_examples`.
    """
    for row in iterate_examples(path, inputs={"note": text_column}, id_column=id_column):
        if isinstance(row, RejectedRow):
            yield row
            continue
        note = normalise_note(row.inputs["note"])
        if not note:
            yield RejectedRow(row.where, "the note is empty; remove the row or give it a text")
        elif len(note) > LONGEST_NOTE:
            lines = note.count("\n") + 1
            yield RejectedRow(
                row.where,
                f"the note has {len(note)} characters on {lines} lines, the most is {LONGEST_NOTE}; shorten it, or close a quote",
            )
        else:
            yield Example(row.id, row.group, {"note": note}, row.target, row.where)


def examine_input(path: str | Path, text_column: str, id_column: str | None) -> InputFacts:
    """Read a table once from end to end, so that its faults show before any work. Arguments as for [`iterate_notes`].

    Raises:
        InputError: as `iterate_examples`, or no row can be predicted; names the first fault.
    """
    kinds: Counter[bool] = Counter()
    first_rejected = None
    for row in iterate_notes(path, text_column, id_column):
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


def decision(answer: SystemOutput) -> str:
    """`"auto"` or `"NEEDS_REVIEW"`; without a threshold to decide by, a person must look."""
    return AUTO if answer.automatic else NEEDS_REVIEW


def answers_table(
    examples: Sequence[Example], answers: Sequence[SystemOutput], decode: str, keep_note: bool
) -> pa.Table:
    """The output's rows for one chunk.

    Args:
        examples (`Sequence[Example]`):
            The rows.
        answers (`Sequence[SystemOutput]`):
            The answer of each.
        decode (`str`):
            `"score"` or `"generate"`.
        keep_note (`bool`):
            Whether to copy the notes.

    Returns:
        `pa.Table`: `id`, `note` where kept, `label`, and for `"score"` `probability` (6 decimals), `decision`, `reason`, and
        `top_1`, `top_1_probability` to `top_3_probability` (missing where the set has fewer labels); for `"generate"`
        `answer`, the text as written (`label` is missing where it names none).
    """
    columns: dict[str, Any] = {"id": [example.id for example in examples]}
    if keep_note:
        columns["note"] = [example.inputs["note"] for example in examples]
    columns["label"] = [answer.label for answer in answers]
    if decode == "generate":
        columns["answer"] = [answer.text for answer in answers]
    else:
        columns["probability"] = [_rounded(answer.confidence) for answer in answers]
        columns["decision"] = [decision(answer) for answer in answers]
        columns["reason"] = [answer.review_reason for answer in answers]
        for place in range(_TOP):
            best = [answer.top[place] if place < len(answer.top) else (None, None) for answer in answers]
            columns[f"top_{place + 1}"] = [label for label, _ in best]
            columns[f"top_{place + 1}_probability"] = [_rounded(probability) for _, probability in best]
    # Named types: a chunk in which a column is empty must not differ from the others.
    schema = pa.schema((name, pa.float64() if name.endswith("probability") else pa.string()) for name in columns)
    return pa.table(columns, schema=schema)


def write_answers(parts: Sequence[Path], path: Path, suffix: str) -> Counter[str]:
    """Write the chunks one behind the other, holding one at a time.

    Args:
        parts (`Sequence[Path]`):
            Parquet files of [`answers_table`], in order.
        path (`Path`):
            The file to write.
        suffix (`str`):
            Its format: `".csv"`, `".jsonl"` or `".parquet"` (a row group a chunk).

    Returns:
        `Counter[str]`: rows per decision, and under `"without label"` those that have none.
    """
    schema = pq.read_schema(parts[0])
    tables = (pq.read_table(part) for part in parts)
    counted: Counter[str] = Counter()

    def rows() -> Iterator[dict[str, Any]]:
        for table in tables:
            count(table)
            yield from table.to_pylist()

    def count(table: pa.Table) -> None:
        counted["without label"] += table["label"].null_count
        if "decision" in table.column_names:
            counted.update(table["decision"].to_pylist())

    if suffix == ".parquet":
        with pq.ParquetWriter(path, schema) as writer:
            for table in tables:
                count(table)
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


def _rounded(probability: float | None) -> float | None:
    return None if probability is None else round(float(probability), 6)
