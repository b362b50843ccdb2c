"""Rounding of large arrays to float16, in checkpoints and artifacts."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

# Smaller arrays save too little to be rounded: biases, norms, embeddings and the positional matrix stay float32.
FLOAT16_MIN_ELEMENTS = 4096


def rounded(array: NDArray[Any]) -> NDArray[np.float16] | NDArray[np.float32]:
    """Return an array of 4096 elements and more as float16 and any smaller one as float32.

    An array with a number that float16 cannot hold stays float32.
    """
    exact = np.asarray(array, np.float32)
    if exact.size < FLOAT16_MIN_ELEMENTS:
        return exact
    with np.errstate(over="ignore"):
        small = exact.astype(np.float16)
    return small if np.isfinite(small).all() else exact
