"""Images in JSON: base64 and data: URIs, and what an upload is that begins like no image."""

import binascii
import re
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from service.api.bodies import BANDS_FIELD, LEVELS_FIELD, MODEL_FIELD, MULTIPART_FIELD, REGION_FIELD, without_bom
from service.api.problems import broken_rule, invalid_request
from service.errors import BodyTooLarge, MalformedBody, UnsupportedImage

# Decoding base64 holds the interpreter, so it is done in pieces of about a tenth of a millisecond. Each piece is whole
# groups of four characters.
_PIECE_BYTES: Final = 256 * 1024

# A document around an image has four members. Every member costs time before the schema is checked.
_MAX_COMMAS: Final = 64

# Beginning of an upload that is looked at.
_BEGINNING_BYTES: Final = 256
# Formats of images begin with other characters, or have some soon: sizes in binary.
_BASE64: Final = rb"\s*[A-Za-z0-9+/_-]{24,}(?:[A-Za-z0-9+/_=-]|\r?\n)*\s*\Z"
_AS_JSON: Final = 'JSON with the Content-Type application/json, {"image": "<base64 or data: URI>"}'
_BEGINNINGS: Final = (
    (re.compile(rb"data:", re.IGNORECASE), "is a data: URI", f"Send the bytes that it encodes, or {_AS_JSON}"),
    (re.compile(rb"\x1f\x8b"), "is compressed with gzip", "Send the file as it is, not compressed"),
    (
        re.compile(rb"\s*<(?:!doctype\s+html|html|head|body)", re.IGNORECASE),
        "is an HTML page, perhaps of an error or a login",
        "Send the bytes of the image itself",
    ),
    (re.compile(rb"\s*<(?:\?xml|svg|!--)", re.IGNORECASE), "is XML, such as SVG", "Send the image as PNG or JPEG"),
    (re.compile(rb"\s*\{"), "looks like JSON", f"Send {_AS_JSON}"),
    (re.compile(_BASE64), "begins like base64", f"Send the bytes that it encodes, or {_AS_JSON}"),
)


class _EmbedDocument(BaseModel):
    """The body of /embed as JSON. Its members are the fields of a form."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    image: bytes
    levels: str | None = None
    bands: str | None = None
    region: str | None = None
    model: str | None = None

    @field_validator("bands", "region", mode="before")
    @classmethod
    def _as_text(cls, numbers: object) -> object:
        """Return a JSON list, [4, 3, 2], as the text that a form has."""
        return ",".join(map(str, numbers)) if isinstance(numbers, list) else numbers


def json_fields(body: bytes, *, max_image_bytes: int) -> dict[str, bytes]:
    """Return the fields of an upload as JSON, `{"image": "<base64 or data: URI>"}`, as a form has them. Blocking.

    Args:
        body: Body of the request.
        max_image_bytes: Size of the largest image, in bytes.

    Raises:
        MalformedBody, InvalidRequest: The body is not such JSON.
        BodyTooLarge: The image is too large.
    """
    if body.count(b",") > _MAX_COMMAS:
        raise broken_rule("/", "more members than an upload has. Send the image and little else.")
    try:
        document = _EmbedDocument.model_validate_json(without_bom(body))
    except ValidationError as error:
        raise invalid_request(error) from error
    fields = {MULTIPART_FIELD: decode_base64(document.image, max_bytes=max_image_bytes)}
    further = {
        LEVELS_FIELD: document.levels,
        BANDS_FIELD: document.bands,
        REGION_FIELD: document.region,
        MODEL_FIELD: document.model,
    }
    return fields | {name: value.encode() for name, value in further.items() if value is not None}


def decode_base64(text: bytes, *, max_bytes: int) -> bytes:
    """Return the bytes behind base64, plain or as a data: URI (RFC 2397). Blocking.

    Args:
        text: Base64, with or without spaces and line ends.
        max_bytes: Size of the largest file, in bytes.

    Raises:
        MalformedBody: The text is not base64, or is empty.
        BodyTooLarge: The file has more than `max_bytes`.
    """
    if text[:5].lower() == b"data:":
        head, comma, text = text.partition(b",")
        if not comma or not head.lower().endswith(b";base64"):
            raise MalformedBody("The data: URI of the image is not base64. Write data:image/jpeg;base64,….")
    if any(space in text for space in (b"\n", b"\r", b" ", b"\t")):
        text = text.translate(None, b" \t\r\n")
    if not text:
        raise MalformedBody("The image is empty. Send the bytes of the file in base64.")
    if len(text) // 4 * 3 > max_bytes + 2:
        raise BodyTooLarge(
            f"The image has more than {max_bytes} bytes. Send a smaller file.", extra={"limit": max_bytes}
        )
    view = memoryview(text)
    try:
        pieces = [
            binascii.a2b_base64(view[start : start + _PIECE_BYTES], strict_mode=True)
            for start in range(0, len(view), _PIECE_BYTES)
        ]
    except binascii.Error as error:
        raise MalformedBody(f"The image is not base64 ({error}). Send the bytes of the file in base64.") from error
    return b"".join(pieces)


def check_beginning(data: bytes) -> None:
    """Refuse what people send in place of an image, and say what it is. Other unknown formats are found by decoding.

    Args:
        data: Bytes of an upload.

    Raises:
        UnsupportedImage: The bytes begin like base64, a data: URI, gzip, HTML, XML or JSON.
    """
    beginning = without_bom(data[:_BEGINNING_BYTES])
    for pattern, found, action in _BEGINNINGS:
        if pattern.match(beginning):
            raise UnsupportedImage(f"The upload {found}. {action}.")
