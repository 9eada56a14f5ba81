"""The page and its requests: which row a window shows, and what becomes of a decision."""

import contextlib
import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from radrecipes.errors import InputError, RadrecipesError
from radrecipes.inference.abstention import AUTO
from radrecipes.review.journal import Journal
from radrecipes.review.rows import ACCEPTED, CHANGED, Row
from radrecipes.statistics import clopper_pearson_interval

_HEADERS = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff"}
_LONGEST = 2000  # characters of a comment
_LARGEST = 64 * 1024  # bytes of a request


class AlreadyReviewedError(Exception):
    """A second decision on a row, which was not stored."""


class Review:
    """The rows of one file of answers and what windows do with them.

    Args:
        rows: In the order in which they are shown.
        journal: Started, of the same answers.
        labels: Names that may be chosen, each with its other spellings.
        reviewer: Who decides; written next to each decision.
        blind: Show a row's labels in alphabetical order and without probabilities, which would tell automatic rows from others.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        journal: Journal,
        labels: Mapping[str, Sequence[str]],
        reviewer: str,
        blind: bool = False,
    ):
        self.rows, self.journal, self.labels, self.reviewer, self.blind = rows, journal, labels, reviewer, blind
        self.places = {row.id: place for place, row in enumerate(rows)}
        own = self._record(replace(rows[0], texts={}, group="group"), "", "")
        if taken := sorted(own.keys() & rows[0].texts.keys()):
            raise InputError(f"the corrections have a column {taken[0]!r} of their own; rename it", "--text-column")

    def open(self, window: str, place: int | None) -> dict[str, Any]:
        """The row that the window showed before a reload, or the first open one."""
        with self.journal.updated():
            if place is None or not self._is_free(window, place):
                place = self._next_open(window, -1)
            return self._view(window, place)

    def close(self, window: str, place: int | None) -> dict[str, Any]:
        """Leave the row that a closed window showed to the others."""
        with self.journal.updated():
            if held := self.journal.held_by(window):
                self.journal.append("release", held, window, durable=False)
        return {}

    def skip(self, window: str, place: int | None) -> dict[str, Any]:
        """The next open row, after the last one the first again."""
        with self.journal.updated():
            return self._view(window, self._next_open(window, -1 if place is None else place))

    def move(self, window: str, place: int | None, step: int) -> dict[str, Any]:
        """The row before or after, decided or not, without those that other windows show."""
        with self.journal.updated():
            start = (len(self.rows) if step < 0 else -1) if place is None else place
            places = range(start + step, -1 if step < 0 else len(self.rows), step)
            return self._view(window, next((new for new in places if self._is_free(window, new)), place))

    def decide(self, window: str, row_id: str, label: str, comment: str) -> dict[str, Any]:
        """Store a decision, then show the next row; an [`AlreadyReviewedError`] has the row with its earlier decision."""
        place = self.places[row_id]
        with self.journal.updated():
            if row_id in self.journal.decided:
                raise AlreadyReviewedError(self._view(window, place, f"Not saved: {row_id} was reviewed before."))
            record = self._record(self.rows[place], label, comment)
            self.journal.append("decision", row_id, window, row=record)
            said = self._with_table(f"Saved: {label} for {row_id}.")
            return self._view(window, self._next_open(window, place), said)

    def undo(self, window: str, place: int | None, row_id: str | None) -> dict[str, Any]:
        """Withdraw the decision on a row, or the last one of this window, and show that row again."""
        with self.journal.updated():
            decided = self.journal.decided
            own = (key for key in reversed(decided) if decided[key]["window"] == window and key in self.places)
            row_id = row_id if row_id in decided else next(own, None)
            if row_id is None:
                return self._view(window, place, "Nothing to undo in this window.")
            self.journal.append("undo", row_id, window, reviewer=self.reviewer)
            return self._view(window, self.places[row_id], self._with_table(f"Undone: {row_id} is open again."))

    def _with_table(self, said: str) -> str:
        """Write the table; the journal has the decision even if that fails, for example because the file is open elsewhere."""
        try:
            self.journal.write_table()
        except OSError as error:
            return f"{said} {self.journal.corrections.name} cannot be written ({error.strerror}); the next decision tries again."
        return said

    def summary(self) -> dict[str, Any]:
        """Counts of the decided rows, and the accuracy of the sampled automatic ones with its 95 % interval."""
        records = [self.journal.decided[row.id]["row"] for row in self.rows if row.id in self.journal.decided]
        sampled = [record["decision"] == ACCEPTED for record in records if record["sampled"] == "yes"]
        counts = {name: sum(record["decision"] == name for record in records) for name in (ACCEPTED, CHANGED)}
        interval = clopper_pearson_interval(sum(sampled), len(sampled)) if sampled else None
        return {**counts, "sampled": len(sampled), "sampled_right": sum(sampled), "interval": interval}

    def _record(self, row: Row, label: str, comment: str) -> dict[str, str]:
        """The row of a decision in the table of corrections: first the columns that training reads."""
        return {
            "id": row.id,
            **row.texts,
            **({"group": row.group} if row.group else {}),
            "label": label,
            "model_label": row.label,
            "probability": row.probability,
            "decision": ACCEPTED if label == row.label else CHANGED,
            "reviewer": self.reviewer,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "comment": " ".join(comment.split()).encode("utf-8", "replace").decode(),
            "sampled": "yes" if row.decision == AUTO else "no",
        }

    def _is_free(self, window: str, place: int) -> bool:
        return self.journal.holder(self.rows[place].id) in (None, window)

    def _next_open(self, window: str, place: int) -> int | None:
        places = (*range(place + 1, len(self.rows)), *range(place + 1))
        decided = self.journal.decided
        return next((new for new in places if self.rows[new].id not in decided and self._is_free(window, new)), None)

    def _view(self, window: str, place: int | None, said: str = "") -> dict[str, Any]:
        """What a window shows: one row, or none; the row is held for it if it is open."""
        decided = self.journal.decided
        row = None if place is None else self.rows[place]
        if row and row.id not in decided and self.journal.held_by(window) != row.id:
            with contextlib.suppress(OSError):  # a full disk: then another window may show the row, too
                self.journal.append("claim", row.id, window, durable=False)
        reviewed = sum(row.id in decided for row in self.rows)
        view = {"place": place, "total": len(self.rows), "reviewed": reviewed, "said": said, "row": None}
        if row:
            earlier = decided.get(row.id, {}).get("row")
            shown = ("label", "reviewer", "time", "comment")
            candidates = [(label, "") for label in sorted(row.candidates)] if self.blind else [*row.candidates.items()]
            view["row"] = {"id": row.id, "text": row.text, "candidates": candidates}
            view["row"]["earlier"] = earlier and {name: earlier[name] for name in shown}
        return view | ({"summary": self.summary()} if reviewed == len(self.rows) else {})


def application(review: Review, token: str, port: int, title: str) -> Starlette:
    """The page at `/?token=...`, which becomes a cookie, and its requests, for this machine only."""
    cookie, origins = f"review_{port}", {f"http://{name}:{port}" for name in ("127.0.0.1", "localhost")}
    page = Environment(
        loader=ChoiceLoader([PackageLoader("radrecipes.review"), PackageLoader("radrecipes.reporting")]),
        autoescape=True,
        undefined=StrictUndefined,
    ).get_template("review.html.jinja")

    def is_known(request: Request) -> bool:
        return secrets.compare_digest(request.cookies.get(cookie, "").encode(), token.encode())

    async def show_page(request: Request) -> Response:
        given = request.query_params.get("token", "")
        if given and secrets.compare_digest(given.encode(), token.encode()):
            answer = RedirectResponse("/", status_code=303, headers=_HEADERS)  # the address has no token then
            answer.set_cookie(cookie, token, httponly=True, samesite="strict")
            return answer
        if not is_known(request):
            return PlainTextResponse("403: open the address that the command printed", 403, headers=_HEADERS)
        nonce = secrets.token_urlsafe(16)
        policy = f"default-src 'none'; connect-src 'self'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'"
        policy += "; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        labels = [[name, *others] for name, others in review.labels.items()]
        html = page.render(
            nonce=nonce, title=title, reviewer=review.reviewer, blind=review.blind, labels=labels, longest=_LONGEST
        )
        return HTMLResponse(html, headers={**_HEADERS, "Content-Security-Policy": policy})

    async def act(request: Request) -> Response:
        # A page on another port of this machine may send the cookie, but not this origin.
        if not is_known(request) or request.headers.get("origin") not in {*origins, None}:
            return JSONResponse({"error": "open the address that the command printed"}, 403, headers=_HEADERS)
        try:
            step = _asked(review, request.path_params["action"], await _values(request))
        except (KeyError, TypeError, ValueError, RecursionError):
            return JSONResponse({"error": "the request cannot be read"}, 400, headers=_HEADERS)
        try:
            answer, status = step(), 200
        except AlreadyReviewedError as error:
            answer, status = error.args[0], 409
        except (RadrecipesError, OSError) as error:
            said = error.strerror if isinstance(error, OSError) else str(error)
            return JSONResponse({"error": said}, 500, headers=_HEADERS)
        return JSONResponse(answer, status, headers=_HEADERS)

    return Starlette(
        routes=[Route("/", show_page), Route("/{action}", act, methods=["POST"])],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"])],
    )


async def _values(request: Request) -> dict[str, Any]:
    if int(request.headers.get("content-length", _LARGEST)) > _LARGEST - 1:
        raise ValueError
    values = json.loads(await request.body())
    if not isinstance(values["window"], str) or not 0 < len(values["window"]) <= 64:
        raise ValueError
    return values


def _asked(review: Review, action: str, values: Mapping[str, Any]) -> Callable[[], dict[str, Any]]:
    """What a request asks for, after its values were checked."""
    window, place, row_id = values["window"], values.get("place"), values.get("id")
    if type(place) is not int or not 0 <= place < len(review.rows):  # a tab may remember one of other answers
        place = None
    if action == "decide":
        if values["label"] not in review.labels or row_id not in review.places:
            raise ValueError
        return partial(review.decide, window, row_id, values["label"], str(values.get("comment", ""))[:_LONGEST])
    if action == "undo":
        return partial(review.undo, window, place, row_id if row_id in review.places else None)
    if action in ("previous", "next"):
        return partial(review.move, window, place, -1 if action == "previous" else 1)
    return partial({"open": review.open, "close": review.close, "skip": review.skip}[action], window, place)
