"""Checkpoints that are complete or absent, and never loaded if a file is missing or a bit changed.

The Trainer writes into `checkpoints/unfinished/`; [`SealsCheckpoints`] hashes and syncs that, and renames it last.
"""

import contextlib
import json
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate import PartialState
from torch import nn
from transformers import TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME

from radrecipes.environment import peak_memory_gib
from radrecipes.errors import FullDiskError, InputError, NoCheckpointError, RadrecipesError
from radrecipes.files import file_sha256, parse_json, read_text, share_safetensors, sync, sync_tree, text_sha256

FOLDER = "checkpoints"
MANIFEST = "MANIFEST.json"
# Number of valid checkpoints to keep, the newest ones; in addition the best one, with `load_best_model_at_end`.
KEPT = 2
# In addition to weights and optimizer: tokenizer, scheduler, random number generators, the Trainer's state.
_SMALL_FILES_BYTES = 16 * 2**20
# Bytes per trained parameter under FSDP and ZeRO, which keep it and its moments in float32: measured 13 to 21, most in ZeRO-2.
_SHARDED_BYTES = 22


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint after `step` optimizer steps, with the values of the run's identity and of its [`Progress`].

    `best_step` is that of the best checkpoint until then, with `load_best_model_at_end`.
    """

    folder: Path
    step: int
    identity: dict[str, Any]
    progress: dict[str, Any]
    best_step: int | None = None


class Progress:
    """What a run counts over all its attempts, as every checkpoint records it; `last` is the checkpoint that it resumes from."""

    def __init__(self, last: Checkpoint | None = None, changed: Mapping[str, Any] | None = None):
        before = last.progress if last else {}
        self._peak_memory_gib = before.get("peak_memory_gib", 0.0)
        self._seconds_before = before.get("seconds", 0.0)
        self._began: float | None = None
        self.checkpoint_seconds = before.get("checkpoint_seconds", 0.0)
        self.resumes = list(before.get("resumes", []))
        if last:
            self.resumes.append({"step": last.step, "changed": dict(changed or {})})

    @property
    def seconds(self) -> float:
        """Seconds of training; of an earlier attempt only those up to the checkpoint, because what followed it was lost."""
        running = time.monotonic() - self._began if self._began is not None else 0.0
        return round(self._seconds_before + running, 3)

    def begin(self) -> None:
        """Start the clock; the time before was loading."""
        self._began = time.monotonic()

    def so_far(self) -> dict[str, Any]:
        """Everything counted, as a checkpoint and the manifest record it."""
        return {
            "seconds": self.seconds,
            "checkpoint_seconds": round(self.checkpoint_seconds, 3),
            "peak_memory_gib": max(self._peak_memory_gib, peak_memory_gib()),
            "resumes": self.resumes,
        }


@dataclass(frozen=True)
class Resumption:
    """Where a run begins: at the newest valid checkpoint, with the `changed` values that the user allowed.

    `rejected` has one line for each newer checkpoint that is not valid.
    """

    newest: Checkpoint | None = None
    rejected: tuple[str, ...] = ()
    changed: Mapping[str, list[Any]] = field(default_factory=dict)

    @property
    def step(self) -> int:
        """Number of completed optimizer steps."""
        return self.newest.step if self.newest else 0


class InvalidCheckpointError(Exception):
    """A checkpoint is not as it was written; the message names the file and the reason."""


def find_last_valid(run: Path) -> Resumption:
    """The newest checkpoint of a run with all files unchanged; [`NoCheckpointError`] if there are checkpoints but none is valid."""
    rejected = []
    for folder in _newest_first(run):
        try:
            found = verify(folder)
            if found.best_step not in (None, found.step):
                verify_best(run, found.best_step)
            return Resumption(found, tuple(rejected))
        except InvalidCheckpointError as error:
            rejected.append(f"{folder}: {error}")
    if rejected:
        raise NoCheckpointError(
            f"no checkpoint is valid ({'; '.join(rejected)}); restore them, or train from the beginning with --restart"
        )
    return Resumption()


def verify(folder: Path) -> Checkpoint:
    """Read a checkpoint's manifest and compare every file with it; [`InvalidCheckpointError`] if anything is missing or changed."""
    try:
        text = read_text(folder / MANIFEST)
        manifest = parse_json(text, str(folder / MANIFEST))
        del manifest["sha256"]
        files, step = manifest["files"], manifest["step"]
    except FileNotFoundError:
        raise InvalidCheckpointError(f"{MANIFEST} is missing, so it was not finished") from None
    except (OSError, InputError, ValueError, LookupError, AttributeError, TypeError):
        raise InvalidCheckpointError(f"{MANIFEST} cannot be read") from None
    # Compare the text, not only its content: `1E-05` instead of `1e-05` is a change, too.
    if text != _sealed(manifest):
        raise InvalidCheckpointError(f"{MANIFEST} was changed since it was written")
    if folder.name != f"checkpoint-{step}":
        raise InvalidCheckpointError(f"{MANIFEST} is that of checkpoint-{step}")
    for name, expected in files.items():
        try:
            found = file_sha256(folder / name)
        except OSError:
            raise InvalidCheckpointError(f"{name} is missing or cannot be read") from None
        if found != expected:
            raise InvalidCheckpointError(f"{name} was changed or cut since it was written (sha256 {found[:12]})")
    return Checkpoint(folder, step, manifest["identity"], manifest["progress"], manifest.get("best_step"))


