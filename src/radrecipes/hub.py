"""Publish a release folder to the Hugging Face Hub and pull one back, so that a tag means one content, whole and checked."""

import fcntl
import hashlib
import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import httpx2
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    DatasetInfo,
    HfApi,
    ModelInfo,
    constants,
    get_session,
    get_token,
    snapshot_download,
)
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import parse_ratelimit_headers, validate_repo_id

from radrecipes import __version__
from radrecipes.errors import InputError
from radrecipes.files import file_sha256

MANIFEST_FILE = "manifest.json"
RELEASE_FORMAT = 1
# A Hub commit of at most so many files is one commit on every path of the client; more may land in parts.
LARGEST_RELEASE = 250

# The Hub writes this file into a new repository itself.
_HUB_FILE = ".gitattributes"
# Seconds before each new try; the client's own waits.
_WAITS = (1, 2, 4, 8, 8)
# Seconds of silence that end a call, where the client would wait for ever.
_SILENCE = httpx2.Timeout(120, connect=30)
# Seconds that the Hub may ask us to wait before we give up instead.
_LONGEST_WAIT = 300
_PASSING_STATUSES = {408, 409, 412, 425, 429, 500, 502, 503, 504}
_PASSING_ERRORS = (httpx2.TimeoutException, httpx2.NetworkError, httpx2.RemoteProtocolError, json.JSONDecodeError)
# What the client, `hf_xet` under it, and a reply that makes no sense raise.
_CLIENT_ERRORS = (httpx2.HTTPError, OSError, RuntimeError, ValueError, LookupError)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9+_-]*(\.[A-Za-z0-9+_-]+)*")
_AGAIN = "run the same command again; it continues where it stopped"

RepoType = Literal["model", "dataset"]
_Result = TypeVar("_Result")
# A reply that is no JSON comes from something in front of the Hub, such as a gateway's page of an error.
_Cause = HfHubHTTPError | httpx2.TransportError | json.JSONDecodeError


@dataclass(frozen=True)
class Reference:
    """A repository on the Hub at a tag or a commit.

    Args:
        repo_id (`str`):
            `org/name`.
        revision (`str`):
            A tag such as `v1.0`, or a commit of 40 hexadecimal digits. Never a branch, because a branch moves.
    """

    repo_id: str
    revision: str

    @classmethod
    def parse(cls, text: str) -> "Reference":
        """Read `org/name@v1.0`.

        Args:
            text (`str`):
                What the user wrote.

        Raises:
            [`InputError`]: it is no name of a repository, or names no tag or commit.
        """
        repo_id, _, revision = text.partition("@")
        _check_repo_id(repo_id)
        if not revision:
            raise InputError(f"{text}: name a tag too, as in {repo_id}@v1.0; without one the content can change")
        _check_tag(revision)
        return cls(repo_id, revision)

    def __str__(self) -> str:
        """As it is written: `org/name@v1.0`."""
        return f"{self.repo_id}@{self.revision}"


@dataclass(frozen=True)
class Published:
    """What stands on the Hub after [`publish_folder`].

    Args:
        commit (`str`):
            The commit under the tag.
        tag (`str`):
            The tag.
        files (`dict[str, str]`):
            Path to sha256 of every file, computed from the bytes that the Hub sent back.
        changed (`bool`):
            Whether anything on the Hub was changed; `False` where the same release stood there already.
    """

    commit: str
    tag: str
    files: dict[str, str]
    changed: bool


