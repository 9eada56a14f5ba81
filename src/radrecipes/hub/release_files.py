"""The files of a release, and whether they are those that its manifest lists."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub.hf_api import RepoFile

from radrecipes.errors import InputError, quoted, shown
from radrecipes.files import MIB, file_sha256, read_json

MANIFEST_FILE = "manifest.json"
RELEASE_FORMAT = 1
# A Hub commit of at most this many files is never split by the client.
LARGEST_RELEASE = 250
# Files that may have any size.
_LARGE = (".safetensors", ".parquet")
# Of any other; the largest tokenizer of the recipes has 33 MiB.
LARGEST_TEXT = 128 * MIB
# The Hub writes this file into a new repository itself.
HUB_FILE = ".gitattributes"


def release_files(folder: Path, repo_id: str, tag: str) -> dict[str, str]:
    """Path to sha256 of every file of a release; raises an [`InputError`] unless they match its manifest."""
    files = sha256_of_files(folder)
    if difference := manifest_difference(folder, files):
        raise InputError(f"{difference}; assemble the release again", where=str(folder))
    published = _published_facts(folder)
    if (published.get("repo"), published.get("tag")) != (repo_id, tag):
        raise InputError(
            f"made for {shown(published.get('repo'))}@{shown(published.get('tag'))}, not for {repo_id}@{tag}; assemble it again",
            where=str(folder / MANIFEST_FILE),
        )
    if "README.md" not in files:
        raise InputError("there is no README.md; assemble the release again", where=str(folder))
    if len(files) > LARGEST_RELEASE:
        raise InputError(
            f"{len(files)} files; a release has at most {LARGEST_RELEASE}, so that it is one commit", where=str(folder)
        )
    return files


def excess_of(listed: Sequence[RepoFile]) -> str | None:
    """What a listing on the Hub has more of than a release may have, files or bytes in one, or `None`."""
    if len(listed) > LARGEST_RELEASE + 1:
        return f"there are more than the {LARGEST_RELEASE} files that a release may have"
    for file in listed:
        if not file.path.endswith(_LARGE) and file.size > LARGEST_TEXT:
            return f"{shown(file.path)} has more than {LARGEST_TEXT // MIB} MiB, the limit for such a file"
    return None


def listing_difference(folder: Path, listed: Sequence[RepoFile]) -> str | None:
    """How names and known digests on the Hub differ from the manifest, the only file in the folder so far, or `None`."""
    try:
        expected = {**_published_facts(folder)["files"], MANIFEST_FILE: ""}
    except InputError as error:
        return str(error)
    # What the Hub does not hash as this project does is compared when it is here.
    found = {
        file.path: file.lfs.sha256 if file.lfs else expected.get(file.path, "")
        for file in listed
        if file.path != HUB_FILE
    }
    return difference_of(found, expected)


def manifest_difference(folder: Path, files: Mapping[str, str]) -> str | None:
    """How the files of a release differ from its own manifest, or `None`."""
    try:
        listed = _published_facts(folder)["files"]
    except InputError as error:
        return str(error)
    return difference_of(files, {**listed, MANIFEST_FILE: files[MANIFEST_FILE]})


def difference_of(found: Mapping[str, str], expected: Mapping[str, str]) -> str | None:
    """The first difference between two sets of files with their hashes, as a message, or `None`."""
    for path in sorted(found.keys() | expected.keys()):
        if path not in found:
            return f"{shown(path)} is missing"
        if path not in expected:
            return f"{shown(path)} does not belong to the release"
        if found[path] != expected[path]:
            return f"{shown(path)} has another sha256 than the published one"
    return None


def sha256_of_files(folder: Path) -> dict[str, str]:
    """Path to sha256 of every file in a folder except the Hub's own."""
    paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: file_sha256(path) for name, path in paths.items() if name != HUB_FILE}


def _published_facts(folder: Path) -> dict[str, Any]:
    """The part `published` of a release's manifest."""
    try:
        manifest = read_json(folder / MANIFEST_FILE)
    except FileNotFoundError as error:
        raise InputError(f"there is no {MANIFEST_FILE}, so it is not a release of radrecipes") from error
    except InputError as error:
        raise InputError(f"{MANIFEST_FILE} is not JSON") from error
    published = manifest.get("published") if isinstance(manifest, dict) else None
    files = published.get("files") if isinstance(published, dict) else None
    if not isinstance(files, dict) or not all(isinstance(digest, str) for digest in files.values()):
        raise InputError(f"{MANIFEST_FILE} does not list the files of a release under `published`")
    if published.get("format") != RELEASE_FORMAT:
        raise InputError(
            f"{MANIFEST_FILE} has release format {quoted(published.get('format'))}; this version reads {RELEASE_FORMAT}"
        )
    return published