def verify_best(run: Path, step: int) -> Path:
    """The folder of a run's best checkpoint, verified; [`InvalidCheckpointError`] if it is not as it was written."""
    folder = folder_of(run, step)
    try:
        return verify(folder).folder
    except InvalidCheckpointError as error:
        raise InvalidCheckpointError(f"the best checkpoint until then is lost: {folder.name}: {error}") from None


def folder_of(run: Path, step: int) -> Path:
    """The folder of the checkpoint after a step."""
    return run / FOLDER / f"checkpoint-{step}"


def seal(
    written: Path, run: Path, identity: Mapping[str, Any], progress: Mapping[str, Any], best_step: int | None = None
) -> Path:
    """Make `checkpoints/checkpoint-<step>` of what the Trainer wrote: hash and sync it, add the manifest, rename last."""
    step = int(written.name.rpartition("-")[2])
    names = sorted(str(path.relative_to(written)) for path in written.rglob("*") if path.is_file())
    manifest = {
        "step": step,
        "identity": dict(identity),
        "progress": dict(progress),
        **({} if best_step is None else {"best_step": best_step}),
        "files": {name: file_sha256(written / name) for name in names},
    }
    manifest = json.loads(json.dumps(manifest, default=str))  # as it will be read, or the digest would differ
    (written / MANIFEST).write_text(_sealed(manifest), encoding="utf-8")
    share_safetensors(written, MANIFEST)
    sync_tree(written)
    target = folder_of(run, step)
    shutil.rmtree(target, ignore_errors=True)  # an invalid one from an earlier attempt
    written.rename(target)
    sync(target.parent)
    return target


def rotate(run: Path, keep: int = KEPT, best_step: int | None = None) -> None:
    """Remove all but the newest valid checkpoints and the best one; an invalid one does not count."""
    kept = 0
    for folder in _newest_first(run):
        if kept < keep and _is_valid(folder):
            kept += 1
        elif best_step is None or folder != folder_of(run, best_step):
            shutil.rmtree(folder, ignore_errors=True)


def required_bytes(model: nn.Module, sharded: bool = False) -> int:
    """Upper bound on a checkpoint's size: trained weights, two Adam moments for each, and small files.

    The model is not sharded yet; `sharded` says whether it will be, under FSDP or ZeRO.
    """
    trained = [param for param in model.parameters() if param.requires_grad]
    weights = (param.numel() * (_SHARDED_BYTES if sharded else 3 * param.element_size()) for param in trained)
    return sum(weights) + _SMALL_FILES_BYTES


