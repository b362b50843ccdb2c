"""CORS: the headers that pages of other origins may send and read."""

from collections.abc import Sequence
from typing import Final

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

ALLOWED_HEADERS: Final = (
    "Content-Type",
    "Authorization",
    "X-API-Key",
    "X-Image-Hash",
    "X-Request-ID",
    "traceparent",
    "If-None-Match",
    "Prefer",
    "Range",
)
EXPOSED_HEADERS: Final = (
    "Server-Timing",
    "X-Request-ID",
    "Retry-After",
    "X-Cache",
    "Preference-Applied",
    "X-Mask-Id",
    "X-Mask-Score",
    "X-Mask-Area",
    "X-Mask-Box",
    "X-Alpha-Box",
    "ETag",
    "Content-Range",
    "X-Embedding-Shape",
    "X-Embedding-Dtype",
    "X-Image-Size",
    "X-Image-Orientation",
    "X-Image-Levels",
    "X-Image-Region",
    "X-Fingerprint",
    "X-Granularity-Box",
)
MAX_AGE_S: Final = 86400


def add_cors(app: FastAPI, origins: Sequence[str]) -> None:
    """Allow pages of other origins to call the service.

    Args:
        app: Application that gets the middleware.
        origins: Allowed origins; ["*"] allows all. An empty list adds no middleware.
    """
    if not origins:
        return
    app.add_middleware(
        CORSMiddleware,
        allow_origins=origins,
        allow_methods=["GET", "HEAD", "POST", "DELETE"],
        allow_headers=ALLOWED_HEADERS,
        expose_headers=list(EXPOSED_HEADERS),
        max_age=MAX_AGE_S,
    )
