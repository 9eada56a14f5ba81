"""A tamper-evident log of predictions that contains no text: one JSON object per predicted row, each chained to the one before.

- `number` of the line; `time` of the prediction (UTC);
- `prediction`, an id of the command's work; `row`, the row's position in its output, from 1; `id` of the row;
- `input_hmac_sha256` of the text as the model read it (what `--keep-text` writes), `output_hmac_sha256` of the returned answer;
- what was decided: those of `DECISIONS` that the output has; `adapter_sha256` and `prompt_sha256`;
- `previous`, the `sha256` of the line before (64 zeros in the first);
- `sha256` of this line's bytes without this last member and without the newline.

**Texts** are stored as HMAC-SHA256 (RFC 2104), because an order is so short that its plain hash could be found by guessing. The
key is next to the log (`<log>.key`). With both one can prove which text was read; the log alone only shows which texts are
equal. **Labels** and verdicts on a report are in plain text, because they come from closed lists. Ids are the input's own: the
log is as confidential as they are.

**The chain** uses plain hashes, so anybody can verify it without the key. It detects changes inside the log. A truncated end,
or a log rewritten from some line on, is detected only with a head (the `sha256` of a last line) that was kept elsewhere.
"""

import contextlib
import hashlib
import hmac
import json
import os
import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from uuid import uuid4

from radrecipes.data.example import Example
from radrecipes.errors import InputError, RadrecipesError
from radrecipes.files import check_writable, lock, read_text, write_atomically

if TYPE_CHECKING:  # verification must not wait for the import of torch
    import pyarrow as pa

    from radrecipes.inference.predictors import Predictor

# Columns of an output that the log may contain: values from closed lists, and numbers.
DECISIONS = ("label", "probability", "decision", "reason", "written_by", "check")
# The answer is in the first of these columns that an output has.
_ANSWER_COLUMNS = ("report", "answer", "label")
NO_ENTRY = "0" * 64  # head of an empty log
_LINE = re.compile(
    rb'(\{"number":(\d+),"time":"([^"]*)",.*"previous":"([0-9a-f]{64})"),"sha256":"([0-9a-f]{64})"\}\n', re.DOTALL
)


class BrokenLogError(RadrecipesError):
    """A log was changed after it was written; `line`, from 1, is the first that does not continue the chain."""

    def __init__(self, path: Path, line: int, message: str):
        super().__init__(f"{path}:{line}: {message}")
        self.line = line


@dataclass(frozen=True)
class Appended:
    """The state of a log after an append."""

    path: Path
    rows: int  # entries of this prediction, including those of an earlier attempt that was killed
    head: str
    torn: bool  # whether an incomplete line of a killed writer was removed

    def as_text(self) -> str:
        """One line for a terminal."""
        removed = "; removed an incomplete line of a killed writer" if self.torn else ""
        return f"audit log {self.path}: {self.rows:,} entries of this prediction, head {self.head}{removed}"


@dataclass(frozen=True)
class Verified:
    """A log whose chain is intact."""

    entries: int
    first: str | None  # time of the first entry
    last: str | None
    head: str
    since_known_head: int | None  # entries after the known head; None if none was given


