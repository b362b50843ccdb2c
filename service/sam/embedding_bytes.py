"""Image embeddings and low-resolution masks as bytes, the values of the Redis tier.

The bytes are a header of 40 bytes and the arrays, little-endian and row by row:

    magic "ESAM" | version u8 | kind u8 | dtype u8 | reading u8 | height u32 | width u32 | fingerprint 16 bytes
    | crc32 of all behind the header u32 | crc32 of the header up to here u32

`reading` of an embedding is the orientation that was applied, 1 to 8, plus 16 times the index of the levels in
`APPLIED_LEVELS`, plus 128 for a region of the image. It is 0 for a mask. The place of a region follows the header:

    x0 u32 | y0 u32 | x1 u32 | y1 u32 | crc32 of the header and of these four u32

`dtype` is 1 for float16, 2 for float32 and 3 for int8 tokens. The scales of the channels follow int8 tokens, 256
float32; maps are float16 then.

For a model with the granularity module, the proposals follow the tokens: rows of five float32, box and score. For a
model with the mask decoder of SAM 2, its two maps follow the tokens, s1 before s0. Each of the two is a kind of its
own.
"""

import hashlib
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.sam.decoded_image import APPLIED_LEVELS, ORIENTATIONS, ImageInfo
from service.sam.embedding import (
    S0_SHAPE,
    S1_SHAPE,
    TOKENS_SHAPE,
    VALUE_VERSION,
    HighResMaps,
    ImageEmbedding,
    Tokens,
    array_bytes,
)
from service.sam.granularity import MAX_PROPOSALS, Proposals
from service.sam.image_guards import MAX_STRETCHED_RUNS, MAX_STRETCHED_SIDE, stretched_runs
from service.sam.int8_tokens import Scales, are_usable, from_int8, to_int8
from service.sam.logits import to_float16
from service.sam.region import Region
from service.sam.transforms import FRAME_SIZE, MASK_SIZE, Size, input_size

_MAGIC = b"ESAM"
_EMBEDDING, _MASK, _PROPOSING_EMBEDDING, _HIGH_RES_EMBEDDING = 1, 2, 3, 4
_FLOAT16, _FLOAT32, _INT8 = np.dtype("<f2"), np.dtype("<f4"), np.dtype("i1")
# Types of the first array. All others have it, too, except behind int8 tokens.
_DTYPES: dict[int, np.dtype[Any]] = {1: _FLOAT16, 2: _FLOAT32, 3: _INT8}
_HEADER = struct.Struct("<4sBBBBII16sI")
_CHECKSUM = struct.Struct("<I")
HEADER_BYTES = _HEADER.size + _CHECKSUM.size
_REGION = struct.Struct("<IIIII")
INFO_BYTES = HEADER_BYTES + _REGION.size
"""Bytes of the beginning of an embedding that tell what answers say about its image."""

_PROPOSAL_BYTES = 20
_LEVELS_UNIT = 16
_HAS_REGION = 128
_MASK_SHAPE = (MASK_SIZE, MASK_SIZE)

Bytes = bytes | bytearray | memoryview
Shape = tuple[int, ...]
# Shapes of the arrays behind the header, by kind.
_SHAPES: dict[int, tuple[Shape, ...]] = {
    _EMBEDDING: (TOKENS_SHAPE,),
    _MASK: (_MASK_SHAPE,),
    _PROPOSING_EMBEDDING: (TOKENS_SHAPE,),
    _HIGH_RES_EMBEDDING: (TOKENS_SHAPE, S1_SHAPE, S0_SHAPE),
}


class CorruptValue(ValueError):
    """The bytes are not a value of this model: cut off, damaged, or of another kind, version or fingerprint."""


def embedding_to_bytes(embedding: ImageEmbedding, fingerprint: str) -> bytes:
    """Return the bytes of an embedding: 40 bytes, or 60 for a region, and its arrays, 20 bytes a proposal.

    Tokens take 2 MiB in float16, 4 MiB in float32, and 1 MiB and 1 KiB in int8. With the maps of high resolution it is
    8, 16 and 7 MiB.
    """
    tokens, scales = embedding.tokens, embedding.scales
    kind, tail = _EMBEDDING, b""
    arrays: list[NDArray[Any]] = [tokens] if scales is None else [to_int8(tokens, scales), scales]
    if (proposals := embedding.proposals) is not None:
        kind = _PROPOSING_EMBEDDING
        tail = np.column_stack((proposals.boxes, proposals.scores)).astype("<f4").tobytes()
    elif (high_res := embedding.high_res) is not None:
        kind = _HIGH_RES_EMBEDDING
        arrays += [high_res.s1, high_res.s0]
    reading = embedding.orientation + _LEVELS_UNIT * APPLIED_LEVELS.index(embedding.levels)
    return _to_bytes(kind, arrays, _Reading(embedding.original_size, reading, embedding.region), fingerprint, tail=tail)


