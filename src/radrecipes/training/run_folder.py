"""A run's folder: locked by one process, and finished only once it contains `COMPLETE`."""

import contextlib
import json
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers.utils import CHAT_TEMPLATE_FILE

from radrecipes import owned_folder
from radrecipes.access import access_of, protect
from radrecipes.errors import InputError, OutputInUseError
from radrecipes.files import (
    MIB,
    LockedError,
    check_writable,
    lock,
    parse_json,
    read_json_object,
    read_text,
    remove_if_empty,
    sync_tree,
    write_atomically,
)
from radrecipes.hub.pull import pull
from radrecipes.models.weights import KINDS, LoraAdapter, Weights, weights_in
from radrecipes.recipe import Recipe, diff_values, parse_recipe
from radrecipes.tasks import TASKS, Task
from radrecipes.training import PARTS, checkpoints
from radrecipes.training.identity import changeable_parts, recipe_fields

COMPLETE = "COMPLETE"
TRAIN_LOG = "train_log.jsonl"
_LARGEST_LOG = 1024 * MIB  # a step has about 150 bytes
_LOCK = "LOCK"
_RECIPE = "recipe.yaml"
# What a manifest must record, so that a run can be verified before it is used
_RECORDED = (
    *("recipe.digest", "recipe.fields", "recipe.resolved", "base.weights_sha256", "prompt.sha256"),
    *("data.digest", "data.rows", "data.label_set_sha256"),
)
# Of all others it is a text.
_KINDS = {
    **dict.fromkeys(("recipe.fields", "recipe.resolved", "data.rows"), dict),
    **dict.fromkeys(("base.weights_sha256", "data.label_set_sha256"), str | None),
}
# All that a run leaves if it is killed before it has written its recipe.
_BEFORE_THE_RECIPE = (_LOCK, owned_folder.MARKER, f".{owned_folder.MARKER}", f".{_RECIPE}")


