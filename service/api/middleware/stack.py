"""The middleware around the routes, in its order, and the permits it gives."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from fastapi import FastAPI

from service.api.access.keys import KeyRing
from service.api.middleware.access import AccessMiddleware, RateLimiters
from service.api.middleware.admission import AdmissionMiddleware, Elsewhere, Permits
from service.api.middleware.cors import admit_origins
from service.api.middleware.request import RequestMiddleware
from service.api.routes.embedding_download import EMBEDDING_ROUTE
from service.api.routes.model_files import MODEL_FILE_ROUTE
from service.api.routes.playground import RUNTIME_ROUTE
from service.inference.scheduling.admission import AdmissionController
from service.telemetry.metrics import Metrics
from service.telemetry.tracing import Tracing

# What a replica of a role leaves to others. Looking a picture up needs Redis only, so that both do it.
ELSEWHERE: Final[Mapping[str, Sequence[tuple[str, str]]]] = {
    "all": [],
    "embed": [("POST", "/segment")],
    "segment": [("POST", "/embed"), ("GET", EMBEDDING_ROUTE), ("DELETE", EMBEDDING_ROUTE)],
}


@dataclass(frozen=True, slots=True)
class Access:
    """Where keys are asked for: which there are, what is left of their limits, and which paths ask for none."""

    keys: KeyRing
    rate_limiters: RateLimiters
    open_paths: frozenset[str]


def permits_of(
    role: str,
    *,
    max_embed_requests: int,
    max_segment_requests: int,
    check_clicks: Callable[[str], None],
    adapter_routes: Iterable[str],
) -> Mapping[tuple[str, str], Permits]:
    """Who lets a request in, by method and route template.

    Args:
        role: of this replica.
        max_embed_requests: uploads at once, and as many downloads and deletions.
        max_segment_requests: prompt requests at once.
        check_clicks: raises Overloaded where the decoder's queue has no place for the caller.
        adapter_routes: of labelling tools, whose POSTs carry a picture each.
    """
    uploads = AdmissionController(max_embed_requests, "uploads")
    downloads = AdmissionController(max_embed_requests, "downloads")
    return {
        ("POST", "/embed"): uploads,
        ("POST", "/segment"): AdmissionController(max_segment_requests, "prompt requests", check=check_clicks),
        **dict.fromkeys((("GET", route) for route in (EMBEDDING_ROUTE, MODEL_FILE_ROUTE)), downloads),
        # Of its own: one that waits for an upload under way, or for Redis, takes no place of theirs.
        ("DELETE", EMBEDDING_ROUTE): AdmissionController(max_embed_requests, "deletions"),
        # Of its own: it asks for no key, so strangers who read slowly would keep those with one from theirs.
        ("GET", RUNTIME_ROUTE): AdmissionController(max_embed_requests, "downloads of the page's runtime"),
        **{("POST", route): uploads for route in adapter_routes},
        **dict.fromkeys(ELSEWHERE[role], Elsewhere(role)),
    }


def add_middleware(
    app: FastAPI,
    *,
    permits: Mapping[tuple[str, str], Permits],
    access: Access | None,
    send_timeout_s: float,
    tracing: Tracing | None,
    origins: Sequence[str],
    metrics: Metrics,
) -> None:
    """The last added is the outermost: CORS, so that every answer can be read by a page, then the request itself.

    Args:
        app: with all of its routes.
        permits: of admission.
        access: None where no keys are asked for.
        send_timeout_s: see `RequestMiddleware`.
        tracing: None: there are no traces.
        origins: whose pages may call the service.
        metrics: of all of them.
    """
    app.add_middleware(AdmissionMiddleware, permits=permits, metrics=metrics)
    if access is not None:
        app.add_middleware(
            AccessMiddleware,
            ring=access.keys,
            rate_limiters=access.rate_limiters,
            routes=app.router.routes,
            open_paths=access.open_paths,
            metrics=metrics,
        )
    app.add_middleware(
        RequestMiddleware,
        metrics=metrics,
        routes=app.router.routes,
        send_timeout_s=send_timeout_s,
        tracing=tracing,
    )
    admit_origins(app, origins)
