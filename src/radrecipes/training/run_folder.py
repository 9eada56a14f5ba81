"""A run's folder: held by one process, and finished only once `COMPLETE` stands in it."""

import contextlib
import fcntl
import json
import os
import shutil
import socket
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from radrecipes.errors import InputError, NoCheckpointError, OutputInUseError
from radrecipes.launch.spec import Engine, LaunchSpec
from radrecipes.models.weights import Weights, weights_in
from radrecipes.recipe import Recipe, parse_recipe
from radrecipes.training import checkpoints

COMPLETE = "COMPLETE"
TRAIN_LOG = "train_log.jsonl"
# What a resumed run is compared in, and what `--allow-change` takes.
PARTS = ("recipe", "data", "base", "prompt", "processes")
# What these engines write is read by as many processes as wrote it, and by no other engine.
_FIXED_PROCESSES = (Engine.FSDP1, Engine.ZERO2, Engine.ZERO3)
_NOT_COMPARED = ("dataset", "save_strategy", "save_steps", "bf16", "use_cpu")
# All that a run has written when it is killed before its recipe stands in the folder.
_BEFORE_THE_RECIPE = ("LOCK", ".recipe.yaml")


@dataclass(frozen=True)
class Resumption:
    """Where a run begins.

    Args:
        last ([`~checkpoints.Checkpoint`] or `None`):
            The checkpoint to go on from; `None` to begin anew.
        changed (`dict`):
            What differs from the run that wrote it: name to `[before, now]`.
        rejected (`tuple[str, ...]`):
            A line for each newer checkpoint that is not valid.
    """

    last: checkpoints.Checkpoint | None = None
    changed: Mapping[str, list[Any]] = field(default_factory=dict)
    rejected: tuple[str, ...] = ()

    @property
    def step(self) -> int:
        """Optimizer steps that are done."""
        return self.last.step if self.last else 0


def is_complete(folder: Path) -> bool:
    """Whether a run in this folder finished."""
    return (folder / COMPLETE).is_file()


