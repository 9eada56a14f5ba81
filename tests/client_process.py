"""A process of its own that publishes and pulls, with its own `HF_HOME`, as the Hub's client reads its settings once."""

import multiprocessing
import os
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from radrecipes.errors import InputError
from radrecipes.hub.connection import problem_with_model
from radrecipes.hub.publish import publish_folder
from radrecipes.hub.pull import pull

TOKEN = "hf_" + "w" * 34
_OTHER_SETTINGS = ("HF_HUB_CACHE", "HF_XET_CACHE", "HF_DATASETS_CACHE", "HF_HUB_DISABLE_XET", "HF_DATASETS_OFFLINE")


@dataclass
class Outcome:
    """How a call ended: `result`, or `error`, the line that the user sees; and what was waited for, in seconds."""

    result: Any = None
    error: str | None = None
    steps: list[str] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)


class HubClient:
    """A client process, while the `with` block lasts.

    Args:
        url (`str`):
            The server.
        home (`Path`):
            `HF_HOME`.
        environment (`str`):
            More environment variables.
    """

    def __init__(self, url: str, home: Path, **environment: str):
        self.environment = {
            "HF_ENDPOINT": url,
            "HF_HOME": str(home),
            "HF_TOKEN": TOKEN,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "NO_PROXY": "127.0.0.1",
            **environment,
        }

    def __enter__(self) -> "HubClient":
        self._pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        with mock.patch.dict(os.environ, self.environment):
            for name in {*_OTHER_SETTINGS} - self.environment.keys():
                os.environ.pop(name, None)
            self.process_id = self._pool.submit(os.getpid).result()
        return self

    def __exit__(self, *_) -> None:
        self._pool.shutdown(cancel_futures=True)

    def begin_to_publish(self, folder: Path, repo_id: str, **options: Any) -> Future:
        """[`HubClient.publish`] that does not wait; `.result()` is the [`Outcome`]."""
        return self._pool.submit(_publish, folder, repo_id, options)

    def publish(self, folder: Path, repo_id: str, **options: Any) -> Outcome:
        """`publish_folder`, where `token` may name another token."""
        return self.begin_to_publish(folder, repo_id, **options).result()

    def pull(self, reference: str, **options: Any) -> Outcome:
        """`pull`, where `token` may name another token."""
        return self._pool.submit(_pull, reference, options).result()

    def problem_with_model(self, repo_id: str, revision: str, token: str = TOKEN) -> str | None:
        """`problem_with_model`, asked again."""
        return self._pool.submit(_problem, repo_id, revision, token).result()


def _problem(repo_id: str, revision: str, token: str) -> str | None:
    os.environ["HF_TOKEN"] = token
    problem_with_model.cache_clear()
    return problem_with_model(repo_id, revision)


def _publish(folder: Path, repo_id: str, options: dict) -> Outcome:
    outcome = Outcome()
    os.environ["HF_TOKEN"] = options.pop("token", TOKEN)
    options = {"repo_type": "model", "private": True, "tag": "v2.0", **options}
    try:
        outcome.result = publish_folder(
            folder, repo_id, on_step=outcome.steps.append, sleep=outcome.waits.append, **options
        )
    except InputError as error:
        outcome.error = str(error)
    return outcome


def _pull(reference: str, options: dict) -> Outcome:
    outcome = Outcome()
    os.environ["HF_TOKEN"] = options.pop("token", TOKEN)
    try:
        outcome.result = pull(reference, sleep=outcome.waits.append, **options)
    except InputError as error:
        outcome.error = str(error)
    return outcome
