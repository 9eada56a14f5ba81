"""The server: routes, a loopback port and a thread."""

import hashlib
import socket
import threading
import time
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from .api import Api
from .cas import Cas
from .faults import Faults, LoggedRequest, Step
from .lfs import Lfs
from .state import Hub, HubError, Repository, StoredFile, User

# The Hub says with every answer how much of the caller's quota is left, also with errors that have another cause.
_EVERY_ANSWER = (
    (b"ratelimit", b'"api";r=499;t=120'),
    (b"ratelimit-policy", b'"fixed window";"api";q=500;w=300'),
    (b"x-request-id", b"Root=1-test"),
)
_REPOSITORY = "/api/{kind}/{namespace}/{name}"


class HubServer:
    """A Hub of its own on a loopback port, while the `with` block lasts.

    It speaks what `huggingface_hub` 2.4, `datasets` 5.2 and `hf_xet` 1.8 use to publish and to read models and data sets.
    The rules of cards, what counts as a large file, and error texts approximate the real Hub's. A client that has uploaded
    to one server must not use the same `HF_HOME` with another: `hf_xet` remembers there what it need not send again.

    Args:
        folder (`Path`):
            Holds the large files. Made if it is missing, and must not be used twice.
        multipart_chunk_size (`int`, *optional*, defaults to 5 MiB):
            Legacy uploads of larger files come in parts of this size.

    Attributes:
        url (`str`):
            What `HF_ENDPOINT` has to be.
        faults (`Faults`):
            `faults.fail(step, kind, times)` lets requests go wrong.
        requests (`list[LoggedRequest]`):
            Method, path and step of every request so far.
    """

    def __init__(self, folder: Path, multipart_chunk_size: int = 5 * 1024**2):
        self._hub = Hub(Path(folder), multipart_chunk_size)

    def __enter__(self) -> "HubServer":
        listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        for listener in listeners:
            # Connections inherit it. Without it the body of an answer waits 40 ms until its headers are acknowledged.
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        # Another port is another origin, to which no client may send its token.
        self._hub.url, self._hub.storage_url = (f"http://127.0.0.1:{each.getsockname()[1]}" for each in listeners)
        config = uvicorn.Config(_application(self._hub), http=_Protocol, lifespan="off", log_config=None)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": listeners}, daemon=True)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.005)
        return self

    def __exit__(self, *_) -> None:
        self._server.should_exit = self._server.force_exit = True
        self._thread.join(timeout=10)

    @property
    def url(self) -> str:
        """The address."""
        return self._hub.url

    @property
    def faults(self) -> Faults:
        """What is to go wrong."""
        return self._hub.faults

    @property
    def requests(self) -> list[LoggedRequest]:
        """What came in."""
        return self._hub.requests

    def add_user(self, name: str, token: str, role: str = "write", organizations: tuple[str, ...] = ()) -> None:
        """Let a token in.

        Args:
            name (`str`):
                The user, who owns the repositories `name/…`. One user may have several tokens.
            token (`str`):
                What the client sends.
            role (`str`, *optional*, defaults to `"write"`):
                `"read"`, `"write"`, or `"fineGrained"`, which says nothing about rights; here it has none to write.
            organizations (`tuple[str, ...]`, *optional*):
                Organizations whose repositories the user may change.
        """
        self._hub.users[token] = User(name, role, organizations)

    def add_model(self, repo_id: str, folder: Path, commit: str) -> None:
        """Put a public model there without a client, as a base model that someone else published.

        Args:
            repo_id (`str`):
                `org/name`.
            folder (`Path`):
                Its files.
            commit (`str`):
                Hash of its only commit, which recipes may have pinned.
        """
        owner, storage = repo_id.split("/")[0], self._hub.storage
        repository = Repository(repo_id, "model", False, owner, storage)
        files = dict(repository.revision().files)
        for path in sorted(folder.iterdir()):
            data = path.read_bytes()
            files[path.name] = StoredFile.small(data)
            if path.suffix == ".safetensors":
                sha256 = hashlib.sha256(data).hexdigest()
                storage.write(sha256, data)
                files[path.name] = StoredFile.large(sha256, len(data))
        repository.commit("main", files, tuple(files), "base", "", owner, commit)
        self._hub.repositories["model", repo_id] = repository

    def repo(self, repo_id: str, repo_type: str = "model") -> Repository:
        """A repository as it is now; `KeyError` if there is none."""
        return self._hub.repositories[repo_type, repo_id]


class _Protocol(H11Protocol):
    """HTTP/1.1 that hands the connection itself to the application, so that faults can cut it."""

    def connection_made(self, transport) -> None:
        super().connection_made(transport)
        self.app_state = {**self.app_state, "transport": transport}


