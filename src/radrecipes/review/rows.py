"""Which rows of a file of answers a person reviews: those that need it, and a random sample of the automatic ones."""

import hashlib
import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from radrecipes.data.sources.table_form import TableForm
from radrecipes.data.sources.table_rows import Table, open_table
from radrecipes.data.sources.tables import check_columns, open_orders, render_cells
from radrecipes.errors import InputError
from radrecipes.inference.abstention import AUTO, NEEDS_REVIEW
from radrecipes.statistics import clopper_pearson_interval

TOP = ("top_1", "top_2", "top_3")
# What a person did with the label of the model
ACCEPTED, CHANGED = "accepted", "changed"
NEEDED = ("id", "label", "probability", "decision")
# Columns of scripts/predict.py; any other one is the kept text.
ANSWER_COLUMNS = {*NEEDED, "reason", *TOP, *(f"{name}_probability" for name in TOP)}
# A sample is to measure this accuracy of the automatic answers, and its 95 % interval as narrow as this to either side.
TARGET, HALF_WIDTH = 0.95, 0.03


@dataclass(frozen=True)
class Row:
    """A predicted row; `candidates` are the most probable labels with their probabilities, from the most probable one; `texts` are
    the cells that were read, by the columns of a training table.
    """

    id: str
    label: str  # the model's
    probability: str
    decision: str
    candidates: Mapping[str, str]
    texts: Mapping[str, str] = field(default_factory=dict)
    group: str = ""

    @property
    def text(self) -> str:
        """What the model read."""
        return render_cells(self.texts) if len(self.texts) > 1 else next(iter(self.texts.values()), "")


def read_rows(path: Path, digest: str, sample: int, has_texts: bool) -> tuple[list[Row], set[str]]:
    """The rows to review in the order of the file, and all labels that occur in it.

    Args:
        path: What `scripts/predict.py` wrote.
        digest: sha256 of the file: the sample is the same each time, and a larger one contains a smaller one.
        sample: How many automatic rows are among them; all if there are fewer.
        has_texts: Whether the file must have the texts of the rows.
    """
    table = open_table(path, NEEDED)
    others = [name for name in table.header if name not in ANSWER_COLUMNS]
    if has_texts and len(others) != 1:
        raise InputError(
            "has no texts; name the table that was predicted with --input orders.csv --text-column NAME --id-column NAME, or "
            "predict again with --keep-text",
            str(path),
        )
    labels, needed, automatic = set(), {}, []
    for place, row in enumerate(_answers(table, others if has_texts else [])):
        labels |= {row.label, *row.candidates} - {""}
        if row.decision == NEEDS_REVIEW:
            needed[place] = row
        elif sample:
            automatic.append((hashlib.sha256(f"{digest}:{row.id}".encode()).digest(), place, row))
            if len(automatic) > 2 * sample:  # of a large file only the smallest are kept
                automatic = heapq.nsmallest(sample, automatic)
    needed |= {place: row for _, place, row in heapq.nsmallest(sample, automatic)}
    if not needed:
        raise InputError(f"no row has the decision {NEEDS_REVIEW}; add automatic ones with --sample 50", str(path))
    return [needed[place] for place in sorted(needed)], labels


def _answers(table: Table, text_columns: Sequence[str]) -> Iterator[Row]:
    top = [name for name in TOP if name in table.header]
    seen: set[str] = set()
    numbers = [f"{name}_probability" for name in top if f"{name}_probability" in table.header]
    for where, cells in table.rows((*NEEDED, *top, *numbers, *text_columns), values=("probability", *numbers)):
        if isinstance(cells, str):
            raise InputError(cells, where)
        if cells["id"] in seen:
            raise InputError("the id occurs twice; predict again with an --id-column that is unique", where)
        if cells["decision"] not in (AUTO, NEEDS_REVIEW):
            raise InputError(f"the decision is neither {AUTO} nor {NEEDS_REVIEW}; predict again", where)
        seen.add(cells["id"])
        candidates = {cells[name]: cells.get(f"{name}_probability", "") for name in top if cells[name]}
        texts = {name: cells[name] for name in text_columns}
        yield Row(cells["id"], cells["label"], cells["probability"], cells["decision"], candidates, texts)


def with_texts(
    rows: Sequence[Row],
    path: Path,
    text_columns: Sequence[str],
    id_column: str | None = None,
    group_column: str | None = None,
    form: TableForm | None = None,
) -> list[Row]:
    """The rows with their texts from the table that was predicted, and their group if it has one."""
    columns = (*text_columns, *(name for name in (id_column, group_column) if name))
    check_columns(columns, ())
    table, wanted, found = open_orders(path, columns, form), {row.id: row for row in rows}, {}
    several = text_columns if len(text_columns) > 1 else ()
    for number, (_, cells) in enumerate(table.rows(columns, values=several), start=1):
        if not isinstance(cells, str):
            row_id = cells[id_column].strip() if id_column else str(number)
            if row_id in wanted:
                texts = {name: cells[name] for name in text_columns}
                group = cells[group_column].strip() if group_column else ""
                found[row_id] = replace(wanted[row_id], texts=texts, group=group)
    if missing := len(wanted.keys() - found.keys()):
        raise InputError(
            f"lacks {missing} of the {len(wanted)} rows to review; name the table that was predicted, and the same --id-column",
            str(path),
        )
    return [found[row.id] for row in rows]


def sample_size() -> int:
    """The fewest rows that measure the target accuracy to 3 points: half the width of its interval if that share is right."""
    rows = 1
    while np.ptp(clopper_pearson_interval(TARGET * rows, rows)) > 2 * HALF_WIDTH:
        rows += 1
    return rows
