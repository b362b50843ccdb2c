"""Admission control as ASGI middleware: it refuses a request that finds no permit, before its body is read."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from typing import Protocol

from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.access.policy import PermitName, RoutePolicy
from service.api.problems import refuse
from service.errors import Misdirected, Overloaded, RateLimited
from service.inference.scheduling.admission import AdmissionController, OnePerCaller
from service.telemetry.metrics import Metrics


class Permits(Protocol):
    """The permits of one or several routes."""

    def permit(self, caller: str) -> AbstractContextManager[None]:
        """Return a context that holds one permit.

        Args:
            caller: Name of the caller, as in `AdmissionController.permit`.

        Raises:
            Overloaded, RateLimited, Misdirected: No permit is free, the caller holds one already where it may have
                only one, or another role answers the route.
        """


class OtherRole:
    """Permits of routes that replicas of another role answer: there are none.

    Args:
        role: Role of this replica (EDGESAM_ROLE).
        needed: Role of the replicas that answer.
    """

    def __init__(self, role: str, needed: str) -> None:
        self._role = role
        self._needed = needed

    def permit(self, caller: str) -> AbstractContextManager[None]:  # noqa: ARG002 - every caller is refused
        """Raise Misdirected."""
        raise Misdirected(
            f"This replica has EDGESAM_ROLE={self._role} and does not answer this route. Replicas with the role "
            f"{self._needed} or all do. Use the address of the whole service, where a load balancer chooses the "
            "replica by the path."
        )


def permits_of(
    policies: Mapping[tuple[str, str], RoutePolicy],
    *,
    role: str,
    max_embed_requests: int,
    max_segment_requests: int,
    check_decode_queue: Callable[[str], None],
    everything: OnePerCaller,
) -> Mapping[tuple[str, str], Permits]:
    """Return the permits of each method and route template that needs one.

    Each name of permits is counted apart. A deletion waits for an upload in progress or for Redis, so it takes no
    permit of uploads. Files of the page need no API key, so slow readers without a key cannot hold the permits of
    requests with one.

    Args:
        policies: Policies by method and route template, as from `policies_of`.
        role: Role of this replica.
        max_embed_requests: Number of permits for uploads, and for each name that has no number of its own.
        max_segment_requests: Number of permits for prompt requests.
        check_decode_queue: Function that raises Overloaded if the decode queue would refuse the named caller.
        everything: Permits of everything requests.
    """
    uploads: tuple[PermitName, ...] = ("uploads", "downloads", "deletions", "downloads of page files")
    by_name: dict[PermitName, Permits] = {name: AdmissionController(max_embed_requests, name) for name in uploads}
    by_name["prompt requests"] = AdmissionController(max_segment_requests, "prompt requests", check=check_decode_queue)
    by_name["everything requests"] = everything
    permits: dict[tuple[str, str], Permits] = {}
    for address, policy in policies.items():
        if policy.replica_role not in (None, role) and role != "all":
            permits[address] = OtherRole(role, str(policy.replica_role))
        elif policy.permit is not None:
            permits[address] = by_name[policy.permit]
    return permits


class AdmissionMiddleware:
    """Holds a permit of the route until the answer has been sent, or answers 503, 429 or 421.

    The permit is held until the answer is sent, because an answer of many megabytes that a client reads slowly also
    takes memory.

    Args:
        app: Next ASGI application. RequestMiddleware has to be outside of this one: it sets the state that is read.
        permits: Permits by method and route template. Other routes need none.
        metrics: Metrics of the process; refusals are counted there.
    """

    def __init__(self, app: ASGIApp, *, permits: Mapping[tuple[str, str], Permits], metrics: Metrics) -> None:
        self._app = app
        self._permits = permits
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        permits = self._permits.get((scope["method"], scope["state"]["route"])) if scope["type"] == "http" else None
        with ExitStack() as held:
            if permits is not None:
                try:
                    held.enter_context(permits.permit(scope["state"]["caller"].name))
                except (Overloaded, RateLimited, Misdirected) as error:
                    await refuse(scope, error, self._metrics)(scope, receive, send)
                    return
            await self._app(scope, receive, send)