def embedding_from_bytes(data: Bytes, fingerprint: str, *, has_high_res: bool = False) -> ImageEmbedding:
    """Return the embedding; its arrays are read-only views of `data`, except those of an embedding in int8.

    Args:
        data: Bytes of the embedding, which stay as they are while the embedding is used.
        fingerprint: Fingerprint of the model.
        has_high_res: Whether embeddings of the model have maps of high resolution.

    Raises:
        CorruptValue: The bytes are not an embedding of this model.
    """
    header, arrays, tail = _from_bytes(_embeddings(has_high_res), data, fingerprint)
    info = _info(header)
    tokens, scales, maps = _tokens_and_maps(header, arrays)
    rows = bytes(tail) if header.dtype == _INT8 else tail
    proposals = _proposals(rows) if header.kind == _PROPOSING_EMBEDDING else None
    high_res = HighResMaps(*maps) if header.kind == _HIGH_RES_EMBEDDING else None
    return ImageEmbedding(tokens, info.size, proposals, info.orientation, info.levels, high_res, info.region, scales)


def embedding_info(data: Bytes, fingerprint: str, *, has_high_res: bool = False) -> ImageInfo:
    """Return what answers tell about the image of an embedding.

    Args:
        data: The first `INFO_BYTES` bytes of the embedding, or more.
        fingerprint: Fingerprint of the model.
        has_high_res: Whether embeddings of the model have maps of high resolution.

    Raises:
        CorruptValue: The bytes do not begin like an embedding of this model.
    """
    return _info(_read_header(_embeddings(has_high_res), data, fingerprint))


def mask_to_bytes(logits: NDArray[np.floating], fingerprint: str) -> bytes:
    """Return the bytes of low-resolution logits (256, 256): 40 bytes and 128 KiB of float16."""
    return _to_bytes(_MASK, [to_float16(logits)], _Reading(_MASK_SHAPE), fingerprint)


def mask_from_bytes(data: Bytes, fingerprint: str) -> NDArray[np.float16]:
    """Return the logits, (256, 256) float16, finite, as a read-only view of `data`.

    Raises:
        CorruptValue: The bytes are not a mask of this model.
    """
    header, (logits,), _ = _from_bytes((_MASK,), data, fingerprint)
    is_read = header.image != _Reading(_MASK_SHAPE)
    if is_read or logits.dtype != np.float16 or not np.isfinite(logits).all():
        raise CorruptValue("The logits are not 256 x 256 finite float16 numbers.")
    return logits


def _embeddings(has_high_res: bool) -> tuple[int, ...]:  # noqa: FBT001 - of the callers' argument
    return (_HIGH_RES_EMBEDDING,) if has_high_res else (_EMBEDDING, _PROPOSING_EMBEDDING)


def _info(header: "_Header") -> ImageInfo:
    size, region = header.image.size, header.image.region
    for height, width in (size, *(() if region is None else (region.size,))):
        if not _is_usable((height, width)):
            raise CorruptValue(f"The image would be {width} x {height} pixels.")
    if region is not None and (region.size == size or not region.lies_in(size)):
        raise CorruptValue(f"An image of {size} has no region {region}.")
    levels, orientation = divmod(header.image.reading, _LEVELS_UNIT)
    if orientation not in ORIENTATIONS or levels >= len(APPLIED_LEVELS):
        raise CorruptValue(f"An image is not read like {header.image.reading}.")
    return ImageInfo(size, orientation, APPLIED_LEVELS[levels], region)


def _is_usable(size: Size) -> bool:
    """Return whether an image can have this size.

    A run-length encoding counts pixels in 32 bits. Longer and thinner images are neither letterboxed nor stretched.
    """
    height, width = size
    return 0 < height * width < 2**32 and (
        0 not in input_size(size) or (max(size) <= MAX_STRETCHED_SIDE and stretched_runs(size) <= MAX_STRETCHED_RUNS)
    )


@dataclass(frozen=True, slots=True)
class _Reading:
    """What a header says about the image, or about the logits of a mask.

    Args:
        size: Height and width, pixels.
        reading: Orientation and levels; 0 for a mask.
        region: Part of the image; None for the whole one.
    """

    size: Size
    reading: int = 0
    region: Region | None = None


@dataclass(frozen=True, slots=True)
class _Header:
    kind: int
    dtype: np.dtype[Any]
    image: _Reading
    checksum: int

    @property
    def nbytes(self) -> int:
        """Bytes before the arrays."""
        return HEADER_BYTES if self.image.region is None else INFO_BYTES

    @property
    def layout(self) -> list[tuple[Shape, np.dtype[Any]]]:
        """Shapes and types of the arrays behind the header."""
        first, *others = _SHAPES[self.kind]
        if self.dtype != _INT8:
            return [(shape, self.dtype) for shape in (first, *others)]
        return [(first, _INT8), (first[1:], _FLOAT32), *((shape, _FLOAT16) for shape in others)]


