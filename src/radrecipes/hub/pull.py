"""Pull a release from the Hub into this machine's cache, verified against its manifest and its remembered tag."""

import json
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from huggingface_hub import constants

from radrecipes.access import access_of, may_show, protect
from radrecipes.errors import InputError
from radrecipes.files import lock, read_json_object, write_atomically
from radrecipes.hub.connection import WAITS, Failure, Repository, RepoType
from radrecipes.hub.reference import Reference
from radrecipes.hub.release_files import (
    LARGEST_RELEASE,
    MANIFEST_FILE,
    excess_of,
    listing_difference,
    manifest_difference,
    sha256_of_files,
)

_COMMIT = re.compile(r"[0-9a-f]{40}")


def pull(name: str, repo_type: RepoType = "model", *, sleep: Callable[[float], None] = time.sleep) -> Path:
    """Download a release, `org/name@v1.0`, and verify every file; returns the read-only folder in the cache.

    The commit of a tag when first pulled is remembered in `$HF_HOME/radrecipes/tags.json`; a tag that moved since then is refused.
    A release that was pulled once is found again without the Hub. Every failure is an [`InputError`].
    """
    reference = Reference.parse(name)
    repository = Repository(reference.repo_id, repo_type, sleep=sleep)
    commit = reference.revision if _COMMIT.fullmatch(reference.revision) else _tagged_commit(repository, reference)

    folder = repository.cached(commit)
    damage = manifest_difference(folder, sha256_of_files(folder)) if folder else None
    if folder is None or damage:
        # A new download repairs a damaged file in the cache, but not damage on the Hub.
        try:
            folder, difference = _download(repository, commit, force_download=bool(damage))
        except InputError as error:
            if damage is None:
                raise
            raise InputError(f"{damage} in {folder}, and a new download failed: {error}") from error
        if difference:
            raise InputError(
                f"{reference}: download: {difference}; do not use it, and ask its owner for a new release under a new tag"
            )
    if commit != reference.revision:
        _remember_tag(_tag_key(reference, repo_type), commit)
    return folder


def _download(repository: Repository, commit: str, **options: Any) -> tuple[Path, str | None]:
    """Download the files that a release's manifest lists, and no other; returns how they differ from it."""
    cache = Path(constants.HF_HUB_CACHE)
    listed = repository.list_files(commit, LARGEST_RELEASE + 2)
    if excess := excess_of(listed):
        return cache, excess
    existing = next(folder for folder in (cache, *cache.absolute().parents) if folder.is_dir())
    needed, free = sum(file.size for file in listed), shutil.disk_usage(existing).free
    if needed > free:
        raise repository.error(
            "download", f"it has {needed / 2**20:,.0f} MiB, and {free / 2**20:,.0f} MiB are free in HF_HOME"
        )
    folder = repository.download(commit, allow_patterns=[MANIFEST_FILE], **options)
    if difference := listing_difference(folder, listed):
        return folder, difference
    access = access_of(read_json_object(folder / MANIFEST_FILE, fix="ask its owner for a new release"))
    protect(access)
    if not may_show(access):
        constants.HF_HUB_DISABLE_SHARED_BLOBS = True  # everyone can read the store of files that repositories share
    folder = repository.download(commit, **options)
    return folder, manifest_difference(folder, sha256_of_files(folder))


def _tagged_commit(repository: Repository, reference: Reference) -> str:
    """The commit of a tag, which must be the one that it pointed to when first pulled."""
    key = _tag_key(reference, repository.repo_type)
    remembered = _remembered_tags().get(key)
    try:
        # With a remembered commit the cache is enough, so there is no need to wait for the Hub.
        info = repository.call(
            "tag",
            lambda: repository.api.repo_info(
                reference.repo_id, repo_type=repository.repo_type, revision=reference.revision
            ),
            waits=WAITS if remembered is None else (),
        )
    except InputError as error:
        failure = Failure(error.__cause__)
        if remembered is not None and (failure.offline or failure.transient):
            return remembered
        raise
    if remembered not in (None, info.sha):
        raise InputError(
            f"{reference}: tag: it pointed to {remembered} when it was first pulled and points to {info.sha} now; pull "
            f"{reference.repo_id}@{remembered} for the old content, or accept the new by removing {key} from {_tags_file()}"
        )
    return info.sha


def _tags_file() -> Path:
    return Path(constants.HF_HOME) / "radrecipes" / "tags.json"


def _tag_key(reference: Reference, repo_type: RepoType) -> str:
    return f"{repo_type}s/{reference}"


def _remembered_tags() -> dict[str, str]:
    try:
        return read_json_object(_tags_file(), fix="fix it, or delete it to reset the remembered tags")
    except FileNotFoundError:
        return {}


def _remember_tag(key: str, commit: str) -> None:
    path = _tags_file()
    if _remembered_tags().get(key) == commit:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with lock(path.with_suffix(".lock")):
        tags = {**_remembered_tags(), key: commit}
        write_atomically(path, json.dumps(tags, indent=2, sort_keys=True) + "\n")