@contextlib.contextmanager
def room_for(run: Path, model: nn.Module, sharded: bool = False, keeps_best: bool = False) -> Iterator[None]:
    """Refuse a disk that cannot hold what training will write; within the context, report if it fills up anyway.

    Raises:
        [`InputError`]: too little space for the kept checkpoints, one more while it is written, and the adapter.
        [`FullDiskError`]: replaces any error raised while less is free than a checkpoint needs, because libraries report a full
            disk in many ways; nothing is left half-written.
    """
    size = required_bytes(model, sharded)
    held = sum(path.stat().st_size for path in (run / FOLDER).rglob("*") if path.is_file())
    needed = max((KEPT + keeps_best + 1) * size - held, size) + size // 3
    free = _free_bytes(run)
    if free < needed:
        raise InputError(
            f"{free / 2**20:,.0f} MiB are free, and checkpoints and adapter need {needed / 2**20:,.0f}; make room, or set "
            "--output_dir on another disk",
            str(run),
        )
    try:
        yield
    except Exception as error:
        free = _free_bytes(run)
        if isinstance(error, RadrecipesError) or free >= size:
            raise
        shutil.rmtree(unfinished_folder(run), ignore_errors=True)
        kept = next(iter(_newest_first(run)), None)
        raise FullDiskError(
            f"{run}: the disk is full ({free / 2**20:,.1f} MiB free); {f'{kept.name} is complete; ' if kept else ''}make room and "
            "run the same command again"
        ) from error


def _free_bytes(run: Path) -> int:
    """Free bytes on the run's disk; its folder may not exist yet, because another process makes it."""
    return shutil.disk_usage(next(place for place in (run, *run.absolute().parents) if place.is_dir())).free


class SealsCheckpoints(TrainerCallback):
    """Seals what the Trainer saved to its `output_dir`, [`unfinished_folder`], keeps the newest checkpoints, and times this."""

    def __init__(self, run: Path, identity: Mapping[str, Any], progress: Progress):
        self.run, self.identity, self.progress = run, identity, progress
        self._saving_since = 0.0

    def on_train_begin(self, args, state, control, **kwargs):
        """Find the best checkpoint of an earlier attempt, wherever the run's folder is now."""
        self._follow_best(args, state)

    def on_log(self, args, state, control, **kwargs):
        """Remember when saving began: the Trainer saves right after it logs a step, or an evaluation."""
        self._saving_since = time.monotonic()

    def on_save(self, args, state, control, **kwargs):
        """Seal the checkpoint in the first process, once all have written their part."""
        processes = PartialState()
        processes.wait_for_everyone()
        written = unfinished_folder(self.run) / f"checkpoint-{state.global_step}"
        best_step = self._follow_best(args, state)
        if processes.is_main_process:
            if best_step is not None:
                state.save_to_json(str(written / TRAINER_STATE_NAME))  # with the place where the best one will be
            seal(written, self.run, self.identity, self.progress.so_far(), best_step)
            rotate(self.run, best_step=best_step)
        processes.wait_for_everyone()
        self.progress.checkpoint_seconds += time.monotonic() - self._saving_since

    def _follow_best(self, args, state) -> int | None:
        """The best step, if it is kept; the Trainer takes it for one in `unfinished/`."""
        if not args.load_best_model_at_end or state.best_global_step is None:
            return None
        state.best_model_checkpoint = str(folder_of(self.run, state.best_global_step))
        return state.best_global_step


def unfinished_folder(run: Path) -> Path:
    """Where the Trainer writes: `checkpoints/unfinished` below the run."""
    return run / FOLDER / "unfinished"


def _is_valid(folder: Path) -> bool:
    with contextlib.suppress(InvalidCheckpointError):
        return bool(verify(folder))
    return False


def _newest_first(run: Path) -> list[Path]:
    found = (run / FOLDER).glob("checkpoint-*")
    numbered = [folder for folder in found if folder.is_dir() and folder.name.removeprefix("checkpoint-").isdigit()]
    return sorted(numbered, key=lambda folder: -int(folder.name.removeprefix("checkpoint-")))


def _sealed(manifest: Mapping[str, Any]) -> str:
    """The text of a manifest that includes its own sha256."""
    digest = text_sha256(json.dumps(manifest, sort_keys=True))
    return json.dumps({**manifest, "sha256": digest}, indent=2) + "\n"
