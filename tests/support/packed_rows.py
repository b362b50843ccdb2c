"""The numbers of 24 bits in the native decoder's image states (service/native/csrc/packed.h)."""

import numpy as np
from numpy.typing import NDArray


def unpacked(rows: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return packed rows (..., 384) in float32, (..., 128): upper 16 bits of each number, then the next 8 of each."""
    upper = np.ascontiguousarray(rows[..., :256]).view("<u2").astype(np.uint32)
    return ((upper << 16) | (rows[..., 256:].astype(np.uint32) << 8)).view(np.float32)
