"""The page under /docs: Swagger UI, pinned to the byte, under a policy that lets nothing else run."""

import base64
import hashlib
from typing import Final

from fastapi import FastAPI
from starlette.responses import HTMLResponse, Response

DOCS_PATH: Final = "/docs"
DOCUMENT_PATH: Final = "/openapi.json"

# The browser refuses files with another SHA-384, whoever serves them. A new version:
# `npm pack swagger-ui-dist`, then `openssl dgst -sha384 -binary FILE | base64` for both.
_ORIGIN: Final = "https://cdn.jsdelivr.net/npm/swagger-ui-dist@5.35.0/"
SCRIPT: Final = (
    f"{_ORIGIN}swagger-ui-bundle.js",
    "sha384-gjRm0bEPMeTmMh5jT2cHccIwCUZSTd8YC+j0d0sXw0MdGEfScduGpSyF3ZSSLkX9",
)
STYLE: Final = (
    f"{_ORIGIN}swagger-ui.css",
    "sha384-WlYgdmXYOOBWL5apwjDEZwN+U3HmXSSu5R6V5aGxEcf7z+KuRNwBhoxKVN1i3D5I",
)

# The address is relative, so that a prefix that a proxy puts before the path does no harm.
_START: Final = 'SwaggerUIBundle({url: "openapi.json", dom_id: "#docs", deepLinking: true})'
_PAGE: Final = f"""<!doctype html>
<html lang="en">
  <head>
    <meta charset="utf-8" />
    <meta name="viewport" content="width=device-width, initial-scale=1" />
    <title>EdgeSAM, the interface</title>
    <link rel="icon" href="web/icon.svg" type="image/svg+xml" />
    <link rel="stylesheet" href="{STYLE[0]}" integrity="{STYLE[1]}" crossorigin="anonymous" />
    <script src="{SCRIPT[0]}" integrity="{SCRIPT[1]}" crossorigin="anonymous" defer></script>
  </head>
  <body>
    <div id="docs"><p>The interface as a document: <a href="openapi.json">openapi.json</a></p></div>
    <script type="module">{_START}</script>
  </body>
</html>
"""


def _hash_of(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


# Swagger UI sets style attributes while it draws; nothing can be run by them.
_POLICY: Final = (
    "default-src 'none'; "
    f"script-src {SCRIPT[0]} {_hash_of(_START)}; "
    f"style-src {STYLE[0]} 'unsafe-inline'; "
    "img-src 'self' data:; "
    "connect-src 'self'; "
    "base-uri 'none'; "
    "form-action 'none'; "
    "frame-ancestors 'none'"
)


def install_docs_page(app: FastAPI) -> None:
    """Add `/docs`; the document it draws, `/openapi.json`, is the framework's."""

    @app.get(DOCS_PATH, include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(_PAGE, headers={"Content-Security-Policy": _POLICY})
