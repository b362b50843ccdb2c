"""The OpenAPI document: the framework's, and what it cannot know."""

from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from service.api.schemas import ProblemModel, SegmentRequest

DESCRIPTION: Final = """
Embed a picture once with `POST /embed`; then every click is one small `POST /segment` with the picture's hash.

Coordinates are pixels of the upright picture. Errors are problem documents (RFC 9457) with a stable `code` and a
`detail` that says what to do.
"""


def install_document(app: FastAPI, *, needs_key: bool) -> None:
    """Make `app.openapi` tell all that a client has to know; every route is there by the time it is asked."""
    app.openapi = lambda: _document(app, needs_key=needs_key)  # type: ignore[method-assign]


def _document(app: FastAPI, *, needs_key: bool) -> dict[str, Any]:
    """FastAPI's document, the schemas of bodies that the routes read themselves, and how a key is sent."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        _, extra = models_json_schema(
            [(SegmentRequest, "validation"), (ProblemModel, "serialization")],
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
