"""The folder next to an output that contains its finished chunks, so that a killed prediction can be resumed."""

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

from radrecipes import owned_folder
from radrecipes.data.sources.tables import RejectedRow
from radrecipes.errors import InputError, OutputInUseError
from radrecipes.files import check_writable, read_json_object, read_text, sync_tree, write_atomically
from radrecipes.training.run_folder import locked

_STATE = "state.json"
_ID = "id"
_ASSEMBLED = "ASSEMBLED"
_LOCK = "LOCK"


class UnfinishedPrediction:
    """Finished chunks of one output, one file each, written atomically: a killed process loses only its current chunk.

    `<output>.unfinished/` contains `state.json` (what is predicted with what), `id`, `<number>.parquet` per finished chunk (with
    `<number>.jsonl`, its entries for the audit log, and `<number>.refused.json`, its rows without an answer), and at the end
    the assembled files, which are renamed to their targets before the folder is removed.
    """

    def __init__(self, output: Path):
        self.output = output
        self.rejects = output.with_name(f"{output.stem}.rejects.csv")
        self.folder = output.with_name(output.name + ".unfinished")

    def check_output(self) -> None:
        """Refuse an existing output, rejects file or other content; remove what a process left that was killed at the very end."""
        check_writable(self.folder)  # its name is the longest
        if os.path.lexists(self.output):
            if (self.folder / _ASSEMBLED).is_file() and not self.assembling(self.output).exists():
                owned_folder.remove(self.folder, "prediction")
            raise InputError("the output exists already; choose another name or remove it", str(self.output))
        if not self.output.parent.is_dir():
            raise InputError("the folder of the output does not exist; create it first", str(self.output))
        owned_folder.check_replaceable(self.folder, "prediction")
        self._check_rejects()

    def check_state(self, state: Mapping[str, Any]) -> None:
        """Raise an [`InputError`] if the folder contains another prediction; the keys of `state` appear in its message."""
        path = self.folder / _STATE
        if not path.is_file():
            return
        try:
            found = read_json_object(path)
            different = [name for name in state if found.get(name) != state[name]]
        except InputError:
            different = ["everything: state.json is broken"]
        if different:
            raise InputError(
                f"unfinished work of another prediction (another {', another '.join(different)}); repeat the command that started "
                "it, discard it with --restart, or choose another --output",
                str(self.folder),
            )

    @contextlib.contextmanager
    def begun(self, state: Mapping[str, Any], restart: bool) -> Iterator[None]:
        """Lock the folder, or raise an [`OutputInUseError`]; start or resume the work, or discard it first with `restart`."""
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(locked(self.folder))
            except OutputInUseError as error:
                raise OutputInUseError(
                    f"{self.output}: another process is writing it; wait, or set --output"
                ) from error
            owned_folder.mark(self.folder, "prediction")
            if restart:
                owned_folder.replace_contents(self.folder, "prediction", keep=(_LOCK,))
            if not (self.folder / _STATE).is_file():
                write_atomically(self.folder / _STATE, json.dumps(dict(state), indent=2))
            if not (self.folder / _ID).is_file():
                write_atomically(self.folder / _ID, uuid4().hex)
            yield

    @property
    def id(self) -> str:
        """Id of the work: the same in every attempt until it is finished or discarded."""
        return read_text(self.folder / _ID, 1024)

    def has(self, chunk: int) -> bool:
        """Whether a chunk is finished."""
        return self.part(chunk).is_file()

    def part(self, chunk: int) -> Path:
        """The file of a chunk."""
        return self.folder / f"{chunk:09d}.parquet"

    def save(
        self,
        chunk: int,
        table: pa.Table,
        audited: Sequence[Mapping[str, Any]] | None = None,
        refused: Sequence[RejectedRow] = (),
    ) -> None:
        """Write a finished chunk, after its entries for the audit log (if there is one) and the rows without an answer."""
        if audited is not None:
            write_atomically(self._audited(chunk), "".join(json.dumps(entry) + "\n" for entry in audited))
        if refused:
            rows = [[row.where, row.reason] for row in refused]
            write_atomically(self._refused(chunk), json.dumps(rows))
        write_atomically(self.part(chunk), lambda path: pq.write_table(table, path))

    def audited(self, chunks: int) -> Iterator[dict[str, Any]]:
        """The saved entries for the audit log, over all chunks in order."""
        for chunk in range(chunks):
            with self._audited(chunk).open(encoding="utf-8") as stream:
                yield from map(json.loads, stream)

    def refused(self, chunks: int) -> Iterator[RejectedRow]:
        """The saved rows without an answer, over all chunks in order."""
        for chunk in range(chunks):
            if self._refused(chunk).is_file():
                for row in json.loads(self._refused(chunk).read_text(encoding="utf-8")):
                    yield RejectedRow(*row)

    def assembling(self, target: Path) -> Path:
        """The file that will be renamed to `target`."""
        return self.folder / f"assembled-{target.name}"

    def finish(self, targets: Sequence[Path]) -> None:
        """Rename the assembled files to their targets, in order, and remove the folder."""
        if self.rejects in targets:
            self._check_rejects()
        sync_tree(self.folder)
        (self.folder / _ASSEMBLED).touch()
        for target in targets:
            self.assembling(target).replace(target)
        shutil.rmtree(self.folder)

    def _check_rejects(self) -> None:
        """Refuse a rejects file that is not this prediction's own, such as that of an output with another ending."""
        if os.path.lexists(self.rejects) and not (self.folder / _ASSEMBLED).is_file():
            raise InputError(
                "the file for rejected rows exists already; choose another --output or remove it", str(self.rejects)
            )

    def _audited(self, chunk: int) -> Path:
        return self.part(chunk).with_suffix(".jsonl")

    def _refused(self, chunk: int) -> Path:
        return self.part(chunk).with_suffix(".refused.json")
