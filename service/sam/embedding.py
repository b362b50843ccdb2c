"""Image embeddings and low-resolution masks as cache values: their keys and their bytes.

The bytes are a header of 40 bytes and the array, little-endian and row by row:

    magic "ESAM" | version u8 | kind u8 | dtype u8 | reading u8 | height u32 | width u32 | fingerprint 16 bytes
    | crc32 of all behind the header u32 | crc32 of the header up to here u32

`reading` of an embedding is the orientation that was applied, 1 to 8, plus 16 times the index of the levels in
`APPLIED_LEVELS`. It is 0 for a mask.

For a model with the granularity module, the proposals follow the tokens: rows of five float32, box and score. That is
a kind of its own.
"""

import hashlib
import re
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.sam.decoded_image import APPLIED_LEVELS, ORIENTATIONS, UPRIGHT, AppliedLevels, ImageInfo
from service.sam.granularity import MAX_PROPOSALS, Proposals
from service.sam.image_id import VARIANT_PATTERN
from service.sam.logits import to_float16
from service.sam.transforms import FRAME_SIZE, MASK_SIZE, Size, input_size

TOKENS_SHAPE = (4096, 256)

_MAGIC = b"ESAM"
_VERSION = 2
_EMBEDDING, _MASK, _PROPOSING_EMBEDDING = 1, 2, 3
_EMBEDDINGS = (_EMBEDDING, _PROPOSING_EMBEDDING)
_DTYPES: dict[int, np.dtype[Any]] = {1: np.dtype("<f2"), 2: np.dtype("<f4")}
_HEADER = struct.Struct("<4sBBBBII16sI")
_CHECKSUM = struct.Struct("<I")
HEADER_BYTES = _HEADER.size + _CHECKSUM.size
_PROPOSAL_BYTES = 20
_LEVELS_UNIT = 16
_BEFORE_MASK = ":mask:"
_OWNER_AND_HASH = r"(?:@[A-Za-z0-9][A-Za-z0-9._-]{0,63}:)?[0-9a-f]{64}"
_PLAIN_REST = re.compile(_OWNER_AND_HASH, re.ASCII)
_VARIANT_REST = re.compile(_OWNER_AND_HASH + r"\}" + VARIANT_PATTERN, re.ASCII)
_BEFORE_VARIANT = "edgesam:variant:{"


class CorruptValue(ValueError):
    """The bytes are not a value of this model: cut off, damaged, or of another kind, version or fingerprint."""


@dataclass(frozen=True, slots=True, eq=False)
class ImageEmbedding:
    """The encoder's output for an image, and the size of the image, which masks need.

    Args:
        tokens: Image tokens, (4096, 256) float16 or float32, channels last, row by row.
        original_size: Height and width of the upright image, pixels.
        proposals: Boxes of the granularity module; None for a model without it.
        orientation: EXIF orientation that was applied to the image, 1 to 8; 1 for none.
        levels: Conversion of samples to grey levels that was applied.
    """

    tokens: NDArray[np.float16] | NDArray[np.float32]
    original_size: Size
    proposals: Proposals | None = None
    orientation: int = UPRIGHT
    levels: AppliedLevels = "full"

    def __post_init__(self) -> None:
        if self.tokens.shape != TOKENS_SHAPE or self.tokens.dtype not in _DTYPES.values():
            raise ValueError(f"Tokens are {TOKENS_SHAPE} of float16 or float32, not {self.tokens.shape}.")
        if self.orientation not in ORIENTATIONS:
            raise ValueError(f"Orientations are 1 to 8, not {self.orientation}.")

    @property
    def info(self) -> ImageInfo:
        """What answers tell about the image."""
        return ImageInfo(self.original_size, self.orientation, self.levels)

    @property
    def nbytes(self) -> int:
        """Size of the tokens and the proposals, bytes."""
        return int(self.tokens.nbytes) + (0 if self.proposals is None else self.proposals.nbytes)


