"""The HTTP interface: routes, validation, errors as JSON, and the checks before every route."""

import asyncio
import base64
import contextlib
import hashlib
import hmac
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any
from uuid import uuid4

import pydantic_core
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from radrecipes.data.example import Example
from radrecipes.errors import InputError
from radrecipes.inference.prediction_stream import LONGEST_INPUT
from radrecipes.inference.predictors import LabelPredictor
from radrecipes.serving import fhir
from radrecipes.serving.documentation import STYLE, openapi, page
from radrecipes.serving.engine import LOGGER, BusyError, Engine, RefusedError, UnansweredError
from radrecipes.serving.hl7 import MllpServer

BODY_SECONDS = 20
_STYLE_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
_NO_SCRIPTS = {"Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'"}
_OPEN = ("/healthz",)  # without a token, for probes
# The model's one worker is at most this far behind.
_RETRY = {"Retry-After": "1"}
# Types of issues of an OperationOutcome
_ISSUES = {401: "login", 404: "not-found", 405: "not-supported", 413: "too-long", 415: "not-supported"}
_ISSUES |= {429: "throttled", 500: "exception", 503: "transient"}


class Order(BaseModel):
    """One input of the run's task, for example the text of an order."""

    model_config = ConfigDict(extra="forbid", strict=True)
    text: Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_INPUT, pattern=r"^[^\x00]*$")]
    id: Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")] | None = None


class Orders(BaseModel):
    """Several inputs; all are answered or none."""

    model_config = ConfigDict(extra="forbid", strict=True)
    orders: list[Order]


class ProblemError(Exception):
    """An answer that is an error; neither `message` nor `field` may contain a value of the request."""

    def __init__(self, status: int, message: str, field: str | None = None, headers: dict[str, str] | None = None):
        super().__init__(message)
        self.status, self.field, self.headers = status, field, headers


@dataclass(frozen=True)
class Limits:
    """What is accepted; `requests_per_minute` is that of one client address, `hosts` the allowed values of the Host header."""

    body_bytes: int
    requests_per_minute: int | None = None
    token: str | None = None
    hosts: Sequence[str] = ("*",)


