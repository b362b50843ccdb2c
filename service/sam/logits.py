"""Raw mask logits as float16: in the caches, and on their way to a client and back."""

import numpy as np
from numpy.typing import NDArray

from service.errors import InvalidRequest
from service.sam.float16 import as_float16, as_float32
from service.sam.transforms import MASK_SIZE

LARGEST_FLOAT16 = 65504.0
"""Largest number of float16, to which logits are limited, so that finite logits stay finite."""

SAM2_LARGEST_LOGIT = 32.0
"""Largest absolute value of the logits that SAM 2's predictor hands out, and takes as a mask prompt.

Source: docs/explanation/sam2.md, section "Choice of the mask"."""


def encode_logits(logits: NDArray[np.floating]) -> bytes:
    """Return logits (256, 256) as little-endian float16, row by row: 131,072 bytes.

    Values beyond the range of float16 become its largest number.
    """
    return to_float16(logits).astype("<f2", copy=False).tobytes()


def decode_logits(data: bytes) -> NDArray[np.float32]:
    """Return the logits that `encode_logits` wrote, (256, 256) float32.

    Raises:
        InvalidRequest: The data has another length, or a value is not finite.
    """
    expected = MASK_SIZE * MASK_SIZE * 2
    if len(data) != expected:
        raise InvalidRequest(
            f"Mask logits are {MASK_SIZE} x {MASK_SIZE} little-endian float16, {expected} bytes; these are {len(data)}."
        )
    logits = as_float32(np.frombuffer(data, "<f2").reshape(MASK_SIZE, MASK_SIZE))
    if not np.isfinite(logits).all():
        raise InvalidRequest("Mask logits must be finite numbers; these hold NaN or infinity.")
    return logits


def to_float16(logits: NDArray[np.floating], largest: float = LARGEST_FLOAT16) -> NDArray[np.float16]:
    """Return logits in float16, as they are stored and sent.

    Args:
        logits: Low-resolution logits, (256, 256). Logits in float16 are finite and stay as they are.
        largest: Largest absolute value of the answer. Values beyond it become it, with their sign.
    """
    if logits.dtype == np.float16:
        return np.asarray(logits, np.float16)
    return as_float16(np.clip(logits, -largest, largest))