def publish_folder(
    folder: str | Path,
    repo_id: str,
    *,
    repo_type: RepoType,
    private: bool,
    tag: str,
    message: str,
    gated: Literal["auto", "manual"] | None = None,
    on_step: Callable[[str], None] = lambda step: None,
    sleep: Callable[[float], None] = time.sleep,
) -> Published:
    """Publish a release folder: one commit that holds exactly its files, read back, and a tag on it last.

    Whoever reads the tag sees the whole release or none. The same call continues an interrupted one, and does nothing
    where the release stands already. A commit or a tag whose reply was lost is recognised before it is sent again.
    `HfApi.create_commit` makes the commit, because `HfApi.upload_folder` repeats a commit whose reply was lost and
    splits one of more than 20 files when it fails, and both would show readers what nobody published.

    Args:
        folder (`str` or `Path`):
            The release. Its `manifest.json` names the repository, the tag, and each other file with its sha256 under
            `published`; these files are published and no others may lie there. At most 250.
        repo_id (`str`):
            `org/name`. Created where it does not exist.
        repo_type (`str`):
            `"model"` or `"dataset"`.
        private (`bool`):
            Whether only those with access see it. A repository that exists with another visibility is refused.
        tag (`str`):
            The tag, for example `v1.0`. One that stands on other content is refused; a published tag does not move.
        message (`str`):
            Title of the commit and message of the tag.
        gated (`str`, *optional*):
            `"auto"` or `"manual"` to let in only those who asked for access; set before any file is sent. By default the
            repository's setting is left alone.
        on_step (`Callable[[str], None]`, *optional*):
            Called with a line of text before each step and before each wait. By default nobody is told.
        sleep (`Callable[[float], None]`, *optional*, defaults to `time.sleep`):
            Waits so many seconds before a call is repeated.

    Returns:
        [`Published`]: the commit, and the sha256 of every file as the Hub sent it back.

    Raises:
        [`InputError`]: the release, the token, the repository or the Hub stands against it. The line names the
            repository, the step and the mend. The tag was not set, or stands whole.
    """
    folder = Path(folder)
    _check_repo_id(repo_id)
    _check_tag(tag)
    files = _release_files(folder, repo_id, tag)
    remote = _Remote(repo_id, repo_type, on_step=on_step, sleep=sleep)

    on_step("checking the token")
    remote.check_role()

    on_step(f"looking at {repo_id}")
    head = remote.look("repository")
    if head is None:
        on_step(f"creating {repo_id} ({_visibility(private)})")
        head = remote.create(private)
    remote.check_visibility(head, private)
    if gated is not None and head.gated != gated:
        on_step(f"setting access to {gated}")
        head = remote.set_gated(gated)

    tagged = remote.look("tag", tag)
    if tagged is not None:
        if difference := _remote_difference(tagged, folder, files):
            raise InputError(
                f"{repo_id}: tag: {tag} stands on other content already ({difference}); a published tag does not move, "
                "choose a new one"
            )
        on_step(f"{tag} stands there already; reading every file back")
        remote.check_content(tagged.sha, folder, files, "the tag stands on it")
        return Published(tagged.sha, tag, files, changed=False)

    if _remote_difference(head, folder, files) is None:
        # An earlier call was interrupted between its commit and its tag.
        commit = head.sha
    else:
        on_step(f"uploading {len(files)} files in one commit")
        commit = remote.commit(folder, files, message, head)
    on_step("reading every file back")
    remote.check_content(commit, folder, files, "no tag was set")

    on_step(f"setting the tag {tag}")
    remote.tag(tag, commit, message)
    tagged = remote.look("tag", tag)
    if tagged is None or tagged.sha != commit:
        raise InputError(f"{repo_id}: tag: {tag} does not stand on {commit[:12]}; {_AGAIN}")
    remote.check_visibility(tagged, private)
    return Published(commit, tag, files, changed=True)


