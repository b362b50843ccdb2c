"""The OpenAPI document: FastAPI's own, with additions that FastAPI cannot derive."""

from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from service.api.everything_schemas import EverythingLine, EverythingRequest
from service.api.model_schemas import ReloadRequest
from service.api.schemas import ProblemModel, SegmentRequest

DESCRIPTION: Final = """
Embed an image once with `POST /embed`. Then every click is one small `POST /segment` with the hash of the image.

Coordinates are pixels of the upright image. Errors are problem documents (RFC 9457) with a stable `code` and a
`detail` that says what to do.
"""


def install_document(app: FastAPI, *, needs_key: bool) -> None:
    """Make `app.openapi` return the whole document. It is made at the first call, when all routes are there.

    Args:
        app: Application whose document is extended.
        needs_key: Whether requests need an API key.
    """
    app.openapi = lambda: _document(app, needs_key=needs_key)  # type: ignore[method-assign]


def _document(app: FastAPI, *, needs_key: bool) -> dict[str, Any]:
    """Return FastAPI's document with the schemas of bodies that routes read themselves, and the ways to send keys."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        _, extra = models_json_schema(
            [
                (SegmentRequest, "validation"),
                (EverythingRequest, "validation"),
                (EverythingLine, "serialization"),
                (ReloadRequest, "validation"),
                (ProblemModel, "serialization"),
            ],
            ref_template="#/components/schemas/{model}",
        )
        document["components"]["schemas"].update(extra["$defs"])
        document["components"]["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        }
        document["security"] = [*([] if needs_key else [{}]), {"bearer": []}, {"key": []}]
        app.openapi_schema = document
    return app.openapi_schema
