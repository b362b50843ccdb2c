"""The codecs of embeddings and masks. They refuse the values of another model."""

import numpy as np
from numpy.typing import NDArray

from service.sam.embedding import ImageEmbedding
from service.sam.embedding_bytes import (
    Bytes,
    embedding_from_bytes,
    embedding_to_bytes,
    mask_from_bytes,
    mask_to_bytes,
)


class EmbeddingCodec:
    """Codec of image embeddings.

    Args:
        fingerprint: Fingerprint of the served model. Values of another model are corrupt.
        has_high_res: Whether embeddings of the model have maps of high resolution. Values without them are corrupt
            then, and values with them otherwise.
    """

    def __init__(self, fingerprint: str, *, has_high_res: bool = False) -> None:
        self._fingerprint = fingerprint
        self._has_high_res = has_high_res

    def encode(self, value: ImageEmbedding) -> bytes:
        """Return the bytes to store: 2 MiB in float16, and 8 MiB with maps; see `embedding_to_bytes`."""
        return embedding_to_bytes(value, self._fingerprint)

    def decode(self, data: Bytes) -> ImageEmbedding:
        """Return the embedding, read-only and without a copy, except one that is stored in int8.

        Raises:
            CorruptValue: The bytes are not an embedding of this model.
        """
        return embedding_from_bytes(data, self._fingerprint, has_high_res=self._has_high_res)


class MaskCodec:
    """Codec of low-resolution mask logits, (256, 256) float16.

    Args:
        fingerprint: Fingerprint of the served model. Values of another model are corrupt.
    """

    def __init__(self, fingerprint: str) -> None:
        self._fingerprint = fingerprint

    def encode(self, value: NDArray[np.float16]) -> bytes:
        """Return the bytes to store, 128 KiB."""
        return mask_to_bytes(value, self._fingerprint)

    def decode(self, data: Bytes) -> NDArray[np.float16]:
        """Return the logits, (256, 256) float16.

        Raises:
            CorruptValue: The bytes are not a mask of this model.
        """
        return mask_from_bytes(data, self._fingerprint)