def pull(
    reference: Reference | str, repo_type: RepoType = "model", *, sleep: Callable[[float], None] = time.sleep
) -> Path:
    """A release from the Hub as a folder of this machine's cache, every file checked against the release's manifest.

    What a tag stood on when it was first pulled is kept in `$HF_HOME/radrecipes/tags.json`; a tag that moved since is
    refused. What was pulled once is found again without the Hub.

    Args:
        reference ([`Reference`] or `str`):
            `org/name@v1.0`, or a commit instead of the tag.
        repo_type (`str`, *optional*, defaults to `"model"`):
            `"model"` or `"dataset"`.
        sleep (`Callable[[float], None]`, *optional*, defaults to `time.sleep`):
            Waits so many seconds before a call is repeated.

    Returns:
        `Path`: the folder, to be read only.

    Raises:
        [`InputError`]: it is not there or not to be seen, the tag moved, a file is missing, changed or not listed, or
            the Hub cannot be reached and it was never pulled.
    """
    if isinstance(reference, str):
        reference = Reference.parse(reference)
    remote = _Remote(reference.repo_id, repo_type, on_step=lambda step: None, sleep=sleep)
    commit = reference.revision if _COMMIT.fullmatch(reference.revision) else _tagged_commit(remote, reference)

    folder = remote.download(commit)
    if difference := _manifest_difference(folder, _sha256_of_files(folder)):
        # A damaged file in this machine's cache is mended by a new download; damage on the Hub is not.
        try:
            folder = remote.download(commit, force_download=True)
        except InputError as error:
            raise InputError(f"{difference} in {folder}, and a new download failed: {error}") from error
    if difference := _manifest_difference(folder, _sha256_of_files(folder)):
        raise InputError(
            f"{reference}: download: {difference}; do not use it, and ask its owner for a new release under a new tag"
        )
    if commit != reference.revision:
        _remember_tag(_tag_key(reference, repo_type), commit)
    return folder


