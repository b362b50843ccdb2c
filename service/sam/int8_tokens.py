"""Image tokens in int8, with one scale per channel: half the bytes of float16.

A whole number q from -127 to 127 stands for the float16 number nearest to `scale * q`, the product rounded to float32
first. Both steps are exactly rounded, so every processor computes the same numbers. Dividing a number by its scale
gives q again.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from service.sam.float16 import as_float16, as_float32
from service.sam.logits import LARGEST_FLOAT16

LARGEST_INT8 = 127
"""Largest size of a number. -128 is not used, so that the range is symmetric."""

LARGEST_SCALE = float(np.float32(LARGEST_FLOAT16 / LARGEST_INT8))
"""Largest scale of a channel. Its numbers stay finite in float16."""

SMALLEST_SCALE = 2.0**-23
"""Smallest scale of a channel that is not zero. Smaller ones would be lost in the rounding to float16, by 2**-25."""

LARGEST_ERROR = 0.02
"""Largest relative error of tokens in int8, root mean square. Tokens of the bundled model have 0.0065."""

Scales = NDArray[np.float32]


def int8_scales(tokens: NDArray[np.floating]) -> Scales | None:
    """Return the scale of each channel, (C,), or None where int8 would change the tokens too much.

    That is so where a few numbers of a channel are much larger than all others, or where numbers are not finite. Scales
    are 0, or from `SMALLEST_SCALE` to `LARGEST_SCALE`.

    Args:
        tokens: Image tokens, (N, C) float16 or float32, channels last.
    """
    numbers = as_float32(tokens)
    peaks = np.maximum(numbers.max(axis=0), -numbers.min(axis=0))
    scales: Scales = peaks / np.float32(LARGEST_INT8)
    # The variance of a number that is rounded to whole steps, and at most that of one that becomes zero.
    variances = np.where(scales < SMALLEST_SCALE, peaks, scales / np.sqrt(12.0)).astype(np.float64) ** 2
    error = np.sqrt(len(numbers) * variances.sum())
    # Comparisons with NaN are false.
    if not (peaks.max() <= LARGEST_FLOAT16 and error <= LARGEST_ERROR * cv2.norm(numbers, cv2.NORM_L2)):
        return None
    scales[scales < SMALLEST_SCALE] = 0.0
    return scales


def to_int8(tokens: NDArray[np.floating], scales: Scales) -> NDArray[np.int8]:
    """Return tokens as whole numbers from -127 to 127, (N, C).

    Args:
        tokens: Image tokens, (N, C) float16 or float32.
        scales: Scales of the channels, see `int8_scales`.
    """
    steps = as_float32(tokens) * np.divide(1.0, scales, out=np.zeros_like(scales), where=scales > 0.0)
    np.rint(steps, out=steps)
    return steps.astype(np.int8)


def from_int8(numbers: NDArray[np.int8], scales: Scales) -> NDArray[np.float16]:
    """Return the tokens that whole numbers stand for, (N, C).

    Args:
        numbers: Whole numbers from -127 to 127, (N, C).
        scales: Scales of the channels, (C,).
    """
    products = numbers.astype(np.float32)
    products *= scales
    return as_float16(products)


def are_usable(numbers: NDArray[np.int8], scales: Scales) -> bool:
    """Return whether whole numbers and scales are in their ranges, so that the tokens are finite."""
    # NaN fails these comparisons as well.
    in_range = (scales == 0.0) | ((scales >= SMALLEST_SCALE) & (scales <= LARGEST_SCALE))
    return bool(in_range.all() and numbers.min() >= -LARGEST_INT8)