def is_complete(folder: Path) -> bool:
    """Whether a run in this folder finished."""
    return (folder / COMPLETE).is_file()


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[str]:
    """Lock a folder for one process, see [`~files.lock`]; a missing folder is made, an empty one is removed at the end.

    Yields the process that had locked it and was killed; empty if none. An [`OutputInUseError`] if another process has locked it.
    """
    with contextlib.ExitStack() as stack:
        stack.callback(remove_if_empty, folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            killed = stack.enter_context(lock(folder / _LOCK, wait=False))
        except LockedError as error:
            raise OutputInUseError(
                f"{folder}: another run uses this folder ({error}); wait, or set --output_dir"
            ) from None
        except OSError as error:  # the first write, so a full disk shows here
            raise InputError(
                f"cannot be written to ({error.strerror}); make room, or set --output_dir", str(folder)
            ) from error
        yield killed


def check_can_hold(recipe: Recipe, restart: bool, allowed: Collection[str] = ()) -> None:
    """Refuse an output folder with anything but an earlier attempt of this recipe, where only the `allowed` [`PARTS`] may differ.

    With `restart` it may be any run that this project wrote, and so may one without a checkpoint, which has nothing to continue.
    """
    folder = recipe.output_dir
    if restart or not os.path.isfile(folder / COMPLETE):  # a finished run may be read-only
        check_writable(folder)
    if folder.exists() and not folder.is_dir():
        raise InputError("the output folder is a file; set another --output_dir", str(folder))
    if not folder.is_dir() or not any(entry.name not in _BEFORE_THE_RECIPE for entry in folder.iterdir()):
        return
    if restart:
        owned_folder.check_replaceable(folder, "run")
        return
    if not (folder / _RECIPE).is_file():
        raise InputError("the output folder contains files that are not a run; set another --output_dir", str(folder))
    # It may have failed because its recipe was wrong.
    has_checkpoint = any((folder / checkpoints.FOLDER).glob("checkpoint-*"))
    if owned_folder.is_marked(folder, "run") and not (has_checkpoint or is_complete(folder)):
        return
    earlier = parse_recipe(folder / _RECIPE)
    changed = diff_values(recipe_fields(earlier.resolved), recipe_fields(recipe.resolved))
    _check_allowed(changed, () if is_complete(folder) else allowed, folder)


def check_finished(folder: Path, identity: Mapping[str, Any], start_from: str | None = None) -> None:
    """Refuse a finished run of other data, another base model or another prompt, or whose weights changed since.

    Its recipe was compared before, but for `start_from`: only whether there is one counts, as its weights may be elsewhere now.
    """
    manifest, found = read_manifest(folder), {}
    _ = weights_of(folder).sha256
    for name in ("data.digest", "base.weights_sha256", "prompt.sha256"):
        part, key = name.split(".")
        # A base model that is no longer on this machine cannot be compared, and a finished run does not need it.
        if identity[name] is not None:
            found[name] = manifest[part][key]
    changed = diff_values(found, {name: identity[name] for name in found})
    if ("start" in manifest) != (start_from is not None):
        changed["recipe.start_from"] = [manifest["recipe"]["fields"].get("start_from"), start_from]
    _check_allowed(changed, (), folder)


def recorded_dtype(folder: Path) -> str | None:
    """The dtype that the newest valid checkpoint was computed in; `None` without a checkpoint.

    A [`NoCheckpointError`] if there are checkpoints but none is valid.
    """
    newest = checkpoints.find_last_valid(folder).newest
    return newest.identity["base.dtype"] if newest else None


def find_resumption(folder: Path, identity: Mapping[str, Any], allowed: Collection[str]) -> checkpoints.Resumption:
    """Where an earlier attempt of a run got to; only the `allowed` [`PARTS`] may differ.

    Raises:
        [`NoCheckpointError`]: there are checkpoints but none is valid.
        [`InputError`]: the checkpoint is from another run, and this was not allowed.
    """
    found = checkpoints.find_last_valid(folder)
    if not found.newest:
        return found
    changed = diff_values(found.newest.identity, identity)
    _check_allowed(changed, allowed, folder, changeable_parts(identity))
    return replace(found, changed=changed)


def _check_allowed(
    changed: Mapping[str, list[Any]], allowed: Collection[str], folder: Path, changeable: Collection[str] = PARTS
) -> None:
    """Refuse differences that the user did not allow, or cannot allow because they are not `changeable`."""
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
    end = "" if final else f", or resume it from its checkpoint with --allow-change {to_allow}"
    raise InputError(
        f"the output folder contains a different run ({named}); set --output_dir, replace it with --restart{end}",
        str(folder),
    )


def start(folder: Path, recipe: Recipe, keep_checkpoints: bool = False) -> None:
    """Clear the folder of an earlier attempt and write the recipe; the logs are written again from the checkpoint's state."""
    (folder / COMPLETE).unlink(missing_ok=True)  # first: a half-emptied folder must look neither finished nor foreign
    owned_folder.mark(folder, "run")
    write_atomically(folder / _RECIPE, recipe.to_yaml())
    kept = (checkpoints.FOLDER,) if keep_checkpoints else ()
    owned_folder.replace_contents(folder, "run", keep=(_LOCK, _RECIPE, *kept))
    shutil.rmtree(checkpoints.unfinished_folder(folder), ignore_errors=True)


def finish(folder: Path, manifest: dict[str, Any], weights: Path) -> None:
    """Write the manifest, move the saved weights into place, then write `COMPLETE` and remove the checkpoints."""
    write_atomically(folder / "manifest.json", json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
    weights.rename(folder / weights.name)
    sync_tree(folder)
    (folder / COMPLETE).touch()
    sync_tree(folder)
    shutil.rmtree(folder / checkpoints.FOLDER, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Remove checkpoints and lock of a complete run that was killed at the very end."""
    if (folder / _LOCK).exists() or (folder / checkpoints.FOLDER).exists():
        with contextlib.suppress(OutputInUseError), locked(folder):  # its holder is removing them now
            shutil.rmtree(folder / checkpoints.FOLDER, ignore_errors=True)


def run_of(run: str | Path) -> tuple[Path, Recipe, Task]:
    """The folder of a run, its recipe and its task; loads no weights.

    `run` is a finished run, the folder of its weights, or a release on the Hub, `org/name@v1.0`, which is pulled and verified. A
    chat template that the recipe names is read from the run's tokenizer: the file may have changed since, and a release does
    not contain it.
    """
    folder = pull(str(run)) if is_reference(run) else Path(run)
    if any((folder / kind.CONFIG).is_file() for kind in KINDS) and not is_release(folder):
        folder = folder.parent
    manifest = read_manifest(folder)
    recipe = parse_recipe(folder / "recipe.yaml", auto_dtype=manifest["base"].get("dtype"))
    if recipe.digest != manifest["recipe"]["digest"]:
        raise InputError("is not the recipe that was trained; restore it, or train again", str(folder / "recipe.yaml"))
    kept = weights_folder(folder) / CHAT_TEMPLATE_FILE
    if recipe.training.chat_template_path and kept.is_file():
        recipe.training.chat_template_path = str(kept)
    return folder, recipe, TASKS[recipe.arguments.task]


def is_reference(name: str | Path) -> bool:
    """Whether this names a release on the Hub rather than a local folder."""
    return isinstance(name, str) and "@" in name and not Path(name).exists()


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a finished run, or of a release of one; an [`InputError`] if the folder is neither.

    A run on restricted data makes this process private, see [`~access.protect`].
    """
    if not is_complete(folder) and not is_release(folder):
        raise InputError("no finished run here (COMPLETE is missing); train first with scripts/sft.py", str(folder))
    path = folder / "manifest.json"
    try:
        manifest = read_json_object(path, fix="restore it")
    except FileNotFoundError:
        raise InputError("is missing; restore it, or train again", str(path)) from None
    for name in (*_RECORDED, f"{_kind_of(manifest).NAME}.sha256"):
        part, key = name.split(".")
        kind = _KINDS.get(name, str)
        if not isinstance(manifest.get(part), dict) or not isinstance(manifest[part].get(key, ...), kind):
            raise InputError(f"does not record {name}, so the run cannot be verified; train again", str(path))
    published = manifest.get("published")
    if isinstance(published, dict) and published.get("kind") == "merged":
        raise InputError(
            "is a merged model, which Transformers loads by itself; name the adapter that it was made from",
            str(folder),
        )
    protect(access_of(manifest))
    return manifest


def is_release(folder: Path) -> bool:
    """Whether this is a pulled release of a run: recipe, manifest and weights side by side."""
    has_weights = any((folder / kind.CONFIG).is_file() for kind in KINDS)
    return has_weights and all((folder / name).is_file() for name in (_RECIPE, "manifest.json"))


def weights_folder(folder: Path) -> Path:
    """The folder of a run's weights and tokenizer: `adapter/` or `model/`, or for a release the folder itself."""
    return folder if is_release(folder) else folder / _kind_of(read_manifest(folder)).NAME


def weights_of(folder: Path) -> Weights:
    """The weights of a finished run or a release, which are those that its manifest records."""
    manifest = read_manifest(folder)
    return weights_in(weights_folder(folder), manifest[_kind_of(manifest).NAME]["sha256"])


def _kind_of(manifest: Mapping[str, Any]) -> type[Weights]:
    """The kind of weights that a manifest records."""
    return next((kind for kind in KINDS if kind.NAME in manifest), LoraAdapter)


def read_train_log(folder: Path) -> list[dict[str, Any]]:
    """The logged steps of a run in order; none for a release, which has no log."""
    path = folder / TRAIN_LOG
    lines = read_text(path, _LARGEST_LOG).splitlines() if path.is_file() else []
    return [parse_json(line, f"{path}:{number}") for number, line in enumerate(lines, start=1)]


def _short(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:12]}…"
