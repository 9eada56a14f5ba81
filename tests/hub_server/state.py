"""What the Hub knows: users, repositories with their commits, and the large files at rest."""

import hashlib
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from .faults import Faults, LoggedRequest
from .xet import XetFiles

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize {}\n"
# Files that go to the large storage by name.
LARGE_ENDINGS = (".safetensors", ".bin", ".parquet", ".arrow", ".pt", ".pth", ".ckpt", ".gguf", ".onnx", ".msgpack")
LARGE_ENDINGS += (".h5", ".npy", ".npz", ".zip", ".gz", ".tar", ".zst", ".model")
_ATTRIBUTES = "{} filter=lfs diff=lfs merge=lfs -text\n"


class HubError(Exception):
    """An answer other than success, with the Hub's error headers.

    Args:
        status (`int`):
            HTTP status code.
        message (`str`):
            Goes into the body and into `X-Error-Message`.
        code (`str`, *optional*):
            `X-Error-Code`: `RepoNotFound`, `RevisionNotFound`, `EntryNotFound` or `GatedRepo`.
        extra (`dict`, *optional*):
            More keys of the body.
    """

    def __init__(self, status: int, message: str, code: str | None = None, extra: dict | None = None):
        super().__init__(message)
        self.status, self.message, self.code, self.extra = status, message, code, extra or {}


@dataclass(frozen=True)
class User:
    """Who calls. `role` is the token's: `read`, `write`, or `fineGrained`, which may change nothing here."""

    name: str
    role: str
    organizations: tuple[str, ...] = ()

    def owns(self, namespace: str) -> bool:
        """Whether repositories of this namespace are the user's own or an organization's of the user."""
        return namespace == self.name or namespace in self.organizations


@dataclass(frozen=True)
class StoredFile:
    """One file of a commit: a small one with its bytes, a large one with the sha256 that finds it."""

    size: int
    oid: str
    data: bytes | None = None
    sha256: str | None = None

    @classmethod
    def small(cls, data: bytes) -> "StoredFile":
        """A file that is in git itself."""
        return cls(len(data), git_blob_oid(data), data=data)

    @classmethod
    def large(cls, sha256: str, size: int) -> "StoredFile":
        """A file of which git has only a pointer; `oid` is the pointer's."""
        return cls(size, git_blob_oid(POINTER.format(sha256, size).encode()), sha256=sha256)


@dataclass(frozen=True)
class Commit:
    """One commit: its files by path, and the paths that it added or changed."""

    oid: str
    parent: "Commit | None"
    title: str
    message: str
    author: str
    files: dict[str, StoredFile]
    added: tuple[str, ...]
    date: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="milliseconds")[:-6] + "Z")


def git_attributes(patterns: Iterable[str]) -> bytes:
    """Lines of `.gitattributes`, which the first commit of every repository on the Hub adds."""
    return "".join(map(_ATTRIBUTES.format, patterns)).encode()


