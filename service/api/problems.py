"""Errors as RFC 9457 problem documents, for the service's own errors and for those of the framework."""

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final

import orjson
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import Scope

from service.errors import (
    BodyTimeout,
    BodyTooLarge,
    Forbidden,
    ImageTooLarge,
    InvalidRequest,
    MalformedBody,
    Misdirected,
    NotReady,
    Overloaded,
    RangeNotSatisfiable,
    RateLimited,
    ServiceError,
    Unauthorized,
    UnsupportedEncoding,
)
from service.telemetry.metrics import Metrics

logger = logging.getLogger("service.request")

MEDIA_TYPE = "application/problem+json"

# The errors that `edgesam_rejected_total` counts: their reason is a bound of this process, or the API key.
COUNTED_REFUSALS: Final = (
    *(Unauthorized, Forbidden, RateLimited, Misdirected),
    *(Overloaded, NotReady, BodyTooLarge, BodyTimeout, ImageTooLarge),
)
# An orchestrator asks it every few seconds; that is no work that was refused.
_READINESS_ROUTE: Final = "/readyz"

# pydantic renders all of its findings or none, 2 µs each, and a body of megabytes can hold a million of them.
_MAX_FINDINGS = 10_000
_MAX_NAME_CHARACTERS = 64

UNION_TAG: Final = "~"
"""Beginning of the tags of unions. pydantic has them among the members that lead to a mistake."""

# Errors of the framework, and 500 for unexpected exceptions.
FRAMEWORK_PROBLEMS: Mapping[int, tuple[str, str]] = {
    404: ("not-found", "There is nothing at this address"),
    405: ("method-not-allowed", "This address has no such method"),
    500: ("internal-error", "The service failed"),
}


@dataclass(frozen=True, slots=True)
class Problem:
    """The reason why a request is not answered as asked, in the members of RFC 9457.

    Args:
        status: HTTP status that the problem has in metrics and in the access log.
        code: Stable code of the problem.
        title: Title, the same for every problem with this code.
        detail: One or two sentences for this case.
        extra: Further members of the problem document, JSON values only.
        headers: Headers of the problem document.
    """

    status: int
    code: str
    title: str
    detail: str
    extra: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)


ProblemRenderer = Callable[[Problem, str], Response]
"""Function that makes the answer of a problem and the id of its request."""


def problem_document(problem: Problem, request_id: str) -> Response:
    """Return a problem as a document of RFC 9457, with its own status.

    Args:
        problem: Problem that is answered.
        request_id: Id of the request, as in X-Request-ID and the log.
    """
    document = {
        "type": f"/problems/{problem.code}",
        "title": problem.title,
        "status": problem.status,
        "detail": problem.detail,
        "instance": request_id,
        "code": problem.code,
        **problem.extra,
    }
    return Response(orjson.dumps(document), problem.status, media_type=MEDIA_TYPE, headers=dict(problem.headers))


def refuse(scope: Scope, error: ServiceError, metrics: Metrics) -> Response:
    """Return the answer to a request that fails with `error`, count it, and note its code and detail for the log.

    Args:
        scope: ASGI scope of the request, with the state that RequestMiddleware sets.
        error: Reason of the refusal.
        metrics: Metrics of the process.
    """
    if isinstance(error, COUNTED_REFUSALS) and scope["state"]["route"] != _READINESS_ROUTE:
        metrics.rejected(error.code).inc()
    return _answer(scope, problem_of(error))


