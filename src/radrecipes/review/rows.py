"""Which rows of a file of answers a person reviews: those that need it, and a random sample of the automatic ones."""

import hashlib
import heapq
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from radrecipes.data.sources.table_form import TableForm
from radrecipes.data.sources.table_rows import open_table
from radrecipes.data.sources.tables import check_columns, named_columns, render_cells
from radrecipes.errors import InputError
from radrecipes.inference.abstention import AUTO, NEEDS_REVIEW
from radrecipes.statistics import clopper_pearson_interval

TOP = ("top_1", "top_2", "top_3")
_NEEDED = ("id", "label", "probability", "decision")
# Columns of scripts/predict.py; any other one is the kept text.
_ANSWER_COLUMNS = {*_NEEDED, "reason", *TOP, *(f"{name}_probability" for name in TOP)}
# What the interval of the automatic answers' accuracy is computed for.
CONFIDENCE, HALF_WIDTH = 0.95, 0.03


@dataclass(frozen=True)
class Row:
    """A predicted row; `texts` are the cells that were read, by the columns of a training table."""

    id: str
    label: str  # the model's
    probability: str
    decision: str
    candidates: tuple[str, ...]
    texts: Mapping[str, str] = field(default_factory=dict)
    group: str = ""

    @property
    def text(self) -> str:
        """What the model read."""
        return render_cells(self.texts) if len(self.texts) > 1 else next(iter(self.texts.values()), "")


@dataclass(frozen=True)
class Orders:
    """The table that was predicted, and its columns."""

    path: Path
    text_columns: Sequence[str]
    id_column: str | None = None
    group_column: str | None = None
    form: TableForm = TableForm()


def read_rows(path: Path, digest: str, sample: int, orders: Orders | None) -> tuple[list[Row], set[str]]:
    """The rows to review in the order of the file, and all labels that occur in it.

    Args:
        path: What `scripts/predict.py` wrote.
        digest: sha256 of the file: the sample is the same each time, and a larger one contains a smaller one.
        sample: How many automatic rows are among them; all if there are fewer.
        orders: Where the texts are if the file does not have them.
    """
    table = open_table(path, _NEEDED)
    others = [name for name in table.header if name not in _ANSWER_COLUMNS]
    if orders is None and len(others) != 1:
        raise InputError(
            "has no texts; name the table that was predicted with --input orders.csv --text-column NAME --id-column NAME, or "
            "predict again with --keep-text",
            str(path),
        )
    labels, needed, automatic = set(), {}, []
    for place, row in enumerate(_answers(path, table, [] if orders else others)):
        labels |= {row.label, *row.candidates} - {""}
        if row.decision == NEEDS_REVIEW:
            needed[place] = row
        elif sample:
            automatic.append((hashlib.sha256(f"{digest}:{row.id}".encode()).digest(), place, row))
            if len(automatic) > 2 * sample:  # of a large file only the smallest are kept
                automatic = heapq.nsmallest(sample, automatic)
    needed |= {place: row for _, place, row in heapq.nsmallest(sample, automatic)}
    rows = [needed[place] for place in sorted(needed)]
    if not rows:
        raise InputError(f"no row has the decision {NEEDS_REVIEW}; add automatic ones with --sample 50", str(path))
    return (_with_texts(rows, orders, path) if orders else rows), labels


def _answers(path: Path, table, text_columns: Sequence[str]) -> Iterator[Row]:
    top = [name for name in TOP if name in table.header]
    seen: set[str] = set()
    for where, cells in table.rows((*_NEEDED, *top, *text_columns), values=("probability",)):
        if isinstance(cells, str):
            raise InputError(cells, where)
        if cells["id"] in seen:
            raise InputError("the id occurs twice; predict again with an --id-column that is unique", where)
        if cells["decision"] not in (AUTO, NEEDS_REVIEW):
            raise InputError(f"the decision is neither {AUTO} nor {NEEDS_REVIEW}; predict again", where)
        seen.add(cells["id"])
        # In alphabetical order, so that the model's first choice is not known before the person's.
        candidates = tuple(sorted({cells[name] for name in top} - {""}))
        texts = {name: cells[name] for name in text_columns}
        yield Row(cells["id"], cells["label"], cells["probability"], cells["decision"], candidates, texts)


def _with_texts(rows: Sequence[Row], orders: Orders, path: Path) -> list[Row]:
    extra = [name for name in (orders.id_column, orders.group_column) if name]
    check_columns(orders.text_columns, extra)
    columns, wanted, found = (*orders.text_columns, *extra), {row.id for row in rows}, {}
    several = orders.text_columns if isinstance(named_columns(orders.text_columns), dict) else ()
    table = open_table(orders.path, columns, orders.form)
    for number, (_, cells) in enumerate(table.rows(columns, values=several), start=1):
        if not isinstance(cells, str):
            row_id = cells[orders.id_column].strip() if orders.id_column else str(number)
            if row_id in wanted:
                found[row_id] = cells
    if missing := len(wanted - found.keys()):
        raise InputError(
            f"lacks {missing} of the {len(wanted)} rows to review; name the table that was predicted, and the --id-column of then",
            str(orders.path),
        )
    return [
        replace(
            row,
            texts={name: found[row.id][name] for name in orders.text_columns},
            group=found[row.id][orders.group_column].strip() if orders.group_column else "",
        )
        for row in rows
    ]


def sample_size(accuracy: float) -> int:
    """The fewest rows whose 95 % interval is at most 3 points wide to either side if that share of them is right."""
    rows = 1
    while True:
        low, high = clopper_pearson_interval(accuracy * rows, rows, CONFIDENCE)
        if (high - low) / 2 <= HALF_WIDTH:
            return rows
        rows += 1


def fewest_without_error(target: float) -> int:
    """How many rows, all right, show with 95 % confidence that at least the target is right."""
    return math.ceil(math.log(1 - CONFIDENCE) / math.log(target))
