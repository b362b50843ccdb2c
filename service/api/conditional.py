"""Conditional and range requests: ETag, If-None-Match, If-Range and Range (RFC 9110, 13 and 14)."""

import hashlib
import re
from collections.abc import Mapping
from typing import Any, Final

from starlette.datastructures import Headers
from starlette.responses import Response

from service.errors import RangeNotSatisfiable

OCTETS: Final = "application/octet-stream"
OCTETS_SCHEMA: Final = {OCTETS: {"schema": {"type": "string", "format": "binary"}}}
RANGE_RESPONSES: Final[Mapping[int | str, dict[str, Any]]] = {
    200: {"description": "All of the bytes.", "content": OCTETS_SCHEMA},
    206: {"description": "The range of bytes that was asked for.", "content": OCTETS_SCHEMA},
    304: {"description": "The client has these bytes."},
}
"""The answers of `ranged_response`, for FastAPI's `responses`."""

_RANGE: Final = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


def strong_etag(content: memoryview) -> str:
    """Return an ETag of the bytes themselves, in quotes. Blocking: it reads all of them."""
    return f'"{hashlib.blake2b(content, digest_size=16).hexdigest()}"'


def weak_etag(content: bytes) -> str:
    """Return an ETag that compressed and plain forms of the same content share."""
    return f'W/"{hashlib.sha256(content).hexdigest()[:32]}"'


def is_not_modified(headers: Headers, etag: str) -> bool:
    """Return whether If-None-Match names the tag, by the weak comparison of RFC 9110, 13.1.2.

    Args:
        headers: Headers of the request.
        etag: ETag of the answer, strong or weak.
    """
    given = {tag.strip().removeprefix("W/") for tag in headers.get("if-none-match", "").split(",")}
    return "*" in given or etag.removeprefix("W/") in given


def ranged_response(content: memoryview, headers: Headers, *, etag: str, described: Mapping[str, str]) -> Response:
    """Return all of the bytes (200), one range of them (206), or 304.

    A request for several ranges is answered with all bytes, which the standard allows.

    Args:
        content: Bytes of the whole answer, one dimension.
        headers: Headers of the request.
        etag: Strong ETag of the content, in quotes.
        described: Further headers of the answer.

    Raises:
        RangeNotSatisfiable: The range begins behind the end.
    """
    # The copy belongs to one client. It revalidates the copy before each use, unless the caller's headers differ.
    described = {"Cache-Control": "private, no-cache", **described, "ETag": etag, "Accept-Ranges": "bytes"}
    if is_not_modified(headers, etag):
        return Response(status_code=304, headers=described)
    bounds = _bounds(headers.get("range", ""), len(content)) if headers.get("if-range", etag) == etag else None
    if bounds is None:
        return Response(content, headers=described, media_type=OCTETS)
    start, stop = bounds
    described["Content-Range"] = f"bytes {start}-{stop - 1}/{len(content)}"
    return Response(content[start:stop], 206, headers=described, media_type=OCTETS)


def _bounds(range_header: str, size: int) -> tuple[int, int] | None:
    """Return the first byte and the one behind the last; None for a header that is ignored."""
    found = _RANGE.fullmatch(range_header)
    first, last = found.groups() if found else ("", "")
    if first:
        start, stop = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < start:
            return None
    elif last:  # the last bytes, counted from the end
        start, stop = size - min(int(last), size), size
    else:
        return None
    if start >= stop:
        raise RangeNotSatisfiable(
            f"The content has {size} bytes, from 0 to {size - 1}. The Range header asks for none of them.",
            extra={"size": size},
        )
    return start, stop