@dataclass(frozen=True)
class _Remote:
    """One repository on the Hub; each call is repeated where that can help and ends in one line where it cannot."""

    repo_id: str
    repo_type: RepoType
    on_step: Callable[[str], None]
    sleep: Callable[[float], None]
    api: HfApi = field(default_factory=lambda: HfApi(library_name="radrecipes", library_version=__version__))

    def call(
        self,
        step: str,
        function: Callable[[], _Result],
        *,
        landed: Callable[[Exception], _Result | None] = lambda error: None,
        waits: tuple[float, ...] = _WAITS,
    ) -> _Result:
        """Call the client; wait and repeat after what passes, after silence once.

        Args:
            step (`str`):
                Named in the error.
            function (`Callable`):
                The call.
            landed (`Callable[[Exception], _Result | None]`, *optional*):
                Asked before each repetition: the result, if the work was done and only the reply was lost.
            waits (`tuple[float, ...]`, *optional*, defaults to 1, 2, 4, 8 and 8):
                Seconds before each repetition, unless the Hub names its own.
        """
        silent = False
        for wait in (*waits, None):
            # The client makes a new session after some failures.
            get_session().timeout = _SILENCE
            try:
                return function()
            except _CLIENT_ERRORS as error:
                cause = _cause(error)
                if not _passes(error):
                    raise self.explained(step, error) from error
                if (result := landed(error)) is not None:
                    return result
                asked, silent_before = _asked_wait(cause), silent
                silent = isinstance(cause, httpx2.TimeoutException)
                if wait is None or (silent and silent_before) or (asked or 0) > _LONGEST_WAIT:
                    raise self.explained(step, error) from error
                pause = wait if asked is None else asked
                self.on_step(f"{step}: {_reason(error)}; next try in {pause:g} s")
                self.sleep(pause)
        raise AssertionError("the last round returns or raises")

    def explained(self, step: str, error: Exception) -> InputError:
        """One line: the repository, the step, what happened and the mend."""
        reason, cause = _reason(error), _cause(error)
        status = cause.response.status_code if isinstance(cause, HfHubHTTPError) and not _of_storage(cause) else None
        if isinstance(error, LocalTokenNotFoundError):
            mend = "log in with `hf auth login` or set HF_TOKEN"
        elif isinstance(error, OfflineModeIsEnabled) or isinstance(error.__cause__, OfflineModeIsEnabled):
            mend = "unset HF_HUB_OFFLINE, or copy a cache that holds it into HF_HOME"
        elif isinstance(cause, GatedRepoError):
            mend = "ask for access on its page, with the account of your token"
        elif status == 401:
            mend = "log in with `hf auth login` or set HF_TOKEN to a token that is valid"
        elif status == 403:
            mend = f"use a token that has the right to do this in {self.repo_id.split('/')[0]}"
        elif status == 404:
            mend = "check the name and the tag, and whether your token may see them"
        elif status == 400 or (cause is None and isinstance(error, ValueError)):
            mend = "change what it names"
        elif _passes(error) and (_asked_wait(cause) or 0) > _LONGEST_WAIT:
            mend = f"in {_asked_wait(cause)} s {_AGAIN}"
        else:
            mend = _AGAIN
        return InputError(f"{self.repo_id}: {step}: {reason}; {mend}")

    def check_role(self) -> None:
        """Raise where the token can only read: creating a repository that exists would not tell."""
        facts = self.call("token", self.api.whoami)
        if ((facts.get("auth") or {}).get("accessToken") or {}).get("role") == "read":
            raise InputError(
                f"{self.repo_id}: token: the token of {facts.get('name')} can only read; make one with write access on "
                "the Hub under Settings, Access Tokens"
            )

    def look(self, step: str, revision: str | None = None) -> ModelInfo | DatasetInfo | None:
        """Commit, files and visibility at a revision, in one answer; `None` where that does not exist."""

        def repo_info() -> ModelInfo | DatasetInfo | None:
            try:
                return self.api.repo_info(
                    self.repo_id, repo_type=self.repo_type, revision=revision, files_metadata=True
                )
            except RevisionNotFoundError:
                return None
            except RepositoryNotFoundError as error:
                if revision is not None or isinstance(error, GatedRepoError) or error.response.status_code != 404:
                    raise
                return None

        return self.call(step, repo_info)

    def create(self, private: bool) -> ModelInfo | DatasetInfo:
        """Create the repository; one that stands there by then is left as it is."""

        def create_repo() -> bool:
            # Never `private=False`: organisations that forbid public repositories refuse the word itself.
            self.api.create_repo(self.repo_id, repo_type=self.repo_type, private=private or None)
            return True

        # 409 is the answer too while the Hub is busy with another repository of the same owner.
        self.call("create", create_repo, landed=lambda error: self.look("create") and True)
        for wait in (*_WAITS, None):
            if (head := self.look("create")) is not None:
                return head
            # A copy of the Hub that lags behind does not know it yet.
            if wait is not None:
                self.on_step(f"create: it was made and does not show yet; next look in {wait} s")
                self.sleep(wait)
        raise InputError(f"{self.repo_id}: create: it was made and your token may not see it; choose another name")

    def check_visibility(self, info: ModelInfo | DatasetInfo, private: bool) -> None:
        """Raise where the repository is more or less open than asked for."""
        if info.private is not private:
            raise InputError(
                f"{self.repo_id}: visibility: the repository is {_visibility(bool(info.private))} and was to be "
                f"{_visibility(private)}; change that in its settings on the Hub, or choose another repository"
            )

    def set_gated(self, gated: Literal["auto", "manual"]) -> ModelInfo | DatasetInfo:
        """Let in only those who ask for access, and see that it holds."""
        self.call(
            "settings",
            lambda: self.api.update_repo_settings(self.repo_id, gated=gated, repo_type=self.repo_type),
        )
        head = self.look("settings")
        if head is None or head.gated != gated:
            raise InputError(f"{self.repo_id}: settings: access is not {gated}; set it in its settings on the Hub")
        return head

    def commit(self, folder: Path, files: Mapping[str, str], message: str, head: ModelInfo | DatasetInfo) -> str:
        """Make the branch hold exactly these files, in one commit on top of `head`; returns the commit."""
        stale = [file.rfilename for file in head.siblings or [] if file.rfilename not in {*files, _HUB_FILE}]

        def create_commit() -> str:
            additions = [CommitOperationAdd(path_in_repo=path, path_or_fileobj=str(folder / path)) for path in files]
            deletions = [CommitOperationDelete(path_in_repo=path, is_folder=False) for path in stale]
            return self.api.create_commit(
                self.repo_id,
                [*deletions, *additions],
                commit_message=message,
                repo_type=self.repo_type,
                parent_commit=head.sha,
            ).oid

        def landed(error: Exception) -> str | None:
            now = self.look("commit")
            if now is not None and _remote_difference(now, folder, files) is None:
                return now.sha
            if now is not None and now.sha != head.sha:
                raise InputError(f"{self.repo_id}: commit: somebody else changed it meanwhile; {_AGAIN}") from error
            return None

        return self.call("commit", create_commit, landed=landed)

    def check_content(self, commit: str, folder: Path, files: Mapping[str, str], state: str) -> None:
        """Raise unless every file at a commit comes back with the bytes that were sent."""
        for attempt in range(2):
            # An empty cache, so that nothing but the Hub can answer; beside the release, where there is room for it.
            with tempfile.TemporaryDirectory(prefix=".read-back-", dir=folder.resolve().parent) as cache:
                received = _sha256_of_files(self.download(commit, cache_dir=cache, step="read back"))
            difference = _difference(received, files)
            if difference is None:
                return
            self.on_step(f"read back: {difference}" + ("; reading again" if attempt == 0 else ""))
        raise InputError(
            f"{self.repo_id}: read back: {difference} at commit {commit[:12]}; {state}; delete the repository on the "
            "Hub or name another one, and publish again"
        )

    def tag(self, tag: str, commit: str, message: str) -> None:
        """Set the tag on a commit; one that stands there by then must stand on the same commit."""

        def create_tag() -> bool:
            self.api.create_tag(self.repo_id, tag=tag, tag_message=message, revision=commit, repo_type=self.repo_type)
            return True

        def landed(error: Exception) -> bool | None:
            now = self.look("tag", tag)
            if now is not None and now.sha != commit:
                raise InputError(
                    f"{self.repo_id}: tag: {tag} was set on other content meanwhile; choose a new tag"
                ) from error
            return now is not None or None

        self.call("tag", create_tag, landed=landed)

    def download(self, commit: str, *, step: str = "download", **options: Any) -> Path:
        """All files of a commit in a cache."""
        return Path(
            self.call(
                step,
                lambda: snapshot_download(self.repo_id, repo_type=self.repo_type, revision=commit, **options),
            )
        )


