"""Faults on demand: what goes wrong at which step of the API, and how often."""

import asyncio
from dataclasses import dataclass
from http import HTTPStatus
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import request_response

STEPS = (
    *("whoami", "create", "delete", "settings", "validate_yaml", "preupload", "commit", "tag", "branch", "discussion"),
    *("lfs_batch", "lfs_upload", "lfs_complete", "lfs_verify", "lfs_download"),
    *("xet_token", "xet_xorb", "xet_shard", "xet_reconstruction", "xet_download"),
    *("model_info", "tree", "paths_info", "refs", "commits", "resolve_head", "resolve", "unknown"),
)
# These lead to the storage, which knows nothing of the Hub's error headers and answers in XML.
_STORAGE_STEPS = ("lfs_upload", "lfs_complete", "lfs_download", "xet_download")
_MESSAGES = {
    401: "Invalid credentials in Authorization header",
    412: "A commit has happened since. Please refresh and try again.",
}


@dataclass(frozen=True)
class Status:
    """Answer with `code` and do nothing.

    Args:
        code (`int`):
            HTTP status code.
        retry_after (`int`, *optional*):
            Seconds for `Retry-After`.
        page (`bool`, *optional*, defaults to `False`):
            The body is HTML as of a gateway in front of the Hub, without the Hub's error headers.
        error_code (`str`, *optional*):
            `X-Error-Code`, as `RepoNotFound`: what a copy of the Hub answers that is out of date.
        rate_limit (`int`, *optional*):
            Seconds until the quota is new, told by `RateLimit` as the Hub does: nothing remains of it.
    """

    code: int
    retry_after: int | None = None
    page: bool = False
    error_code: str | None = None
    rate_limit: int | None = None


@dataclass(frozen=True)
class Cut:
    """Close the connection after `after` bytes of the request's body (`POST`, `PUT`) or of the answer's (`GET`).

    A body that is shorter is cut just before its end, and a request is not carried out.
    """

    after: int


@dataclass(frozen=True)
class LostReply:
    """Do the work, then close the connection without an answer."""


@dataclass(frozen=True)
class FlippedBit:
    """Only at `commit`: do the work, then flip one bit in the largest file that the commit added, at rest."""


@dataclass(frozen=True)
class Delay:
    """Wait before the work is done."""

    seconds: float


class LoggedRequest(NamedTuple):
    """One request as it came in."""

    method: str
    path: str
    step: str


class Faults:
    """The faults that wait for their step. Each step takes its own in the order in which they were asked for."""

    def __init__(self):
        self.pending = {step: [] for step in STEPS}

    def fail(self, step: str, kind: Status | Cut | LostReply | FlippedBit | Delay, times: int = 1) -> None:
        """Let the next `times` requests of a step go wrong.

        Args:
            step (`str`):
                A name out of `STEPS`. `HEAD` and `GET` of a file are two steps, `resolve_head` and `resolve`.
            kind (`Status`, `Cut`, `LostReply`, `FlippedBit` or `Delay`):
                What goes wrong.
            times (`int`, *optional*, defaults to 1):
                How many requests.

        Raises:
            `ValueError`: If there is no such step, or the step stores no file that a bit could flip in.
        """
        if step not in self.pending:
            raise ValueError(f"no step {step!r}; there are {', '.join(STEPS)}")
        if isinstance(kind, FlippedBit) and step != "commit":
            raise ValueError("a bit flips at the step `commit` only")
        self.pending[step] += [kind] * times

    def clear(self) -> None:
        """Forget all that waits."""
        for kinds in self.pending.values():
            kinds.clear()

    def take(self, step: str) -> Status | Cut | LostReply | FlippedBit | Delay | None:
        """The fault of this request, which then waits no more."""
        return self.pending[step].pop(0) if self.pending[step] else None


class Step:
    """One handler as an ASGI application that is logged and that goes wrong when it is asked to.

    Args:
        name (`str`):
            The step's name.
        handler (coroutine function):
            Takes a Starlette request and returns a response.
        hub (`hub_server.state.Hub`):
            Holds the faults and the log.
    """

    def __init__(self, name, handler, hub):
        self.name = name
        self.hub = hub
        self.app = request_response(handler)

    async def __call__(self, scope, receive, send) -> None:
        self.hub.requests.append(LoggedRequest(scope["method"], scope["path"], self.name))
        fault = self.hub.faults.take(self.name)
        if isinstance(fault, Status):
            await _read_body(receive)
            await _failure(fault, self.name)(scope, receive, send)
        elif isinstance(fault, Cut) and scope["method"] in ("POST", "PUT"):
            await _read_body(receive, at_most=fault.after)
            _transport(scope).abort()
        elif isinstance(fault, Cut):
            await self.app(scope, receive, _Shortened(scope, send, fault.after))
        elif isinstance(fault, LostReply):
            await self.app(scope, receive, _swallow)
            _transport(scope).abort()
        elif isinstance(fault, FlippedBit):
            answer = []
            await self.app(scope, receive, _collector(answer))
            if answer[0]["status"] == 200:
                self.hub.flip_bit_of_last_commit(Request(scope))
            for message in answer:
                await send(message)
        else:
            if isinstance(fault, Delay):
                await asyncio.sleep(fault.seconds)
            await self.app(scope, receive, send)


class _Shortened:
    """A `send` that lets `after` bytes of the body through and closes the connection then."""

    def __init__(self, scope, send, after: int):
        self.scope, self.send, self.left = scope, send, after

    async def __call__(self, message) -> None:
        body = message.get("body", b"")
        if message["type"] == "http.response.start" or (len(body) <= self.left and message.get("more_body")):
            self.left -= len(body)
            await self.send(message)
            return
        # At least the last byte is held back, so that a short answer is cut as well.
        body = body[: max(min(self.left, len(body) - 1), 0)]
        await self.send({**message, "body": body, "more_body": True})
        # Closing flushes what was written; aborting would drop it.
        _transport(self.scope).close()


async def _swallow(message) -> None:
    """A `send` that reaches no one."""


def _collector(messages: list):
    async def collect(message):
        messages.append(message)

    return collect


async def _read_body(receive, at_most: int | None = None) -> None:
    """Read a request to its end, or until `at_most` bytes have come."""
    read = 0
    while at_most is None or read < at_most:
        message = await receive()
        read += len(message.get("body", b""))
        if not message.get("more_body", False):
            break


def _failure(fault: Status, step: str) -> Response:
    headers = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
    message = _MESSAGES.get(fault.code) or HTTPStatus(fault.code).phrase
    if fault.page:
        return HTMLResponse(f"<html><body>{message}</body></html>", fault.code, headers)
    if step in _STORAGE_STEPS:
        return Response(f"<Error><Message>{message}</Message></Error>", fault.code, headers, "application/xml")
    if fault.rate_limit is not None:
        headers["RateLimit"] = f'"api";r=0;t={fault.rate_limit}'
    if fault.error_code is not None:
        headers["X-Error-Code"] = fault.error_code
    return JSONResponse({"error": message}, fault.code, {**headers, "X-Error-Message": message})


def _transport(scope) -> asyncio.Transport:
    """The connection itself, which `hub_server.server` puts into the scope."""
    return scope["state"]["transport"]