@contextlib.contextmanager
def held(folder: Path) -> Iterator[str | None]:
    """Hold a run's folder while training writes into it. The system frees the lock when the process ends, however it ends.

    Args:
        folder (`Path`):
            The run's folder; made where it is missing.

    Yields:
        `str` or `None`: who held it before and did not end in order, as `process <pid> on <host>`.

    Raises:
        [`OutputInUseError`]: another process holds it.
        [`InputError`]: nothing can be written there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = folder / "LOCK"
    with lock.open("a+", encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever held it before may have removed the file after it was opened here: that lock would be no lock.
            held_file = os.fstat(stream.fileno()).st_ino == lock.stat().st_ino
        except OSError:
            held_file = False
        stream.seek(0)
        holder = stream.read().strip()
        if not held_file:
            raise OutputInUseError(
                f"{folder}: another run holds this folder ({holder or 'unknown'}); wait, or set --output_dir"
            )
        try:
            _name_holder(stream.fileno(), folder)
            yield holder or None
        finally:
            lock.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                folder.rmdir()  # only where nothing was written into it


def _name_holder(lock: int, folder: Path) -> None:
    """Write into the lock who holds it; the first write, so it is here that a full disk shows."""
    try:
        os.ftruncate(lock, 0)
        os.write(lock, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
    except OSError as error:
        raise InputError(
            f"cannot be written to ({error.strerror}); make room, or set --output_dir", str(folder)
        ) from error


def held_by_main(folder: Path, is_main_process: bool) -> contextlib.AbstractContextManager[str | None]:
    """[`held`] in the first process, nothing in the others."""
    return held(folder) if is_main_process else contextlib.nullcontext()


def check_can_hold(recipe: Recipe, restart: bool, allowed: Collection[str] = ()) -> None:
    """Refuse a folder that holds something else than an earlier try of this recipe.

    Args:
        recipe ([`Recipe`]):
            The recipe about to be trained.
        restart (`bool`):
            Whether the user gave `--restart`.
        allowed (`Collection[str]`, *optional*):
            Parts that may differ from an unfinished try, of [`PARTS`].

    Raises:
        [`InputError`]: the folder holds files that are no run (also with `restart`: they would be deleted), or a run of another
            recipe.
    """
    folder = recipe.output_dir
    if folder.exists() and not folder.is_dir():
        raise InputError("the output folder is a file; set another --output_dir", str(folder))
    if not folder.is_dir() or not any(entry.name not in _BEFORE_THE_RECIPE for entry in folder.iterdir()):
        return
    if not (folder / "recipe.yaml").is_file():
        raise InputError("the output folder holds files that are no run; set another --output_dir", str(folder))
    if restart:
        return
    changed = differences(_fields(parse_recipe(folder / "recipe.yaml")), _fields(recipe))
    check_allowed(changed, () if is_complete(folder) else allowed, folder)


def run_identity(
    recipe: Recipe, data_digest: str, weights_sha256: str | None, prompt_sha256: str, launch: LaunchSpec
) -> dict[str, Any]:
    """What must stay the same when a run is resumed, each by a name that begins with one of [`PARTS`], and the engine.

    Args:
        recipe ([`Recipe`]):
            Its decisive fields.
        data_digest (`str`):
            sha256 of the prepared dataset.
        weights_sha256 (`str` or `None`):
            Of the base's weights.
        prompt_sha256 (`str`):
            Of the prompt's template.
        launch ([`~launch.spec.LaunchSpec`]):
            World size and engine. DDP and one process write the same checkpoints.
    """
    return {
        **_fields(recipe),
        "data.digest": data_digest,
        "base.weights_sha256": weights_sha256,
        "prompt.sha256": prompt_sha256,
        "processes": launch.processes,
        "engine": Engine.DDP if launch.engine == Engine.ONE_PROCESS else launch.engine,
    }


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, list[Any]]:
    """What differs between two identities: name to `[before, now]`, `None` where it is missing."""
    names = dict.fromkeys([*before, *now])
    return {name: [before.get(name), now.get(name)] for name in names if before.get(name) != now.get(name)}


def check_finished(folder: Path, identity: Mapping[str, Any]) -> None:
    """Refuse to take a finished run for that of other data, another base or another prompt; it belongs to any world size.

    Args:
        folder (`Path`):
            The run's folder, whose recipe was compared by [`check_can_hold`].
        identity (`Mapping`):
            From [`run_identity`].

    Raises:
        [`InputError`]: names what differs.
    """
    manifest = read_manifest(folder)
    finished = {
        "data.digest": manifest["data"]["digest"],
        "base.weights_sha256": manifest["base"]["weights_sha256"],
        "prompt.sha256": manifest["prompt"]["sha256"],
    }
    # A base that is not on this machine any more cannot be compared, and a finished run does not need it.
    known = {name: value for name, value in finished.items() if identity[name] is not None}
    check_allowed(differences(known, {name: identity[name] for name in known}), (), folder)


def find_resumption(folder: Path, identity: Mapping[str, Any], allowed: Collection[str]) -> Resumption:
    """Where an earlier try of a run got to.

    Args:
        folder (`Path`):
            The run's folder.
        identity (`Mapping`):
            From [`run_identity`].
        allowed (`Collection[str]`):
            Parts that may differ, of [`PARTS`].

    Returns:
        [`Resumption`]

    Raises:
        [`NoCheckpointError`]: there are checkpoints, and none is valid; or the log lacks steps before it.
        [`InputError`]: the checkpoint is that of another run, and this was not allowed.
    """
    found = checkpoints.find_last_valid(folder)
    if not found.newest:
        return Resumption(None, {}, found.rejected)
    changed = differences({"engine": Engine.DDP, **found.newest.identity}, identity)
    changeable = [part for part in PARTS if part != "processes" or identity["engine"] not in _FIXED_PROCESSES]
    check_allowed(changed, allowed, folder, changeable)
    _check_log(folder, found.newest.step)
    return Resumption(found.newest, changed, found.rejected)


def _check_log(folder: Path, steps: int) -> None:
    """Refuse a log that does not hold the first `steps` steps, each once; what stands behind them will be cut off."""
    try:
        lines = (folder / TRAIN_LOG).read_text(encoding="utf-8").splitlines()
        logged = [json.loads(line)["step"] for line in lines[:steps]]
    except (OSError, ValueError, LookupError, TypeError):
        logged = []
    if logged != list(range(1, steps + 1)):
        raise NoCheckpointError(
            f"{folder / TRAIN_LOG} does not hold each of the {steps} steps before the last checkpoint; restore it, or train from "
            "the beginning with --restart"
        )


def check_allowed(
    changed: Mapping[str, list[Any]], allowed: Collection[str], folder: Path, changeable: Collection[str] = PARTS
) -> None:
    """Refuse differences that the user did not allow.

    Args:
        changed (`Mapping[str, list]`):
            From [`differences`].
        allowed (`Collection[str]`):
            Of [`PARTS`].
        folder (`Path`):
            The run's folder, for the error.
        changeable (`Collection[str]`, *optional*, defaults to [`PARTS`]):
            What can be allowed at all.

    Raises:
        [`InputError`]: names each difference, before and now.
    """
    parts = {name: name.partition(".")[0] for name in changed}
    refused = {
        name: values for name, values in changed.items() if parts[name] not in allowed or parts[name] not in changeable
    }
    if not refused:
        return
    named = "; ".join(
        f"{name.removeprefix('recipe.')}: {_short(old)} there, {_short(new)} here"
        for name, (old, new) in refused.items()
    )
    to_allow = " ".join(part for part in PARTS if any(parts[name] == part for name in refused))
    final = is_complete(folder) or any(parts[name] not in changeable for name in refused)
    end = "" if final else f", or go on from its checkpoint with --allow-change {to_allow}"
    raise InputError(
        f"the output folder holds a run of another kind ({named}); set --output_dir, replace it with --restart{end}",
        str(folder),
    )


def start(folder: Path, recipe: Recipe, resume_step: int = 0) -> None:
    """Empty the folder of an earlier try and write the resolved recipe.

    Args:
        folder (`Path`):
            The run's folder.
        recipe ([`Recipe`]):
            The recipe about to be trained.
        resume_step (`int`, *optional*, defaults to 0):
            Step of the checkpoint to go on from: checkpoints stay, and the log up to that step; with 0 nothing does.
    """
    (folder / COMPLETE).unlink(missing_ok=True)  # first: a folder emptied by half must not look finished, nor foreign
    _write_whole(folder / "recipe.yaml", recipe.to_yaml())
    kept = {"LOCK", "recipe.yaml", *((checkpoints.FOLDER, TRAIN_LOG) if resume_step else ())}
    for entry in folder.iterdir():
        if entry.name not in kept:
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    shutil.rmtree(checkpoints.unfinished_folder(folder), ignore_errors=True)
    if resume_step:
        logged = (folder / TRAIN_LOG).read_text(encoding="utf-8").splitlines(keepends=True)
        _write_whole(folder / TRAIN_LOG, "".join(logged[:resume_step]))


def finish(folder: Path, manifest: dict[str, Any], adapter: Path) -> None:
    """Write the manifest, put the adapter in its place, then write `COMPLETE`; checkpoints are no longer needed.

    Args:
        folder (`Path`):
            The run's folder.
        manifest (`dict`):
            Content of `manifest.json`.
        adapter (`Path`):
            The folder of the saved adapter, on the same disk.
    """
    _write_whole(folder / "manifest.json", json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
    adapter.rename(folder / "adapter")
    checkpoints.sync_tree(folder)
    (folder / COMPLETE).touch()
    checkpoints.sync_tree(folder)
    checkpoints.remove_all(folder)


def remove_leftovers(folder: Path) -> None:
    """Remove what a run leaves behind that is killed when it is complete: its checkpoints and its lock.

    Args:
        folder (`Path`):
            The folder of a complete run.
    """
    if (folder / "LOCK").exists() or (folder / checkpoints.FOLDER).exists():
        with contextlib.suppress(OutputInUseError), held(folder):  # where it is held, its holder removes them now
            checkpoints.remove_all(folder)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a finished run, or of a release of one.

    Raises:
        [`InputError`]: neither is there.
    """
    if not is_complete(folder) and not is_release(folder):
        raise InputError("no finished run here (COMPLETE is missing); train first with scripts/sft.py", str(folder))
    return json.loads((folder / "manifest.json").read_text(encoding="utf-8"))


