"""Everything results as bytes, the values of the Redis tier.

The bytes are a header and compressed JSON. The header is magic "ESEV" | version u8. zlib's checksum finds damage.
"""

import math
import zlib
from dataclasses import dataclass
from typing import Final

import orjson
from pycocotools import mask as coco
from pydantic import TypeAdapter, ValidationError

from service.errors import InvalidRequest
from service.sam.embedding_bytes import CorruptValue
from service.sam.everything.found_mask import CropBox
from service.sam.everything.options import MAX_MASKS
from service.sam.everything.record import MaskRecord, RecordedResult
from service.sam.rle import decode_counts
from service.sam.transforms import Size

MAX_VALUE_BYTES: Final = 4 << 20
"""Size of the largest value, in bytes. A result of 300 masks has about 0.2 MiB."""

_MAX_JSON_BYTES: Final = 16 << 20
_HEADER: Final = b"ESEV\x01"


class ResultTooLarge(ValueError):
    """The result takes more bytes than a value may have."""


@dataclass(frozen=True, slots=True)
class NamedResult:
    """A result, and the text that names it: several names share a key.

    Args:
        name: Image, variant, model and parameters of the result.
        result: All masks.
    """

    name: str
    result: RecordedResult


@dataclass(frozen=True, slots=True)
class _Stored:
    name: str
    size: Size
    crop_box: CropBox
    masks: tuple[MaskRecord, ...]


_STORED: Final = TypeAdapter(_Stored)


class EverythingCodec:
    """Codec of everything results. It checks that every mask fits its image and its own numbers."""

    def encode(self, value: NamedResult) -> bytes:
        """Return the bytes to store, at most 4 MiB.

        Raises:
            ResultTooLarge: They would be more.
        """
        result = value.result
        text = orjson.dumps(_Stored(value.name, result.size, result.crop_box, result.masks))
        data = b"" if len(text) > _MAX_JSON_BYTES else _HEADER + zlib.compress(text, 1)
        if not data or len(data) > MAX_VALUE_BYTES:
            raise ResultTooLarge(f"The result has {len(text)} bytes.")
        return data

    def decode(self, data: bytes) -> NamedResult:
        """Return the result.

        Raises:
            CorruptValue: The bytes are not a result: cut off, damaged, or with numbers that do not fit together.
        """
        stored = _parsed(data)
        height, width = stored.size
        if height < 1 or width < 1 or height * width >= 2**32 or len(stored.masks) > MAX_MASKS:
            raise CorruptValue("The result is not one of an image.")
        _check_box(stored.crop_box, stored.size)
        if len({mask.id for mask in stored.masks}) != len(stored.masks):
            raise CorruptValue("Two masks have the same id.")
        for mask in stored.masks:
            _check(mask, stored.size)
        return NamedResult(stored.name, RecordedResult(stored.size, stored.crop_box, stored.masks))


def _parsed(data: bytes) -> _Stored:
    if not data.startswith(_HEADER) or len(data) > MAX_VALUE_BYTES:
        raise CorruptValue("The bytes are not a result of this version.")
    unpacker = zlib.decompressobj()
    try:
        text = unpacker.decompress(data[len(_HEADER) :], _MAX_JSON_BYTES)
        if not unpacker.eof or unpacker.unused_data:
            raise CorruptValue("The result is cut off, or too long.")
        return _STORED.validate_json(text, strict=True)
    except (zlib.error, ValidationError) as error:
        raise CorruptValue("The result is damaged.") from error


def _check(mask: MaskRecord, size: Size) -> None:
    """Check that a mask fits the image, and its numbers the mask."""
    try:
        runs = decode_counts(mask.counts)
    except InvalidRequest as error:
        raise CorruptValue(error.detail) from error
    total = size[0] * size[1]
    # Each run is checked first: the sum of larger ones could overflow to the right number.
    if runs.min(initial=0) < 0 or runs.max(initial=0) > total or runs.sum() != total:
        raise CorruptValue("The runs of a mask do not fill the image.")
    box = coco.toBbox({"size": list(size), "counts": mask.counts.encode()}).astype(int).tolist()
    if int(runs[1::2].sum()) != mask.area or (tuple(box) != mask.bbox and mask.area):
        raise CorruptValue("Area or box is not that of the mask.")
    _check_box(mask.crop_box, size)
    if mask.id < 0 or not math.isfinite(mask.predicted_iou) or not 0.0 <= mask.stability_score <= 1.0:
        raise CorruptValue("A mask has numbers that no mask has.")
    if not (0.0 <= mask.point[0] <= size[1] and 0.0 <= mask.point[1] <= size[0]):
        raise CorruptValue("The point of a mask is not in the image.")


def _check_box(box: CropBox, size: Size) -> None:
    x, y, width, height = box
    if not (x >= 0 and y >= 0 and 0 < width <= size[1] - x and 0 < height <= size[0] - y):
        raise CorruptValue("A crop box is not in the image.")
