"""Decodes COCO's compressed run lengths in NumPy. Without pycocotools, the client installs without a compiler."""

import numpy as np
from numpy.typing import NDArray

# A character holds five bits of a number, lowest first, and a flag for more characters. Characters start at "0" (48).
_FIRST_CHARACTER = 48
_PAYLOAD, _SIGN, _CONTINUES = 0x1F, 0x10, 0x20
# Two characters more than the largest run needs. With this limit no sum overflows.
_MAX_CHARACTERS_PER_NUMBER = 9


def decode_rle(counts: str, height: int, width: int) -> NDArray[np.bool_]:
    """Decode run lengths to pixels.

    Args:
        counts: Run lengths as text, column after column. The first run is outside the mask.
        height: Height of the image, in pixels.
        width: Width of the image, in pixels.

    Returns:
        (height, width) bool, True inside the mask, C-contiguous and read-only.

    Raises:
        ValueError: if the text does not hold the run lengths of an image of this size.

    Source: cocodataset/cocoapi, common/maskApi.c, rleFrString.
    """
    if height <= 0 or width <= 0:
        raise ValueError(f"A mask needs at least one pixel, not {height} x {width}.")
    runs = run_lengths(counts)
    count = height * width
    # Each run is checked first: the sum of larger ones could overflow to the right number.
    if runs.min(initial=0) < 0 or runs.max(initial=0) > count or runs.sum() != count:
        raise ValueError(f"The run lengths do not fill a mask of {height} x {width} pixels.")
    is_inside = np.zeros(len(runs), np.bool_)
    is_inside[1::2] = True
    pixels = np.ascontiguousarray(np.repeat(is_inside, runs).reshape(width, height).T)
    pixels.flags.writeable = False
    return pixels


def run_lengths(counts: str) -> NDArray[np.int64]:
    """Decode COCO's text to the lengths of the runs, int64.

    Raises:
        ValueError: if the text does not hold run lengths.
    """
    try:
        characters = np.frombuffer(counts.encode("ascii"), np.uint8).astype(np.int64) - _FIRST_CHARACTER
    except UnicodeEncodeError as error:
        raise ValueError("The run lengths contain a character that is not ASCII.") from error
    if len(characters) == 0:
        return np.zeros(0, np.int64)
    ends = np.flatnonzero((characters & _CONTINUES) == 0)
    if characters.min() < 0 or characters.max() > 63 or len(ends) == 0 or ends[-1] != len(characters) - 1:
        raise ValueError("The run lengths are incomplete or contain an invalid character.")
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends - starts + 1
    if lengths.max() > _MAX_CHARACTERS_PER_NUMBER:
        raise ValueError("A run length is larger than any image.")
    position = np.arange(len(characters)) - np.repeat(starts, lengths)
    numbers = np.add.reduceat((characters & _PAYLOAD) << (5 * position), starts)
    is_negative = (characters[ends] & _SIGN) != 0
    numbers[is_negative] -= np.left_shift(np.int64(1), 5 * lengths[is_negative])
    # From the fourth on, a number is the difference from the run two before it.
    for first in (1, 2):
        numbers[first::2] = np.cumsum(numbers[first::2])
    return numbers
