"""A run's folder: held by one process, and finished only once `COMPLETE` stands in it."""

import contextlib
import fcntl
import json
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from radrecipes.errors import InputError, OutputInUseError
from radrecipes.recipe import Recipe, parse_recipe

COMPLETE = "COMPLETE"


def is_complete(folder: Path) -> bool:
    """Whether a run in this folder finished."""
    return (folder / COMPLETE).is_file()


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a run's folder while training writes into it. The system frees the lock when the process ends, however it ends.

    Args:
        folder (`Path`):
            The run's folder; made where it is missing.

    Raises:
        [`OutputInUseError`]: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = folder / "LOCK"
    with lock.open("a+", encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            stream.seek(0)
            raise OutputInUseError(
                f"{folder}: another run holds this folder ({stream.read().strip() or 'unknown'}); wait, or set --output_dir"
            ) from error
        stream.truncate(0)
        stream.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        stream.flush()
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                folder.rmdir()  # only where nothing was written into it


def held_by_main(folder: Path, is_main_process: bool) -> contextlib.AbstractContextManager[None]:
    """[`held`] in the first process, nothing in the others."""
    return held(folder) if is_main_process else contextlib.nullcontext()


def check_can_hold(recipe: Recipe, restart: bool) -> None:
    """Refuse a folder that holds something else than an earlier try of this recipe.

    Args:
        recipe ([`Recipe`]):
            The recipe about to be trained.
        restart (`bool`):
            Whether the user gave `--restart`.

    Raises:
        [`InputError`]: the folder holds files that are no run (also with `restart`: they would be deleted), or a run of another
            recipe.
    """
    folder = recipe.output_dir
    if folder.exists() and not folder.is_dir():
        raise InputError("the output folder is a file; set another --output_dir", str(folder))
    if not folder.is_dir() or not any(entry.name != "LOCK" for entry in folder.iterdir()):
        return
    if not (folder / "recipe.yaml").is_file():
        raise InputError("the output folder holds files that are no run; set another --output_dir", str(folder))
    if not restart and parse_recipe(folder / "recipe.yaml").digest != recipe.digest:
        raise InputError(
            "the output folder holds a run of another recipe or of other overrides; set --output_dir, or replace it with --restart",
            str(folder),
        )


def start(folder: Path, recipe: Recipe) -> None:
    """Empty the folder of an earlier try and write the resolved recipe."""
    (folder / COMPLETE).unlink(missing_ok=True)  # first: a folder emptied by half must not look finished, nor foreign
    (folder / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    for entry in folder.iterdir():
        if entry.name in ("LOCK", "recipe.yaml"):
            continue
        shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()


def finish(folder: Path, manifest: dict[str, Any]) -> None:
    """Write the manifest, then `COMPLETE` last."""
    text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    (folder / "manifest.json").write_text(text, encoding="utf-8")
    (folder / COMPLETE).touch()


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


def read_train_log(folder: Path) -> list[dict[str, Any]]:
    """The logged steps of a run, in order; none for a release, which does not hold them."""
    path = folder / "train_log.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines]