def git_blob_oid(data: bytes) -> str:
    """The sha1 by which git names these bytes."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Storage:
    """Large files at rest, in a folder: legacy LFS objects as they are, Xet files as chunks in xorbs."""

    def __init__(self, folder: Path):
        self.folder = folder / "objects"
        self.folder.mkdir(parents=True)
        self.xet = XetFiles(folder / "xorbs")
        # Sizes that a batch request announced, and parts of multipart uploads that are under way.
        self.announced: dict[str, int] = {}
        self.parts: dict[str, dict[int, bytes]] = {}

    def has(self, sha256: str) -> bool:
        """Whether a file with this hash was uploaded."""
        return (self.folder / sha256).is_file() or sha256 in self.xet.by_sha256

    def write(self, sha256: str, data: bytes) -> None:
        """Keep a legacy LFS object. Its hash is checked when a commit names it."""
        (self.folder / sha256).write_bytes(data)

    def read(self, sha256: str) -> bytes:
        """The bytes as they are there now, whichever way they came."""
        path = self.folder / sha256
        return path.read_bytes() if path.is_file() else self.xet.read(self.xet.by_sha256[sha256])

    def xet_hash(self, sha256: str) -> str | None:
        """The Xet hash of a file that came through Xet, otherwise `None`."""
        file = self.xet.by_sha256.get(sha256)
        return None if file is None or (self.folder / sha256).is_file() else file.hash

    def flip_bit(self, sha256: str) -> None:
        """Flip the lowest bit of the middle byte of a file at rest."""
        path, offset = self.folder / sha256, None
        if path.is_file():
            offset = path.stat().st_size // 2
        else:
            path, offset = self.xet.middle_byte(self.xet.by_sha256[sha256])
        with path.open("r+b") as file:
            file.seek(offset)
            byte = file.read(1)[0]
            file.seek(offset)
            file.write(bytes([byte ^ 1]))


class Repository:
    """A repository: what tests look at, and what requests change.

    Attributes:
        repo_id (`str`), repo_type (`str`):
            `user/name`, and `model` or `dataset`.
        private (`bool`):
            Whether only its owners see it.
        gated (`str` or `False`):
            `"auto"`, `"manual"` or `False`.
        granted (`set[str]`):
            Names of users who may read the files of a gated repository.
        branches, tags, pull_requests (`dict[str, Commit]`):
            References by name; pull requests by `refs/pr/<number>`.
    """

    def __init__(self, repo_id: str, repo_type: str, private: bool, author: str, storage: Storage):
        self.repo_id, self.repo_type, self.private = repo_id, repo_type, private
        self.gated: str | bool = False
        self.granted: set[str] = set()
        self.storage = storage
        self.created = datetime.now(UTC).isoformat(timespec="milliseconds")[:-6] + "Z"
        self.branches: dict[str, Commit] = {}
        self.tags: dict[str, Commit] = {}
        self.pull_requests: dict[str, Commit] = {}
        self.commits: dict[str, Commit] = {}
        files = {".gitattributes": StoredFile.small(git_attributes(f"*{ending}" for ending in LARGE_ENDINGS))}
        self.commit("main", files, tuple(files), "initial commit", "", author)

    @property
    def namespace(self) -> str:
        """The user or organization that owns it."""
        return self.repo_id.split("/")[0]

    def revision(self, name: str = "main") -> Commit | None:
        """The commit that a branch, a tag, a pull request or a hash names."""
        for names in (self.branches, self.tags, self.pull_requests, self.commits):
            if name in names:
                return names[name]
        return self.branches.get(name.removeprefix("refs/heads/")) or self.tags.get(name.removeprefix("refs/tags/"))

    def commit(
        self, branch: str, files: dict, added: tuple, title: str, message: str, author: str, oid: str | None = None
    ) -> Commit:
        """Put a new commit with these files at the head of a branch or of a pull request."""
        heads = self.pull_requests if branch.startswith("refs/pr/") else self.branches
        # A commit is never the same twice, not even with the same content: so a repeated one is seen.
        commit = Commit(oid or secrets.token_hex(20), heads.get(branch), title, message, author, files, added)
        self.commits[commit.oid] = commit
        heads[branch] = commit
        return commit

    def log(self, revision: str = "main") -> list[Commit]:
        """Commits from the newest to the first."""
        commits, commit = [], self.revision(revision)
        while commit is not None:
            commits.append(commit)
            commit = commit.parent
        return commits

    def read(self, file: StoredFile) -> bytes:
        """The bytes of a file as a reader gets them."""
        return self.storage.read(file.sha256) if file.data is None else file.data

    def files(self, revision: str = "main") -> dict[str, bytes]:
        """All files at a revision, by path. `.gitattributes`, which the server writes, is left out."""
        files = self.revision(revision).files
        return {path: self.read(file) for path, file in sorted(files.items()) if path != ".gitattributes"}

    def flip_bit(self, path: str, revision: str = "main") -> None:
        """Flip one bit in the middle of a file at rest, in every commit that contains this very file."""
        file = self.revision(revision).files[path]
        if file.sha256:
            self.storage.flip_bit(file.sha256)
            return
        middle = file.size // 2
        data = file.data[:middle] + bytes([file.data[middle] ^ 1]) + file.data[middle + 1 :]
        for commit in self.commits.values():
            if commit.files.get(path) == file:
                commit.files[path] = replace(file, data=data)


class Hub:
    """All state of one server."""

    def __init__(self, folder: Path, multipart_chunk_size: int):
        self.url = ""
        # Large files are on another host than the API, as they are on the Hub.
        self.storage_url = ""
        # Signed addresses of the storage by their signature: which file each one gives.
        self.signatures: dict[str, str] = {}
        self.multipart_chunk_size = multipart_chunk_size
        self.storage = Storage(folder)
        self.users: dict[str, User] = {}
        self.repositories: dict[tuple[str, str], Repository] = {}
        # Tokens for the Xet storage and what they allow: `read` or `write`.
        self.xet_tokens: dict[str, str] = {}
        self.faults = Faults()
        self.requests: list[LoggedRequest] = []

    def user(self, request) -> User | None:
        """Who calls, `None` without a token; an unknown token is an error even if everyone may read."""
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        if kind != "Bearer" or not token:
            return None
        if token not in self.users:
            raise HubError(401, "Invalid credentials in Authorization header")
        return self.users[token]

    def visible(self, repo_type: str, repo_id: str, user: User | None) -> Repository:
        """A repository that the user may know of."""
        repository = self.repositories.get((repo_type, repo_id))
        if repository is None or (repository.private and not (user and user.owns(repository.namespace))):
            if user is None:
                # The Hub sends no code here; over https the client reads the bare 401 as this one.
                raise HubError(401, "Invalid username or password.", "RepoNotFound")
            raise HubError(404, "Repository not found", "RepoNotFound")
        return repository

    def check_owner(self, repository: Repository, user: User | None) -> None:
        """Refuse a user who may not change a repository."""
        if user is None:
            raise HubError(401, "Invalid username or password.")
        if user.role != "write" or not user.owns(repository.namespace):
            raise HubError(403, f"You don't have the rights to write to {repository.repo_id}")

    def readable(self, request) -> Repository:
        """The repository of a request, if the caller may see that it exists."""
        repo_type = request.path_params.get("kind", "models").removesuffix("s")
        repo_id = f"{request.path_params['namespace']}/{request.path_params['name']}"
        return self.visible(repo_type, repo_id, self.user(request))

    def writable(self, request) -> Repository:
        """The repository of a request, if the caller may change it."""
        repository = self.readable(request)
        self.check_owner(repository, self.user(request))
        return repository

    def downloadable(self, request) -> Repository:
        """The repository of a request, if the caller may read its files."""
        repository, user = self.readable(request), self.user(request)
        if repository.gated and not (user and (user.owns(repository.namespace) or user.name in repository.granted)):
            what = f"Access to {repository.repo_type} {repository.repo_id} is restricted"
            if user is None:
                raise HubError(401, f"{what}. You must have access to it and be authenticated.", "GatedRepo")
            raise HubError(403, f"{what} and you are not in the authorized list.", "GatedRepo")
        return repository

    def flip_bit_of_last_commit(self, request) -> None:
        """Flip a bit in the largest file that the newest commit of the request's repository added."""
        repository = self.readable(request)
        commit = list(repository.commits.values())[-1]
        if commit.added:
            repository.flip_bit(max(commit.added, key=lambda path: commit.files[path].size), commit.oid)
