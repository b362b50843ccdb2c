"""What surrounds every request, as pure ASGI: identity, time, one log line, and clients that leave."""

import asyncio
import logging
import re
import traceback
from collections.abc import Iterable, Sequence
from functools import cache
from math import ceil, floor
from random import getrandbits
from time import perf_counter
from typing import Any, Final

from starlette.requests import ClientDisconnect
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.middleware.access_log import RequestLog
from service.api.middleware.sending import Answer, AnswerTimeout, abort_connection, answer_over
from service.api.problems import framework_problem, problem_response
from service.errors import NotReady
from service.inference.scheduling.fairness import ANONYMOUS
from service.telemetry.metrics import Metrics
from service.telemetry.timings import Timings
from service.telemetry.tracing import Tracing, caller_trace

logger = logging.getLogger("service.request")

CLIENT_CLOSED_REQUEST = 499  # nobody receives it; it stands in metrics and the log only
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_QUIET_ROUTES: Final = frozenset({"/livez", "/readyz", "/healthz", "/metrics"})


class RequestMiddleware:
    """Gives a request its id and its stages, measures it, logs it, and answers what nobody else caught.

    Sets `request_id`, `route`, `timings` and `caller` in the request's state, and `trace_id` for a request of a trace.
    The id of the client's X-Request-ID is kept when it is harmless. The answer carries X-Request-ID,
    Server-Timing and what keeps browsers from guessing.

    Args:
        app: what is surrounded.
        metrics: receives duration and number of requests.
        routes: where the templates for logs and metrics come from.
        send_timeout_s: the most a client may take to read its answer, seconds; then the connection is closed.
        tracing: gets a span for each request and its stages; None: there are no traces.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        metrics: Metrics,
        routes: Sequence[BaseRoute],
        send_timeout_s: float = 30.0,
        tracing: Tracing | None = None,
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._routes = routes
        self._templates: dict[str, str] = {}
        # Looking a series up by its labels costs more than counting in it; there are as few as routes and statuses.
        self._in_flight = cache(metrics.in_flight.labels)
        self._duration = cache(metrics.http_request_duration_seconds.labels)
        self._send_timeout_s = send_timeout_s
        self._tracing = tracing
        self._log = RequestLog()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = perf_counter()
        route = self._route(scope)
        method = scope["method"] if scope["method"] in _METHODS else "other"
        request_id, parents = _identity(scope["headers"])
        parent = caller_trace(parents)
        trace = self._tracing.begin(method, route, parent) if self._tracing and route not in _QUIET_ROUTES else None
        trace_id = trace.trace_id if trace else parent.trace_id if parent else None
        timings = self._metrics.timings(trace_id or request_id)
        state = scope.setdefault("state", {})
        state.update(request_id=request_id, route=route, timings=timings, caller=ANONYMOUS)
        if trace_id is not None:
            state["trace_id"] = trace_id
        answer = answer_over(scope, send, timeout_s=self._send_timeout_s)

        async def send_timed(message: Message) -> None:
            if message["type"] == "http.response.start":
                timing = _server_timing(timings, started)
                message["headers"] = [
                    *_guarded(message.get("headers", ())),
                    (b"x-request-id", request_id.encode()),
                    (b"server-timing", timing.encode()),
                ]
            await answer.send(message)

        in_flight = self._in_flight(route)
        in_flight.inc()
        status = 0
        try:
            status = await self._answer(scope, receive, send_timed, answer)
        finally:
            in_flight.dec()
            seconds = perf_counter() - started
            is_logged = route not in _QUIET_ROUTES and self._log.write(scope, status, seconds, timings)
            # Without a line in the log the request's own id leads nowhere.
            exemplar = timings.exemplar if is_logged or trace_id is not None else None
            self._duration(route, method, status).observe(seconds, exemplar)
            if trace is not None:
                trace.end(status, timings.spans(), state)

    def _route(self, scope: Scope) -> str:
        """The template of the route; looked for once, where it has no parameters and hence stands for one path."""
        path = scope["path"]
        route = self._templates.get(path)
        if route is None:
            route = route_template(self._routes, scope)
            if route == path:
                self._templates[path] = route
        return route

    async def _answer(self, scope: Scope, receive: Receive, send: Send, answer: Answer) -> int:
        """Run the app, and answer what it did not; the status for metrics and log."""
        try:
            await _until_client_leaves(self._app, scope, receive, send, answer)
        except (ClientDisconnect, AnswerTimeout) as error:
            _let_go_of_answer(error)
            if isinstance(error, AnswerTimeout):
                await abort_connection(scope, receive)
            return CLIENT_CLOSED_REQUEST
        except asyncio.CancelledError:
            return await self._stop(scope, receive, send, answer)
        except Exception:
            state = scope["state"]
            request_id = state["request_id"]
            logger.exception("request failed", extra={"request_id": request_id, "route": state["route"]})
            if answer.status == 0:
                detail = f"It is not your request's fault. Report the id {request_id}; the log has the reason under it."
                await framework_problem(500, detail, request_id)(scope, receive, send)
        return answer.status

    async def _stop(self, scope: Scope, receive: Receive, send: Send, answer: Answer) -> int:
        """What the server cancels when it stops and has waited long enough ends here, with an answer.

        The cancellation is not raised again: the server would write a trace, and an answer that is no problem document.
        """
        if answer.is_complete:
            return answer.status
        error = NotReady("The process is stopping and cannot wait for this request. Send it again.", retry_after_s=1.0)
        scope["state"]["problem"] = error.code
        self._metrics.rejected(error.code).inc()
        if answer.status == 0:
            await problem_response(error, scope["state"]["request_id"])(scope, receive, send)
        else:
            await abort_connection(scope, receive)
        return error.status


def _identity(headers: Iterable[tuple[bytes, bytes]]) -> tuple[str, list[str]]:
    """The request's id, the client's where it is harmless, and each `traceparent`; every request pays for one look."""
    given, parents = b"", []
    for name, value in headers:
        if name == b"x-request-id":
            given = given or value
        elif name == b"traceparent":
            parents.append(value.decode("latin-1"))
    # Not a secret: the operating system need not be asked for each.
    return given.decode() if _REQUEST_ID.fullmatch(given) else f"{getrandbits(64):016x}", parents


# For browsers, on every answer: nothing is what it does not say it is, nobody shows it in a frame or embeds it in a
# page of another origin (fetching with CORS is something else), and no address goes to others.
_GUARDS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
_POLICY: Final = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")
# A proxy may keep answers to requests without Authorization, and a key may come in X-API-Key.
_NOT_KEPT: Final = (b"cache-control", b"no-store")
_DEFAULTS: Final = (_POLICY, _NOT_KEPT)
_DEFAULT_NAMES: Final = frozenset({_POLICY[0], _NOT_KEPT[0]})


def _guarded(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The headers of an answer and those that each has; pages and downloads have a policy of their own."""
    guarded = [*headers]
    defaults: Sequence[tuple[bytes, bytes]] = _DEFAULTS
    for name, _ in guarded:
        if name in _DEFAULT_NAMES:
            defaults = tuple(default for default in defaults if default[0] != name)
    guarded += _GUARDS
    guarded += defaults
    return guarded


