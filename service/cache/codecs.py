"""The values of the caches as bytes: embeddings and masks of the served model, and of no other."""

import numpy as np
from numpy.typing import NDArray

from service.sam.embedding import (
    ImageEmbedding,
    embedding_from_bytes,
    embedding_to_bytes,
    mask_from_bytes,
    mask_to_bytes,
)


class EmbeddingCodec:
    """Image embeddings.

    Args:
        fingerprint: of the served model; values of another one are corrupt.
    """

    def __init__(self, fingerprint: str) -> None:
        self._fingerprint = fingerprint

    def encode(self, value: ImageEmbedding) -> bytes:
        """The bytes to store: 2 MiB in float16, 4 MiB in float32."""
        return embedding_to_bytes(value, self._fingerprint)

    def decode(self, data: bytes) -> ImageEmbedding:
        """The embedding, read-only and without a copy.

        Raises:
            CorruptValue: the bytes are not an embedding of this model.
        """
        return embedding_from_bytes(data, self._fingerprint)


class MaskCodec:
    """Low-resolution mask logits (256, 256) float16.

    Args:
        fingerprint: of the served model; values of another one are corrupt.
    """

    def __init__(self, fingerprint: str) -> None:
        self._fingerprint = fingerprint

    def encode(self, value: NDArray[np.float16]) -> bytes:
        """The bytes to store, 128 KiB."""
        return mask_to_bytes(value, self._fingerprint)

    def decode(self, data: bytes) -> NDArray[np.float16]:
        """The logits, rounded to float16.

        Raises:
            CorruptValue: the bytes are not a mask of this model.
        """
        return mask_from_bytes(data, self._fingerprint)
