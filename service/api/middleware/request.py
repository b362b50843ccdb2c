"""The middleware that gives every request its id, route, timings, metrics, log line, trace and security headers."""

import asyncio
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from functools import cache
from http import HTTPStatus
from math import ceil, floor
from random import getrandbits
from time import perf_counter
from typing import Final

from starlette.requests import ClientDisconnect
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.access.policy import RoutePolicy
from service.api.middleware.access_log import RequestLog
from service.api.middleware.disconnect import release_answer, run_until_disconnect
from service.api.middleware.sending import Answer, AnswerTimeout, abort_connection, answer_over
from service.api.middleware.trailing_slash import remove_trailing_slash
from service.api.problems import refuse, unexpected_problem
from service.errors import NotReady
from service.inference.scheduling.fairness import ANONYMOUS
from service.telemetry.metrics import Metrics
from service.telemetry.timings import Timings
from service.telemetry.tracing import Tracing, caller_trace

CLIENT_CLOSED_REQUEST = 499  # no client receives it; it appears only in metrics and the log
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_QUIET_ROUTES: Final = frozenset({"/livez", "/readyz", "/healthz", "/metrics"})
_WITHOUT_POLICY: Final = RoutePolicy()  # no such route or method


class RequestMiddleware:
    """Identifies, measures and logs each request, and answers unexpected exceptions.

    It removes a slash at the end of the address, and the body of an answer to HEAD. It sets `request_id`, `route`,
    `timings`, `caller`, `usage`, `problem_renderer` and `has_trailing_slash` in the state of the request, and
    `trace_id` for a request that belongs to a trace. The client's X-Request-ID is used if it has only letters, digits
    and `._-`. The answer gets X-Request-ID, Server-Timing and the security headers for browsers.

    A route that computes sets `objective` in the state: "images" for embedding an image, "clicks" for prompts on an
    embedded one. Successful requests count in that latency objective.

    Args:
        app: Next ASGI application.
        metrics: Metrics of the process.
        routes: Routes of the application, whose templates appear in logs and metrics.
        policies: Policies by method and route template, as from `policies_of`.
        send_timeout_s: Time in which a client has to take its answer, in seconds. Then the connection is closed.
        tracing: Exporter of traces; None without traces.
        detailed_routes: Templates of the routes whose log lines have the detail of a problem.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        metrics: Metrics,
        routes: Sequence[BaseRoute],
        policies: Mapping[tuple[str, str], RoutePolicy],
        send_timeout_s: float = 30.0,
        tracing: Tracing | None = None,
        detailed_routes: Container[str] = frozenset(),
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._routes = routes
        self._policies = policies
        self._templates: dict[str, str] = {}
        # Finding a series by its labels costs more than counting in it. There are only as many as routes and statuses.
        self._in_flight = cache(metrics.in_flight.labels)
        self._duration = cache(metrics.http_request_duration_seconds.labels)
        self._objective_duration = cache(metrics.objective_duration_seconds.labels)
        self._send_timeout_s = send_timeout_s
        self._tracing = tracing
        self._log = RequestLog(detailed_routes=detailed_routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = perf_counter()
        has_trailing_slash = remove_trailing_slash(scope)
        route = self._route(scope)
        method = scope["method"] if scope["method"] in _METHODS else "other"
        request_id, parents = _identity(scope["headers"])
        parent = caller_trace(parents)
        trace = self._tracing.begin(method, route, parent) if self._tracing and route not in _QUIET_ROUTES else None
        trace_id = trace.trace_id if trace else parent.trace_id if parent else None
        timings = self._metrics.timings(trace_id or request_id)
        state = scope.setdefault("state", {})
        policy = self._policies.get((method, route), _WITHOUT_POLICY)
        state.update(
            request_id=request_id,
            route=route,
            timings=timings,
            caller=ANONYMOUS,
            usage=None,
            problem_renderer=policy.problem_renderer,
            has_trailing_slash=has_trailing_slash,
        )
        if trace_id is not None:
            state["trace_id"] = trace_id
        answer = answer_over(scope, send, timeout_s=self._send_timeout_s)

        async def send_timed(message: Message) -> None:
            if message["type"] == "http.response.start":
                timing = _server_timing(timings, started)
                message["headers"] = [
                    *_with_security_headers(message.get("headers", ())),
                    (b"x-request-id", request_id.encode()),
                    (b"server-timing", timing.encode()),
                ]
            elif method == "HEAD":  # Content-Length stays that of the body
                message = {**message, "body": b""}
            await answer.send(message)

        in_flight = self._in_flight(route)
        in_flight.inc()
        status = 0
        try:
            status = await self._answer(scope, receive, send_timed, answer)
        finally:
            in_flight.dec()
            ended = perf_counter()
            seconds = ended - started
            is_logged = route not in _QUIET_ROUTES and self._log.write(scope, status, seconds, timings)
            # An exemplar with the request's id is only useful if the log has a line with this id.
            exemplar = timings.exemplar if is_logged or trace_id is not None else None
            self._duration(route, method, status).observe(seconds, exemplar)
            if status == HTTPStatus.OK and (objective := state.get("objective")) is not None:
                self._objective_duration(objective).observe(ended - state.get("body_read_at", started), exemplar)
            if 0 < status < HTTPStatus.BAD_REQUEST and state["usage"] is not None:
                state["usage"].add_request()
            if trace is not None:
                trace.end(status, timings.spans(), state)

    def _route(self, scope: Scope) -> str:
        """Return the template of the route. One without parameters stands for one path, so it is remembered."""
        path = scope["path"]
        route = self._templates.get(path)
        if route is None:
            route = route_template(self._routes, scope)
            if route == path:
                self._templates[path] = route
        return route

    async def _answer(self, scope: Scope, receive: Receive, send: Send, answer: Answer) -> int:
        """Run the application, answer if it failed, and return the status for metrics and log."""
        try:
            await run_until_disconnect(self._app, scope, receive, send, answer)
        except (ClientDisconnect, AnswerTimeout) as error:
            release_answer(error)
            if isinstance(error, AnswerTimeout):
                await abort_connection(scope, receive)
            return CLIENT_CLOSED_REQUEST
        except asyncio.CancelledError:
            return await self._answer_at_shutdown(scope, receive, send, answer)
        except Exception as error:  # noqa: BLE001 - a failure of our own code ends one request and not the process
            problem = unexpected_problem(scope, error)
            if answer.status == 0:
                await problem(scope, receive, send)
        problem_status: int | None = scope["state"].get("problem_status")
        return answer.status if problem_status is None else problem_status

    async def _answer_at_shutdown(self, scope: Scope, receive: Receive, send: Send, answer: Answer) -> int:
        """Answer a request that the server has cancelled, because it shuts down and the time to drain is over.

        The cancellation is not raised again: the server would log a traceback, and send an answer of its own that is no
        problem document.
        """
        if answer.is_complete:
            return answer.status
        error = NotReady("The process is stopping and cannot finish this request. Send it again.", retry_after_s=1.0)
        response = refuse(scope, error, self._metrics)
        if answer.status == 0:
            await response(scope, receive, send)
        else:
            await abort_connection(scope, receive)
        return error.status


def _identity(headers: Iterable[tuple[bytes, bytes]]) -> tuple[str, list[str]]:
    """Return the id of the request and every `traceparent`, in one pass over the headers."""
    given, parents = b"", []
    for name, value in headers:
        if name == b"x-request-id":
            given = given or value
        elif name == b"traceparent":
            parents.append(value.decode("latin-1"))
    # The id is no secret, so a fast generator is enough.
    return given.decode() if _REQUEST_ID.fullmatch(given) else f"{getrandbits(64):016x}", parents


# Security headers of every answer. With them browsers do not guess content types and do not send the address to other
# sites. They do not embed the answer in pages of another origin. Fetching with CORS is not affected.
_SECURITY_HEADERS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
_CONTENT_SECURITY_POLICY: Final = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")
# A proxy may store answers to requests without Authorization, and a key may come in X-API-Key.
_NO_STORE: Final = (b"cache-control", b"no-store")
_DEFAULTS: Final = (_CONTENT_SECURITY_POLICY, _NO_STORE)
_DEFAULT_NAMES: Final = frozenset(name for name, _ in _DEFAULTS)


def _with_security_headers(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return the headers of an answer with the security headers. Pages and downloads replace the defaults."""
    secured = [*headers]
    defaults: Sequence[tuple[bytes, bytes]] = _DEFAULTS
    for name, _ in secured:
        if name in _DEFAULT_NAMES:
            defaults = tuple(default for default in defaults if default[0] != name)
    secured += _SECURITY_HEADERS
    secured += defaults
    return secured


_METHODS: Final = frozenset({"GET", "HEAD", "POST", "DELETE", "OPTIONS", "PUT", "PATCH"})


def route_template(routes: Sequence[BaseRoute], scope: Scope) -> str:
    """Return the template of the route that will answer, such as `/embed/{image_hash}`; `unmatched` if there is none.

    The framework chooses in the same way: the first route with this path and method, else the first with this path.

    Args:
        routes: Routes of the application.
        scope: ASGI scope of the request.
    """
    at_path = None
    for route in routes:
        match, _ = route.matches(scope)
        if match is Match.FULL:
            return getattr(route, "path", "") or "unmatched"
        if match is Match.PARTIAL and at_path is None:
            at_path = route
    return getattr(at_path, "path", "") or "unmatched"


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