def _release_files(folder: Path, repo_id: str, tag: str) -> dict[str, str]:
    """Path to sha256 of every file of a release, which must be exactly those that its manifest lists."""
    files = _sha256_of_files(folder)
    if difference := _manifest_difference(folder, files):
        raise InputError(f"{difference}; assemble the release again", where=str(folder))
    published = _published_facts(folder)
    if (published.get("repo"), published.get("tag")) != (repo_id, tag):
        raise InputError(
            f"made for {published.get('repo')}@{published.get('tag')}, not for {repo_id}@{tag}; assemble it again",
            where=str(folder / MANIFEST_FILE),
        )
    if "README.md" not in files:
        raise InputError("there is no README.md; assemble the release again", where=str(folder))
    if len(files) > LARGEST_RELEASE:
        raise InputError(
            f"{len(files)} files; a release holds at most {LARGEST_RELEASE}, so that it is one commit",
            where=str(folder),
        )
    return files


def _manifest_difference(folder: Path, files: Mapping[str, str]) -> str | None:
    """What is wrong with the files of a release by its own manifest, or `None`."""
    try:
        listed = _published_facts(folder)["files"]
    except InputError as error:
        return str(error)
    return _difference(files, listed, leave_out={MANIFEST_FILE})


def _published_facts(folder: Path) -> dict[str, Any]:
    """The part `published` of a release's manifest."""
    path = folder / MANIFEST_FILE
    try:
        manifest = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise InputError(f"there is no {MANIFEST_FILE}, so it is no release of radrecipes") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{MANIFEST_FILE} is not JSON") from error
    published = manifest.get("published") if isinstance(manifest, dict) else None
    if not isinstance(published, dict) or not isinstance(published.get("files"), dict):
        raise InputError(f"{MANIFEST_FILE} does not list the files of a release under `published`")
    if published.get("format") != RELEASE_FORMAT:
        raise InputError(
            f"{MANIFEST_FILE} has release format {published.get('format')!r}; this version reads {RELEASE_FORMAT}"
        )
    return published


