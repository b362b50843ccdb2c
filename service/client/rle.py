"""COCO's compressed run lengths to pixels, in NumPy: the client needs no pycocotools and hence no compiler."""

import numpy as np
from numpy.typing import NDArray

# A character holds five bits of a number, lowest first, and whether more follow; they begin at "0" (48).
_FIRST_CHARACTER = 48
_PAYLOAD, _SIGN, _CONTINUES = 0x1F, 0x10, 0x20
# Two characters more than the largest run needs: no sum of a valid text overflows.
_MAX_CHARACTERS_PER_NUMBER = 9


def decode_rle(counts: str, height: int, width: int) -> NDArray[np.bool_]:
    """(height, width) bool, C-contiguous and read-only.

    Args:
        counts: run lengths, column after column, the first run outside the mask.
        height: of the picture, pixels.
        width: of the picture, pixels.

    Raises:
        ValueError: the text is no run lengths of a picture of this size.

    Source: cocodataset/cocoapi, common/maskApi.c, rleFrString.
    """
    if height <= 0 or width <= 0:
        raise ValueError(f"A mask of {height} x {width} pixels has no pixel.")
    runs = _runs(counts)
    count = height * width
    # Each by itself first: a sum of larger ones could overflow and come out right.
    if runs.min(initial=0) < 0 or runs.max(initial=0) > count or runs.sum() != count:
        raise ValueError(f"The run lengths are not those of a mask of {height} x {width} pixels.")
    is_inside = np.zeros(len(runs), np.bool_)
    is_inside[1::2] = True
    pixels = np.ascontiguousarray(np.repeat(is_inside, runs).reshape(width, height).T)
    pixels.flags.writeable = False
    return pixels


def _runs(counts: str) -> NDArray[np.int64]:
    """The lengths of the runs, int64."""
    try:
        characters = np.frombuffer(counts.encode("ascii"), np.uint8).astype(np.int64) - _FIRST_CHARACTER
    except UnicodeEncodeError as error:
        raise ValueError("The run lengths hold a character that is not ASCII.") from error
    if len(characters) == 0:
        return np.zeros(0, np.int64)
    ends = np.flatnonzero((characters & _CONTINUES) == 0)
    if characters.min() < 0 or characters.max() > 63 or len(ends) == 0 or ends[-1] != len(characters) - 1:
        raise ValueError("The run lengths are cut off or hold a character that does not belong there.")
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends - starts + 1
    if lengths.max() > _MAX_CHARACTERS_PER_NUMBER:
        raise ValueError("A run length is larger than any picture.")
    place = np.arange(len(characters)) - np.repeat(starts, lengths)
    numbers = np.add.reduceat((characters & _PAYLOAD) << (5 * place), starts)
    is_negative = (characters[ends] & _SIGN) != 0
    numbers[is_negative] -= np.left_shift(np.int64(1), 5 * lengths[is_negative])
    # From the fourth on, a number is the difference to the run two before it.
    for first in (1, 2):
        numbers[first::2] = np.cumsum(numbers[first::2])
    return numbers
