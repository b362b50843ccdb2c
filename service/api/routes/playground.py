"""The playground and what it runs: files under a policy that allows nothing foreign."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from service.api.static_files import CONTENT_TYPES, StaticFile, file_answer, read_file

WEB_DIR: Final = Path(__file__).parents[2] / "web"
PAGE: Final = "index.html"
FILES_PATH: Final = "/web/"
PACKAGE: Final = "package.json"
"""Describes the JavaScript client to npm; no browser needs it."""
SAMPLES_ROUTE: Final = f"{FILES_PATH}samples/{{name}}"
FOLDER_ROUTE: Final = f"{FILES_PATH}{{folder}}/{{name}}"

RUNTIME_ROUTE: Final = "/web/runtime/{name}"
RUNTIME_FILES: Final = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
"""What the page needs of onnxruntime-web; nothing else of its folder is served."""

# The worker that decodes in the browser, and the policy under which the page makes it: with Trusted Types, making a
# worker of an address is as grave as running a text. Nothing else may be made under that name, and nothing twice.
WORKER: Final = "browser_decoding/decoder_worker.js"
_WORKER_POLICY: Final = "edgesam-worker"

_HEADERS: Final = {
    # Asked again at each visit, which costs a 304: after an upgrade no page mixes old and new modules.
    "Cache-Control": "no-cache",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "X-Frame-Options": "DENY",
}


def read_files(folder: Path = WEB_DIR) -> Mapping[str, StaticFile]:
    """Return the files of a folder and its sub-folders by relative path; only kinds in CONTENT_TYPES are served."""
    return {
        path.relative_to(folder).as_posix(): read_file(path)
        for path in sorted(folder.rglob("*"))
        if path.suffix in CONTENT_TYPES and path.name != PACKAGE
    }


def read_runtime(folder: Path) -> Mapping[str, StaticFile]:
    """RUNTIME_FILES by name.

    Args:
        folder: `dist` of the npm package onnxruntime-web, or a copy of these files.

    Raises:
        ValueError: one of them is not there; the message says what to do.
    """
    try:
        return {name: read_file(folder / name) for name in RUNTIME_FILES}
    except OSError as error:
        raise ValueError(
            f"{error.filename}: {error.strerror}. EDGESAM_BROWSER_RUNTIME_DIR is a folder with "
            f"{' and '.join(RUNTIME_FILES)} of the npm package onnxruntime-web; `make browser-runtime` fetches them"
        ) from error


def is_page(path: str) -> bool:
    """Whether a request's path belongs to the playground, which is open where requests need an API key."""
    return path == "/" or path.startswith(FILES_PATH)


def install_pages(app: FastAPI, runtime_dir: Path | None = None) -> None:
    """Add the page at `/`, its files below `/web/`, and onnxruntime-web at `/web/runtime/{name}`.

    Links between the files are relative, so that the page also works behind a proxy that adds a prefix to the path.

    Args:
        app: gets the routes.
        runtime_dir: see `read_runtime`; without it no page runs WebAssembly or starts a worker.

    Raises:
        ValueError: see `read_runtime`.
    """
    files = read_files()
    runtime = {} if runtime_dir is None else read_runtime(runtime_dir)
    headers = _headers(_policy(worker_policy=_WORKER_POLICY) if runtime else _policy())
    # A worker has a policy of its own, so that the page itself runs no WebAssembly in any case.
    worker_headers = _headers(_policy(scripts="'self' 'wasm-unsafe-eval'") if runtime else _policy())

    @app.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    async def page(request: Request) -> Response:
        return file_answer(request, files[PAGE], headers)

    @app.api_route(RUNTIME_ROUTE, methods=["GET", "HEAD"], include_in_schema=False)
    async def runtime_file(request: Request, name: str) -> Response:
        if name not in runtime:
            raise HTTPException(404)
        return file_answer(request, runtime[name], headers)

    def answer(request: Request, name: str) -> Response:
        if name not in files:
            raise HTTPException(404)
        return file_answer(request, files[name], worker_headers if name == WORKER else headers)

    # Samples have a route of their own, since the metrics name routes by their templates.
    @app.api_route(SAMPLES_ROUTE, methods=["GET", "HEAD"], include_in_schema=False)
    async def sample(request: Request, name: str) -> Response:
        return answer(request, f"samples/{name}")

    @app.api_route(FOLDER_ROUTE, methods=["GET", "HEAD"], include_in_schema=False)
    async def file_in_folder(request: Request, folder: str, name: str) -> Response:
        return answer(request, f"{folder}/{name}")

    @app.api_route(FILES_PATH + "{name}", methods=["GET", "HEAD"], include_in_schema=False)
    async def file(request: Request, name: str) -> Response:
        return answer(request, name)


def _policy(*, worker_policy: str = "'none'", scripts: str = "'self'") -> str:
    """Everything comes from here; pictures that the page makes itself are blobs; text never becomes markup or code.

    Args:
        worker_policy: name of the Trusted Types policy that makes the worker.
        scripts: what may run.
    """
    return (
        "default-src 'none'; "
        f"script-src {scripts}; "
        "style-src 'self'; "
        "img-src 'self' blob: data:; "
        "connect-src 'self'; "
        "base-uri 'none'; "
        "form-action 'none'; "
        "frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; "
        f"trusted-types {worker_policy}"
    )


def _headers(policy: str) -> Mapping[str, str]:
    return {**_HEADERS, "Content-Security-Policy": policy}
