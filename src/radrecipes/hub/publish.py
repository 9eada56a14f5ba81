"""Publish a release folder: one commit with exactly its files, verified, and then the tag."""

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from huggingface_hub import CommitOperationAdd, CommitOperationDelete
from huggingface_hub.utils.sha import git_hash

from radrecipes.files import read_bytes
from radrecipes.hub.connection import RETRY, WAITS, RepoInfo, Repository, RepoType
from radrecipes.hub.reference import check_repo_id, check_tag
from radrecipes.hub.release_files import HUB_FILE, LARGEST_TEXT, difference_of, release_files, sha256_of_files


@dataclass(frozen=True)
class Published:
    """A release on the Hub; `files` maps path to sha256, computed from the bytes that the Hub sent back."""

    commit: str
    files: dict[str, str]
    changed: bool  # False if the same release was already there


def publish_folder(
    folder: str | Path,
    repo_id: str,
    *,
    repo_type: RepoType,
    private: bool,
    tag: str,
    gated: Literal["auto", "manual"] | None = None,
    on_step: Callable[[str], None] = lambda step: None,
    sleep: Callable[[float], None] = time.sleep,
) -> Published:
    """Publish a release so that readers of the tag see all of it or nothing; the same call continues an interrupted one.

    A commit or tag whose response was lost is recognised before it is sent again. `HfApi.create_commit` is used because
    `HfApi.upload_folder` repeats a commit whose response was lost, and splits one of more than 20 files after a failure.

    Args:
        folder: Its `manifest.json` names the repository, the tag, and under `published` all other files with their sha256.
        repo_id: Created if missing; refused if its visibility differs from `private`.
        tag: Refused if it exists with other content: published tags do not move.
        gated: Access setting, applied before any file is sent; by default unchanged.
        on_step: Receives a line of text before each step and each wait.
    """
    folder = Path(folder)
    check_repo_id(repo_id)
    check_tag(tag)
    files = release_files(folder, repo_id, tag)
    repository = Repository(repo_id, repo_type, on_step, sleep)

    on_step("checking the token")
    _check_role(repository)

    on_step(f"looking up {repo_id}")
    head = repository.info("repository")
    if head is None:
        on_step(f"creating {repo_id} ({_visibility(private)})")
        head = _create(repository, private)
    _check_visibility(repository, head, private)
    if gated is not None and head.gated != gated:
        on_step(f"setting access to {gated}")
        head = _set_gated(repository, gated)

    tagged = repository.info("tag", tag)
    if tagged is not None:
        if difference := _remote_difference(tagged, folder, files):
            fix = "published tags do not move, choose a new one"
            raise repository.error("tag", f"{tag} exists already with other content ({difference}); {fix}")
        on_step(f"{tag} exists already; reading every file back")
        _check_content(repository, tagged.sha, folder, files, "the tag points to it")
        return Published(tagged.sha, files, changed=False)

    if _remote_difference(head, folder, files) is None:
        commit = head.sha  # an earlier call was interrupted between commit and tag
    else:
        on_step(f"uploading {len(files)} files in one commit")
        commit = _commit(repository, folder, files, tag, head)
    on_step("reading every file back")
    _check_content(repository, commit, folder, files, "no tag was set")

    on_step(f"setting the tag {tag}")
    _set_tag(repository, tag, commit)
    tagged = repository.info("tag", tag)
    if tagged is None or tagged.sha != commit:
        raise repository.error("tag", f"{tag} does not point to {commit[:12]}; {RETRY}")
    _check_visibility(repository, tagged, private)
    return Published(commit, files, changed=True)


def _check_role(repository: Repository) -> None:
    """Raise if the token is read-only: creating a repository that exists would not reveal this."""
    facts = repository.call("token", repository.api.whoami)
    if ((facts.get("auth") or {}).get("accessToken") or {}).get("role") == "read":
        fix = "create one with write access on the Hub under Settings, Access Tokens"
        raise repository.error("token", f"the token of {facts.get('name')} is read-only; {fix}")


def _create(repository: Repository, private: bool) -> RepoInfo:
    """Create the repository; leave it as it is if it exists by then."""

    def create_repo() -> bool:
        # Never `private=False`: organisations that forbid public repositories reject the argument itself.
        repository.api.create_repo(repository.repo_id, repo_type=repository.repo_type, private=private or None)
        return True

    # The Hub also returns 409 while it is busy with another repository of the same owner.
    repository.call("create", create_repo, landed=lambda error: repository.info("create") and True)
    for wait in (*WAITS, None):
        if (head := repository.info("create")) is not None:
            return head
        # A lagging replica of the Hub may not know it yet.
        if wait is not None:
            repository.on_step(f"create: it was created but is not visible yet; next attempt in {wait} s")
            repository.sleep(wait)
    raise repository.error("create", "it was created, but your token may not see it; choose another name")


