"""Reading bodies: bounded in bytes, in time and in effort, refused as early as possible."""

import asyncio
import re

from python_multipart.multipart import parse_options_header
from starlette.requests import ClientDisconnect, Request

from service.errors import BodyTimeout, BodyTooLarge, MalformedBody, UnsupportedImage

MULTIPART_FIELD = "image"
# Boundaries, headers and small further fields around the picture.
MULTIPART_OVERHEAD_BYTES = 64 * 1024

# A body may begin slowly: connections warm up, radios wake.
GRACE_S = 5.0

# Forms around a picture have a handful of fields; every further part would cost time and none of them is used.
_MAX_PARTS = 16
_MAX_PART_HEADER_BYTES = 8 * 1024
_MAX_BOUNDARY_BYTES = 256  # RFC 2046 allows 70
_HEADER_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


async def read_body(
    request: Request,
    *,
    max_bytes: int,
    timeout_s: float,
    min_bytes_per_s: int = 1024,
    grace_s: float = GRACE_S,
) -> bytes:
    """The whole body.

    Args:
        request: nothing of its body has been read.
        max_bytes: the most that is read.
        timeout_s: the most the whole body may take, seconds.
        min_bytes_per_s: what must have arrived on average at any time after `grace_s`, so that a few bytes do not
            hold a permit for the whole of `timeout_s`; 0 asks for no rate.
        grace_s: time from the first read in which the rate does not count, seconds.

    Raises:
        BodyTooLarge: announced or sent with more than `max_bytes`; not read further.
        BodyTimeout: too slow, in total or by its rate.
        MalformedBody: empty.
    """

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

    def patience_ends() -> float:
        """When the body is too slow unless more of it has arrived."""
        paid_s = size / min_bytes_per_s if min_bytes_per_s else timeout_s
        return started + min(timeout_s, max(grace_s, paid_s))

    try:
        async with asyncio.timeout_at(patience_ends()) as patience:
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
                patience.reschedule(patience_ends())
    except TimeoutError as error:
        raise BodyTimeout(
            f"{size} bytes of the body arrived in {clock() - started:.1f} s; a body takes at most {timeout_s:g} s and "
            f"comes with {min_bytes_per_s} bytes per second at least. Send it faster, or a smaller picture."
        ) from error
    if size == 0:
        raise MalformedBody("The body is empty. Send the picture's bytes, or JSON where the address takes JSON.")
    return b"".join(chunks)


def picture_of(body: bytes, content_type: str) -> bytes:
    """The picture's bytes from a raw or a multipart body. Blocking: runs in a worker thread.

    What the bytes are is decided by looking at them; the content type only says how they are wrapped.

    Raises:
        UnsupportedImage: the content type is neither a picture's nor multipart/form-data.
        MalformedBody: multipart that cannot be read, or has no field `image`.
    """
    kind, options = parse_options_header(content_type)
    if kind == b"multipart/form-data":
        boundary = options.get(b"boundary")
        if not boundary:
            raise MalformedBody("Content-Type: multipart/form-data needs a boundary; most clients set it themselves.")
        return _field(body, boundary)
    if kind and not kind.startswith(b"image/") and kind != b"application/octet-stream":
        raise UnsupportedImage(
            f"Content-Type {kind.decode('latin-1')!r} is not a picture's. Send the file's bytes as image/jpeg, "
            f"image/png, image/webp, …, or multipart/form-data with the field {MULTIPART_FIELD!r}."
        )
    return body


def _field(body: bytes, boundary: bytes) -> bytes:
    """The data of the first part named `image`: one slice of the body.

    The body is here already, so parts are found by searching for their delimiters; a parser that is fed with pieces
    calls back for each of them, two million times for a body of nothing but parts.
    """
    if len(boundary) > _MAX_BOUNDARY_BYTES:
        raise MalformedBody(f"The boundary has {len(boundary)} bytes, at most {_MAX_BOUNDARY_BYTES} are taken.")
    line = rb"--" + re.escape(boundary) + rb"(?:(?P<last>--)|[ \t]*\r\n)"
    delimiter = re.compile(rb"\r\n" + line)
    here = re.compile(line).match(body) or delimiter.search(body)
    if here is None:
        raise MalformedBody("The boundary that Content-Type names is nowhere in the multipart body.")
    picture: bytes | None = None
    parts = 0
    while not here["last"]:
        parts += 1
        if parts > _MAX_PARTS:
            raise MalformedBody(
                f"The multipart body has more than {_MAX_PARTS} parts; send the picture and little else."
            )
        # From the delimiter's own line end on: a part without headers begins with the empty line.
        blank = body.find(b"\r\n\r\n", here.end() - 2, here.end() + _MAX_PART_HEADER_BYTES)
        if blank < 0:
            raise MalformedBody(f"A part's headers are cut off or have more than {_MAX_PART_HEADER_BYTES} bytes.")
        name = _part_name(body[here.end() : blank])
        there = delimiter.search(body, blank + 2)
        if there is None:
            raise MalformedBody("The multipart body is cut off: its last boundary is missing.")
        if picture is None and name == MULTIPART_FIELD.encode():
            picture = body[blank + 4 : there.start()]
        here = there
    if picture is None:
        raise MalformedBody(f"The multipart body has no field {MULTIPART_FIELD!r}; send the picture under this name.")
    if not picture:
        raise MalformedBody(f"The field {MULTIPART_FIELD!r} is empty.")
    return picture


def _part_name(headers: bytes) -> bytes | None:
    """What Content-Disposition calls a part."""
    found = None
    for header in headers.split(b"\r\n") if headers else ():
        name, _, value = header.partition(b":")
        if not _HEADER_NAME.fullmatch(name):
            raise MalformedBody("A header of a part of the multipart body cannot be read.")
        if name.lower() == b"content-disposition":
            _, options = parse_options_header(value.strip())
            found = options.get(b"name")
    return found
