"""Folders that `--overwrite`, `--restart` and `--force` may replace: only those that this project wrote, without other files."""

import fnmatch
import json
import os
import secrets
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from radrecipes.errors import InputError, quoted
from radrecipes.files import check_writable, read_json_object, write_atomically

MARKER = ".radrecipes.json"
_FILE, _TREE = "file", "tree"
# By kind of folder, patterns of the names that this project writes: files, folders with any content, folders of a kind.
_CONTENTS = {
    "dataset": {
        **dict.fromkeys(("*.parquet", "label_set.yaml", "README.md", "manifest.json"), _FILE),
        **dict.fromkeys((".tokenised", ".scores"), _TREE),
    },
    "run": {
        **dict.fromkeys(
            ("recipe.yaml", "manifest.json", "train_log.jsonl", "validation_log.jsonl", "diverged.json"), _FILE
        ),
        # While they are written.
        **dict.fromkeys(
            (".recipe.yaml", ".manifest.json", ".train_log.jsonl", ".validation_log.jsonl", ".diverged.json"), _FILE
        ),
        **dict.fromkeys(("COMPLETE", "LOCK"), _FILE),
        **dict.fromkeys(("adapter", "model", "checkpoints", "drafts"), _TREE),
        "evaluation*": "evaluation",
        ".evaluation*.LOCK": _FILE,  # of an evaluation that was killed
    },
    "evaluation": {
        **dict.fromkeys(("metrics.json", "predictions.parquet", "report.html", "LOCK"), _FILE),
        "figures": _TREE,
    },
    "prediction": {
        **dict.fromkeys(("*.parquet", "*.jsonl", "*.refused.json", "ASSEMBLED", "assembled-*"), _FILE),
        **dict.fromkeys(("state.json", ".state.json", "id", ".id", "LOCK"), _FILE),
    },
    "check": {"state.json": _FILE, "published*": "evaluation", "seed-*": "run"},
    "model": {"*": _FILE},
}


def mark(folder: Path, kind: str) -> None:
    """Mark a folder as one that this project writes; before any other file, so that an unfinished one can be replaced too."""
    marker = {"written_by": "radrecipes", "kind": kind, "version": 1}
    write_atomically(folder / MARKER, json.dumps(marker, indent=2) + "\n")


def check_replaceable(folder: Path, kind: str) -> None:
    """Refuse a folder that is a link, lacks the marker of this kind, or has other content; a missing or empty one is fine."""
    if os.path.islink(folder):
        raise InputError("is a link, which is not replaced; name the folder itself", str(folder))
    check_writable(folder)
    if folder.exists() and not folder.is_dir():
        raise InputError("is a file, and a folder is needed; remove it or choose another name", str(folder))
    # A process that is killed before it has marked its folder leaves these.
    if not folder.exists() or {entry.name for entry in folder.iterdir()} <= {"LOCK", f".{MARKER}"}:
        return
    if not is_marked(folder, kind):
        raise InputError(
            f"radrecipes did not write this folder ({MARKER} is missing, or not that of a {kind}), so it is not replaced; choose "
            "another folder, or remove it yourself",
            str(folder),
        )
    for entry in sorted(folder.iterdir()):
        _check_entry(entry, kind)


def is_marked(folder: Path, kind: str) -> bool:
    """Whether a folder has the marker of a kind."""
    try:
        marker = read_json_object(folder / MARKER)
    except (OSError, InputError):
        return False
    return (marker.get("written_by"), marker.get("kind")) == ("radrecipes", kind)


def replace_contents(folder: Path, kind: str, keep: Collection[str] = ()) -> None:
    """Remove what this project wrote into a folder, but for the marker and the names to `keep`; other files stay."""
    for entry in folder.iterdir():
        if entry.name != MARKER and entry.name not in keep and _content_of(entry, kind):
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()


def remove(folder: Path, kind: str) -> None:
    """Remove a folder, see [`check_replaceable`]."""
    check_replaceable(folder, kind)
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def complete_folder(folder: Path, kind: str | None = None) -> Iterator[Path]:
    """Yield a new folder that becomes `folder` at the end, or is removed after an error; it replaces only a folder of its kind."""
    target = Path(os.path.realpath(folder))  # `resolve` raises for a loop of links
    # A sibling, so that the rename stays on one disk; not from tempfile, whose folders only the owner can read.
    # Named at random, because a process that was killed leaves it, and in a container the next one has the same number.
    mine = f"{target.name}.{secrets.token_hex(4)}"
    temporary, aside = target.parent / f"{mine}.unfinished", target.parent / f"{mine}.replaced"
    try:
        temporary.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"cannot be made ({error.strerror}); choose another place", where=str(folder)) from None
    try:
        if kind:
            mark(temporary, kind)
        yield temporary
        if kind:
            check_replaceable(folder, kind)  # again, after the work
        # A rename cannot replace a folder with files, so the old one is moved aside, and back if the new one fails.
        replaced = kind is not None and target.exists()
        if replaced:
            os.rename(target, aside)
        try:
            os.rename(temporary, target)
        except OSError:
            if replaced:
                os.rename(aside, target)
            raise
        shutil.rmtree(aside, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _content_of(entry: Path, kind: str) -> str | None:
    """What a name is in a folder of a kind: a file, a tree, a folder of another kind; `None` if it does not belong there."""
    contents = {MARKER: _FILE, f".{MARKER}": _FILE} | _CONTENTS[kind]
    return next((what for pattern, what in contents.items() if fnmatch.fnmatchcase(entry.name, pattern)), None)


def _check_entry(entry: Path, kind: str) -> None:
    content = _content_of(entry, kind)
    if content is None or entry.is_symlink() or entry.is_dir() != (content != _FILE):
        raise InputError(
            f"contains {quoted(entry.name)}, which radrecipes did not write, so it is not replaced; move that elsewhere",
            str(entry.parent),
        )
    if content in _CONTENTS:
        check_replaceable(entry, content)
