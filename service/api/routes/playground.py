"""The routes of the playground: its page and files, sample images, and the runtime that decodes in the browser."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from service.api.access.policy import OPEN, RoutePolicy, with_policy
from service.api.static_files import CONTENT_TYPES, StaticFile, file_response, read_file

WEB_DIR: Final = Path(__file__).parents[2] / "web"
PAGE: Final = "index.html"
FILES_PATH: Final = "/web/"
PACKAGE_FILES: Final = ("package.json", "tsconfig.json")
"""Files with which npm and TypeScript pack the JavaScript client. Browsers do not need them."""
SAMPLES_ROUTE: Final = f"{FILES_PATH}samples/{{name}}"
FOLDER_ROUTE: Final = f"{FILES_PATH}{{folder}}/{{name}}"

RUNTIME_ROUTE: Final = "/web/runtime/{name}"
RUNTIME_FILES: Final = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
"""Files of onnxruntime-web that the page needs. Nothing else of its folder is served."""

# The worker that decodes in the browser, and the Trusted Types policy under which the page creates it. Browsers treat
# the address of a worker as script. The policy creates nothing else, and its name cannot be used twice.
WORKER: Final = "browser_decoding/decoder_worker.js"
_WORKER_POLICY: Final = "edgesam-worker"
# The worker starts the runtime's threads, which are workers again, under a policy of its own.
_THREADS_POLICY: Final = "edgesam-threads"
_NONE: Final = "'none'"

# WebAssembly has several threads only in a cross-origin isolated page: with both headers on the page, and the second
# one on the scripts of its workers. Everything that the page loads comes from this origin.
_EMBEDDER_POLICY: Final = {"Cross-Origin-Embedder-Policy": "require-corp"}
_ISOLATION: Final = {"Cross-Origin-Opener-Policy": "same-origin", **_EMBEDDER_POLICY}

_HEADERS: Final = {
    # Browsers revalidate at each visit, which costs a 304, so that no page mixes old and new modules after an upgrade.
    "Cache-Control": "no-cache",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "X-Frame-Options": "DENY",
}


def read_files(folder: Path = WEB_DIR) -> Mapping[str, StaticFile]:
    """Read the files of a folder and its subfolders; those of other kinds than CONTENT_TYPES are left out.

    Args:
        folder: Folder to read.

    Returns:
        Files by their path in the folder, with slashes.
    """
    return {
        path.relative_to(folder).as_posix(): read_file(path)
        for path in sorted(folder.rglob("*"))
        if path.suffix in CONTENT_TYPES and path.name not in PACKAGE_FILES
    }


def read_runtime(folder: Path) -> Mapping[str, StaticFile]:
    """Read RUNTIME_FILES.

    Args:
        folder: Folder `dist` of the npm package onnxruntime-web, or a copy of these files.

    Returns:
        Files by name.

    Raises:
        ValueError: One of the files is missing. The message names the command to run.
    """
    try:
        return {name: read_file(folder / name) for name in RUNTIME_FILES}
    except OSError as error:
        raise ValueError(
            f"{error.filename}: {error.strerror}. EDGESAM_BROWSER_RUNTIME_DIR is a folder with "
            f"{' and '.join(RUNTIME_FILES)} of the npm package onnxruntime-web; `make browser-runtime` fetches them"
        ) from error


def install_playground(app: FastAPI, runtime_dir: Path | None = None) -> None:
    """Add the page at `/`, its files below `/web/`, and onnxruntime-web at `/web/runtime/{name}`.

    Links between the files are relative, so that the page also works behind a proxy that adds a prefix to the path.

    Args:
        app: Application that gets the routes.
        runtime_dir: Folder as in `read_runtime`. Without it, no page runs WebAssembly or starts a worker.

    Raises:
        ValueError: A file of the runtime is missing.
    """
    files = read_files()
    runtime = {} if runtime_dir is None else read_runtime(runtime_dir)
    headers = _headers(_policy())
    page_headers = headers
    worker_headers = headers
    if runtime:
        page_headers = _headers(_policy(worker_policy=_WORKER_POLICY)) | _ISOLATION
        # The worker has a content security policy of its own, so that the page itself never runs WebAssembly.
        policy = _policy(worker_policy=_THREADS_POLICY, scripts="'self' 'wasm-unsafe-eval'")
        worker_headers = _headers(policy) | _EMBEDDER_POLICY
    runtime_headers = headers | _EMBEDDER_POLICY

    @app.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    @with_policy(OPEN)
    async def page(request: Request) -> Response:
        return file_response(request, files[PAGE], page_headers)

    @app.api_route(RUNTIME_ROUTE, methods=["GET", "HEAD"], include_in_schema=False)
    @with_policy(RoutePolicy(permit="downloads of page files", is_open=True))
    async def runtime_file(request: Request, name: str) -> Response:
        if name not in runtime:
            raise HTTPException(404)
        return file_response(request, runtime[name], runtime_headers)

    def answer(request: Request, name: str) -> Response:
        if name not in files:
            raise HTTPException(404)
        return file_response(request, files[name], worker_headers if name == WORKER else headers)

    # Samples have a route of their own, since the metrics name routes by their templates.
    @app.api_route(SAMPLES_ROUTE, methods=["GET", "HEAD"], include_in_schema=False)
    @with_policy(OPEN)
    async def sample(request: Request, name: str) -> Response:
        return answer(request, f"samples/{name}")

    @app.api_route(FOLDER_ROUTE, methods=["GET", "HEAD"], include_in_schema=False)
    @with_policy(OPEN)
    async def file_in_folder(request: Request, folder: str, name: str) -> Response:
        return answer(request, f"{folder}/{name}")

    @app.api_route(FILES_PATH + "{name}", methods=["GET", "HEAD"], include_in_schema=False)
    @with_policy(OPEN)
    async def file(request: Request, name: str) -> Response:
        return answer(request, name)


def _policy(*, worker_policy: str | None = None, scripts: str = "'self'") -> str:
    """Return a content security policy: everything comes from this origin, and text never becomes markup or code.

    Images that the page makes itself are blobs.

    Args:
        worker_policy: Name of the Trusted Types policy that creates workers. Without it, none can be created.
        scripts: Sources of scripts that may run.
    """
    workers = "'self'" if worker_policy else _NONE
    return (
        "default-src 'none'; "
        f"script-src {scripts}; "
        f"worker-src {workers}; "
        "style-src 'self'; "
        "img-src 'self' blob: data:; "
        "connect-src 'self'; "
        "base-uri 'none'; "
        "form-action 'none'; "
        "frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; "
        f"trusted-types {worker_policy or _NONE}"
    )


def _headers(policy: str) -> dict[str, str]:
    return {**_HEADERS, "Content-Security-Policy": policy}