class AuditLog:
    """A log that several processes may append to; a missing one is created with its key, both readable only by their owner."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.key_path = self.path.with_name(self.path.name + ".key")
        self._known: _Scanned | None = None  # after the last `append_new`

    def check_usable(self, others: Iterable[str | Path] = ()) -> None:
        """Raise an [`InputError`] if the log could not be appended to, or is one of the `others`; writes nothing."""
        for other in others:
            if Path(other).resolve() in (self.path.resolve(), self.key_path.resolve()):
                raise InputError("is read or written already; choose another --audit-log", str(other))
        if not self.path.parent.is_dir():
            raise InputError("the folder of the audit log does not exist; create it first", str(self.path))
        check_writable(_lock_path(self.key_path))  # its name is the longest
        if not self.path.exists():
            if self.key_path.exists():
                self._read_key()
            return
        if not self.path.is_file() or not os.access(self.path, os.R_OK | os.W_OK):
            raise InputError("is not a file that can be read and written; choose another --audit-log", str(self.path))
        with self.path.open("rb") as stream:
            entries = _scan(stream, self.path).entries
        if entries or self.key_path.exists():
            self._read_key()

    def entries(
        self, examples: Sequence[Example], answers: "pa.Table", predictor: "Predictor"
    ) -> list[dict[str, Any]]:
        """The entries to [`append`] for predicted rows; `answers` are the same rows of the output, in the same order."""
        key = self._key()
        time = datetime.now(UTC).isoformat(timespec="seconds")
        answer = next(name for name in _ANSWER_COLUMNS if name in answers.column_names)
        entries = []
        for example, row in zip(examples, answers.to_pylist(), strict=True):
            entries.append(
                {
                    "time": time,
                    "id": example.id,
                    "input_hmac_sha256": text_digest(key, example.inputs[predictor.task.input_column]),
                    "output_hmac_sha256": text_digest(key, row[answer]),
                    **{name: row[name] for name in DECISIONS if name in row},
                    "adapter_sha256": predictor.adapter_sha256,
                    "prompt_sha256": predictor.prompt_sha256,
                }
            )
        return entries

    def append(self, entries: Iterable[dict[str, Any]], prediction: str) -> Appended:
        """Append all entries of one prediction contiguously, skipping those that an earlier, killed attempt appended.

        A complete entry is never removed. When this returns, the entries are on disk.

        Args:
            entries: In the order of the output; the same in every attempt except for the time.
            prediction: Unique id of the prediction, of letters and digits.
        """
        with lock(_lock_path(self.path)), _open_private(self.path, "r+b") as stream:
            found = _scan(stream, self.path, prediction)
            return self._append(stream, found, entries, prediction)[0]

    def append_new(self, entries: Sequence[dict[str, Any]]) -> Appended:
        """As [`append`] for a new prediction, without reading again what this object has read: for many appends.

        Only what other processes appended since then is read, if the log still has its last known entry in its place.
        """
        with lock(_lock_path(self.path)), _open_private(self.path, "r+b") as stream:
            found = _scan(stream, self.path, known=self._known if _continues(stream, self._known) else None)
            appended, self._known = self._append(stream, found, entries, uuid4().hex)
        return appended

    def _append(
        self, stream: BinaryIO, found: "_Scanned", entries: Iterable[dict[str, Any]], prediction: str
    ) -> tuple[Appended, "_Scanned"]:
        """Repair the end of a scanned log and append to it; also what a scan would now find."""
        stream.seek(found.size)
        size, line = found.size, found.last
        if found.unfinished_end:
            size += stream.write(b"\n")
            line += b"\n"
        elif found.torn:
            stream.truncate()
        number, head, row = found.entries, found.head, 0
        for row, entry in enumerate(entries, start=1):
            if row > found.rows:
                number += 1
                line, head = _chained(number, prediction, row, entry, head)
                size += stream.write(line)
        stream.flush()
        os.fsync(stream.fileno())
        now = _Scanned(number, head, 0, size, line, torn=False, unfinished_end=False)
        return Appended(self.path, row, head, found.torn), now

    def _key(self) -> bytes:
        """The key; created on first use, which is before the first entry."""
        if not self.key_path.exists() and not (self.path.exists() and self.path.stat().st_size):
            with lock(_lock_path(self.key_path)):
                if not self.key_path.exists():  # another process may have been first
                    write_atomically(self.key_path, _write_new_key)
        return self._read_key()

    def _read_key(self) -> bytes:
        try:
            text = read_text(self.key_path, 1024).strip()
        except FileNotFoundError as error:
            raise InputError(
                "the key of the audit log is missing; restore it, or start another --audit-log", str(self.key_path)
            ) from error
        except (OSError, InputError):
            text = ""
        if not re.fullmatch("[0-9a-f]{64}", text):
            raise InputError(
                "is not a readable key of an audit log (64 hexadecimal digits); restore it, or start another --audit-log",
                str(self.key_path),
            )
        return bytes.fromhex(text)


def text_digest(key: bytes, text: str) -> str:
    """HMAC-SHA256 of a text as UTF-8, in hexadecimal digits."""
    return hmac.digest(key, text.encode(), "sha256").hex()


def verify(path: str | Path, head: str | None = None) -> Verified:
    """Recompute a log's chain; needs no key.

    With `head`, a head that the log once had, it also checks that nothing up to there was removed or rewritten. Raises a
    [`BrokenLogError`] with the first line at which the chain breaks.
    """
    path = Path(path)
    if head is not None and not re.fullmatch("[0-9a-f]{64}", head):
        raise InputError("must be the 64 hexadecimal digits of a head that was printed earlier", "--head")
    if not path.is_file():
        raise InputError("no such file; give the file that was given to --audit-log", str(path))
    number, last_hash, first, last = 0, NO_ENTRY, None, None
    known_at = 0 if head == NO_ENTRY else None
    # Nobody appends in a read-only folder, such as an auditor's copy.
    locked = lock(_lock_path(path)) if os.access(path.parent, os.W_OK) else contextlib.nullcontext()
    with locked, path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            match, problem = _intact(line), None
            if not line.endswith(b"\n"):
                problem = "the last line is incomplete: a writer was killed (the next one repairs it), or it was cut"
            elif match is None:
                problem = "does not match its own sha256: the line was edited or inserted"
            elif match[4].decode() != last_hash or int(match[2]) != number:
                why = "lines were removed, inserted or moved here, or that line was rewritten"
                problem = f"does not continue the line before: {why}"
            if problem:
                raise BrokenLogError(path, number, problem)
            last_hash, last = match[5].decode(), match[3].decode()
            first = first or last
            if last_hash == head:
                known_at = number
    if head is not None and known_at is None:
        raise BrokenLogError(
            path, number + 1, "no line has the known head: the end was cut off, or the whole log was rewritten"
        )
    return Verified(number, first, last, last_hash, None if known_at is None else number - known_at)


@dataclass(frozen=True)
class _Scanned:
    """A log before an append: its complete entries, their size in bytes, and what follows them."""

    entries: int
    head: str
    rows: int  # entries of the requested prediction
    size: int
    last: bytes  # the last entry
    torn: bool  # an incomplete entry follows
    unfinished_end: bool  # the last entry lacks only its newline


def _continues(stream: BinaryIO, known: _Scanned | None) -> bool:
    """Whether a log still has the last entry of an earlier scan where it was."""
    if known is None:
        return False
    stream.seek(known.size - len(known.last))
    return stream.read(len(known.last)) == known.last


def _scan(stream: BinaryIO, path: Path, prediction: str = "", known: _Scanned | None = None) -> _Scanned:
    # Only the last entry's number and hash are checked; `verify` checks the rest. What is `known` is not read again.
    mark = f',"prediction":"{prediction}",'.encode()
    entries, size, last = (known.entries, known.size, known.last) if known else (0, 0, b"")
    rows, rest = 0, b""
    stream.seek(size)
    for line in stream:
        if not line.endswith(b"\n"):
            rest = line
            break
        last = line
        entries += 1
        size += len(line)
        rows += mark in line
    head = NO_ENTRY
    if last:
        match = _intact(last)
        if match is None or int(match[2]) != entries:
            raise InputError(
                "is not an audit log, or was changed: its last entry is broken; run `scripts/audit_log.py verify`, and start "
                "another --audit-log",
                f"{path}:{entries}",
            )
        head = match[5].decode()
    if not rest:
        return _Scanned(entries, head, rows, size, last, torn=False, unfinished_end=False)
    match = _intact(rest + b"\n")
    if match and match[4].decode() == head:
        rows += mark in rest
        return _Scanned(entries + 1, match[5].decode(), rows, size + len(rest), rest, torn=False, unfinished_end=True)
    # A file of another kind, given by mistake, must not lose its last line.
    start = f'{{"number":{entries + 1},"time":"'.encode()
    if not rest.startswith(start[: len(rest)]):
        raise InputError(
            "is not an audit log: its last line is not an entry; choose another --audit-log", f"{path}:{entries + 1}"
        )
    return _Scanned(entries, head, rows, size, last, torn=True, unfinished_end=False)


def _chained(number: int, prediction: str, row: int, entry: dict[str, Any], previous: str) -> tuple[bytes, str]:
    """A line of the log and its hash."""
    head = {"number": number, "time": entry["time"], "prediction": prediction, "row": row}
    body = json.dumps(head | entry | {"previous": previous}, separators=(",", ":")).encode()
    own_hash = hashlib.sha256(body).hexdigest()
    return body[:-1] + f',"sha256":"{own_hash}"}}\n'.encode(), own_hash


def _intact(line: bytes) -> re.Match[bytes] | None:
    """The parts of a line that is an entry with its own hash."""
    match = _LINE.fullmatch(line)
    return match if match and hashlib.sha256(match[1] + b"}").hexdigest() == match[5].decode() else None


def _lock_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.lock")


def _open_private(path: Path, mode: str) -> BinaryIO:
    """Open a file that is created readable only by its owner."""
    return open(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), mode)


def _write_new_key(path: Path) -> None:
    with _open_private(path, "r+b") as stream:
        stream.write(secrets.token_hex(32).encode() + b"\n")
