"""Static files in memory: read once at the start, revalidated by ETag, and compressed for clients that take gzip."""

import gzip
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from service.api.conditional import is_not_modified, weak_etag
from service.api.negotiation import takes_gzip

CONTENT_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".jpg": "image/jpeg",
    ".wasm": "application/wasm",
}
_COMPRESSED: Final = frozenset({".html", ".css", ".js", ".mjs", ".json", ".svg", ".wasm"})
# Level 9 takes several times as long for 14 MB of wasm and saves 1 %.
_GZIP_LEVEL: Final = 6


@dataclass(frozen=True, slots=True)
class StaticFile:
    """The forms of a file that are sent.

    Args:
        content: Bytes of the file.
        compressed: Bytes of the file in gzip; None for files that gzip does not make smaller.
        content_type: Value of the Content-Type header.
        etag: Weak ETag, which both forms share.
    """

    content: bytes
    compressed: bytes | None
    content_type: str
    etag: str


def read_file(path: Path) -> StaticFile:
    """Read a file of one of the kinds in CONTENT_TYPES.

    Args:
        path: Path of the file.

    Raises:
        OSError: The file cannot be read.
    """
    content = path.read_bytes()
    compressed = gzip.compress(content, _GZIP_LEVEL, mtime=0) if path.suffix in _COMPRESSED else None
    return StaticFile(content, compressed, CONTENT_TYPES[path.suffix], weak_etag(content))


def read_compressed_file(path: Path) -> StaticFile:
    """Read a file that is stored in gzip, such as `name.js.gz`.

    Args:
        path: Path of the file; the suffix before `.gz` is one of CONTENT_TYPES.

    Raises:
        OSError: The file cannot be read, or is not gzip.
    """
    compressed = path.read_bytes()
    content = gzip.decompress(compressed)
    return StaticFile(content, compressed, CONTENT_TYPES[Path(path.stem).suffix], weak_etag(content))


def file_response(request: Request, file: StaticFile, headers: Mapping[str, str]) -> Response:
    """Return the file, or 304 for a client that has it.

    Args:
        request: GET or HEAD request.
        file: File to send.
        headers: Headers of the answer, beside those that describe the file.
    """
    headers = {**headers, "ETag": file.etag, "Vary": "Accept-Encoding"}
    if is_not_modified(request.headers, file.etag):
        return Response(status_code=304, headers=headers)
    content = file.content
    if file.compressed is not None and takes_gzip(request.headers.get("accept-encoding", "")):
        content = file.compressed
        headers["Content-Encoding"] = "gzip"
    headers["Content-Length"] = str(len(content))
    headers["Content-Type"] = file.content_type
    return Response(b"" if request.method == "HEAD" else content, headers=headers)
