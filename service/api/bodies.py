"""Reading bodies: bounded in bytes and in time, refused as early as possible."""

import asyncio

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.requests import Request

from service.errors import BodyTimeout, BodyTooLarge, MalformedBody, UnsupportedImage

MULTIPART_FIELD = "image"
# Boundaries, headers and small further fields around the picture.
MULTIPART_OVERHEAD_BYTES = 64 * 1024


async def read_body(request: Request, *, max_bytes: int, timeout_s: float) -> bytes:
    """The whole body.

    Raises:
        BodyTooLarge: announced or sent with more than `max_bytes`; not read further.
        BodyTimeout: not there after `timeout_s`.
        MalformedBody: empty.
    """
    too_large = BodyTooLarge(
        f"The body has more than {max_bytes} bytes, the most this address takes. Send less.",
        extra={"limit": max_bytes},
    )
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > max_bytes:
        raise too_large
    chunks, size = [], 0
    try:
        async with asyncio.timeout(timeout_s):
            async for chunk in request.stream():
                size += len(chunk)
                if size > max_bytes:
                    raise too_large
                chunks.append(chunk)
    except TimeoutError as error:
        raise BodyTimeout(
            f"{size} bytes of the body arrived in {timeout_s:g} s. Send it faster, or a smaller picture."
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


class _Parts:
    """What the parser calls back with: each part's headers and data."""

    def __init__(self) -> None:
        self.is_complete = False
        self._headers: list[dict[bytes, bytes]] = []
        self._data: list[list[bytes]] = []
        self._name = b""
        self._value = b""

    def named(self, name: bytes) -> bytes | None:
        """The data of the first part of this name."""
        for headers, data in zip(self._headers, self._data, strict=True):
            _, options = parse_options_header(headers.get(b"content-disposition"))
            if options.get(b"name") == name:
                return b"".join(data)
        return None

    def on_part_begin(self) -> None:
        self._headers.append({})
        self._data.append([])

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def on_header_end(self) -> None:
        self._headers[-1][self._name.lower()] = self._value
        self._name = self._value = b""

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._data[-1].append(data[start:end])

    def on_end(self) -> None:
        self.is_complete = True


def _field(body: bytes, boundary: bytes) -> bytes:
    """The first part named `image`."""
    parts = _Parts()
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": parts.on_part_begin,
                "on_header_field": parts.on_header_field,
                "on_header_value": parts.on_header_value,
                "on_header_end": parts.on_header_end,
                "on_part_data": parts.on_part_data,
                "on_end": parts.on_end,
            },
        )
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise MalformedBody(f"The multipart body cannot be read: {error}.") from error
    if not parts.is_complete:
        raise MalformedBody("The multipart body is cut off: its last boundary is missing.")
    picture = parts.named(MULTIPART_FIELD.encode())
    if picture is None:
        raise MalformedBody(f"The multipart body has no field {MULTIPART_FIELD!r}; send the picture under this name.")
    if not picture:
        raise MalformedBody(f"The field {MULTIPART_FIELD!r} is empty.")
    return picture
