"""The routes of the API documentation: /openapi.json, and /docs, which draws it with the Swagger UI of this package."""

import base64
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from service.api.access.policy import ADMIN_ONLY, OPEN, RoutePolicy, with_policy
from service.api.static_files import file_response, read_compressed_file

DOCS_ROUTE: Final = "/docs"
OPENAPI_ROUTE: Final = "/openapi.json"
DOCS_PATHS: Final = frozenset({DOCS_ROUTE, OPENAPI_ROUTE})

# swagger_ui/README.md describes the source of the files and how to replace them. Browsers refuse a file with another
# hash.
SWAGGER_UI_DIR: Final = Path(__file__).parents[1] / "swagger_ui"
SCRIPT: Final = "swagger-ui-bundle.js"
STYLE: Final = "swagger-ui.css"
INTEGRITY: Final = {
    SCRIPT: "sha384-gjRm0bEPMeTmMh5jT2cHccIwCUZSTd8YC+j0d0sXw0MdGEfScduGpSyF3ZSSLkX9",
    STYLE: "sha384-WlYgdmXYOOBWL5apwjDEZwN+U3HmXSSu5R6V5aGxEcf7z+KuRNwBhoxKVN1i3D5I",
}


def install_docs_routes(app: FastAPI, *, access: Literal["open", "admin"]) -> None:
    """Add `/docs`, the files of Swagger UI below it, and `/openapi.json`.

    Args:
        app: Application that gets the routes.
        access: Access to the documentation: open to all, or only for keys with the role admin.
    """
    policy = OPEN if access == "open" else ADMIN_ONLY
    pages = {has_trailing_slash: _page("../" if has_trailing_slash else "") for has_trailing_slash in (False, True)}
    files = {name: read_compressed_file(SWAGGER_UI_DIR / f"{name}.gz") for name in INTEGRITY}

    @app.api_route(OPENAPI_ROUTE, methods=["GET", "HEAD"], include_in_schema=False)
    @with_policy(policy)
    async def openapi() -> Response:
        return JSONResponse(app.openapi())

    @app.get(DOCS_ROUTE, include_in_schema=False)
    @with_policy(policy)
    async def docs(request: Request) -> Response:
        page = pages[request.state.has_trailing_slash]
        return HTMLResponse(page.html, headers={"Content-Security-Policy": page.policy})

    # Open in any case: the files are published, and a browser would send no key that came in a header.
    @app.api_route(f"{DOCS_ROUTE}/{{name}}", methods=["GET", "HEAD"], include_in_schema=False)
    @with_policy(RoutePolicy(permit="downloads of page files", is_open=True))
    async def swagger_ui_file(request: Request, name: str) -> Response:
        if name not in files:
            raise HTTPException(404)
        return file_response(request, files[name], {"Cache-Control": "no-cache"})


@dataclass(frozen=True, slots=True)
class _Page:
    """The page and its content security policy."""

    html: str
    policy: str


def _page(above: str) -> _Page:
    """Return the page. Its addresses are relative, so that a prefix that a proxy puts before the path does no harm.

    Args:
        above: Relative address of the folder that has `docs` and `openapi.json`.
    """
    start = f'SwaggerUIBundle({{url: "{above}openapi.json", dom_id: "#docs", deepLinking: true}})'
    html = f"""<!doctype html>
<html lang="en">
  <head>
    <meta charset="utf-8" />
    <meta name="viewport" content="width=device-width, initial-scale=1" />
    <title>EdgeSAM API</title>
    <link rel="icon" href="{above}web/icon.svg" type="image/svg+xml" />
    <link rel="stylesheet" href="{above}docs/{STYLE}" integrity="{INTEGRITY[STYLE]}" />
    <script src="{above}docs/{SCRIPT}" integrity="{INTEGRITY[SCRIPT]}" defer></script>
  </head>
  <body>
    <div id="docs"><p>The API as an OpenAPI document: <a href="{above}openapi.json">openapi.json</a></p></div>
    <script type="module">{start}</script>
  </body>
</html>
"""
    # Swagger UI sets style attributes while it draws; no script can run by them.
    policy = (
        "default-src 'none'; "
        f"script-src 'self' {_hash_of(start)}; "
        "style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data:; "
        "connect-src 'self'; "
        "base-uri 'none'; "
        "form-action 'none'; "
        "frame-ancestors 'none'"
    )
    return _Page(html, policy)


def _hash_of(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
