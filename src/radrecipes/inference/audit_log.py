"""A log of predictions in which no entry can be changed, removed, added or moved without a trace, and which holds no text.

One JSON object a line, one line a predicted row:

- `number` of the line; `time` of the prediction (UTC);
- `prediction`, an id of the command's work, and `row`, the row's place in its output, from 1; `id` of the row;
- `input_hmac_sha256` of the text as the model read it (what `--keep-text` writes), `output_hmac_sha256` of the answer given out;
- what was decided: those of `DECISIONS` that the output has;
- `adapter_sha256` and `prompt_sha256`;
- `previous`, the `sha256` of the line before (64 zeros in the first);
- `sha256` of this line's bytes without this last member and without the line's end.

**Texts** stand as HMAC-SHA256 (RFC 2104), not as plain SHA-256: an order is so short that whoever has its hash finds it by trying.
The key lies beside the log (`<log>.key`). Who has both can prove that a text is the one that was read; who has the log alone cannot
guess it and sees only which texts are equal. **Labels** stand in clear: they are decisions, from a closed list that holds no word
of a note, and so are the verdicts on a report. What was written freely, an answer or a report, stands as a digest only. Ids are the
input's own: the log is as confidential as they are.

**The chain** is of plain hashes, so that anybody can verify it without the key. It shows what was changed within. That the last
lines were cut off, or all rewritten from some line on, shows only against a head (the `sha256` of a last line) kept elsewhere.
"""

import contextlib
import fcntl
import hashlib
import hmac
import json
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from radrecipes.data.example import Example
from radrecipes.errors import InputError, RadrecipesError

if TYPE_CHECKING:  # a verification needs no model, and not to wait for torch
    import pyarrow as pa

    from radrecipes.inference.predictors import Predictor

# Columns of an output that may stand in the log: decisions, from closed lists of words, and numbers.
DECISIONS = ("label", "probability", "decision", "reason", "written_by", "check")
# Where an output's answer stands: the first of these columns that it has.
_ANSWER_COLUMNS = ("report", "answer", "label")
# Head of a log without entries.
NO_ENTRY = "0" * 64
_LINE = re.compile(
    rb'(\{"number":(\d+),"time":"([^"]*)",.*"previous":"([0-9a-f]{64})"),"sha256":"([0-9a-f]{64})"\}\n', re.DOTALL
)


class BrokenLogError(RadrecipesError):
    """A log was changed after it was written.

    Args:
        path (`Path`):
            The log.
        line (`int`):
            The first line that does not continue the chain, from 1.
        message (`str`):
            What is wrong there.
    """

    def __init__(self, path: Path, line: int, message: str):
        super().__init__(f"{path}:{line}: {message}")
        self.line = line


@dataclass(frozen=True)
class Appended:
    """What a log holds after an append.

    Args:
        path (`Path`):
            The log.
        rows (`int`):
            Entries of this prediction, also those that an earlier, killed try had appended.
        head (`str`):
            `sha256` of the last entry.
        torn (`bool`):
            A killed writer had left half a line behind, which was cut off.
    """

    path: Path
    rows: int
    head: str
    torn: bool

    def as_text(self) -> str:
        """One line for a terminal."""
        mended = "; half a line that a killed writer had left was cut off" if self.torn else ""
        return f"audit log {self.path}: {self.rows:,} entries of this prediction, head {self.head}{mended}"


@dataclass(frozen=True)
class Verified:
    """A log whose chain is whole.

    Args:
        entries (`int`):
            How many it has.
        first (`str` or `None`):
            Time of the first; `None` where there is none.
        last (`str` or `None`):
            Time of the last.
        head (`str`):
            `sha256` of the last; 64 zeros where there is none.
        since_known_head (`int` or `None`):
            Entries behind the one whose `sha256` was known; `None` where none was given.
    """

    entries: int
    first: str | None
    last: str | None
    head: str
    since_known_head: int | None


