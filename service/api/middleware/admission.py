"""Admission as pure ASGI: a request that finds no permit is refused before anything of it is read."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack
from typing import Protocol

from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.problems import problem_response
from service.errors import Misdirected, Overloaded
from service.telemetry.metrics import Metrics


class Permits(Protocol):
    """Lets a request in, or says why not."""

    def permit(self, caller: str) -> AbstractContextManager[None]:
        """Hold one permit.

        Args:
            caller: who asks; see `AdmissionController`.

        Raises:
            Overloaded, Misdirected: there is none.
        """


class Elsewhere:
    """For the routes of another role: nobody is let in.

    Args:
        role: of this process.
    """

    def __init__(self, role: str) -> None:
        self._role = role

    def permit(self, caller: str) -> AbstractContextManager[None]:  # noqa: ARG002 - whoever it is
        """Tell who answers."""
        other = "segment" if self._role == "embed" else "embed"
        raise Misdirected(
            f"This replica has EDGESAM_ROLE={self._role} and does not do this. Those with the role {other} or all do: "
            "ask the service at its own address, where a load balancer chooses them by the path."
        )


class AdmissionMiddleware:
    """Gives a request a permit of its route until its answer has been sent, or answers 503 or 421.

    Until it has been sent and not only made: an answer of many megabytes that a client reads slowly is work, too.

    Args:
        app: reads the state that RequestMiddleware writes, so it is inside of it.
        permits: by method and route template; what is not here needs none.
        metrics: counts refusals.
    """

    def __init__(self, app: ASGIApp, *, permits: Mapping[tuple[str, str], Permits], metrics: Metrics) -> None:
        self._app = app
        self._permits = permits
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        admission = None
        if scope["type"] == "http":
            admission = self._permits.get((scope["method"], scope["state"]["route"]))
        with ExitStack() as held:
            if admission is not None:
                try:
                    held.enter_context(admission.permit(scope["state"]["caller"].name))
                except (Overloaded, Misdirected) as error:
                    self._metrics.rejected(error.code).inc()
                    scope["state"]["problem"] = error.code
                    await problem_response(error, scope["state"]["request_id"])(scope, receive, send)
                    return
            await self._app(scope, receive, send)
