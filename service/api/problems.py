"""Errors as RFC 9457 problem documents: one mapping for ours, one for the framework's."""

import math
from collections.abc import Awaitable, Callable, Iterable, Mapping
from http import HTTPStatus
from typing import Any

import orjson
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match

from service.errors import (
    BodyTimeout,
    BodyTooLarge,
    ImageTooLarge,
    InvalidRequest,
    MalformedBody,
    NotReady,
    Overloaded,
    ServiceError,
)
from service.telemetry.metrics import Metrics

MEDIA_TYPE = "application/problem+json"

# What counts as rejected: the request was not done because of a bound of this process. Missing keys are counted where
# they are noticed.
REFUSALS = (Overloaded, NotReady, BodyTooLarge, BodyTimeout, ImageTooLarge)

# pydantic renders all of its findings or none, 2 µs each, and a body of megabytes can hold a million of them.
_MAX_FINDINGS = 10_000
_MAX_NAME_CHARACTERS = 64

# What the framework raises by itself, and what nobody expected.
FRAMEWORK_PROBLEMS: Mapping[int, tuple[str, str]] = {
    404: ("not-found", "There is nothing at this address"),
    405: ("method-not-allowed", "This address has no such method"),
    500: ("internal-error", "The service failed"),
}


def problem_response(error: ServiceError, request_id: str) -> Response:
    """The answer to a request that failed with `error`."""
    headers = {"Retry-After": str(max(1, math.ceil(error.retry_after_s)))} if error.retry_after_s is not None else {}
    if error.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    elif error.status == HTTPStatus.FORBIDDEN:
        headers["WWW-Authenticate"] = 'Bearer error="insufficient_scope"'  # RFC 6750, 3.1
    return _response(error.status, error.code, error.title, error.detail, request_id, error.extra, headers)


def framework_problem(status: int, detail: str, request_id: str, headers: Mapping[str, str] | None = None) -> Response:
    """The answer to what the framework refused, or to a failure of our own code (500: never with its message)."""
    code, title = FRAMEWORK_PROBLEMS.get(status, ("http-error", HTTPStatus(status).phrase))
    return _response(status, code, title, detail, request_id, {}, headers or {})


def invalid_request(error: ValidationError) -> InvalidRequest | MalformedBody:
    """pydantic's findings as a problem that lists the first ten: where in the request, and what is wrong."""
    count = error.error_count()
    if count > _MAX_FINDINGS:
        return broken_rule("/", f"breaks its schema in {count} places, too many to list; /docs has the schema.")
    found = error.errors(include_url=False, include_context=False, include_input=False)
    if found[0]["type"] == "json_invalid":
        return MalformedBody(f"The body is not JSON: {found[0]['msg']}.")
    listed = [{"where": _where(item["loc"]), "message": item["msg"]} for item in found[:10]]
    first = listed[0]
    more = f" ({count - 1} more in `errors`)" if count > 1 else ""
    return InvalidRequest(f"{first['where']}: {first['message']}{more}.", extra={"errors": listed})


def _where(location: Iterable[int | str]) -> str:
    """A JSON pointer of bounded length: names come from the request."""
    return "/" + "/".join(str(part)[:_MAX_NAME_CHARACTERS] for part in location)


def broken_rule(where: str, message: str, **extra: Any) -> InvalidRequest:
    """A rule that the schema cannot say, as a problem of the same form."""
    listed = [{"where": where, "message": message}]
    return InvalidRequest(f"{where}: {message}", extra={"errors": listed, **extra})


def refusal(metrics: Metrics) -> Callable[[Request, Exception], Awaitable[Response]]:
    """The handler of ServiceError: answers with its problem document, and counts what a bound refused."""

    async def service_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, ServiceError)
        request.state.problem = error.code
        if isinstance(error, REFUSALS) and request.url.path != "/readyz":  # a probe is no work
            metrics.rejected(error.code).inc()
        return problem_response(error, request.state.request_id)

    return service_error


def install_problem_handlers(app: FastAPI, metrics: Metrics) -> None:
    """Answer ServiceError, FastAPI's validation errors and Starlette's HTTP errors with problem documents."""

    async def validation_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        listed = [{"where": _where(item["loc"]), "message": item["msg"]} for item in error.errors()]
        problem = InvalidRequest(f"{listed[0]['where']}: {listed[0]['message']}.", extra={"errors": listed[:10]})
        request.state.problem = problem.code
        return problem_response(problem, request.state.request_id)

    async def http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        detail = f"{request.method} {request.url.path}: see /docs for the addresses and methods there are."
        headers = error.headers
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            headers = {"Allow": _allowed(request)}
        return framework_problem(error.status_code, detail, request.state.request_id, headers)

    app.add_exception_handler(ServiceError, refusal(metrics))
    app.add_exception_handler(RequestValidationError, validation_error)
    app.add_exception_handler(HTTPException, http_error)


def _allowed(request: Request) -> str:
    """The methods of an address; the framework names those of its first route there."""
    methods = {
        method
        for route in request.app.router.routes
        if route.matches(request.scope)[0] is not Match.NONE
        for method in getattr(route, "methods", None) or ()
    }
    return ", ".join(sorted(methods))


def _response(
    status: int,
    code: str,
    title: str,
    detail: str,
    request_id: str,
    extra: Mapping[str, Any],
    headers: Mapping[str, str],
) -> Response:
    document = {
        "type": f"/problems/{code}",
        "title": title,
        "status": status,
        "detail": detail,
        "instance": request_id,
        "code": code,
        **extra,
    }
    return Response(orjson.dumps(document), status, media_type=MEDIA_TYPE, headers=headers)