def _sha256_of_files(folder: Path) -> dict[str, str]:
    """Path to sha256 of every file in a folder but the Hub's own."""
    paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: file_sha256(path) for name, path in paths.items() if name != _HUB_FILE}


def _difference(
    found: Mapping[str, str], expected: Mapping[str, str], leave_out: set[str] | None = None
) -> str | None:
    """The first difference between two sets of files and their hashes, in words, or `None`."""
    for path in sorted((found.keys() | expected.keys()) - (leave_out or set())):
        if path not in found:
            return f"{path} is missing"
        if path not in expected:
            return f"{path} does not belong to the release"
        if found[path] != expected[path]:
            return f"{path} has another sha256 than the one that was published"
    return None


def _remote_difference(info: ModelInfo | DatasetInfo, folder: Path, files: Mapping[str, str]) -> str | None:
    """The first difference between what the Hub says about its files and a release, or `None`.

    The Hub names large files by their sha256 and the others by git's sha1 of a blob.
    """
    found, expected = {}, dict(files)
    for file in info.siblings or []:
        if file.rfilename == _HUB_FILE:
            continue
        found[file.rfilename] = file.blob_id if file.lfs is None else file.lfs.sha256
        if file.lfs is None and file.rfilename in files:
            expected[file.rfilename] = _git_blob_id(folder / file.rfilename)
    return _difference(found, expected)


def _git_blob_id(path: Path) -> str:
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _tagged_commit(remote: _Remote, reference: Reference) -> str:
    """The commit under a tag, which must be the one that it was first pulled at."""
    key = _tag_key(reference, remote.repo_type)
    remembered = _remembered_tags().get(key)
    try:
        # With a remembered commit the cache may answer, so nobody needs to wait for a Hub that is away.
        info = remote.call(
            "tag",
            lambda: remote.api.repo_info(reference.repo_id, repo_type=remote.repo_type, revision=reference.revision),
            waits=_WAITS if remembered is None else (),
        )
    except InputError as error:
        if remembered is not None and _away(error.__cause__):
            return remembered
        raise
    if remembered not in (None, info.sha):
        raise InputError(
            f"{reference}: tag: it stood on {remembered} when it was first pulled and stands on {info.sha} now; pull "
            f"{reference.repo_id}@{remembered} for the old content, or accept the new by removing {key} from {_tags_file()}"
        )
    return info.sha


def _tags_file() -> Path:
    return Path(constants.HF_HOME) / "radrecipes" / "tags.json"


def _tag_key(reference: Reference, repo_type: RepoType) -> str:
    return f"{repo_type}s/{reference}"


def _remembered_tags() -> dict[str, str]:
    path = _tags_file()
    try:
        tags = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise InputError(f"not JSON ({error}); mend it, or delete it to forget all tags", where=str(path)) from error
    if not isinstance(tags, dict):
        raise InputError("not an object of tags and commits; delete it to forget all tags", where=str(path))
    return tags


