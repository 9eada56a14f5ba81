"""The Hub's own API: accounts, repositories, commits, references and files."""

import base64
import hashlib
import json
import re
import secrets
from urllib.parse import parse_qs, unquote

import yaml
from starlette.responses import JSONResponse, Response

from .card_rules import check_card, front_matter
from .state import LARGE_ENDINGS, POINTER, Commit, Hub, HubError, Repository, StoredFile, git_attributes

# Files whose names do not say so go to the large storage, too, if they are binary or too large for git.
_LARGE_SIZE = 10 * 1024**2
_URL_PREFIXES = {"model": "", "dataset": "datasets/"}


class Api:
    """The handlers. Each takes a Starlette request and returns a response or raises `HubError`.

    Args:
        hub (`hub_server.state.Hub`):
            All state.
    """

    def __init__(self, hub: Hub):
        self.hub = hub

    async def unknown(self, request) -> Response:
        """Anything that this server does not speak, as the second version of the Xet storage's API."""
        raise HubError(404, "Not Found")

    # Accounts and repositories

    async def whoami(self, request) -> Response:
        """Who the token belongs to and what it may do."""
        user = self.hub.user(request)
        if user is None:
            raise HubError(401, "Invalid username or password.")
        return JSONResponse(
            {
                "type": "user",
                "name": user.name,
                "fullname": user.name,
                "orgs": [{"type": "org", "name": name, "roleInOrg": "write"} for name in user.organizations],
                "auth": {"type": "access_token", "accessToken": {"displayName": "token", "role": user.role}},
            }
        )

    async def create(self, request) -> Response:
        """Make a repository. One that exists answers 409 with its address, whatever the token may do."""
        user, body = self.hub.user(request), await request.json()
        if user is None:
            raise HubError(401, "Invalid username or password.")
        repo_type = body.get("type") or "model"
        namespace = body.get("organization") or user.name
        repo_id = f"{namespace}/{body['name']}"
        url = f"{self.hub.url}/{_URL_PREFIXES[repo_type]}{repo_id}"
        if (repo_type, repo_id) in self.hub.repositories:
            raise HubError(409, f"You already created this {repo_type} repo", extra={"url": url})
        if user.role != "write" or not user.owns(namespace):
            raise HubError(403, f"You don't have the rights to create a {repo_type} under the namespace {namespace!r}")
        private = body.get("visibility") == "private" or bool(body.get("private"))
        repository = Repository(repo_id, repo_type, private, user.name, self.hub.storage)
        self.hub.repositories[repo_type, repo_id] = repository
        return JSONResponse({"url": url, "name": repo_id})

    async def delete(self, request) -> Response:
        """Delete a repository."""
        user, body = self.hub.user(request), await request.json()
        repo_id = f"{body.get('organization') or (user.name if user else '')}/{body['name']}"
        repository = self.hub.visible(body.get("type") or "model", repo_id, user)
        self.hub.check_owner(repository, user)
        del self.hub.repositories[repository.repo_type, repository.repo_id]
        return Response("OK")

    async def settings(self, request) -> Response:
        """Change who may see a repository and who may read its files."""
        repository, body = self.hub.writable(request), await request.json()
        if body.get("gated", False) not in ("auto", "manual", False):
            raise HubError(400, "gated must be auto, manual or false")
        repository.gated = body.get("gated", repository.gated)
        if "visibility" in body:
            repository.private = body["visibility"] == "private"
        return JSONResponse({"gated": repository.gated, "private": repository.private})

    async def auth_check(self, request) -> Response:
        """Whether the caller may read the files."""
        self.hub.downloadable(request)
        return JSONResponse({})

    async def validate_yaml(self, request) -> Response:
        """Check a card's YAML."""
        body = await request.json()
        errors, warnings = check_card(body["content"], body.get("repoType") or "model")
        answer = {
            "errors": [{"message": message} for message in errors],
            "warnings": [{"message": message} for message in warnings],
        }
        return JSONResponse(answer, 400 if errors else 200)

    # Commits and references

    async def preupload(self, request) -> Response:
        """How each file has to come: within the commit, or ahead of it as a large file."""
        repository = self._open_to_changes(request)
        commit = self._commit(request, repository)
        answers = []
        for file in (await request.json())["files"]:
            sample, stored = base64.b64decode(file.get("sample") or ""), commit.files.get(file["path"])
            large = file["path"].endswith(LARGE_ENDINGS) or file["size"] > _LARGE_SIZE or _is_binary(sample)
            answer = {"path": file["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
            if stored is not None:
                answer["oid"] = stored.sha256 or stored.oid
            answers.append(answer)
        return JSONResponse({"files": answers})

    async def commit(self, request) -> Response:
        """Make one commit out of lines of JSON: a header, then operations."""
        repository = self._open_to_changes(request)
        head, branch = self._commit(request, repository), _parameter(request, "revision")
        lines = [json.loads(line) for line in (await request.body()).splitlines() if line.strip()]
        header, operations = lines[0]["value"], lines[1:]
        if header.get("parentCommit", head.oid) != head.oid:
            raise HubError(412, "A commit has happened since. Please refresh and try again.")
        if request.query_params.get("create_pr"):
            branch = f"refs/pr/{len(repository.pull_requests) + 1}"
            repository.pull_requests[branch] = head
        if branch not in repository.branches and branch not in repository.pull_requests:
            raise HubError(404, f"{branch} is not a branch", "RevisionNotFound")
        files, added = dict(head.files), []
        for operation in operations:
            self._apply(repository, operation["key"], operation["value"], files, added)
        # The Hub itself notes large files that their names do not give away, within the same commit.
        unnamed = [path for path in added if files[path].sha256 and not path.endswith(LARGE_ENDINGS)]
        attributes = files.get(".gitattributes", StoredFile.small(b"")).data
        noted = b"".join(line for line in git_attributes(unnamed).splitlines(True) if line not in attributes)
        files[".gitattributes"] = StoredFile.small(attributes + noted)
        author = self.hub.user(request).name
        title, message = header["summary"], header.get("description", "")
        commit = repository.commit(branch, files, tuple(added), title, message, author)
        address = f"{self.hub.url}/{_URL_PREFIXES[repository.repo_type]}{repository.repo_id}"
        answer = {"success": True, "commitOid": commit.oid, "commitUrl": f"{address}/commit/{commit.oid}"}
        if request.query_params.get("create_pr"):
            answer["pullRequestUrl"] = f"{address}/discussions/{branch.rpartition('/')[2]}"
        return JSONResponse(answer)

    def _apply(self, repository: Repository, key: str, value: dict, files: dict, added: list) -> None:
        """Carry out one operation of a commit on `files`."""
        path = value["path"]
        if key == "deletedFile":
            if files.pop(path, None) is None:
                raise HubError(400, f"there is no file {path} to delete")
        elif key == "deletedFolder":
            for inside in [other for other in files if other.startswith(path.rstrip("/") + "/")]:
                del files[inside]
        elif key == "file":
            data = base64.b64decode(value["content"])
            if path == "README.md":
                errors, _ = check_card(data.decode("utf-8"), repository.repo_type)
                if errors:
                    raise HubError(400, f"Invalid metadata in README.md. {' '.join(errors)}")
            files[path] = StoredFile.small(data)
            added.append(path)
        elif key == "lfsFile":
            sha256 = value["oid"]
            if not self.hub.storage.has(sha256):
                raise HubError(400, f"{path} points to a large file that does not exist: {sha256}")
            data = self.hub.storage.read(sha256)
            if hashlib.sha256(data).hexdigest() != sha256:
                raise HubError(400, f"{path}: the uploaded bytes do not have sha256 {sha256}")
            files[path] = StoredFile.large(sha256, len(data))
            added.append(path)
        else:
            raise HubError(400, f"no operation {key!r}")

    async def create_tag(self, request) -> Response:
        """Put a tag on a commit; one that exists answers 409."""
        repository = self.hub.writable(request)
        commit, name = self._commit(request, repository), (await request.json())["tag"]
        if name in repository.tags:
            raise HubError(409, f"Tag {name} already exists")
        repository.tags[name] = commit
        return JSONResponse({"success": True})

    async def delete_tag(self, request) -> Response:
        """Remove a tag."""
        repository = self.hub.writable(request)
        if repository.tags.pop(_parameter(request, "revision"), None) is None:
            raise HubError(404, "There is no such tag", "RevisionNotFound")
        return JSONResponse({"success": True})

    async def create_branch(self, request) -> Response:
        """Begin a branch at a revision."""
        repository, name = self.hub.writable(request), _parameter(request, "revision")
        start = repository.revision((await request.json()).get("startingPoint") or "main")
        if name in repository.branches:
            raise HubError(409, f"Branch {name} already exists")
        if start is None:
            raise HubError(404, "Invalid starting point", "RevisionNotFound")
        repository.branches[name] = start
        return JSONResponse({"success": True})

    async def delete_branch(self, request) -> Response:
        """Remove a branch other than the first."""
        repository, name = self.hub.writable(request), _parameter(request, "revision")
        if name == "main":
            raise HubError(403, "The main branch cannot be deleted")
        if repository.branches.pop(name, None) is None:
            raise HubError(404, "There is no such branch", "RevisionNotFound")
        return JSONResponse({"success": True})

    async def create_discussion(self, request) -> Response:
        """Open a pull request. Discussions without one are not kept."""
        repository = self.hub.readable(request)
        if self.hub.user(request) is None or not (await request.json()).get("pullRequest"):
            raise HubError(400, "only pull requests, and only by users")
        number = len(repository.pull_requests) + 1
        repository.pull_requests[f"refs/pr/{number}"] = repository.revision("main")
        return JSONResponse({"num": number})

    async def discussion(self, request) -> Response:
        """A pull request."""
        repository, number = self.hub.readable(request), int(request.path_params["number"])
        if f"refs/pr/{number}" not in repository.pull_requests:
            raise HubError(404, "There is no such discussion")
        return JSONResponse(
            {
                "title": repository.pull_requests[f"refs/pr/{number}"].title,
                "num": number,
                "author": {"name": repository.namespace},
                "createdAt": repository.created,
                "status": "draft",
                "repo": {"name": repository.repo_id, "type": repository.repo_type},
                "isPullRequest": True,
                "events": [],
                "changes": {"base": "refs/heads/main"},
                "filesWithConflicts": [],
                "diff": "",
            }
        )

    async def refs(self, request) -> Response:
        """Branches, tags and pull requests."""
        repository = self.hub.readable(request)
        groups = {
            "branches": {f"refs/heads/{name}": commit for name, commit in repository.branches.items()},
            "tags": {f"refs/tags/{name}": commit for name, commit in repository.tags.items()},
            "pullRequests": repository.pull_requests,
            "converts": {},
        }
        answer = {}
        for group, references in groups.items():
            answer[group] = [
                {"name": re.sub("^refs/(heads|tags)/", "", ref), "ref": ref, "targetCommit": commit.oid}
                for ref, commit in references.items()
            ]
        return JSONResponse(answer)

    async def commits(self, request) -> Response:
        """Commits from the newest to the first."""
        repository = self.hub.readable(request)
        log = repository.log(self._commit(request, repository).oid)
        return JSONResponse(
            [
                {
                    "id": commit.oid,
                    "title": commit.title,
                    "message": commit.message,
                    "authors": [{"user": commit.author}],
                    "date": commit.date,
                }
                for commit in log
            ]
        )

    # Reading

    async def model_info(self, request) -> Response:
        """A repository at a revision, with its card's YAML; readable even if the files are gated."""
        repository = self.hub.readable(request)
        commit = self._commit(request, repository)
        card = _card(repository, commit)
        siblings = []
        for path, file in sorted(commit.files.items()):
            sibling = {"rfilename": path}
            if request.query_params.get("blobs"):
                sibling |= {"size": file.size, "blobId": file.oid}
                if file.sha256:
                    sibling["lfs"] = {"sha256": file.sha256, "size": file.size, "pointerSize": _pointer_size(file)}
            siblings.append(sibling)
        return JSONResponse(
            {
                "_id": hashlib.sha256(repository.repo_id.encode()).hexdigest()[:24],
                "id": repository.repo_id,
                "author": repository.namespace,
                "sha": commit.oid,
                "lastModified": commit.date,
                "createdAt": repository.created,
                "private": repository.private,
                "gated": repository.gated,
                "disabled": False,
                "downloads": 0,
                "likes": 0,
                "tags": _tags(card),
                "pipeline_tag": card.get("pipeline_tag"),
                "library_name": card.get("library_name"),
                "cardData": card,
                "siblings": siblings,
            }
        )

    async def tree(self, request) -> Response:
        """Files and folders below a path."""
        repository = self.hub.readable(request)
        commit, folder = self._commit(request, repository), _parameter(request, "path").strip("/")
        prefix = f"{folder}/" if folder else ""
        below = {path: file for path, file in sorted(commit.files.items()) if path.startswith(prefix)}
        if not below and folder:
            raise HubError(404, f"{folder} does not exist on {_parameter(request, 'revision')}", "EntryNotFound")
        recursive, folders, entries = _flag(request, "recursive"), {}, []
        for path, file in below.items():
            parts = path.removeprefix(prefix).split("/")
            for depth in range(1, len(parts) if recursive else min(len(parts), 2)):
                folders[prefix + "/".join(parts[:depth])] = None
            if recursive or len(parts) == 1:
                entries.append(self._entry(path, file, commit, _flag(request, "expand")))
        return JSONResponse([*(_folder_entry(path, commit) for path in folders), *entries])

    async def paths_info(self, request) -> Response:
        """Files and folders by name; what does not exist is left out."""
        repository = self.hub.readable(request)
        commit = self._commit(request, repository)
        form = parse_qs((await request.body()).decode(), keep_blank_values=True)
        entries = []
        for path in form.get("paths", []):
            if path in commit.files:
                expand = form.get("expand", ["false"])[0].lower() in ("true", "1")
                entries.append(self._entry(path, commit.files[path], commit, expand))
            elif any(other.startswith(path.rstrip("/") + "/") for other in commit.files):
                entries.append(_folder_entry(path.rstrip("/"), commit))
        return JSONResponse(entries)

    async def resolve(self, request) -> Response:
        """A file, complete or in part; a large one is elsewhere, under an address that needs no token."""
        repository = self.hub.downloadable(request)
        commit, path = self._commit(request, repository), _parameter(request, "path")
        if path not in commit.files:
            raise HubError(404, "Entry not found", "EntryNotFound")
        file = commit.files[path]
        headers = {"X-Repo-Commit": commit.oid, "ETag": f'"{file.sha256 or file.oid}"', "Accept-Ranges": "bytes"}
        if file.sha256:
            headers |= {"X-Linked-Etag": headers["ETag"], "X-Linked-Size": str(file.size)}
            xet_hash = self.hub.storage.xet_hash(file.sha256)
            if xet_hash:
                route = f"/api/{repository.repo_type}s/{repository.repo_id}/xet-read-token/{commit.oid}"
                headers |= {"X-Xet-Hash": xet_hash, "X-Xet-Refresh-Route": self.hub.url + route}
            signature = secrets.token_hex(16)
            self.hub.signatures[signature] = file.sha256
            address = f"{self.hub.storage_url}/files/{file.sha256}?X-Amz-Signature={signature}"
            return Response(status_code=302, headers={**headers, "Location": address})
        return ranged_response(request, repository.read(file), headers)

    def _open_to_changes(self, request) -> Repository:
        """The repository of a request that changes it, or that opens a pull request, for which reading is enough."""
        user = self.hub.user(request)
        if request.query_params.get("create_pr") and user and user.role == "write":
            return self.hub.readable(request)
        return self.hub.writable(request)

    def _commit(self, request, repository: Repository) -> Commit:
        """The commit that the request's revision names."""
        name = _parameter(request, "revision") or "main"
        commit = repository.revision(name)
        if commit is None:
            raise HubError(404, f"Invalid rev id: {name}", "RevisionNotFound")
        return commit

    def _entry(self, path: str, file: StoredFile, commit: Commit, expand: bool) -> dict:
        """A file as `tree` and `paths-info` show it."""
        entry = {"type": "file", "path": path, "oid": file.oid, "size": file.size}
        if file.sha256:
            entry["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": _pointer_size(file)}
            xet_hash = self.hub.storage.xet_hash(file.sha256)
            entry |= {"xetHash": xet_hash} if xet_hash else {}
        if expand:
            entry["lastCommit"] = {"id": commit.oid, "title": commit.title, "date": commit.date}
        return entry


def ranged_response(request, data: bytes, headers: dict) -> Response:
    """All of `data`, or what the request's `Range` asks for: `a-b`, `a-` or `-n`, one range only."""
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("range", ""))
    if match is None or match.groups() == ("", ""):
        return Response(data, headers=headers, media_type="application/octet-stream")
    first, last = match.groups()
    start = int(first) if first else max(len(data) - int(last), 0)
    end = min(int(last) + 1, len(data)) if first and last else len(data)
    if start >= end:
        raise HubError(416, f"Range Not Satisfiable: {len(data)} bytes")
    headers = {**headers, "Content-Range": f"bytes {start}-{end - 1}/{len(data)}"}
    return Response(data[start:end], 206, headers, "application/octet-stream")


def _parameter(request, name: str) -> str:
    """A part of the path, unquoted: `main%2Fnext` is one revision, so the server routes the path as it was quoted."""
    return unquote(request.path_params.get(name, ""))


def _flag(request, name: str) -> bool:
    return request.query_params.get(name, "").lower() in ("true", "1")


def _is_binary(sample: bytes) -> bool:
    """Whether the first bytes of a file are not text. A character may be cut at their end."""
    if b"\0" in sample:
        return True
    try:
        sample.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start < len(sample) - 3
    return False


def _card(repository: Repository, commit: Commit) -> dict:
    """The YAML of the README at a commit."""
    if "README.md" not in commit.files:
        return {}
    # A bit that flipped at rest may have broken it.
    try:
        card = yaml.safe_load(
            front_matter(repository.read(commit.files["README.md"]).decode("utf-8", "replace")) or ""
        )
    except yaml.YAMLError:
        return {}
    return card if isinstance(card, dict) else {}


def _tags(card: dict) -> list[str]:
    """The tags of a repository's page: the card's own and those that follow from its other keys."""
    tags = [card[key] for key in ("library_name", "pipeline_tag") if card.get(key)] + list(card.get("tags") or [])
    for key, name in {"license": "license", "datasets": "dataset", "base_model": "base_model"}.items():
        values = card.get(key) or []
        tags += [f"{name}:{value}" for value in ([values] if isinstance(values, str) else values)]
    return list(dict.fromkeys(tags))


def _pointer_size(file: StoredFile) -> int:
    return len(POINTER.format(file.sha256, file.size))


def _folder_entry(path: str, commit: Commit) -> dict:
    names = sorted(other for other in commit.files if other.startswith(path + "/"))
    return {"type": "directory", "path": path, "oid": hashlib.sha1("\n".join(names).encode()).hexdigest(), "size": 0}