def _to_bytes(
    kind: int,
    arrays: Sequence[NDArray[np.number]],
    image: _Reading,
    fingerprint: str,
    *,
    tail: bytes = b"",
) -> bytes:
    code = next(code for code, dtype in _DTYPES.items() if dtype == arrays[0].dtype)
    parts: list[bytes | memoryview] = [*map(array_bytes, arrays), tail]
    checksum = 0
    for part in parts:
        checksum = zlib.crc32(part, checksum)
    reading = image.reading if image.region is None else image.reading + _HAS_REGION
    header = _HEADER.pack(_MAGIC, VALUE_VERSION, kind, code, reading, *image.size, _digest(fingerprint), checksum)
    header += _CHECKSUM.pack(zlib.crc32(header))
    if image.region is not None:
        corners = struct.pack("<4I", *image.region.corners)
        header += corners + _CHECKSUM.pack(zlib.crc32(corners, zlib.crc32(header)))
    return b"".join((header, *parts))


def _read_header(kinds: tuple[int, ...], data: Bytes, fingerprint: str) -> _Header:
    if len(data) < HEADER_BYTES:
        raise CorruptValue(f"{len(data)} bytes are too few for a header.")
    header = memoryview(data)[: _HEADER.size]
    magic, version, kind, code, reading, height, width, digest, checksum = _HEADER.unpack(header)
    if magic != _MAGIC or version != VALUE_VERSION:
        raise CorruptValue("The bytes are not a value of this version.")
    if _CHECKSUM.unpack_from(data, _HEADER.size) != (zlib.crc32(header),):
        raise CorruptValue("The header is damaged.")
    if kind not in kinds or code not in _DTYPES or (kind == _MASK and _DTYPES[code] != _FLOAT16):
        raise CorruptValue("The value is of another kind.")
    if digest != _digest(fingerprint):
        raise CorruptValue("The value is of another model.")
    if kind == _MASK or reading < _HAS_REGION:
        return _Header(kind, _DTYPES[code], _Reading((height, width), reading), checksum)
    image = _Reading((height, width), reading - _HAS_REGION, _region(data))
    return _Header(kind, _DTYPES[code], image, checksum)


def _region(data: Bytes) -> Region:
    """Return the region behind the header."""
    if len(data) < INFO_BYTES:
        raise CorruptValue(f"{len(data)} bytes are too few for the header of a region.")
    *corners, checksum = _REGION.unpack_from(data, HEADER_BYTES)
    if checksum != zlib.crc32(memoryview(data)[: INFO_BYTES - _CHECKSUM.size]):
        raise CorruptValue("The place of the region is damaged.")
    try:
        return Region(*corners)
    except ValueError as error:
        raise CorruptValue(f"There is no region {corners}.") from error


def _from_bytes(
    kinds: tuple[int, ...], data: Bytes, fingerprint: str
) -> tuple[_Header, list[NDArray[Any]], memoryview]:
    """Return header, arrays and the bytes behind the arrays, which only an embedding with proposals may have."""
    header = _read_header(kinds, data, fingerprint)
    payload = memoryview(data).toreadonly()[header.nbytes :]
    layout = header.layout
    ends = list(accumulate(prod(shape) * dtype.itemsize for shape, dtype in layout))
    tail = payload[ends[-1] :]
    longest_tail = MAX_PROPOSALS * _PROPOSAL_BYTES if header.kind == _PROPOSING_EMBEDDING else 0
    if len(payload) < ends[-1] or len(tail) > longest_tail or len(tail) % _PROPOSAL_BYTES:
        raise CorruptValue(f"Behind the header are {len(payload)} bytes.")
    if zlib.crc32(payload) != header.checksum:
        raise CorruptValue("The array is damaged.")
    arrays = [
        np.frombuffer(payload[start:end], dtype).reshape(shape)
        for start, end, (shape, dtype) in zip((0, *ends), ends, layout, strict=False)
    ]
    return header, arrays, tail


def _tokens_and_maps(
    header: _Header, arrays: list[NDArray[Any]]
) -> tuple[Tokens, Scales | None, list[NDArray[np.float16]]]:
    tokens, *maps = arrays
    if header.dtype != _INT8:
        return tokens, None, maps
    scales, *maps = maps
    if not are_usable(tokens, scales):
        raise CorruptValue("The int8 tokens or their scales are out of their range.")
    # Views would keep the int8 numbers in memory, which `ImageEmbedding.nbytes` does not count.
    return from_int8(tokens, scales), scales.copy(), [each.copy() for each in maps]


def _proposals(tail: Bytes) -> Proposals:
    rows = np.frombuffer(tail, np.dtype("<f4")).reshape(-1, 5)
    boxes, scores = rows[:, :4], rows[:, 4]
    # NaN fails these comparisons as well.
    in_order = (boxes[:, :2] >= 0) & (boxes[:, :2] <= boxes[:, 2:]) & (boxes[:, 2:] <= FRAME_SIZE)
    if not in_order.all() or not ((scores >= 0) & (scores <= 1)).all():
        raise CorruptValue("The proposals are not boxes in the frame with scores.")
    return Proposals(boxes, scores)


def _digest(fingerprint: str) -> bytes:
    return hashlib.blake2b(fingerprint.encode(), digest_size=16).digest()