class AuditLog:
    """A log to append to. Several processes may share it.

    Args:
        path (`str` or `Path`):
            The log; made where it is missing, together with its key, both readable by their owner alone.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.key_path = self.path.with_name(self.path.name + ".key")

    def check_usable(self, others: Iterable[str | Path] = ()) -> None:
        """Refuse a log that could not be appended to. Writes nothing.

        Args:
            others (`Iterable[str | Path]`, *optional*):
                Files that the log must not be: what is read and what is written.

        Raises:
            [`InputError`]: its folder is missing, it is no log or ends in a broken entry, cannot be written, or its key is gone.
        """
        for other in others:
            if Path(other).resolve() in (self.path.resolve(), self.key_path.resolve()):
                raise InputError("is read or written already; give the audit log a file of its own", str(other))
        if not self.path.parent.is_dir():
            raise InputError("the folder of the audit log does not exist; make it first", str(self.path))
        if not self.path.exists():
            if self.key_path.exists():
                self._read_key()
            return
        if not self.path.is_file() or not os.access(self.path, os.R_OK | os.W_OK):
            raise InputError("is no file that can be read and written; name another --audit-log", str(self.path))
        with _locked(self.path, os.O_RDONLY, fcntl.LOCK_SH) as stream:
            entries = _scan(stream, self.path).entries
        if entries or self.key_path.exists():
            self._read_key()

    def entries(
        self, examples: Sequence[Example], answers: "pa.Table", predictor: "Predictor"
    ) -> list[dict[str, Any]]:
        """What [`append`] takes, for rows that were just predicted.

        Args:
            examples (`Sequence[Example]`):
                The rows, with the task's inputs as they were read.
            answers (`pa.Table`):
                Their rows of the output, in the same order.
            predictor ([`~predictors.predictor.Predictor`]):
                What answered: digests of its adapter and of its prompt template stand in every entry.

        Returns:
            `list[dict[str, Any]]`: one a row; plain values, no text.

        Raises:
            [`InputError`]: the log's key is gone or broken.
        """
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
        """Append the entries of one prediction, in one piece; those that an earlier, killed try had appended are passed over.

        Nothing that is a whole entry is ever removed. When this returns, the entries are on the disk.

        Args:
            entries (`Iterable[dict[str, Any]]`):
                All of the prediction, in the order of its output, the same in every try but for the time.
            prediction (`str`):
                Id of the prediction, in letters and digits; unique.

        Returns:
            [`Appended`]

        Raises:
            [`InputError`]: as [`check_usable`].
        """
        with _locked(self.path, os.O_RDWR | os.O_CREAT, fcntl.LOCK_EX) as stream:
            found = _scan(stream, self.path, prediction)
            stream.seek(found.size)
            if found.unfinished_end:
                stream.write(b"\n")
            elif found.torn:
                stream.truncate()
            number, head, row = found.entries, found.head, 0
            for row, entry in enumerate(entries, start=1):
                if row > found.rows:
                    number += 1
                    line, head = _chained(number, prediction, row, entry, head)
                    stream.write(line)
            stream.flush()
            os.fsync(stream.fileno())
        return Appended(self.path, row, head, found.torn)

    def _key(self) -> bytes:
        """The key; made at the first use, which is before the first entry."""
        if not self.key_path.exists() and not (self.path.exists() and self.path.stat().st_size):
            beside = self.key_path.with_name(f"{self.key_path.name}.{secrets.token_hex(8)}")
            with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
                file.write(secrets.token_hex(32) + "\n")
                file.flush()
                os.fsync(file.fileno())
            with contextlib.suppress(FileExistsError):  # of several processes the first one's key counts
                os.link(beside, self.key_path)
            beside.unlink()
        return self._read_key()

    def _read_key(self) -> bytes:
        try:
            text = self.key_path.read_text("ascii").strip()
        except FileNotFoundError as error:
            raise InputError(
                "the key of the audit log is gone; restore it, or begin another --audit-log", str(self.key_path)
            ) from error
        except (OSError, ValueError):
            text = ""
        if not re.fullmatch("[0-9a-f]{64}", text):
            raise InputError(
                "is no key of an audit log (64 hexadecimal digits) that can be read; restore it, or begin another --audit-log",
                str(self.key_path),
            )
        return bytes.fromhex(text)


def text_digest(key: bytes, text: str) -> str:
    """HMAC-SHA256 of a text in UTF-8, in hexadecimal digits."""
    return hmac.digest(key, text.encode(), "sha256").hex()


def verify(path: str | Path, head: str | None = None) -> Verified:
    """Recompute a log's chain; needs no key.

    Args:
        path (`str` or `Path`):
            The log.
        head (`str`, *optional*):
            A head that the log once had. It must still be in it, so that nothing up to there was cut off or rewritten.

    Returns:
        [`Verified`]

    Raises:
        [`BrokenLogError`]: with the first line at which the chain breaks.
        [`InputError`]: the file cannot be read, or `head` is no sha256.
    """
    path = Path(path)
    if head is not None and not re.fullmatch("[0-9a-f]{64}", head):
        raise InputError("must be the 64 hexadecimal digits of a head that was printed earlier", "--head")
    if not path.is_file():
        raise InputError("no such file; name the file that was given to --audit-log", str(path))
    number, last_hash, first, last = 0, NO_ENTRY, None, None
    known_at = 0 if head == NO_ENTRY else None
    with _locked(path, os.O_RDONLY, fcntl.LOCK_SH) as stream:
        for number, line in enumerate(stream, start=1):
            match = _LINE.fullmatch(line)
            if not line.endswith(b"\n"):
                raise BrokenLogError(
                    path, number, "the last line is torn: a writer was killed (the next one mends it), or it was cut"
                )
            if match is None or _own_hash(match) != match[5].decode():
                raise BrokenLogError(path, number, "does not fit its own sha256: the line was edited or inserted")
            if match[4].decode() != last_hash or int(match[2]) != number:
                raise BrokenLogError(
                    path,
                    number,
                    "does not follow the line before: lines were removed, inserted or moved here, or the one before rewritten",
                )
            last_hash, last = match[5].decode(), match[3].decode()
            first = first or last
            if last_hash == head:
                known_at = number
    if head is not None and known_at is None:
        raise BrokenLogError(
            path, number + 1, "no line has the known head: the end was cut off, or the log rewritten as a whole"
        )
    return Verified(number, first, last, last_hash, None if known_at is None else number - known_at)


@dataclass(frozen=True)
class _Scanned:
    """A log before an append: its whole entries, bytes up to their end, and what stands behind."""

    entries: int
    head: str
    rows: int  # entries of the prediction asked for
    size: int
    torn: bool  # half an entry stands behind
    unfinished_end: bool  # the last entry is whole but for its line's end


def _scan(stream: BinaryIO, path: Path, prediction: str | None = None) -> _Scanned:
    # The end of a line; its number and hash are taken on trust but in the last: `verify` is there for the rest.
    mark = None if prediction is None else f',"prediction":"{prediction}",'.encode()
    entries = rows = size = 0
    last = rest = b""
    stream.seek(0)
    for line in stream:
        if not line.endswith(b"\n"):
            rest = line
            break
        last = line
        entries += 1
        size += len(line)
        rows += mark is not None and mark in line
    head = NO_ENTRY
    if last:
        match = _LINE.fullmatch(last)
        if match is None or _own_hash(match) != match[5].decode() or int(match[2]) != entries:
            raise InputError(
                "is no audit log, or was changed: its last entry is broken; see `scripts/audit_log.py verify`, and go on "
                "in another --audit-log",
                f"{path}:{entries}",
            )
        head = match[5].decode()
    if not rest:
        return _Scanned(entries, head, rows, size, torn=False, unfinished_end=False)
    match = _LINE.fullmatch(rest + b"\n")
    if match and match[4].decode() == head and _own_hash(match) == match[5].decode():
        rows += mark is not None and mark in rest
        return _Scanned(entries + 1, match[5].decode(), rows, size + len(rest), torn=False, unfinished_end=True)
    # Whoever names a letter of theirs by mistake does not lose its last line.
    beginning = f'{{"number":{entries + 1},"time":"'.encode()
    if not rest.startswith(beginning[: len(rest)]):
        raise InputError(
            "is no audit log: its last line is no entry; name another --audit-log", f"{path}:{entries + 1}"
        )
    return _Scanned(entries, head, rows, size, torn=True, unfinished_end=False)


def _chained(number: int, prediction: str, row: int, entry: dict[str, Any], previous: str) -> tuple[bytes, str]:
    """A line of the log and its hash."""
    head = {"number": number, "time": entry["time"], "prediction": prediction, "row": row}
    body = json.dumps(head | entry | {"previous": previous}, separators=(",", ":")).encode()
    own_hash = hashlib.sha256(body).hexdigest()
    return body[:-1] + f',"sha256":"{own_hash}"}}\n'.encode(), own_hash


def _own_hash(match: re.Match[bytes]) -> str:
    return hashlib.sha256(match[1] + b"}").hexdigest()


@contextlib.contextmanager
def _locked(path: Path, flags: int, lock: int) -> Iterator[BinaryIO]:
    """Waits for others; the system frees the lock when the process ends, however it ends."""
    with open(os.open(path, flags, 0o600), "rb" if flags == os.O_RDONLY else "r+b") as stream:
        fcntl.flock(stream, lock)
        yield stream
