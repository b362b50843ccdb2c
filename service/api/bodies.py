"""Request bodies: read within bounds of size and time, and the image that an upload carries."""

import asyncio
import re
from dataclasses import dataclass

from python_multipart.multipart import parse_options_header
from starlette.requests import ClientDisconnect, Request

from service.errors import BodyTimeout, BodyTooLarge, MalformedBody, UnsupportedEncoding, UnsupportedImage

MULTIPART_FIELD = "image"
LEVELS_FIELD, BANDS_FIELD, REGION_FIELD, MODEL_FIELD = "levels", "bands", "region", "model"
_FIELDS = {name.encode(): name for name in (MULTIPART_FIELD, LEVELS_FIELD, BANDS_FIELD, REGION_FIELD, MODEL_FIELD)}
# Boundaries, headers and small further fields around the image.
MULTIPART_OVERHEAD_BYTES = 64 * 1024

# A body may begin slowly, for instance over a new mobile connection.
GRACE_S = 5.0

# The body of a click has 200 to 400 bytes. A body of this size takes little more time to parse than to pass to a
# thread, whatever its content.
SMALL_BODY_BYTES = 1024

# Forms around an image have a handful of fields. Further parts would cost time, and none of them is used.
_MAX_PARTS = 16
_MAX_PART_HEADER_BYTES = 8 * 1024
_MAX_BOUNDARY_BYTES = 256  # RFC 2046 allows 70
_HEADER_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """Bounds of requests, from the settings.

    Args:
        max_image_bytes: Size of the largest upload, in bytes.
        max_request_bytes: Size of the largest body of /segment, in bytes.
        max_prompts: Number of prompts in one request.
        body_timeout_s: Time in which a body has to arrive, in seconds.
        min_bytes_per_s: Lowest average speed of a body after its first seconds, in bytes per second.
        embed_timeout_s: Time in which an image has to be embedded after its body has arrived, in seconds.
        segment_timeout_s: Time in which prompts have to be answered after their body has arrived, in seconds.
        everything_timeout_s: Time in which all objects have to be found after the body has arrived, in seconds.
        max_points_per_side: Largest `points_per_side` of everything mode.
    """

    max_image_bytes: int
    max_request_bytes: int
    max_prompts: int
    body_timeout_s: float
    min_bytes_per_s: int
    embed_timeout_s: float
    segment_timeout_s: float
    everything_timeout_s: float
    max_points_per_side: int


async def read_body(
    request: Request,
    *,
    max_bytes: int,
    timeout_s: float,
    min_bytes_per_s: int = 1024,
    grace_s: float = GRACE_S,
    may_be_empty: bool = False,
) -> bytes:
    """Return the whole body of a request.

    Args:
        request: Request with an unread body.
        max_bytes: Size of the largest body that is read, in bytes.
        timeout_s: Time in which the whole body has to arrive, in seconds.
        min_bytes_per_s: Lowest average speed after `grace_s`, in bytes per second. It keeps a slow client from holding
            a permit for the whole of `timeout_s`. 0 is no bound.
        grace_s: Time from the first read in which the speed does not count, in seconds.
        may_be_empty: Whether the route answers a request without a body.

    Raises:
        UnsupportedEncoding: The body is compressed. Nothing is read.
        BodyTooLarge: The body has, or announces, more than `max_bytes`. The rest is not read.
        BodyTimeout: The body is too slow, in total or on average.
        MalformedBody: The body is empty, and may not be.
    """
    _check_encoding(request)

    def too_large() -> BodyTooLarge:
        return BodyTooLarge(
            f"The body has more than {max_bytes} bytes, the most this address takes. Send less.",
            extra={"limit": max_bytes},
        )

    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > max_bytes:
        raise too_large()
    chunks, size = [], 0
    clock = asyncio.get_running_loop().time
    started = clock()

    def deadline() -> float:
        """Return the time at which the body is too slow, unless more of it arrives before."""
        earned_s = size / min_bytes_per_s if min_bytes_per_s else timeout_s
        return started + min(timeout_s, max(grace_s, earned_s))

    try:
        async with asyncio.timeout_at(deadline()) as timeout:
            while True:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                chunks.append(message.get("body", b""))
                size += len(chunks[-1])
                if size > max_bytes:
                    raise too_large()
                if not message.get("more_body", False):
                    break
                timeout.reschedule(deadline())
    except TimeoutError as error:
        raise BodyTimeout(
            f"{size} bytes of the body arrived in {clock() - started:.1f} s. A body may take {timeout_s:g} s and needs "
            f"at least {min_bytes_per_s} bytes per second. Send it faster, or send a smaller image."
        ) from error
    if size == 0 and not may_be_empty:
        raise MalformedBody("The body is empty. Send the bytes of an image, or JSON where the address takes JSON.")
    return b"".join(chunks)