_METHODS: Final = frozenset({"GET", "HEAD", "POST", "DELETE", "OPTIONS", "PUT", "PATCH"})


def route_template(routes: Sequence[BaseRoute], scope: Scope) -> str:
    """The template of the route that will answer, such as `/embed/{image_hash}`; `unmatched` when there is none.

    The same choice as the framework's: the first that takes the method as well, else the first at this path.
    """
    at_path = None
    for route in routes:
        match, _ = route.matches(scope)
        if match is Match.FULL:
            return getattr(route, "path", "") or "unmatched"
        if match is Match.PARTIAL and at_path is None:
            at_path = route
    return getattr(at_path, "path", "") or "unmatched"


async def _until_client_leaves(app: ASGIApp, scope: Scope, receive: Receive, send: Send, answer: Answer) -> None:
    """Run the app, and cancel it when the client closes the connection.

    Raises:
        ClientDisconnect: it did, before its answer was complete.
    """
    work = asyncio.current_task()
    assert work is not None
    listener = _Listener(receive, answer, work)
    try:
        await app(scope, listener.receive, send)
    except asyncio.CancelledError as error:
        if listener.has_cancelled and work.cancelling() == 1:
            raise ClientDisconnect from error
        raise  # the server stops
    finally:
        listener.stop()


class _Listener:
    """Listens for the end of the connection in place of the app, which no longer does once it has read the body.

    Args:
        receive: of the server.
        answer: is told that the client has gone.
        work: is cancelled then. Not a task of its own: one more for each click costs more than this listener.
    """

    def __init__(self, receive: Receive, answer: Answer, work: asyncio.Task[Any]) -> None:
        self.has_cancelled = False
        self._receive = receive
        self._answer = answer
        self._work = work
        self._watch: asyncio.Task[None] | None = None

    async def receive(self) -> Message:
        """The app's `receive`."""
        if self._watch is not None:
            await self._answer.is_client_gone.wait()
            return {"type": "http.disconnect"}
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self._answer.is_client_gone.set()
        elif not message.get("more_body", False):
            self._watch = asyncio.create_task(self._listen())
        return message

    def stop(self) -> None:
        """The work has ended, however it did."""
        if self._watch is not None:
            self._watch.cancel()
        if self.has_cancelled:
            self._work.uncancel()

    async def _listen(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._answer.is_client_gone.set()
        # The server reports a disconnect after every complete answer, too; the rest of the work is then short.
        if not self._answer.is_complete:
            self.has_cancelled = True
            self._work.cancel()


def _let_go_of_answer(error: BaseException | None) -> None:
    """Empty the frames that an exception came through, and those of the ones it came from.

    Frames and exceptions know each other in circles, with the answer in the middle: many megabytes would stay until
    the garbage collector comes by.
    """
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__


def _server_timing(timings: Timings, started: float) -> str:
    """Return the header's value. Its stages never add up to more than the total, also after rounding.

    Args:
        timings: Stage timings of the request.
        started: Start of the request, in seconds of `time.perf_counter`.
    """
    # Durations of stages are rounded down and the total up. The total is read last: stages may still end meanwhile.
    entries = [f"{stage};dur={floor(ms * 100) / 100:.2f}" for stage, ms in timings.elapsed_ms().items()]
    total_ms = (perf_counter() - started) * 1000.0
    return ", ".join([*entries, f"total;dur={ceil(total_ms * 100) / 100:.2f}"])