def is_release(folder: Path) -> bool:
    """Whether this is a published run as it was pulled: recipe, manifest and adapter side by side."""
    return all((folder / name).is_file() for name in ("adapter_config.json", "recipe.yaml", "manifest.json"))


def adapter_folder(folder: Path) -> Path:
    """Where the adapter of a run lies: in a folder of its own, in a release beside the rest."""
    return folder if is_release(folder) else folder / "adapter"


def weights_of(folder: Path) -> Weights:
    """The weights that a finished run trained, or a release holds."""
    return weights_in(adapter_folder(folder))


def read_train_log(folder: Path) -> list[dict[str, Any]]:
    """The logged steps of a run, in order; none for a release, which does not hold them."""
    path = folder / TRAIN_LOG
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines]


def _fields(recipe: Recipe) -> dict[str, Any]:
    # With defaults, so that one that is overridden shows what it was. The data are compared by its digest: where it lies
    # decides nothing; and what follows from the machine is no part of the recipe.
    return {f"recipe.{key}": value for key, value in recipe.resolved.items() if key not in _NOT_COMPARED}


def _write_whole(path: Path, text: str) -> None:
    """Write a text file so that a kill or a full disk leaves the old one or the new one."""
    unfinished = path.with_name(f".{path.name}")
    try:
        unfinished.write_text(text, encoding="utf-8")
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise
    unfinished.rename(path)


def _short(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:12]}…"
