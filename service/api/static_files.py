"""Files as they are answered: read once at the start, revalidated by ETag, compressed for those who take that."""

import gzip
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

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


def read_file(path: Path) -> StaticFile:
    """A file of one of the kinds in CONTENT_TYPES.

    Raises:
        OSError: it cannot be read.
    """
    content = path.read_bytes()
    return StaticFile(
        content=content,
        compressed=gzip.compress(content, _GZIP_LEVEL, mtime=0) if path.suffix in _COMPRESSED else None,
        content_type=CONTENT_TYPES[path.suffix],
        etag=f'W/"{hashlib.sha256(content).hexdigest()[:32]}"',
    )


def file_answer(request: Request, file: StaticFile, headers: Mapping[str, str]) -> Response:
    """The file, or 304 for a client that has it.

    Args:
        request: GET or HEAD.
        file: what is answered.
        headers: of the answer, beside those that describe the file.
    """
    headers = {**headers, "ETag": file.etag, "Vary": "Accept-Encoding"}
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