def image_hash(data: bytes) -> str:
    """Return the public id of uploaded bytes: SHA-256, 64 lower-case hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def embedding_key(image_id: str, fingerprint: str, dtype: str, namespace: str = "") -> str:
    """Return the cache key of an embedding.

    Another model, precision or format of the bytes gives another key. So replicas of two releases never take each
    other's values for damaged ones during an upgrade.

    An image that is not read in the usual way is a variant. Its key holds the key of the image itself in braces, so
    that a cluster keeps both in one slot.

    Args:
        image_id: Id of the image, see `service.sam.image_id`; for an image that is read in the usual way its hash.
        fingerprint: Fingerprint of the model.
        dtype: Precision of the tokens, `float16` or `float32`.
        namespace: Namespace of the caller, without colons. Embeddings of one namespace are not found in another. ""
            is the layout without namespaces; no hash begins with @, so the two never meet.
    """
    owner = f"@{namespace}:" if namespace else ""
    image_hash, tilde, variant = image_id.partition("~")
    key = f"edgesam:{_VERSION}:{fingerprint}:{dtype}:{owner}{image_hash}"
    return variant_key(key, tilde + variant)


def is_embedding_key(text: str, fingerprint: str, dtype: str) -> bool:
    """Return whether any text is the key of an embedding of this model in this precision."""
    rest = _VARIANT_REST if is_variant_key(text) else _PLAIN_REST
    start = text.find("edgesam", 1) if is_variant_key(text) else 0
    plain = embedding_key("", fingerprint, dtype)
    return text.startswith(plain, start) and rest.fullmatch(text, start + len(plain)) is not None


def model_of_key(key: str) -> tuple[str, str]:
    """Return the fingerprint and the precision of the tokens in the key of an embedding, or of one of its masks."""
    _, _, fingerprint, dtype, _ = plain_key(key).split(":", 4)
    return fingerprint, dtype


def variant_key(key: str, variant: str) -> str:
    """Return the cache key of a variant of an image.

    Args:
        key: Cache key of the image itself.
        variant: Options as in an image's id, such as `~levels=full`; "" for the image itself.
    """
    return f"{_BEFORE_VARIANT}{key}}}{variant}" if variant else key


def is_variant_key(key: str) -> bool:
    """Return whether a key is that of a variant."""
    return key.startswith(_BEFORE_VARIANT)


def plain_key(key: str) -> str:
    """Return the cache key of the image itself, from that of a variant or of the image."""
    return key[len(_BEFORE_VARIANT) :].partition("}")[0] if is_variant_key(key) else key


def includes(deleted: str, key: str) -> bool:
    """Return whether the deletion of one key deletes another: an image is deleted with all its variants.

    Args:
        deleted: Cache key of the deleted image or variant.
        key: Cache key of an image or variant.
    """
    return deleted in (key, plain_key(key))


def deletion_group(key: str) -> str:
    """Return the cache key of the image itself, from that of an image, a variant, or a mask of either."""
    return plain_key(key.partition(_BEFORE_MASK)[0])


def mask_key(embedding_key: str, mask_id: str) -> str:
    """Return the cache key of the low-resolution logits of one mask.

    Args:
        embedding_key: Cache key of the image's embedding.
        mask_id: Id of the mask, 32 hexadecimal digits.
    """
    return embedding_key + _BEFORE_MASK + mask_id


def image_of_mask(mask_key: str) -> str:
    """Return the `embedding_key` of the image of a mask."""
    return mask_key.rpartition(_BEFORE_MASK)[0]


def mask_id(key: str, logits: NDArray[np.floating]) -> str:
    """Return the id of a mask by its content, 32 hexadecimal digits.

    Args:
        key: Key of the image, see `embedding_key`.
        logits: Low-resolution logits, (256, 256). Logits that are equal in float16 are the same mask.
    """
    digest = hashlib.blake2b(key.encode() + b"\0", digest_size=16)
    digest.update(_payload(to_float16(logits)))
    return digest.hexdigest()


def embedding_to_bytes(embedding: ImageEmbedding, fingerprint: str) -> bytes:
    """Return the bytes of an embedding: 40 bytes, 2 MiB (float16) or 4 MiB (float32), and 20 bytes a proposal."""
    proposals = embedding.proposals
    if proposals is None:
        return _to_bytes(
            _EMBEDDING, embedding.tokens, embedding.original_size, fingerprint, reading=_reading(embedding)
        )
    rows = np.column_stack((proposals.boxes, proposals.scores)).astype("<f4").tobytes()
    return _to_bytes(
        _PROPOSING_EMBEDDING,
        embedding.tokens,
        embedding.original_size,
        fingerprint,
        reading=_reading(embedding),
        tail=rows,
    )


def embedding_from_bytes(data: bytes, fingerprint: str) -> ImageEmbedding:
    """Return the embedding; its arrays are read-only views of `data`.

    Raises:
        CorruptValue: The bytes are not an embedding of this model.
    """
    header, tokens, tail = _from_bytes(_EMBEDDINGS, data, TOKENS_SHAPE, fingerprint)
    info = _info(header)
    proposals = _proposals(tail) if header.kind == _PROPOSING_EMBEDDING else None
    return ImageEmbedding(tokens, info.size, proposals, info.orientation, info.levels)


def embedding_info(data: bytes, fingerprint: str) -> ImageInfo:
    """Return what answers tell about the image of an embedding.

    Args:
        data: The first `HEADER_BYTES` bytes of the embedding, or more.
        fingerprint: Fingerprint of the model.

    Raises:
        CorruptValue: The bytes do not begin like an embedding of this model.
    """
    return _info(_read_header(_EMBEDDINGS, data, fingerprint))


def mask_to_bytes(logits: NDArray[np.floating], fingerprint: str) -> bytes:
    """Return the bytes of low-resolution logits (256, 256): 40 bytes and 128 KiB of float16."""
    return _to_bytes(_MASK, to_float16(logits), (MASK_SIZE, MASK_SIZE), fingerprint)


def mask_from_bytes(data: bytes, fingerprint: str) -> NDArray[np.float16]:
    """Return the logits, (256, 256) float16, finite, as a read-only view of `data`.

    Raises:
        CorruptValue: The bytes are not a mask of this model.
    """
    header, logits, _ = _from_bytes((_MASK,), data, (MASK_SIZE, MASK_SIZE), fingerprint)
    if (
        header.reading
        or header.size != (MASK_SIZE, MASK_SIZE)
        or logits.dtype != np.float16
        or not np.isfinite(logits).all()
    ):
        raise CorruptValue("The logits are not 256 x 256 finite float16 numbers.")
    return logits


def _reading(embedding: ImageEmbedding) -> int:
    return embedding.orientation + _LEVELS_UNIT * APPLIED_LEVELS.index(embedding.levels)


def _info(header: "_Header") -> ImageInfo:
    height, width = header.size
    # A run-length encoding counts pixels in 32 bits, and an image without pixels in the frame was never encoded.
    if not 0 < height * width < 2**32 or 0 in input_size(header.size):
        raise CorruptValue(f"The image would be {width} x {height} pixels.")
    levels, orientation = divmod(header.reading, _LEVELS_UNIT)
    if orientation not in ORIENTATIONS or levels >= len(APPLIED_LEVELS):
        raise CorruptValue(f"An image is not read like {header.reading}.")
    return ImageInfo(header.size, orientation, APPLIED_LEVELS[levels])


@dataclass(frozen=True, slots=True)
class _Header:
    kind: int
    dtype: np.dtype[Any]
    reading: int
    size: Size
    checksum: int


def _to_bytes(
    kind: int,
    array: NDArray[np.floating],
    size: Size,
    fingerprint: str,
    *,
    reading: int = 0,
    tail: bytes = b"",
) -> bytes:
    code = next(code for code, dtype in _DTYPES.items() if dtype == array.dtype)
    payload = _payload(array)
    checksum = zlib.crc32(tail, zlib.crc32(payload))
    header = _HEADER.pack(_MAGIC, _VERSION, kind, code, reading, *size, _digest(fingerprint), checksum)
    return b"".join((header, _CHECKSUM.pack(zlib.crc32(header)), payload, tail))


def _read_header(kinds: tuple[int, ...], data: bytes, fingerprint: str) -> _Header:
    if len(data) < HEADER_BYTES:
        raise CorruptValue(f"{len(data)} bytes are too few for a header.")
    header = memoryview(data)[: _HEADER.size]
    magic, version, kind, code, reading, height, width, digest, checksum = _HEADER.unpack(header)
    if magic != _MAGIC or version != _VERSION:
        raise CorruptValue("The bytes are not a value of this version.")
    if _CHECKSUM.unpack_from(data, _HEADER.size) != (zlib.crc32(header),):
        raise CorruptValue("The header is damaged.")
    if kind not in kinds or code not in _DTYPES:
        raise CorruptValue("The value is of another kind.")
    if digest != _digest(fingerprint):
        raise CorruptValue("The value is of another model.")
    return _Header(kind, _DTYPES[code], reading, (height, width), checksum)


def _from_bytes(
    kinds: tuple[int, ...], data: bytes, shape: tuple[int, int], fingerprint: str
) -> tuple[_Header, NDArray[np.floating], memoryview]:
    """Return header, array and the bytes behind the array, which only an embedding with proposals may have."""
    header = _read_header(kinds, data, fingerprint)
    payload = memoryview(data)[HEADER_BYTES:]
    nbytes = shape[0] * shape[1] * header.dtype.itemsize
    tail = payload[nbytes:]
    longest_tail = MAX_PROPOSALS * _PROPOSAL_BYTES if header.kind == _PROPOSING_EMBEDDING else 0
    if len(payload) < nbytes or len(tail) > longest_tail or len(tail) % _PROPOSAL_BYTES:
        raise CorruptValue(f"Behind the header are {len(payload)} bytes.")
    if zlib.crc32(payload) != header.checksum:
        raise CorruptValue("The array is damaged.")
    return header, np.frombuffer(payload[:nbytes], header.dtype).reshape(shape), tail


def _proposals(tail: memoryview) -> Proposals:
    rows = np.frombuffer(tail, np.dtype("<f4")).reshape(-1, 5)
    boxes, scores = rows[:, :4], rows[:, 4]
    # NaN fails these comparisons as well.
    in_order = (boxes[:, :2] >= 0) & (boxes[:, :2] <= boxes[:, 2:]) & (boxes[:, 2:] <= FRAME_SIZE)
    if not in_order.all() or not ((scores >= 0) & (scores <= 1)).all():
        raise CorruptValue("The proposals are not boxes in the frame with scores.")
    return Proposals(boxes, scores)


def _payload(array: NDArray[np.floating]) -> memoryview:
    """Return the bytes of an array, little-endian and row by row, without a copy if possible."""
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).data.cast("B")


def _digest(fingerprint: str) -> bytes:
    return hashlib.blake2b(fingerprint.encode(), digest_size=16).digest()