class Api:
    """The routes of one engine."""

    def __init__(self, engine: Engine, limits: Limits):
        self.engine, self.limits = engine, limits
        predictor = engine.predictor
        self.labels = isinstance(predictor, LabelPredictor)
        columns = predictor.answers_table([], [], keep_input=False).schema
        self.openapi = openapi(Order, Orders, columns, engine.max_batch, self.labels)
        self.trained_columns = predictor.manifest["data"].get("input_columns")

    def routes(self) -> list[Route]:
        """All routes."""
        text = self._other("/v1/predict") if self.labels else self.answer
        label = self.answer if self.labels else self._other("/v1/report")
        return [
            Route("/v1/predict", label, methods=["POST"]),
            Route("/v1/report", text, methods=["POST"]),
            Route("/fhir/ServiceRequest", self.fhir if self.labels else label, methods=["POST"]),
            Route("/healthz", self.health),
            Route("/metrics", lambda _: Response(self.engine.metrics.as_text(), media_type=CONTENT_TYPE_LATEST)),
            Route("/openapi.json", lambda _: JSONResponse(self.openapi)),
            Route("/docs", lambda _: HTMLResponse(page(self.openapi), headers=_NO_SCRIPTS)),
        ]

    def _other(self, path: str) -> Callable[[Request], Awaitable[Response]]:
        async def refuse(request: Request) -> Response:
            raise ProblemError(404, f"this run {self.engine.predictor.DOES}; use {path}")

        return refuse

    async def health(self, request: Request) -> Response:
        """Whether requests are answered."""
        return JSONResponse({"status": "ok"}) if self.engine.alive else JSONResponse({"status": "stopping"}, 503)

    async def answer(self, request: Request) -> Response:
        """One input, or several."""
        body = await self._json(request, "application/json")
        if not isinstance(body, dict):
            raise ProblemError(422, "must be a JSON object")
        several = "orders" in body
        try:
            read = (Orders if several else Order).model_validate(body)
        except ValidationError as error:
            raise _problem(error, Orders if several else Order) from None
        orders = read.orders if several else [read]
        places = [f"orders.{number}.text" if several else "text" for number in range(len(orders))]
        read = [(order.id or uuid4().hex, order.text, place) for order, place in zip(orders, places, strict=True)]
        rows = await self._answers(read, "orders")
        return JSONResponse({"answers": rows} if several else rows[0])

    async def fhir(self, request: Request) -> Response:
        """A ServiceRequest, or a Bundle of them."""
        if not all(map(fhir.is_element, self.trained_columns or ())):
            names = ", ".join(self.trained_columns)
            raise ProblemError(
                404, f"this run was trained on columns that a ServiceRequest lacks ({names}); use /v1/predict"
            )
        body = await self._json(request, fhir.MEDIA_TYPE, "application/json")
        try:
            orders = fhir.read_orders(body, self.trained_columns)
        except fhir.FhirError as error:
            raise ProblemError(422, str(error), error.path) from None
        rows = await self._answers([(order.id, order.text, order.path) for order in orders], "Bundle.entry")
        label_set = self.engine.predictor.label_set
        answers = [fhir.answer(order, row, label_set) for order, row in zip(orders, rows, strict=True)]
        answer = fhir.bundle(answers) if body["resourceType"] == "Bundle" else answers[0]
        return JSONResponse(answer, media_type=fhir.MEDIA_TYPE)

    async def _answers(self, orders: Sequence[tuple[str, str, str]], field: str) -> list[dict[str, Any]]:
        """The rows of orders, given as id, text and the field of the text."""
        if not 1 <= len(orders) <= self.engine.max_batch:
            raise ProblemError(422, f"must have 1 to {self.engine.max_batch} orders", field)
        examples: list[Example] = []
        for order_id, text, place in orders:
            try:
                examples.append(self.engine.read(order_id, text))
            except InputError as error:
                raise ProblemError(422, str(error), place) from None
        try:
            return await asyncio.wrap_future(self.engine.submit(examples))
        except RefusedError as error:
            raise ProblemError(422, str(error), orders[error.place][2]) from None
        except (BusyError, UnansweredError) as error:
            raise ProblemError(503, f"{error}; send the request again", headers=_RETRY) from None

    async def _json(self, request: Request, *kinds: str) -> Any:
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() not in kinds:
            raise ProblemError(415, f"the content type must be {' or '.join(kinds)}", "Content-Type")
        too_large = ProblemError(
            413, f"the body has more than {self.limits.body_bytes:,} bytes", headers={"Connection": "close"}
        )
        # h11 has checked that it is a number
        if int(request.headers.get("content-length", 0)) > self.limits.body_bytes:
            raise too_large
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for piece in request.stream():
                    body += piece
                    if len(body) > self.limits.body_bytes:
                        raise too_large
        except TimeoutError:
            raise ProblemError(408, "the body did not arrive in time", headers={"Connection": "close"}) from None
        try:
            return pydantic_core.from_json(bytes(body), allow_inf_nan=False)
        except ValueError:
            raise ProblemError(400, "the body is not valid JSON in UTF-8") from None


def _problem(error: ValidationError, kind: type[BaseModel]) -> ProblemError:
    found = error.errors(include_input=False, include_url=False, include_context=False)[0]
    place = list(found["loc"])
    message = found["msg"]
    if found["type"] == "extra_forbidden":  # its name is the client's own text
        place.pop()
        known = Order.model_fields if place else kind.model_fields
        message = f"has an unknown key; known are {', '.join(known)}"
    return ProblemError(422, message, ".".join(map(str, place)) or None)


