"""The playground, as files: read once at the start, revalidated by ETag, under a policy that allows nothing foreign."""

import gzip
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

WEB_DIR: Final = Path(__file__).parent.parent / "web"
PAGE: Final = "index.html"
FILES_PATH: Final = "/web/"

CONTENT_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".jpg": "image/jpeg",
}
_COMPRESSED: Final = frozenset({".html", ".css", ".js", ".svg"})

# Everything comes from here; pictures that the page makes itself are blobs; text never becomes markup or code.
_POLICY: Final = (
    "default-src 'none'; "
    "script-src 'self'; "
    "style-src 'self'; "
    "img-src 'self' blob: data:; "
    "connect-src 'self'; "
    "base-uri 'none'; "
    "form-action 'none'; "
    "frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; "
    "trusted-types 'none'"
)
_HEADERS: Final = {
    # Asked again at each visit, which costs a 304: after an upgrade no page mixes old and new modules.
    "Cache-Control": "no-cache",
    "Content-Security-Policy": _POLICY,
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Vary": "Accept-Encoding",
    "X-Frame-Options": "DENY",
}


@dataclass(frozen=True, slots=True)
class StaticFile:
    """A file as it is answered.

    Args:
        content: its bytes.
        compressed: the same for clients that take gzip; None where that saves nothing.
        content_type: value of the header.
        etag: weak, as both forms share it.
    """

    content: bytes
    compressed: bytes | None
    content_type: str
    etag: str


def read_files(folder: Path = WEB_DIR) -> Mapping[str, StaticFile]:
    """The files of a folder by name; those of other kinds than CONTENT_TYPES are left out."""
    return {path.name: _read(path) for path in sorted(folder.iterdir()) if path.suffix in CONTENT_TYPES}


def is_page(path: str) -> bool:
    """Whether a request's path belongs to the playground, which is open where requests need an API key."""
    return path == "/" or path.startswith(FILES_PATH)


def install_pages(app: FastAPI) -> None:
    """Add `/`, the page, and `/web/{name}`, what it consists of. Links between them are relative, so that a prefix
    that a proxy puts before the path does no harm.
    """
    files = read_files()

    @app.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    async def page(request: Request) -> Response:
        return _answer(request, files[PAGE])

    @app.api_route(FILES_PATH + "{name}", methods=["GET", "HEAD"], include_in_schema=False)
    async def file(request: Request, name: str) -> Response:
        if name not in files:
            raise HTTPException(404)
        return _answer(request, files[name])


def _read(path: Path) -> StaticFile:
    content = path.read_bytes()
    return StaticFile(
        content=content,
        compressed=gzip.compress(content, mtime=0) if path.suffix in _COMPRESSED else None,
        content_type=CONTENT_TYPES[path.suffix],
        etag=f'W/"{hashlib.sha256(content).hexdigest()[:32]}"',
    )


def _answer(request: Request, file: StaticFile) -> Response:
    headers = {**_HEADERS, "ETag": file.etag}
    if _is_known(request.headers.get("if-none-match", ""), file.etag):
        return Response(status_code=304, headers=headers)
    content = file.content
    if file.compressed is not None and _takes_gzip(request.headers.get("accept-encoding", "")):
        content = file.compressed
        headers["Content-Encoding"] = "gzip"
    headers["Content-Length"] = str(len(content))
    headers["Content-Type"] = file.content_type
    return Response(b"" if request.method == "HEAD" else content, headers=headers)


def _is_known(if_none_match: str, etag: str) -> bool:
    """RFC 9110, 13.1.2: weak comparison with each of the list."""
    given = {tag.strip().removeprefix("W/") for tag in if_none_match.split(",")}
    return "*" in given or etag.removeprefix("W/") in given


def _takes_gzip(accept_encoding: str) -> bool:
    """RFC 9110, 12.5.3, as far as browsers and proxies use it."""
    return any(
        re.fullmatch(r"(?i)\s*gzip\s*(;\s*q=(1(\.0*)?|0\.\d*[1-9]\d*)\s*)?", part)
        for part in accept_encoding.split(",")
    )