def framework_problem(scope: Scope, status: int, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return the answer to a request that the framework refused, or that failed unexpectedly.

    Args:
        scope: ASGI scope of the request, with the state that RequestMiddleware sets.
        status: HTTP status. 500 stands for a failure of our own code.
        detail: Text for the client; never the message of an unexpected exception.
        headers: Further headers of the answer.
    """
    code, title = FRAMEWORK_PROBLEMS.get(status, ("http-error", HTTPStatus(status).phrase))
    return _answer(scope, Problem(status, code, title, detail, headers=headers or {}))


def unexpected_problem(scope: Scope, error: Exception) -> Response:
    """Log a failure of our own code, and return the answer to its request, which does not show the failure.

    Args:
        scope: ASGI scope of the request, with the state that RequestMiddleware sets.
        error: Unexpected exception.
    """
    request_id = scope["state"]["request_id"]
    logged = {"request_id": request_id, "route": scope["state"]["route"]}
    logger.error("request failed", exc_info=error, extra=logged)
    detail = f"An unexpected error happened in the service. Report the id {request_id}: the log has the reason."
    return framework_problem(scope, HTTPStatus.INTERNAL_SERVER_ERROR, detail)


def problem_of(error: ServiceError) -> Problem:
    """Return an error of the service as a problem.

    Args:
        error: Error of the service.
    """
    headers = {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    if error.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    elif error.status == HTTPStatus.FORBIDDEN:
        headers["WWW-Authenticate"] = 'Bearer error="insufficient_scope"'  # RFC 6750, 3.1
    elif isinstance(error, UnsupportedEncoding):
        headers["Accept-Encoding"] = "identity"  # RFC 9110, 12.5.3
    elif isinstance(error, RangeNotSatisfiable):
        headers["Content-Range"] = f"bytes */{error.extra['size']}"  # RFC 9110, 15.5.17
    return Problem(error.status, error.code, error.title, error.detail, error.extra, headers)


def _answer(scope: Scope, problem: Problem) -> Response:
    """Return a problem in the form of its route. Every problem of a request with a route passes here.

    Metrics and access log read code, status and detail from the state: the answer may have another status.
    """
    state = scope["state"]
    state.update(problem=problem.code, problem_status=problem.status, detail=problem.detail)
    render: ProblemRenderer = state.get("problem_renderer") or problem_document
    return render(problem, state["request_id"])


def invalid_request(error: ValidationError) -> InvalidRequest | MalformedBody:
    """Return pydantic's findings as a problem that lists the first ten, each with its place in the request.

    Args:
        error: Findings about a JSON body.
    """
    count = error.error_count()
    if count > _MAX_FINDINGS:
        return broken_rule("/", f"breaks its schema in {count} places, too many to list; /docs has the schema.")
    found = error.errors(include_url=False, include_context=False, include_input=False)
    if found[0]["type"] == "json_invalid":
        return MalformedBody(f"The body is not JSON: {found[0]['msg']}.")
    listed = _listed(found[:10])
    first = listed[0]
    more = f" ({count - 1} more in `errors`)" if count > 1 else ""
    return InvalidRequest(f"{first['where']}: {first['message']}{more}.", extra={"errors": listed})


def broken_rule(where: str, message: str, **extra: Any) -> InvalidRequest:
    """Return the problem of a request that breaks a rule which its schema cannot express.

    Args:
        where: JSON pointer to the place in the request.
        message: Text for the client: the mistake at this place, and the correction.
        **extra: Further members of the problem document, JSON values only.
    """
    listed = [{"where": where, "message": message}]
    return InvalidRequest(f"{where}: {message}", extra={"errors": listed, **extra})


def install_problem_handlers(app: FastAPI, metrics: Metrics) -> None:
    """Answer ServiceError, FastAPI's validation errors and Starlette's HTTP errors with problem documents.

    Args:
        app: Application that gets the handlers.
        metrics: Metrics of the process; refusals are counted there.
    """

    async def service_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, ServiceError)
        return refuse(request.scope, error, metrics)

    async def validation_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        listed = _listed(error.errors())
        detail = f"{listed[0]['where']}: {listed[0]['message']}."
        return refuse(request.scope, InvalidRequest(detail, extra={"errors": listed[:10]}), metrics)

    async def http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        detail = f"There is no {request.method} {request.url.path}. /docs lists the addresses and their methods."
        headers = error.headers
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            headers = {"Allow": _allowed_methods(request)}
        return framework_problem(request.scope, error.status_code, detail, headers)

    app.add_exception_handler(ServiceError, service_error)
    app.add_exception_handler(RequestValidationError, validation_error)
    app.add_exception_handler(HTTPException, http_error)


def _listed(findings: Iterable[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Return pydantic's findings as place and message. It puts a prefix before the messages of our own rules."""
    return [{"where": _where(item["loc"]), "message": item["msg"].removeprefix("Value error, ")} for item in findings]


def _where(location: Iterable[int | str]) -> str:
    """Return a JSON pointer of bounded length: its names come from the request."""
    parts = (str(part)[:_MAX_NAME_CHARACTERS] for part in location)
    return "/" + "/".join(part for part in parts if not part.startswith(UNION_TAG))


def _allowed_methods(request: Request) -> str:
    """Return the methods of an address. The framework itself names only those of the first route there."""
    methods = {
        method
        for route in request.app.router.routes
        if route.matches(request.scope)[0] is not Match.NONE
        for method in getattr(route, "methods", None) or ()
    }
    return ", ".join(sorted(methods))