def _refuse(request: Request, error: Exception) -> Response:
    """The answer to an error of any kind."""
    if isinstance(error, ProblemError):
        status, message, field, headers = error.status, str(error), error.field, error.headers
    elif isinstance(error, HTTPException):
        status, field, headers = error.status_code, None, error.headers
        allowed = (headers or {}).get("Allow", "")
        message = f"the method must be {allowed}" if status == 405 else "no such route; see /docs"
    else:
        status, message, field, headers = 500, "internal error", None, None
    if request.scope["path"].startswith("/fhir/"):
        body = fhir.outcome(message, field, _ISSUES.get(status, "invalid"))
        return JSONResponse(body, status, headers, media_type=fhir.MEDIA_TYPE)
    return JSONResponse({"error": message, "field": field}, status, headers)


class _Gate:
    """Before every route: the limit of requests, the token, a line in the log, metrics, and no traceback."""

    def __init__(self, app: ASGIApp, engine: Engine, limits: Limits, paths: Sequence[str]):
        self.app, self.metrics, self.limits, self.paths = app, engine.metrics, limits, paths
        self._minute, self._seen = 0, Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        began, status = time.perf_counter(), "gone"

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            await send(message)

        request = Request(scope)
        try:
            refused = self._refused(request)
            await (_refuse(request, refused) if refused else self.app)(scope, receive, watched)
        except ClientDisconnect:
            pass
        except Exception as error:  # Starlette has answered 500; a traceback could contain the client's text
            LOGGER.error("internal error: %s", type(error).__name__)
        # Paths and methods can contain anything, so only known ones are named.
        route = scope["path"] if scope["path"] in self.paths else "other"
        method = scope["method"] if scope["method"] in ("GET", "HEAD", "POST") else "other"
        seconds = time.perf_counter() - began
        self.metrics.count_request(route, method, status, seconds)
        LOGGER.info("%s %s %s %.0f ms", method, route, status, 1000 * seconds)

    def _refused(self, request: Request) -> ProblemError | None:
        # Not `request.url`, which contains what the client wrote into the Host header.
        if request.scope["path"] in _OPEN:
            return None
        if self.limits.requests_per_minute:
            minute, second = divmod(int(time.monotonic()), 60)
            if minute != self._minute:
                self._minute, self._seen = minute, Counter()
            client = request.client.host if request.client else ""
            self._seen[client] += 1
            if self._seen[client] > self.limits.requests_per_minute:
                return ProblemError(429, "too many requests in this minute", headers={"Retry-After": str(60 - second)})
        if self.limits.token:
            scheme, _, given = request.headers.get("authorization", "").partition(" ")
            # Compared as bytes: a header can contain more than ASCII.
            same = hmac.compare_digest(given.strip().encode(), self.limits.token.encode())
            if scheme.lower() != "bearer" or not same:
                headers = {"WWW-Authenticate": "Bearer"}
                return ProblemError(401, "the bearer token is missing or wrong", "Authorization", headers)
        elif {"forwarded", "x-forwarded-for"} & set(request.headers):
            return ProblemError(
                401, "comes through a proxy, from which anyone may ask; start the server with --token-file"
            )
        return None


def make_app(engine: Engine, limits: Limits, mllp_socket: Any = None) -> ASGIApp:
    """The application; it starts and stops the engine, and with a bound `mllp_socket` the MLLP server."""

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        mllp = MllpServer(engine, limits.body_bytes)
        if mllp_socket:
            await mllp.start(mllp_socket)
        yield
        if mllp_socket:
            await mllp.stop()
        await asyncio.to_thread(engine.stop)

    routes = Api(engine, limits).routes()
    app = Starlette(
        routes=routes,
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=list(limits.hosts), www_redirect=False)],
        exception_handlers=dict.fromkeys((HTTPException, ProblemError, Exception), _refuse),
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    return _Gate(app, engine, limits, [route.path for route in routes])