def _check_encoding(request: Request) -> None:
    encoding = request.headers.get("content-encoding", "").strip().lower()
    if encoding not in ("", "identity"):
        raise UnsupportedEncoding(
            f"Content-Encoding {encoding[:64]!r} is not supported. Send the body as it is, without this header: images "
            "are compressed already."
        )


def without_bom(body: bytes) -> bytes:
    """Return the body without the mark by which some Windows tools begin text in UTF-8."""
    return body.removeprefix(b"\xef\xbb\xbf")


def fields_of(body: bytes, content_type: str) -> dict[str, bytes]:
    """Return the image in a raw or a multipart body under `image`, and the other fields of an upload. Blocking.

    The format of the image is found in its bytes. The content type only states how they are wrapped.

    Args:
        body: Body of an upload.
        content_type: Value of Content-Type; empty if the request has none.

    Raises:
        UnsupportedImage: The content type is neither that of an image nor multipart/form-data.
        MalformedBody: The multipart body cannot be read, or has no field `image`.
    """
    kind, options = parse_options_header(content_type)
    if kind == b"multipart/form-data":
        boundary = options.get(b"boundary")
        if not boundary:
            raise MalformedBody("Content-Type: multipart/form-data needs a boundary. Most clients set it themselves.")
        return _fields(body, boundary)
    if kind and not kind.startswith(b"image/") and kind != b"application/octet-stream":
        raise UnsupportedImage(
            f"Content-Type {kind.decode('latin-1')!r} is not that of an image. Send the bytes of the file as "
            f"image/jpeg, image/png or image/webp, as multipart/form-data with the field {MULTIPART_FIELD!r}, or in "
            "base64 as application/json."
        )
    return {MULTIPART_FIELD: body}


def _fields(body: bytes, boundary: bytes) -> dict[str, bytes]:
    """Return the data of the first part of each name that an upload has: slices of the body.

    The whole body is in memory, so parts are found by searching for their delimiters. A streaming parser calls back for
    each part, two million times for a body that consists of parts alone.
    """
    if len(boundary) > _MAX_BOUNDARY_BYTES:
        raise MalformedBody(f"The boundary has {len(boundary)} bytes; at most {_MAX_BOUNDARY_BYTES} are allowed.")
    line = rb"--" + re.escape(boundary) + rb"(?:(?P<last>--)|[ \t]*\r\n)"
    delimiter = re.compile(rb"\r\n" + line)
    here = re.compile(line).match(body) or delimiter.search(body)
    if here is None:
        raise MalformedBody("The multipart body does not contain the boundary that Content-Type names.")
    found: dict[str, bytes] = {}
    parts = 0
    while not here["last"]:
        parts += 1
        if parts > _MAX_PARTS:
            raise MalformedBody(f"The multipart body has more than {_MAX_PARTS} parts. Send the image and little else.")
        # From the delimiter's own line end on: a part without headers begins with the empty line.
        blank = body.find(b"\r\n\r\n", here.end() - 2, here.end() + _MAX_PART_HEADER_BYTES)
        if blank < 0:
            raise MalformedBody(f"The headers of a part are cut off, or have more than {_MAX_PART_HEADER_BYTES} bytes.")
        name = _part_name(body[here.end() : blank])
        there = delimiter.search(body, blank + 2)
        if there is None:
            raise MalformedBody("The multipart body is cut off: its last boundary is missing.")
        if name in _FIELDS and _FIELDS[name] not in found:
            found[_FIELDS[name]] = body[blank + 4 : there.start()]
        here = there
    if MULTIPART_FIELD not in found:
        raise MalformedBody(f"The multipart body has no field {MULTIPART_FIELD!r}. Send the image under this name.")
    if not found[MULTIPART_FIELD]:
        raise MalformedBody(f"The field {MULTIPART_FIELD!r} is empty. Send the bytes of the image in it.")
    return found


def _part_name(headers: bytes) -> bytes | None:
    """Return the name of a part in its Content-Disposition header."""
    found = None
    for header in headers.split(b"\r\n") if headers else ():
        name, _, value = header.partition(b":")
        if not _HEADER_NAME.fullmatch(name):
            raise MalformedBody("A header of a part of the multipart body cannot be read.")
        if name.lower() == b"content-disposition":
            _, options = parse_options_header(value.strip())
            found = options.get(b"name")
    return found