def _check_visibility(repository: Repository, info: RepoInfo, private: bool) -> None:
    if info.private is not private:
        fix = "change that in its settings on the Hub, or choose another repository"
        what = f"the repository is {_visibility(bool(info.private))}, not {_visibility(private)} as requested; {fix}"
        raise repository.error("visibility", what)


def _visibility(private: bool) -> str:
    return "private" if private else "public"


def _set_gated(repository: Repository, gated: Literal["auto", "manual"]) -> RepoInfo:
    repository.call(
        "settings",
        lambda: repository.api.update_repo_settings(repository.repo_id, gated=gated, repo_type=repository.repo_type),
    )
    head = repository.info("settings")
    if head is None or head.gated != gated:
        raise repository.error("settings", f"access is not {gated}; set it in its settings on the Hub")
    return head


def _commit(repository: Repository, folder: Path, files: Mapping[str, str], tag: str, head: RepoInfo) -> str:
    """Make the branch contain exactly these files, in one commit on top of `head`; returns the commit."""
    stale = [file.rfilename for file in head.siblings or [] if file.rfilename not in {*files, HUB_FILE}]

    def create_commit() -> str:
        additions = [CommitOperationAdd(path_in_repo=path, path_or_fileobj=str(folder / path)) for path in files]
        deletions = [CommitOperationDelete(path_in_repo=path, is_folder=False) for path in stale]
        return repository.api.create_commit(
            repository.repo_id,
            [*deletions, *additions],
            commit_message=f"Release {tag}",
            repo_type=repository.repo_type,
            parent_commit=head.sha,
        ).oid

    def landed(error: Exception) -> str | None:
        now = repository.info("commit")
        if now is not None and _remote_difference(now, folder, files) is None:
            return now.sha
        if now is not None and now.sha != head.sha:
            raise repository.error("commit", f"someone else changed it in the meantime; {RETRY}") from error
        return None

    return repository.call("commit", create_commit, landed=landed)


def _check_content(repository: Repository, commit: str, folder: Path, files: Mapping[str, str], state: str) -> None:
    """Raise unless the Hub returns every file of a commit with the bytes that were sent."""
    for attempt in range(2):
        # An empty cache, so that files must come from the Hub; next to the release, where there is space.
        with tempfile.TemporaryDirectory(prefix=".read-back-", dir=folder.resolve().parent) as cache:
            received = sha256_of_files(repository.download(commit, cache_dir=cache, step="read back"))
        difference = difference_of(received, files)
        if difference is None:
            return
        repository.on_step(f"read back: {difference}" + ("; reading again" if attempt == 0 else ""))
    fix = "delete the repository on the Hub or choose another one, and publish again"
    raise repository.error("read back", f"{difference} at commit {commit[:12]}; {state}; {fix}")


def _set_tag(repository: Repository, tag: str, commit: str) -> None:
    """Set the tag on a commit; one that exists by then must point to the same commit."""

    def create_tag() -> bool:
        options = {"tag": tag, "tag_message": f"Release {tag}", "revision": commit}
        repository.api.create_tag(repository.repo_id, repo_type=repository.repo_type, **options)
        return True

    def landed(error: Exception) -> bool | None:
        now = repository.info("tag", tag)
        if now is not None and now.sha != commit:
            raise repository.error("tag", f"{tag} is on other content now; choose a new tag") from error
        return now is not None or None

    repository.call("tag", create_tag, landed=landed)


def _remote_difference(info: RepoInfo, folder: Path, files: Mapping[str, str]) -> str | None:
    """The first difference to the Hub's files, of which it names the sha256 of large ones and git's sha1 of others, or `None`."""
    found, expected = {}, dict(files)
    for file in info.siblings or []:
        if file.rfilename == HUB_FILE:
            continue
        found[file.rfilename] = file.blob_id if file.lfs is None else file.lfs.sha256
        if file.lfs is None and file.rfilename in files:
            expected[file.rfilename] = git_hash(read_bytes(folder / file.rfilename, LARGEST_TEXT))
    return difference_of(found, expected)