def _application(hub: Hub):
    """All routes; the first that fits is taken."""
    api, lfs, cas = Api(hub), Lfs(hub), Cas(hub)

    def route(methods: str, path: str, step: str, handler) -> Route:
        return Route(path, Step(step, handler, hub), methods=methods.split())

    routes = [
        route("GET", "/api/whoami-v2", "whoami", api.whoami),
        route("POST", "/api/repos/create", "create", api.create),
        route("DELETE", "/api/repos/delete", "delete", api.delete),
        route("POST", "/api/validate-yaml", "validate_yaml", api.validate_yaml),
        route("PUT", _REPOSITORY + "/settings", "settings", api.settings),
        route("GET", _REPOSITORY + "/auth-check", "model_info", api.auth_check),
        route("POST", _REPOSITORY + "/preupload/{revision}", "preupload", api.preupload),
        route("POST", _REPOSITORY + "/commit/{revision}", "commit", api.commit),
        route("POST", _REPOSITORY + "/tag/{revision}", "tag", api.create_tag),
        route("DELETE", _REPOSITORY + "/tag/{revision}", "tag", api.delete_tag),
        route("POST", _REPOSITORY + "/branch/{revision}", "branch", api.create_branch),
        route("DELETE", _REPOSITORY + "/branch/{revision}", "branch", api.delete_branch),
        route("POST", _REPOSITORY + "/discussions", "discussion", api.create_discussion),
        route("GET", _REPOSITORY + "/discussions/{number:int}", "discussion", api.discussion),
        route("GET", _REPOSITORY + "/refs", "refs", api.refs),
        route("GET", _REPOSITORY + "/commits/{revision}", "commits", api.commits),
        route("GET", _REPOSITORY, "model_info", api.model_info),
        route("GET", _REPOSITORY + "/revision/{revision}", "model_info", api.model_info),
        route("GET", _REPOSITORY + "/tree/{revision}", "tree", api.tree),
        route("GET", _REPOSITORY + "/tree/{revision}/{path:path}", "tree", api.tree),
        route("POST", _REPOSITORY + "/paths-info/{revision}", "paths_info", api.paths_info),
        route("GET", _REPOSITORY + "/xet-{scope}-token/{revision}", "xet_token", cas.token),
        route("POST", "/cas/v1/xorbs/default/{hash}", "xet_xorb", cas.upload_xorb),
        route("POST", "/cas/v1/shards", "xet_shard", cas.upload_shard),
        route("GET", "/cas/v1/reconstructions/{hash}", "xet_reconstruction", cas.reconstruction),
        route("GET", "/cas/xorbs/{hash}", "xet_download", cas.download_xorb),
        route("PUT", "/lfs/{oid}", "lfs_upload", lfs.upload),
        route("PUT", "/lfs/{oid}/{part:int}", "lfs_upload", lfs.upload),
        route("GET", "/files/{oid}", "lfs_download", lfs.download),
        route("POST", "/lfs/{oid}/complete", "lfs_complete", lfs.complete),
        route("POST", "/lfs/{oid}/verify", "lfs_verify", lfs.verify),
        route("POST", "/{kind}/{namespace}/{name}.git/info/lfs/objects/batch", "lfs_batch", lfs.batch),
        route("POST", "/{namespace}/{name}.git/info/lfs/objects/batch", "lfs_batch", lfs.batch),
    ]
    for prefix in ("/{kind}", ""):
        path = prefix + "/{namespace}/{name}/resolve/{revision}/{path:path}"
        routes += [route("HEAD", path, "resolve_head", api.resolve), route("GET", path, "resolve", api.resolve)]
    routes.append(route("GET HEAD POST PUT DELETE", "/{path:path}", "unknown", api.unknown))
    application = Starlette(routes=routes, exception_handlers={HubError: _answer_error})

    async def with_the_hubs_headers(scope, receive, send) -> None:
        async def send_with_headers(message) -> None:
            if message["type"] == "http.response.start":
                have = {name.lower() for name, _ in message["headers"]}
                message["headers"] += [(name, value) for name, value in _EVERY_ANSWER if name not in have]
            await send(message)

        # A revision may contain a quoted slash, so that paths are matched as they came.
        if scope["type"] == "http":
            scope["path"] = scope["raw_path"].decode("ascii")
        await application(scope, receive, send_with_headers)

    return with_the_hubs_headers


async def _answer_error(_request, error: HubError) -> JSONResponse:
    headers = {"X-Error-Message": error.message.splitlines()[0]}
    if error.code:
        headers["X-Error-Code"] = error.code
    return JSONResponse({"error": error.message, **error.extra}, error.status, headers)
