"""The folder beside an output in which its finished chunks wait, so that a killed prediction can be continued."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq

from radrecipes.errors import InputError, OutputInUseError
from radrecipes.training.run_folder import held

_STATE = "state.json"
_ID = "id"
_ASSEMBLED = "ASSEMBLED"
_LOCK = "LOCK"


class UnfinishedPrediction:
    """Finished chunks of one output, one file each, written beside and renamed: killing a process costs its current chunk.

    `<output>.unfinished/` holds `state.json` (what is predicted with what), `id`, `<number>.parquet` per finished chunk (and
    `<number>.jsonl`, its entries for the audit log), and at the end the assembled files, which are renamed to their places before
    the folder goes.

    Args:
        output (`Path`):
            The output file.
    """

    def __init__(self, output: Path):
        self.output = output
        self.rejects = output.with_name(f"{output.stem}.rejects.csv")
        self.folder = output.with_name(output.name + ".unfinished")

    def check_output(self) -> None:
        """Refuse an output that is there; remove what a process left that was killed after its last rename.

        Raises:
            [`InputError`]: the output exists, or a rejects file without unfinished work that it could belong to, or something
                else has the folder's name.
        """
        if self.output.exists():
            if (self.folder / _ASSEMBLED).is_file() and not self.assembling(self.output).exists():
                shutil.rmtree(self.folder, ignore_errors=True)
            raise InputError("the output exists already; choose another name or remove it", str(self.output))
        if not self.output.parent.is_dir():
            raise InputError("the folder of the output does not exist; make it first", str(self.output))
        if self.folder.exists() and not self.folder.is_dir():
            raise InputError(
                "is a file, and the unfinished work needs a folder of this name; remove it", str(self.folder)
            )
        started = (self.folder / _STATE).is_file()
        if self.folder.is_dir() and not started and set(os.listdir(self.folder)) - {_LOCK, f"{_STATE}.partial"}:
            raise InputError(
                "holds files that are no unfinished prediction; choose another --output, or remove the folder",
                str(self.folder),
            )
        if self.rejects.exists() and not started:
            raise InputError(
                "the file for rejected rows exists already; choose another --output or remove it", str(self.rejects)
            )

    def check_state(self, state: Mapping[str, Any]) -> None:
        """Refuse to continue another prediction.

        Args:
            state (`Mapping[str, Any]`):
                What is predicted with what, by names for the user; plain values.

        Raises:
            [`InputError`]: the folder's state differs; names what, and the mend.
        """
        path = self.folder / _STATE
        if not path.is_file():
            return
        try:
            found = json.loads(path.read_text("utf-8"))
            different = [name for name in state if found.get(name) != state[name]]
        except (ValueError, AttributeError):
            different = ["everything: state.json is broken"]
        if different:
            raise InputError(
                f"unfinished work of another prediction (another {', another '.join(different)}); repeat the command that began "
                "it, throw it away with --restart, or choose another --output",
                str(self.folder),
            )

    @contextlib.contextmanager
    def begun(self, state: Mapping[str, Any], restart: bool) -> Iterator[None]:
        """Hold the folder in the first of the processes; begin or continue the work.

        Args:
            state (`Mapping[str, Any]`):
                As for `check_state`, which came before unless `restart`.
            restart (`bool`):
                Throw away what is there.

        Raises:
            [`OutputInUseError`]: another process works on this output.
        """
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(held(self.folder))
            except OutputInUseError as error:
                raise OutputInUseError(
                    f"{self.output}: another process is writing it; wait, or set --output"
                ) from error
            if restart:
                self._empty()
            if not (self.folder / _STATE).is_file():
                self._write(_STATE, lambda path: path.write_text(json.dumps(dict(state), indent=2), "utf-8"))
            if not (self.folder / _ID).is_file():
                self._write(_ID, lambda path: path.write_text(uuid4().hex, "ascii"))
            yield

    @property
    def id(self) -> str:
        """Id of the work that has begun: the same in every try until it is finished or thrown away."""
        return (self.folder / _ID).read_text("ascii")

    def has(self, chunk: int) -> bool:
        """Whether a chunk is finished."""
        return self.part(chunk).is_file()

    def part(self, chunk: int) -> Path:
        """The file of a chunk."""
        return self.folder / f"{chunk:09d}.parquet"

    def save(self, chunk: int, table: pa.Table, audited: Sequence[Mapping[str, Any]] = ()) -> None:
        """Write a finished chunk, and before it what the audit log shall hold of it."""
        if audited:
            lines = "".join(json.dumps(entry) + "\n" for entry in audited)
            self._write(self._audited(chunk).name, lambda path: path.write_text(lines, "utf-8"))
        self._write(self.part(chunk).name, lambda path: pq.write_table(table, path))

    def audited(self, chunks: int) -> Iterator[dict[str, Any]]:
        """What was saved for the audit log, over all chunks in order."""
        for chunk in range(chunks):
            with self._audited(chunk).open(encoding="utf-8") as stream:
                yield from map(json.loads, stream)

    def assembling(self, target: Path) -> Path:
        """Where a file is assembled that will be renamed to `target`."""
        return self.folder / f"assembled-{target.name}"

    def finish(self, targets: Sequence[Path]) -> None:
        """Rename the assembled files to their places, the last one last, and remove the folder."""
        for target in targets:
            _to_disk(self.assembling(target))
        (self.folder / _ASSEMBLED).touch()
        for target in targets:
            self.assembling(target).replace(target)
        shutil.rmtree(self.folder)

    def _audited(self, chunk: int) -> Path:
        return self.part(chunk).with_suffix(".jsonl")

    def _empty(self) -> None:
        # The state goes last: a folder emptied by half must still be known as what it is.
        for path in sorted(self.folder.iterdir(), key=lambda path: path.name == _STATE):
            if path.name != _LOCK:
                path.unlink()

    def _write(self, name: str, write: Any) -> None:
        beside = self.folder / f"{name}.partial"
        write(beside)
        _to_disk(beside)
        beside.replace(self.folder / name)


def _to_disk(path: Path) -> None:
    """Before a rename, so that after a power cut the name does not stand before an empty file."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
