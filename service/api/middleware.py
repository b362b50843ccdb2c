"""What surrounds every request, as pure ASGI: identity, time, one log line, keys, and clients that leave."""

import asyncio
import hashlib
import hmac
import logging
import re
import secrets
from collections.abc import Iterable, Sequence
from contextlib import suppress
from time import perf_counter
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.problems import framework_problem, problem_response
from service.errors import Unauthorized
from service.metrics import Metrics, Stages

logger = logging.getLogger("service.request")

CLIENT_CLOSED_REQUEST = 499  # nobody receives it; it stands in metrics and the log only
_REQUEST_ID = re.compile(r"^[A-Za-z0-9._-]{1,64}$")
_QUIET_ROUTES: Final = frozenset({"/livez", "/readyz", "/healthz", "/metrics"})


class RequestMiddleware:
    """Gives a request its id and its stages, measures it, logs it, and answers what nobody else caught.

    Sets `request_id` and `stages` in the request's state. The id of the client's X-Request-ID is kept when it is
    harmless. The answer carries X-Request-ID and Server-Timing.
    """

    def __init__(self, app: ASGIApp, *, metrics: Metrics, routes: Sequence[BaseRoute]) -> None:
        self._app = app
        self._metrics = metrics
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = perf_counter()
        route = route_template(self._routes, scope)
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _REQUEST_ID.match(given) else secrets.token_hex(8)
        stages = self._metrics.stages()
        state = scope.setdefault("state", {})
        state.update(request_id=request_id, stages=stages)
        status = 0

        async def send_timed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request_id
                headers["Server-Timing"] = _server_timing(stages, perf_counter() - started)
            await send(message)

        in_flight = self._metrics.in_flight.labels(route)
        in_flight.inc()
        try:
            is_gone = await _until_client_leaves(self._app, scope, receive, send_timed)
            if is_gone and status == 0:
                status = CLIENT_CLOSED_REQUEST
        except ClientDisconnect:  # it left in the middle of its body
            status = status or CLIENT_CLOSED_REQUEST
        except Exception:
            logger.exception("request failed", extra={"request_id": request_id, "route": route})
            if status == 0:
                detail = f"It is not your request's fault. Report the id {request_id}; the log has the reason under it."
                await framework_problem(500, detail, request_id)(scope, receive, send_timed)
        finally:
            in_flight.dec()
            seconds = perf_counter() - started
            method = scope["method"] if scope["method"] in _METHODS else "other"
            self._metrics.http_request_duration_seconds.labels(route, method, str(status)).observe(seconds)
            if route not in _QUIET_ROUTES:
                _log(scope, route, status, seconds, stages)


class ApiKeyMiddleware:
    """Asks for one of the keys, as `Authorization: Bearer KEY` or `X-API-Key: KEY`, but for health and metrics.

    Compared by their SHA-256 in constant time, each with every key, so that neither length nor order shows.
    """

    def __init__(self, app: ASGIApp, *, keys: Iterable[str], metrics: Metrics) -> None:
        self._app = app
        self._digests = [hashlib.sha256(key.encode()).digest() for key in keys]
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http" or scope["path"] in _QUIET_ROUTES or self._knows(Headers(scope=scope)):
            await self._app(scope, receive, send)
            return
        self._metrics.rejected_total.labels("unauthorized").inc()
        error = Unauthorized("Send a valid API key as `Authorization: Bearer KEY` or `X-API-Key: KEY`.")
        scope["state"]["problem"] = error.code
        await problem_response(error, scope["state"]["request_id"])(scope, receive, send)

    def _knows(self, headers: Headers) -> bool:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        given = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        digest = hashlib.sha256(given.encode()).digest()
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        return any(matches)


_METHODS: Final = frozenset({"GET", "HEAD", "POST", "DELETE", "OPTIONS", "PUT", "PATCH"})


def route_template(routes: Sequence[BaseRoute], scope: Scope) -> str:
    """The template of the route that will answer, such as `/embed/{image_hash}`; `unmatched` when there is none."""
    for route in routes:
        match, _ = route.matches(scope)
        if match is not Match.NONE:
            return getattr(route, "path", "") or "unmatched"
    return "unmatched"


async def _until_client_leaves(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> bool:
    """Run the app, and cancel it when the client closes the connection; whether it did.

    Once the body has been read nobody listens any more, so the listening is done here.
    """
    is_body_read = asyncio.Event()
    is_gone = asyncio.Event()
    is_answered = False

    async def send_watched(message: Message) -> None:
        nonlocal is_answered
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            is_answered = True
        await send(message)

    async def receive_watched() -> Message:
        if is_body_read.is_set():
            await is_gone.wait()
            return {"type": "http.disconnect"}
        message = await receive()
        if message["type"] == "http.disconnect":
            is_gone.set()
        if not message.get("more_body", False):
            is_body_read.set()
        return message

    async def watch() -> None:
        await is_body_read.wait()
        while not is_gone.is_set() and (await receive())["type"] != "http.disconnect":
            pass
        is_gone.set()

    work = asyncio.create_task(_run(app, scope, receive_watched, send_watched))
    watcher = asyncio.create_task(watch())
    try:
        await asyncio.wait({work, watcher}, return_when=asyncio.FIRST_COMPLETED)
        # The server reports a disconnect after every complete answer, too; the rest of the work is then short.
        left = not work.done() and not is_answered
        if left:
            work.cancel()
        with suppress(asyncio.CancelledError):
            await work
        return left
    finally:
        work.cancel()
        watcher.cancel()
        with suppress(asyncio.CancelledError):
            await watcher


async def _run(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    await app(scope, receive, send)


def _server_timing(stages: Stages, total_s: float) -> str:
    entries = [f"{stage};dur={ms:.2f}" for stage, ms in stages.elapsed_ms().items()]
    return ", ".join([*entries, f"total;dur={total_s * 1000:.2f}"])


def _log(scope: Scope, route: str, status: int, seconds: float, stages: Stages) -> None:
    state = scope["state"]
    line = {
        "request_id": state["request_id"],
        "method": scope["method"],
        "route": route,
        "status": status,
        "duration_ms": round(seconds * 1000, 2),
        "stages_ms": {stage: round(ms, 2) for stage, ms in stages.elapsed_ms().items()},
        **{key: state[key] for key in ("problem", "cached", "prompts") if key in state},
    }
    logger.log(logging.WARNING if status >= 500 else logging.INFO, "request", extra=line)
