"""Fuzz targets: seeds, a function that raises only for bugs, and the longest input in bytes."""

import io
import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial

import numpy as np
from PIL import Image
from sam.sample_values import files_of_every_kind

from service.api.bodies import fields_of
from service.api.routes.segment import _parse
from service.api.uploads import AskedReading, upload_of
from service.client.rle import decode_rle
from service.errors import ServiceError
from service.process import configure_image_libraries
from service.sam.decoded_image import ImageInfo
from service.sam.embedding import HighResMaps, ImageEmbedding
from service.sam.embedding_bytes import (
    CorruptValue,
    embedding_from_bytes,
    embedding_to_bytes,
    mask_from_bytes,
    mask_to_bytes,
)
from service.sam.frame import Frame
from service.sam.images import decode_image
from service.sam.logits import decode_logits
from service.sam.mask_prompts import PngMask, RleMask, with_mask
from service.sam.prompts import Prompt

configure_image_libraries()

MAX_PIXELS = 100_000
FINGERPRINT = "0123456789abcdef"

Read = Callable[[bytes], None]


def read_image(data: bytes) -> None:
    """Decode an image: it is within the limit, or the error is a ServiceError."""
    resize = "stretch" if len(data) % 2 else "letterbox"  # each has its own bounds of shapes
    with suppress(ServiceError):
        image = decode_image(data, max_pixels=MAX_PIXELS, resize=resize).pixels
        assert image.mode == "RGB"
        assert 0 < image.width * image.height <= MAX_PIXELS


def read_multipart(data: bytes) -> None:
    """Find the image in a multipart body. The first line of the data is the content type."""
    kind, _, body = data.partition(b"\n")
    with suppress(ServiceError):
        assert all(value in body for value in fields_of(body, kind.decode("latin-1")).values())


def read_upload(data: bytes) -> None:
    """Find the image in the JSON of an upload: it is within the limit, or the error is a ServiceError."""
    asked = AskedReading("auto", None, None, None)
    with suppress(ServiceError):
        upload = upload_of(data, content_type="application/json", asked=asked, max_image_bytes=1000)
        assert len(upload.data) <= 1002


def read_mask(data: bytes) -> None:
    """Read a binary mask, as PNG and as text of run lengths: it has its size, or the error is a ServiceError."""
    for mask in (RleMask((32, 32), data.decode("latin-1")), PngMask((32, 32), data)):
        for resize in ("letterbox", "stretch"):
            with suppress(ServiceError):
                prompt = with_mask(Prompt(), mask, Frame((32, 32), resize), ImageInfo((32, 32), 1, "full"))
                assert np.isfinite(prompt.mask_logits).all()


def masks() -> Iterable[bytes]:
    """Yield a mask in each way to write one."""
    file = io.BytesIO()
    Image.fromarray(np.eye(32, dtype=np.bool_)).save(file, "PNG")
    yield file.getvalue()
    yield b"P5`P40"


def read_request(data: bytes) -> None:
    """Parse a request body: all numbers are finite, or the error is a ServiceError."""
    with suppress(ServiceError):
        asked, queries = _parse(data, 64)
        assert len(asked.prompts) == len(queries)
        assert all(np.isfinite(query.prompt.points).all() for query in queries)


def read_value(data: bytes) -> None:
    """Parse embeddings and a mask of Redis: the only error is CorruptValue."""
    for read in (embedding_from_bytes, partial(embedding_from_bytes, has_high_res=True), mask_from_bytes):
        with suppress(CorruptValue):
            read(data, FINGERPRINT)


def read_logits(data: bytes) -> None:
    """Decode mask logits: they are finite, or the error is a ServiceError."""
    with suppress(ServiceError):
        assert np.isfinite(decode_logits(data)).all()


def read_rle(data: bytes) -> None:
    """Decode run lengths: the mask has the requested size, or the error is a ValueError."""
    if len(data) < 2:
        return
    height, width = data[0], data[1]
    with suppress(ValueError):
        assert decode_rle(data[2:].decode("latin-1"), height, width).shape == (height, width)


def values() -> Iterable[bytes]:
    """Yield a value of each kind."""
    tokens = np.zeros((4096, 256), np.float16)
    yield embedding_to_bytes(ImageEmbedding(tokens, (480, 640)), FINGERPRINT)
    maps = HighResMaps(tokens, np.zeros((4096, 512), np.float16))
    yield embedding_to_bytes(ImageEmbedding(tokens, (480, 640), high_res=maps), FINGERPRINT)
    yield mask_to_bytes(np.zeros((256, 256), np.float16), FINGERPRINT)


def requests() -> Iterable[bytes]:
    """Yield a request of each kind of prompt."""
    for prompt in ({"points": [{"x": 1, "y": 2, "label": 0}]}, {"box": [1, 2, 3, 4]}, {"mask_id": "0" * 32},
                   {"mask_logits": "AAAA"}, {"mask": {"size": [1, 2], "counts": [0, 2]}}):  # fmt: skip
        yield json.dumps({"image_hash": "0" * 64, "prompts": [prompt], "multimask": 3, "format": "png"}).encode()


def forms() -> Iterable[bytes]:
    """Yield an image in a form, and an image without a form."""
    part = b'--seam\r\nContent-Disposition: form-data; name="image"; filename="f"\r\n\r\ndata\r\n'
    yield b"multipart/form-data; boundary=seam\n" + part + part + b"--seam--\r\n"
    yield b"image/png\ndata"


TARGETS: dict[str, tuple[Callable[[], Iterable[bytes]], Read, int]] = {
    "images": (files_of_every_kind, read_image, 1 << 16),
    "multipart": (forms, read_multipart, 1 << 14),
    "requests": (requests, read_request, 1 << 14),
    "values": (values, read_value, (1 << 23) + 200),
    "uploads": (lambda: [b'{"image": "data:image/png;base64,AAAA", "levels": "full"}'], read_upload, 4096),
    "masks": (masks, read_mask, 4096),
    "logits": (lambda: [bytes(131_072)], read_logits, 131_100),
    "rle": (lambda: [b"\x08\x080@0@", b"\x20\x20" + b"1" * 32], read_rle, 4096),
}
