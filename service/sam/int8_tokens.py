"""Image tokens in int8, with one scale per channel: half the bytes of float16.

A channel's numbers q are whole numbers from -127 to 127. They stand for the float16 numbers nearest to `scale * q`, the
product rounded to float32 first. Both steps are exactly rounded, so every processor computes the same numbers.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from service.sam.float16 import as_float16, as_float32
from service.sam.logits import LARGEST_FLOAT16

LARGEST_INT8 = 127
"""Largest size of a number. -128 is not used, so that the range is symmetric."""

LARGEST_SCALE = float(np.float32(LARGEST_FLOAT16 / LARGEST_INT8))
"""Largest scale of a channel. Its numbers stay finite in float16."""

LARGEST_ERROR = 0.02
"""Largest relative error of tokens in int8, root mean square. Tokens of the bundled model have 0.0065."""

# Below it, numbers are zero in float16, and the reciprocal of the scale would overflow.
_SMALLEST_PEAK = 2.0**-25


@dataclass(frozen=True, slots=True, eq=False)
class Int8Tokens:
    """Image tokens in int8.

    Args:
        numbers: Whole numbers from -127 to 127, (N, C) int8, channels last.
        scales: Scale of each channel, (C,) float32, from 0 to `LARGEST_SCALE`.
    """

    numbers: NDArray[np.int8]
    scales: NDArray[np.float32]

    def __post_init__(self) -> None:
        are_types_right = self.numbers.dtype == np.int8 and self.scales.dtype == np.float32
        if not are_types_right or self.numbers.ndim != 2 or self.numbers.shape[1:] != self.scales.shape:
            raise ValueError(
                f"Tokens are int8 with a float32 scale for each channel, not {self.numbers.dtype} of "
                f"{self.numbers.shape} and {self.scales.dtype} of {self.scales.shape}."
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tokens, (N, C)."""
        return self.numbers.shape

    @property
    def nbytes(self) -> int:
        """Size of numbers and scales, bytes."""
        return int(self.numbers.nbytes) + int(self.scales.nbytes)

    def is_usable(self) -> bool:
        """Return whether all scales and numbers are in their range, so that `as_float16` is finite."""
        # NaN fails these comparisons as well.
        in_range = (self.scales >= 0.0) & (self.scales <= LARGEST_SCALE)
        return bool(in_range.all() and self.numbers.min() >= -LARGEST_INT8)

    def as_float16(self) -> NDArray[np.float16]:
        """Return the numbers that these tokens stand for, (N, C)."""
        products = self.numbers.astype(np.float32)
        products *= self.scales
        return as_float16(products)


def int8_tokens(tokens: NDArray[np.floating]) -> Int8Tokens | None:
    """Return tokens rounded to int8, or None where int8 would change them too much.

    That is so where a few tokens of a channel are much larger than all others, or where numbers are not finite.

    Args:
        tokens: Image tokens, (N, C) float16 or float32.
    """
    numbers = as_float32(tokens)
    peaks = np.maximum(cv2.reduce(numbers, 0, cv2.REDUCE_MAX)[0], -cv2.reduce(numbers, 0, cv2.REDUCE_MIN)[0])
    peaks[peaks < _SMALLEST_PEAK] = 0.0
    # Rounding to whole numbers has a variance of 1/12. Comparisons with NaN are false.
    steps = peaks.astype(np.float64) / LARGEST_INT8
    error = np.sqrt(len(numbers) / 12.0) * np.linalg.norm(steps)
    if not (peaks.max() <= LARGEST_FLOAT16 and error <= LARGEST_ERROR * cv2.norm(numbers, cv2.NORM_L2)):
        return None
    scales = steps.astype(np.float32)
    scaled = numbers * np.divide(1.0, scales, out=np.zeros_like(scales), where=scales > 0.0)
    np.rint(scaled, out=scaled)
    return Int8Tokens(scaled.astype(np.int8), scales)
