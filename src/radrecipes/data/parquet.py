"""Reading Parquet in bounded memory: a file of 4 MB can hold a thousand rows that share one text of 4 MB."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from radrecipes.errors import InputError
from radrecipes.files import ROW_LIMIT, largest_content, open_regular, unpacks_too_far

# Rows that are read at once, which makes a dictionary each time, and that become Python objects at once.
_BATCH, _PART = 16 * 1024, 1024


@contextlib.contextmanager
def open_parquet(
    path: Path, columns: Sequence[str] | None = None, fix: str = "write it again"
) -> Iterator[pq.ParquetFile]:
    """A Parquet file whose texts are read as dictionaries, without their copies; `columns` are those to be read, by default all.

    An [`InputError`] if the columns are neither text nor numbers, or unpack to too much, and if the file is damaged, with `fix`.
    """
    try:
        with open_regular(path) as file, pq.ParquetFile(file) as plain:
            wanted = [name for name in plain.schema_arrow.names if columns is None or name in columns]
            _check_columns(plain, wanted, path)
            # A buffer and small batches; otherwise a complete column of a row group would be in memory.
            with pq.ParquetFile(path, buffer_size=2**20, read_dictionary=wanted) as as_dictionaries:
                yield as_dictionaries
    except UnicodeDecodeError:
        raise InputError("contains text that is not UTF-8; write it again as UTF-8", where=str(path)) from None
    except (pa.ArrowException, OSError, OverflowError) as error:  # the last: a date that Python lacks
        # Messages of pyarrow can quote what the file contains.
        raise InputError(f"not readable as Parquet ({type(error).__name__}); {fix}", where=str(path)) from None


def _check_columns(file: pq.ParquetFile, wanted: Sequence[str], path: Path) -> None:
    facts, limit = file.metadata, largest_content(path.stat().st_size)
    for name in wanted:
        kind = file.schema_arrow.field(name).type
        if pa.types.is_nested(kind) or pa.types.is_fixed_size_binary(kind):
            outer = str(kind).partition("<")[0]  # in brackets are names from the file
            raise InputError(f"column {name!r} contains {outer}, not text; name another column", where=str(path))
    content = sum(
        chunk.total_uncompressed_size
        for group in range(facts.num_row_groups)
        for chunk in map(facts.row_group(group).column, range(facts.num_columns))
        if chunk.path_in_schema in wanted
    )
    if content > limit or facts.num_rows > limit:
        raise unpacks_too_far(limit, str(path))


def iterate_rows(file: pq.ParquetFile, columns: Sequence[str], where: str) -> Iterator[dict]:
    """The rows of a file from [`open_parquet`] in constant memory; an [`InputError`] at one that is too large."""
    number = 0
    for batch in file.iter_batches(batch_size=_BATCH, columns=list(columns)):
        for start in range(0, batch.num_rows, _PART):
            part = batch.slice(start, _PART)
            rows = [part] if _content(part) <= ROW_LIMIT else [part.slice(row, 1) for row in range(part.num_rows)]
            for piece in rows:
                if piece.num_rows == 1 and _content(piece) > ROW_LIMIT:
                    raise InputError(
                        f"the row is larger than {ROW_LIMIT // 2**20} MiB, the limit for one row",
                        f"{where}:row {number + 1}",
                    )
                for row in _decoded(piece).to_pylist():
                    number += 1
                    yield row


def read_table(path: Path, fix: str) -> pa.Table:
    """A complete file as a table; an [`InputError`] if its rows would take far more memory than the file has bytes."""
    with open_parquet(path, fix=fix) as file:
        content, limit = 0, largest_content(path.stat().st_size)
        for batch in file.iter_batches():
            content += _content(batch)
            if content > limit:
                raise unpacks_too_far(limit, str(path))
        return pq.read_table(path, partitioning=None)


def _decoded(batch: pa.RecordBatch) -> pa.RecordBatch:
    # pyarrow makes Python objects of plain columns ten times as fast.
    columns = [
        column.dictionary_decode() if pa.types.is_dictionary(column.type) else column for column in batch.columns
    ]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


def _content(batch: pa.RecordBatch) -> int:
    """Bytes of the texts of a batch, each counted as often as it occurs."""
    total = 0
    for column in batch.columns:
        if pa.types.is_dictionary(column.type):
            counted = column.indices.value_counts()  # the dictionary is that of the row group, far larger than a batch
            lengths = pc.binary_length(column.dictionary.take(counted.field("values")))
            total += pc.sum(pc.multiply(pc.cast(lengths, pa.int64()), counted.field("counts"))).as_py() or 0
        else:
            total += column.nbytes
    return total
