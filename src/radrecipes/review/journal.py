"""What was decided, line by line in an append-only file that several processes share, and the table made from it."""

import contextlib
import csv
import io
import json
import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from radrecipes.data.csv_cells import guarded
from radrecipes.errors import InputError
from radrecipes.files import bounded_lines, check_writable, lock, open_regular, parse_json, sync, write_atomically

# A row that a window has shown for this long without a decision is shown to others again.
CLAIM_SECONDS = 600
# The events, and what they have apart from id, window and time
_KEYS = {"claim": (), "release": (), "decision": ("row",), "undo": ()}


class Journal:
    """The decisions on one file of answers, `<corrections>.journal`: the first line names the answers, each other one is an event.

    An event is a claim (a window shows the row), its release, a decision, or its withdrawal. A line that a killed process did not
    finish was never confirmed; the next process removes it. A decision contains its row of the table of corrections, so that any
    process can write the table. Call the other methods within [`updated`].

    Attributes:
        decided: The decision of each decided row by its id, the latest last.
    """

    def __init__(self, corrections: Path, answers_sha256: str):
        self.corrections = corrections
        self.path = corrections.with_name(f"{corrections.name}.journal")
        self._answers = answers_sha256
        self._size = 0
        self.decided: dict[str, dict[str, Any]] = {}
        self._claims: dict[str, tuple[str, datetime]] = {}

    def start(self) -> None:
        """Read the journal, or create it; an [`InputError`] if it is of other answers, or the table was not made from it."""
        if self.corrections.suffix.lower() != ".csv":
            raise InputError("corrections are a table; choose a name that ends with .csv", str(self.corrections))
        check_writable(self.path.with_name(f"{self.path.name}.lock"))  # its name is the longest
        if self.corrections.exists() and not self.path.exists():
            raise InputError(
                f"exists already, without {self.path.name}, from which it would be written; choose another --output",
                str(self.corrections),
            )
        with lock(self._lock):
            if not self.path.exists():
                header = json.dumps({"answers_sha256": self._answers}) + "\n"
                write_atomically(self.path, header)
                sync(self.path.parent)
        with self.updated():
            self.write_table()  # a process may have been killed before it did

    @property
    def _lock(self) -> Path:
        return self.path.with_name(f"{self.path.name}.lock")

    @contextlib.contextmanager
    def updated(self) -> Iterator[None]:
        """Hold the lock of all processes, after reading what they have added."""
        with lock(self._lock):
            torn = False
            with io.BufferedReader(open_regular(self.path)) as stream:
                stream.seek(self._size)
                for line in bounded_lines(stream, str(self.path)):
                    torn = not line.endswith(b"\n")
                    if not torn:
                        self._apply(self._parsed(line))
                        self._size += len(line)
            if torn:
                os.truncate(self.path, self._size)
            yield

    def holder(self, row: str) -> str | None:
        """The window that shows an open row."""
        window, since = self._claims.get(row, (None, None))
        return window if window and (datetime.now(UTC) - since).total_seconds() < CLAIM_SECONDS else None

    def held_by(self, window: str) -> str | None:
        """The open row that a window shows."""
        return next((row for row in self._claims if self.holder(row) == window), None)

    def append(self, event: str, row_id: str, window: str, durable: bool = True, **values: Any) -> None:
        """Add an event; when this returns it is on disk, unless it need not be `durable`."""
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        entry = {"event": event, "id": row_id, "window": window, "time": time, **values}
        line = json.dumps(entry).encode() + b"\n"
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        try:
            if os.write(descriptor, line) < len(line):  # the disk is full: the next attempt says so
                raise OSError(28, os.strerror(28), str(self.path))
            if durable:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        self._apply(entry)
        self._size += len(line)

    def write_table(self) -> None:
        """Replace the table of corrections by that of all decided rows, in the order of the decisions."""
        rows = [entry["row"] for entry in self.decided.values()]
        if not rows:
            self.corrections.unlink(missing_ok=True)
            return
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: guarded(cell) for name, cell in row.items()} for row in rows)
        write_atomically(self.corrections, text.getvalue())

    def _parsed(self, line: bytes) -> dict[str, Any]:
        entry = parse_json(line.decode("utf-8", "replace"), str(self.path), "restore the journal")
        if not self._size and isinstance(entry, dict) and entry.get("answers_sha256") not in (None, self._answers):
            raise InputError("belongs to another file of answers; choose another --output", str(self.path))
        if not isinstance(entry, dict) or not (
            "answers_sha256" in entry
            or {"id", "window", "time", *_KEYS.get(entry.get("event"), ["?"])} <= entry.keys()
        ):
            raise InputError("is not a journal of corrections; choose another --output", str(self.path))
        return entry

    def _apply(self, entry: Mapping[str, Any]) -> None:
        event, row = entry.get("event"), entry.get("id")
        if event == "claim":
            # A window shows one row.
            self._claims = {other: claim for other, claim in self._claims.items() if claim[0] != entry["window"]}
            self._claims[row] = (entry["window"], datetime.fromisoformat(entry["time"]))
        elif event == "decision":
            self.decided[row] = dict(entry)
            self._claims.pop(row, None)
        elif event == "undo":
            self.decided.pop(row, None)
        elif event == "release":
            self._claims.pop(row, None)
