"""Calls of the Hub's client: retried if that can help, otherwise reported to the user in one line."""

import functools
import itertools
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

import httpx2
from huggingface_hub import DatasetInfo, HfApi, ModelInfo, constants, get_session, get_token, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import parse_ratelimit_headers

from radrecipes import __version__
from radrecipes.errors import InputError, shown

RepoType = Literal["model", "dataset"]
RepoInfo = ModelInfo | DatasetInfo
RETRY = "run the same command again; it continues where it stopped"
_PUBLIC_HUB = "https://huggingface.co"
# Seconds before each retry, in addition to the client's own retries.
WAITS = (1, 2, 4, 8, 8)
# The client itself would wait forever.
TIMEOUT = httpx2.Timeout(120, connect=30)
_QUICK = 10  # seconds for one request before a model is loaded
_LONGEST_WAIT = 300  # seconds; if the Hub asks for more, give up
_TRANSIENT_STATUSES = {408, 409, 412, 425, 429, 500, 502, 503, 504}
_TRANSIENT_ERRORS = (httpx2.TimeoutException, httpx2.NetworkError, httpx2.RemoteProtocolError, json.JSONDecodeError)
# What the client, the `hf_xet` that it calls, a malformed response, and a proxy that needs another package raise.
_CLIENT_ERRORS = (httpx2.HTTPError, httpx2.InvalidURL, OSError, RuntimeError, ValueError, LookupError, ImportError)
_Result = TypeVar("_Result")


class Failure:
    """An exception of the Hub's client, with the network error that the client wrapped."""

    def __init__(self, error: BaseException | None):
        self.error = self.cause = error
        # A response that is not JSON comes from something in front of the Hub, such as a gateway's error page.
        while self.cause is not None and not isinstance(
            self.cause, HfHubHTTPError | httpx2.TransportError | json.JSONDecodeError
        ):
            self.cause = self.cause.__cause__
        self.response = self.cause.response if isinstance(self.cause, HfHubHTTPError) else None
        # Files are in separate storage, which refuses expired URLs; a retry gets fresh ones.
        self.by_storage = self.response is not None and not str(self.response.url).startswith(f"{constants.ENDPOINT}/")
        self.offline = any(isinstance(e, OfflineModeIsEnabled) for e in (error, getattr(error, "__cause__", None)))

    @property
    def transient(self) -> bool:
        """Whether a retry can help. `hf_xet` retries by itself, so its final errors are not retried."""
        if type(self.error) is RuntimeError and self.cause is not None:
            return True  # the client wraps a failed upload of a large file; a retry gets fresh URLs
        if self.response is not None:
            return self.response.status_code in _TRANSIENT_STATUSES or self.by_storage
        return isinstance(self.cause, _TRANSIENT_ERRORS)

    @cached_property
    def requested_wait(self) -> int | None:
        """Seconds that the Hub asks to wait, by `RateLimit` or `Retry-After`."""
        if self.response is None:
            return None
        limit = parse_ratelimit_headers(self.response.headers)
        if limit is not None and limit.remaining == 0:
            return limit.reset_in_seconds + 1
        requested = self.response.headers.get("Retry-After", "").strip()
        return int(requested) if requested.isdigit() else None

    @property
    def reason(self) -> str:
        """What happened, in one line without the token and without URLs, which may be signed."""
        if isinstance(self.cause, json.JSONDecodeError) or isinstance(self.error, LookupError):
            text = "the response is malformed"
        elif self.by_storage:
            text = f"the Hub's storage answered {self.response.status_code}"
        elif self.response is not None and type(self.error) is not ValueError:
            message = f" ({self.cause.server_message})" if self.cause.server_message else ""
            text = f"the Hub answered {self.response.status_code}{message}"
        elif isinstance(self.cause, httpx2.TransportError):
            system = self.system_error
            text = f"the connection to the Hub failed ({type(self.cause).__name__}{f': {system}' if system else ''})"
        elif self.offline:
            text = "offline mode is on"
        elif self.lacks_socks:
            text = "a SOCKS proxy is set, and the package socksio is not installed"
        elif isinstance(self.error, LocalTokenNotFoundError):
            text = "there is no token"
        else:
            text = str(self.error) or type(self.error).__name__
        text = re.sub(r"\s+", " ", re.sub(r"https?://\S+", "…", text)).strip().rstrip(".;")
        token = get_token()
        text = text.replace(token, "…") if token else text
        return text if len(text) <= 300 else text[:300] + "…"

    @property
    def lacks_socks(self) -> bool:
        """Whether a proxy needs a package that is not installed."""
        return isinstance(self.error, ImportError) and "socksio" in str(self.error)

    @property
    def system_error(self) -> str:
        """What the operating system says about a failed connection, such as `Connection refused`; empty if nothing."""
        error = self.cause
        while error is not None:
            if isinstance(error, OSError) and error.strerror:
                return error.strerror
            error = error.__cause__ or error.__context__
        return ""

    def fix(self, organisation: str) -> str:
        """What the user can do about it."""
        if self.lacks_socks:
            return "pip install socksio, or unset the proxy (ALL_PROXY, HTTPS_PROXY)"
        if isinstance(self.cause, httpx2.TransportError) and not isinstance(self.cause, httpx2.TimeoutException):
            return f"check the network, HTTPS_PROXY and HF_ENDPOINT, then {RETRY}"
        status = self.response.status_code if self.response is not None and not self.by_storage else None
        if isinstance(self.error, LocalTokenNotFoundError):
            return "log in with `hf auth login` or set HF_TOKEN"
        if self.offline:
            return "unset HF_HUB_OFFLINE, or copy a cache that contains it into HF_HOME"
        if isinstance(self.cause, GatedRepoError):
            return "ask for access on its page, with the account of your token"
        if status == 401:
            return "log in with `hf auth login` or set HF_TOKEN to a valid token"
        if status == 403:
            return f"use a token with the permission to do this in {organisation}"
        if status == 404:
            own = "" if constants.ENDPOINT == _PUBLIC_HUB else ", and HF_ENDPOINT, which names another Hub"
            return f"check the name and the tag, and whether your token has access{own}"
        if status == 400 or (self.cause is None and isinstance(self.error, ValueError)):
            return "correct what the message names"
        if self.transient and (self.requested_wait or 0) > _LONGEST_WAIT:
            return f"in {self.requested_wait} s {RETRY}"
        return RETRY


