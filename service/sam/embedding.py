"""Image embeddings, the keys of embeddings and masks in the caches, and the ids of masks."""

import hashlib
import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.sam.decoded_image import ORIENTATIONS, UPRIGHT, AppliedLevels, ImageInfo
from service.sam.granularity import Proposals
from service.sam.image_id import VARIANT_PATTERN
from service.sam.int8_tokens import Scales
from service.sam.logits import to_float16
from service.sam.region import Region
from service.sam.transforms import Size

TOKENS_SHAPE = (4096, 256)
S1_SHAPE = (4096, 256)
S0_SHAPE = (4096, 512)

# Of the stored form of all values. A later release with another form has other keys.
VALUE_VERSION = 2
_DTYPES = (np.dtype("<f2"), np.dtype("<f4"))
_BEFORE_MASK = ":mask:"
_OWNER_AND_HASH = r"(?:@[A-Za-z0-9][A-Za-z0-9._-]{0,63}:)?[0-9a-f]{64}"
_PLAIN_REST = re.compile(_OWNER_AND_HASH, re.ASCII)
_VARIANT_REST = re.compile(_OWNER_AND_HASH + r"\}" + VARIANT_PATTERN, re.ASCII)
_BEFORE_VARIANT = "edgesam:variant:{"


Tokens = NDArray[np.float16] | NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class HighResMaps:
    """The two maps of high resolution that the mask decoder of SAM 2 reads beside the tokens.

    Each row holds the numbers of one image token, row by row of the grid of 64 x 64. That is the order in which the
    decoder's upscaling produces them.

    Args:
        s1: Map of 128 x 128, (4096, 256): per token (dy, dx, 64 channels).
        s0: Map of 256 x 256, (4096, 512): per token (dy1, dx1, 32 channels, dy2, dx2).
    """

    s1: Tokens
    s0: Tokens

    def __post_init__(self) -> None:
        for array, shape in ((self.s1, S1_SHAPE), (self.s0, S0_SHAPE)):
            if array.shape != shape or array.dtype not in _DTYPES or array.dtype != self.s1.dtype:
                raise ValueError(
                    f"Maps are {S1_SHAPE} and {S0_SHAPE} of one type, not {self.s1.shape}, {self.s0.shape}."
                )

    @property
    def nbytes(self) -> int:
        """Size of both maps, bytes."""
        return int(self.s1.nbytes) + int(self.s0.nbytes)


@dataclass(frozen=True, slots=True, eq=False)
class ImageEmbedding:
    """The encoder's output for an image, and the size of the image, which masks need.

    Args:
        tokens: Image tokens, (4096, 256) float16 or float32, channels last, row by row.
        original_size: Height and width of the whole upright image, pixels.
        proposals: Boxes of the granularity module; None for a model without it.
        orientation: EXIF orientation that was applied to the image, 1 to 8; 1 for none.
        levels: Conversion of samples to grey levels that was applied.
        high_res: Maps of high resolution, of the type of the tokens; None for a model with SAM's mask decoder.
        region: Part of the image that the tokens are of; None for the whole image.
        scales: Scales of the channels, (256,), where the tokens stand for int8 numbers, which tiers store. None for
            other tokens. See `service.sam.int8_tokens`.
    """

    tokens: Tokens
    original_size: Size
    proposals: Proposals | None = None
    orientation: int = UPRIGHT
    levels: AppliedLevels = "full"
    high_res: HighResMaps | None = None
    region: Region | None = None
    scales: Scales | None = None

    def __post_init__(self) -> None:
        if self.tokens.shape != TOKENS_SHAPE or self.tokens.dtype not in _DTYPES:
            raise ValueError(f"Tokens are {TOKENS_SHAPE} of float16 or float32, not {self.tokens.shape}.")
        if self.scales is not None and (self.scales.shape != TOKENS_SHAPE[1:] or self.tokens.dtype != np.float16):
            raise ValueError(f"Scales are of {TOKENS_SHAPE[1]} channels of float16, not of {self.tokens.dtype}.")
        if self.high_res is not None and self.high_res.s1.dtype != self.tokens.dtype:
            raise ValueError(f"Maps have the type of the tokens, {self.tokens.dtype}, not {self.high_res.s1.dtype}.")
        if self.high_res is not None and self.proposals is not None:
            raise ValueError("An embedding has proposals or maps of high resolution, not both.")
        if self.orientation not in ORIENTATIONS:
            raise ValueError(f"Orientations are 1 to 8, not {self.orientation}.")
        if self.region is not None and not self.region.lies_in(self.original_size):
            raise ValueError(f"The region {self.region} is not in an image of {self.original_size}.")

    @property
    def info(self) -> ImageInfo:
        """What answers tell about the image."""
        return ImageInfo(self.original_size, self.orientation, self.levels, self.region)

    @property
    def nbytes(self) -> int:
        """Size of the tokens, their scales, and the proposals or the maps, in memory, in bytes."""
        parts = (self.proposals, self.high_res, self.scales)
        return int(self.tokens.nbytes) + sum(int(part.nbytes) for part in parts if part is not None)


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
        dtype: Number format of the tokens, `float16`, `float32` or `int8`.
        namespace: Namespace of the caller, without colons. Embeddings of one namespace are not found in another. ""
            is the layout without namespaces; no hash begins with @, so the two never meet.
    """
    owner = f"@{namespace}:" if namespace else ""
    image_hash, tilde, variant = image_id.partition("~")
    key = f"edgesam:{VALUE_VERSION}:{fingerprint}:{dtype}:{owner}{image_hash}"
    return variant_key(key, tilde + variant)


def kept_image_key(image_hash: str, namespace: str = "") -> str:
    """Return the cache key of the kept copy of an image, which is of no model.

    Args:
        image_hash: SHA-256 of the image's bytes.
        namespace: Namespace of the caller, as in `embedding_key`.
    """
    return embedding_key(image_hash, "kept", "file", namespace)


def is_embedding_key(text: str, fingerprint: str, dtype: str) -> bool:
    """Return whether any text is the key of an embedding of this model in this precision."""
    rest = _VARIANT_REST if is_variant_key(text) else _PLAIN_REST
    start = text.find("edgesam", 1) if is_variant_key(text) else 0
    plain = embedding_key("", fingerprint, dtype)
    return text.startswith(plain, start) and rest.fullmatch(text, start + len(plain)) is not None


def is_any_embedding_key(text: str) -> bool:
    """Return whether any text is the key of an embedding of some model."""
    parts = plain_key(text).split(":", 4)
    return len(parts) > 4 and is_embedding_key(text, parts[2], parts[3])


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
    digest.update(array_bytes(to_float16(logits)))
    return digest.hexdigest()


def array_bytes(array: NDArray[np.number]) -> memoryview:
    """Return the bytes of an array, little-endian and row by row, without a copy if possible."""
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).data.cast("B")
