"""The middleware of the service and its order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fastapi import FastAPI

from service.api.access.keys import ApiKeys
from service.api.access.policy import RoutePolicy
from service.api.access.rate_limit import RateLimiters
from service.api.middleware.access import AccessMiddleware
from service.api.middleware.admission import AdmissionMiddleware, Permits
from service.api.middleware.cors import add_cors
from service.api.middleware.fast_path import Endpoint, FastPathMiddleware
from service.api.middleware.request import RequestMiddleware
from service.telemetry.metrics import Metrics
from service.telemetry.tracing import Tracing


@dataclass(frozen=True, slots=True)
class AccessControl:
    """The API keys of the service and their rate limits.

    Args:
        keys: Known API keys.
        rate_limiters: Rate limiters of the keys.
    """

    keys: ApiKeys
    rate_limiters: RateLimiters


def add_middleware(
    app: FastAPI,
    *,
    policies: Mapping[tuple[str, str], RoutePolicy],
    permits: Mapping[tuple[str, str], Permits],
    access: AccessControl | None,
    fast_path: Mapping[str, Endpoint],
    send_timeout_s: float,
    tracing: Tracing | None,
    origins: Sequence[str],
    metrics: Metrics,
) -> None:
    """Add every middleware. From the outside in, a request passes:

    1. CORS, only if `origins` are set, so that their pages can read every answer, refusals as well;
    2. RequestMiddleware, which sets the request's id, route and timings, and writes its log line at the end;
    3. AccessMiddleware, which refuses requests by their API key;
    4. AdmissionMiddleware, which refuses requests for lack of a permit;
    5. FastPathMiddleware, which answers /segment without the framework.

    Args:
        app: Application with all of its routes.
        policies: Policies by method and route template, as from `policies_of`.
        permits: Permits by method and route template, as from `permits_of`.
        access: API keys; None where the service requires none.
        fast_path: Functions that answer POST requests without the framework, by route.
        send_timeout_s: Time in which a client has to take its answer, in seconds.
        tracing: Exporter of traces; None without traces.
        origins: Origins whose pages may call the service; ["*"] allows all.
        metrics: Metrics of the process.
    """
    # FastAPI puts the middleware that is added last outside of all others.
    app.add_middleware(FastPathMiddleware, endpoints=fast_path, metrics=metrics)
    app.add_middleware(AdmissionMiddleware, permits=permits, metrics=metrics)
    if access is not None:
        app.add_middleware(
            AccessMiddleware,
            keys=access.keys,
            rate_limiters=access.rate_limiters,
            policies=policies,
            metrics=metrics,
        )
    app.add_middleware(
        RequestMiddleware,
        metrics=metrics,
        routes=app.router.routes,
        policies=policies,
        send_timeout_s=send_timeout_s,
        tracing=tracing,
        detailed_routes={path for (_, path), policy in policies.items() if policy.logs_detail},
    )
    add_cors(app, origins)
