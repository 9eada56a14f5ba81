"""Answers of a period as arrays, from outputs of `scripts/predict.py` or from its audit log, and their windows."""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from radrecipes.data.sources.table_rows import Table, open_table
from radrecipes.errors import InputError
from radrecipes.files import open_regular
from radrecipes.inference.abstention import AUTO, NEEDS_REVIEW
from radrecipes.review.rows import ACCEPTED, ANSWER_COLUMNS, CHANGED, NEEDED

# Columns of an audit log that are no text of an order.
_OF_LOG = {"number", "time", "prediction", "row", "written_by", "check", "previous"}
# Numbers are left out: ages and dates are new in every order.
_WORD = re.compile(r"[^\W\d_]{2,}")
PERIODS = {"day": "%Y-%m-%d", "week": "%G-W%V", "month": "%Y-%m"}


@dataclass(frozen=True)
class Answers:
    """Answered orders, one entry of each field per order.

    `words` are the different words of an order and `lengths` their number with repetitions, both `None` without texts; `times`
    are UTC, `None` if they are not known.
    """

    ids: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray
    needs_review: np.ndarray
    words: np.ndarray | None = None
    lengths: np.ndarray | None = None
    times: np.ndarray | None = None

    def __len__(self) -> int:
        """The number of orders."""
        return len(self.labels)

    def part(self, places: np.ndarray | slice) -> "Answers":
        """Some of the orders."""
        fields = (None if values is None else values[places] for values in vars(self).values())
        return Answers(*fields)


def read_answers(paths: Sequence[Path]) -> tuple[Answers, list[int]]:
    """The answers of all files in their order, and how many each file has; texts and times only if every file has them."""
    rows, sizes = [], []
    for path in paths:
        before = len(rows)
        rows += _rows(open_table(path, NEEDED), _ends_within_a_line(path))
        sizes.append(len(rows) - before)
        if not sizes[-1]:
            raise InputError("the file has no rows below its header; give a table with rows", str(path))
    ids, labels, probabilities, reviewed, words, times = zip(*rows, strict=True)
    distinct, lengths = None, None
    if None not in words:
        distinct = np.fromiter(map(frozenset, words), dtype=object, count=len(words))
        lengths = np.array([len(of_order) for of_order in words])
    known = None if None in times else np.array(times, dtype=object)
    answers = Answers(
        np.array(ids), np.array(labels), np.array(probabilities), np.array(reviewed), distinct, lengths, known
    )
    return answers, sizes


def words_of(text: str) -> list[str]:
    """The words of a text, without numbers and single letters."""
    return _WORD.findall(text.casefold())


def _ends_within_a_line(path: Path) -> bool:
    """Whether an audit log is being written at present, or its writer was killed."""
    if path.suffix.lower() != ".jsonl":
        return False
    with open_regular(path) as stream:
        return bool(stream.seek(0, os.SEEK_END)) and stream.seek(-1, os.SEEK_END) >= 0 and stream.read(1) != b"\n"


def _rows(table: Table, unfinished: bool) -> Iterator[tuple]:
    others = [name for name in table.header if name not in ANSWER_COLUMNS | _OF_LOG and not name.endswith("sha256")]
    text = others if len(others) == 1 else []
    time = ["time"] if "time" in table.header else []
    rows = table.rows((*NEEDED, *text, *time), values=("probability",))
    for where, cells in rows:
        if isinstance(cells, str):
            if unfinished and next(rows, None) is None:
                return
            raise InputError(cells, where)
        try:
            probability = float(cells["probability"])
            when = datetime.fromisoformat(cells["time"]).astimezone(UTC) if time else None
        except (ValueError, OverflowError):  # the latter: a time before the year 1 in UTC
            raise InputError("a probability or a time cannot be read; predict again", where) from None
        if cells["decision"] not in (AUTO, NEEDS_REVIEW) or not 0 <= probability <= 1:
            raise InputError("is not an answer of a label with probability and decision; predict again", where)
        words = words_of(cells[text[0]]) if text else None
        yield cells["id"], cells["label"], probability, cells["decision"] == NEEDS_REVIEW, words, when


def windows(
    answers: Answers, paths: Sequence[Path], sizes: Sequence[int], every: int | None, per: str | None, now: datetime
) -> list[tuple[str, np.ndarray]]:
    """Names and places of the windows: one for each file, for each `every` orders, or for each period.

    An incomplete last window is left out: it would be tested again with every run, which makes false alarms more frequent.
    """
    if per:
        if answers.times is None:
            raise InputError(
                "a file has no column `time`; give the audit log of the predictions, or use --every", "--per"
            )
        names = np.array([time.strftime(PERIODS[per]) for time in answers.times])
        current = now.strftime(PERIODS[per])
        found = [(name, np.flatnonzero(names == name)) for name in sorted(set(names)) if name != current]
    elif every:
        starts = range(0, len(answers) - every + 1, every)
        found = [(f"orders {start + 1:,} to {start + every:,}", np.arange(start, start + every)) for start in starts]
    else:
        ends = np.cumsum(sizes)
        found = [(path.name, np.arange(end - size, end)) for path, end, size in zip(paths, ends, sizes, strict=True)]
    if not found:
        raise InputError(
            f"no window is complete with {len(answers):,} orders; wait, or choose smaller windows", str(paths[0])
        )
    return found


@dataclass(frozen=True)
class Reviewed:
    """How many of a window's answers a person reviewed, and how many were right: sampled automatic ones, and the others."""

    sampled: int = 0
    sampled_right: int = 0
    needed: int = 0
    needed_right: int = 0


def read_corrections(paths: Sequence[Path], answers: Answers) -> dict[str, tuple[bool, bool]]:
    """Of each reviewed order, by its id, whether it was sampled and whether the model was right."""
    if paths and len(set(answers.ids)) < len(answers):
        raise InputError(
            "ids repeat in the answers, so corrections cannot be assigned; predict with --id-column", str(paths[0])
        )
    found = {}
    for path in paths:
        for where, cells in open_table(path, ("id", "decision", "sampled")).rows(("id", "decision", "sampled")):
            if isinstance(cells, str):
                raise InputError(cells, where)
            if cells["sampled"] not in ("yes", "no") or cells["decision"] not in (ACCEPTED, CHANGED):
                raise InputError("is not a row of scripts/review.py; give its corrections.csv", where)
            found[cells["id"]] = (cells["sampled"] == "yes", cells["decision"] == ACCEPTED)
    return found


def reviewed(answers: Answers, corrections: dict[str, tuple[bool, bool]]) -> Reviewed:
    """The corrections of a window."""
    known = [corrections[row] for row in answers.ids if row in corrections]
    sampled, needed = ([right for was_sampled, right in known if was_sampled == kind] for kind in (True, False))
    return Reviewed(len(sampled), sum(sampled), len(needed), sum(needed))