def _remember_tag(key: str, commit: str) -> None:
    """Keep the commit of a tag; several processes may do so at once."""
    path = _tags_file()
    if _remembered_tags().get(key) == commit:
        return
    with _locked(path):
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(
            json.dumps({**_remembered_tags(), key: commit}, indent=2, sort_keys=True) + "\n", encoding="utf-8"
        )
        os.replace(temporary, path)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _check_repo_id(repo_id: str) -> None:
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise InputError(f"{repo_id}: {_one_line(str(error))}") from error
    if repo_id.count("/") != 1:
        raise InputError(f"{repo_id}: a repository on the Hub is named org/name")


def _check_tag(tag: str) -> None:
    if tag == constants.DEFAULT_REVISION:
        raise InputError(f"{tag}: this branch moves with every commit; name a tag such as v1.0")
    if not _TAG.fullmatch(tag):
        raise InputError(
            f"{tag}: a tag holds letters, digits and . _ + - and begins with a letter or digit, as in v1.0"
        )


def _visibility(private: bool) -> str:
    return "private" if private else "public"


def _cause(error: BaseException | None) -> _Cause | None:
    """What happened on the wire, under the errors that the client wraps around it."""
    while error is not None:
        if isinstance(error, _Cause):
            return error
        error = error.__cause__
    return None


def _passes(error: BaseException | None) -> bool:
    """Whether a new try can help. `hf_xet` repeats its calls itself, so what it gives up on is not tried again."""
    cause = _cause(error)
    if type(error) is RuntimeError and cause is not None:
        # The client wraps so what stops a large file on its way; a new try gets fresh addresses, which expire.
        return True
    if isinstance(cause, HfHubHTTPError):
        return cause.response.status_code in _PASSING_STATUSES or _of_storage(cause)
    return isinstance(cause, _PASSING_ERRORS)


def _of_storage(error: HfHubHTTPError) -> bool:
    """Whether the storage beside the Hub answered. It refuses an address that expired; a new try gets a fresh one."""
    return not str(error.response.url).startswith(f"{constants.ENDPOINT}/")


def _away(error: BaseException | None) -> bool:
    """Whether the Hub gave no answer, so that a cache may answer in its place."""
    return isinstance(error, OfflineModeIsEnabled) or _passes(error)


def _asked_wait(cause: _Cause | None) -> int | None:
    """Seconds that the Hub asks to wait, by `RateLimit` or `Retry-After`."""
    if not isinstance(cause, HfHubHTTPError):
        return None
    limit = parse_ratelimit_headers(cause.response.headers)
    if limit is not None and limit.remaining == 0:
        return limit.reset_in_seconds + 1
    asked = cause.response.headers.get("Retry-After", "").strip()
    return int(asked) if asked.isdigit() else None


def _reason(error: Exception) -> str:
    """What happened, in one line without addresses, which may be signed, and without the token."""
    cause = _cause(error)
    if isinstance(cause, json.JSONDecodeError) or isinstance(error, LookupError):
        text = "the reply makes no sense"
    elif isinstance(cause, HfHubHTTPError) and _of_storage(cause):
        text = f"the Hub's storage answered {cause.response.status_code}"
    elif isinstance(cause, HfHubHTTPError) and type(error) is not ValueError:
        said = f" ({cause.server_message})" if cause.server_message else ""
        text = f"the Hub answered {cause.response.status_code}{said}"
    elif isinstance(cause, httpx2.TransportError):
        text = f"the connection to the Hub failed ({type(cause).__name__})"
    elif isinstance(error, OfflineModeIsEnabled) or isinstance(error.__cause__, OfflineModeIsEnabled):
        text = "offline mode is on"
    elif isinstance(error, LocalTokenNotFoundError):
        text = "there is no token"
    else:
        text = str(error) or type(error).__name__
    return _one_line(text)


def _one_line(text: str) -> str:
    text = re.sub(r"\s+", " ", re.sub(r"https?://\S+", "…", text)).strip().rstrip(".;")
    token = get_token()
    text = text.replace(token, "…") if token else text
    return text if len(text) <= 300 else text[:300] + "…"
