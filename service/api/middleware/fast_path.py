"""Answers without the framework, for the route that is called on every click.

Route matching, dependencies, exit stacks and two layers of exception handling cost a quarter of a millisecond, and the
route uses none of them. The route is registered with the framework as well, for the OpenAPI document.
"""

from collections.abc import Awaitable, Callable, Mapping

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.problems import refuse
from service.errors import ServiceError
from service.telemetry.metrics import Metrics

Endpoint = Callable[[Request], Awaitable[Response]]


class FastPathMiddleware:
    """Answers POST requests of some routes itself, and passes all other requests to the framework.

    Args:
        app: Next ASGI application: the framework. RequestMiddleware, which finds the route, has to be outside.
        endpoints: Functions that answer, by route template. They may raise ServiceError.
        metrics: Metrics of the process; refusals are counted there.
    """

    def __init__(self, app: ASGIApp, *, endpoints: Mapping[str, Endpoint], metrics: Metrics) -> None:
        self._app = app
        self._endpoints = endpoints
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        is_post = scope["type"] == "http" and scope["method"] == "POST"
        endpoint = self._endpoints.get(scope.get("state", {}).get("route")) if is_post else None
        if endpoint is None:
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            response = await endpoint(request)
        except ServiceError as error:
            response = refuse(scope, error, self._metrics)
        await response(scope, receive, send)