@functools.cache
def problem_with_model(repo_id: str, revision: str | None) -> str | None:
    """Why the files of a model cannot be read from the Hub, and what to do, or `None`; two quick requests, once per process."""
    api = HfApi(library_name="radrecipes", library_version=__version__)
    try:
        get_session().timeout = TIMEOUT
        if api.model_info(repo_id, revision=revision, timeout=_QUICK).gated:
            api.auth_check(repo_id)
    except _CLIENT_ERRORS as error:
        failure = Failure(error)
        if isinstance(error, RevisionNotFoundError):
            return f"it has no revision {shown(revision, 60)}; correct model_revision"
        return f"{failure.reason}; {failure.fix(repo_id.split('/')[0])}"
    return None


@dataclass(frozen=True)
class Repository:
    """A repository on the Hub; `on_step` gets a line before each retry, and `sleep` waits before it."""

    repo_id: str
    repo_type: RepoType
    on_step: Callable[[str], None] = lambda step: None
    sleep: Callable[[float], None] = time.sleep
    api: HfApi = field(default_factory=lambda: HfApi(library_name="radrecipes", library_version=__version__))

    def call(
        self,
        step: str,
        function: Callable[[], _Result],
        *,
        landed: Callable[[Exception], _Result | None] = lambda error: None,
        waits: tuple[float, ...] = WAITS,
    ) -> _Result:
        """Call the client and retry transient failures (a timeout only once); a final failure is an [`InputError`] of one line.

        Before each retry `landed` is asked for the result, in case the request succeeded and only the response was lost.
        """
        timed_out = False
        for wait in (*waits, None):
            try:
                # The client creates a new session after some failures.
                get_session().timeout = TIMEOUT
                return function()
            except _CLIENT_ERRORS as error:
                failure = Failure(error)
                if not failure.transient:
                    raise self._explained(step, failure) from error
                if (result := landed(error)) is not None:
                    return result
                timed_out_before, timed_out = timed_out, isinstance(failure.cause, httpx2.TimeoutException)
                requested = failure.requested_wait
                if wait is None or (timed_out and timed_out_before) or (requested or 0) > _LONGEST_WAIT:
                    raise self._explained(step, failure) from error
                pause = wait if requested is None else requested
                self.on_step(f"{step}: {failure.reason}; next attempt in {pause:g} s")
                self.sleep(pause)
        raise AssertionError("the last round returns or raises")

    def info(self, step: str, revision: str | None = None) -> RepoInfo | None:
        """Commit, files and visibility at a revision; `None` if it does not exist."""

        def repo_info() -> RepoInfo | None:
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

    def download(self, commit: str, *, step: str = "download", **options: Any) -> Path:
        """Download all files of a commit into a cache."""
        options |= {"repo_type": self.repo_type, "revision": commit}
        return Path(self.call(step, lambda: snapshot_download(self.repo_id, **options)))

    def cached(self, commit: str) -> Path | None:
        """The folder of a commit in the cache if all its files are there, without asking the Hub."""
        try:
            return Path(
                snapshot_download(self.repo_id, repo_type=self.repo_type, revision=commit, local_files_only=True)
            )
        except (OSError, ValueError):
            return None

    def list_files(self, commit: str, most: int) -> list[RepoFile]:
        """The files of a commit with their sizes; no more than `most`."""

        def tree() -> list[RepoFile]:
            entries = self.api.list_repo_tree(self.repo_id, repo_type=self.repo_type, revision=commit, recursive=True)
            return list(itertools.islice((entry for entry in entries if isinstance(entry, RepoFile)), most))

        return self.call("download", tree)

    def error(self, step: str, what: str) -> InputError:
        """The error of a step, for the caller to raise."""
        return InputError(f"{self.repo_id}: {step}: {what}")

    def _explained(self, step: str, failure: Failure) -> InputError:
        return self.error(step, f"{failure.reason}; {failure.fix(self.repo_id.split('/')[0])}")
