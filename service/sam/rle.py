"""Masks as COCO's compressed run-length encoding."""

from typing import TypedDict

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from service.errors import InvalidRequest
from service.sam.masks import Mask

# A character holds five bits of a number, lowest first, and a flag for more characters. Characters start at "0".
_FIRST_CHARACTER = ord("0")
_PAYLOAD, _SIGN, _CONTINUES = 0x1F, 0x10, 0x20
# Two characters more than the largest run needs. With this limit no sum overflows.
_MAX_CHARACTERS = 9


class Rle(TypedDict):
    """COCO's compressed run-length encoding.

    Pixels are counted column after column.

    Attributes:
        size: Height and width of the image, pixels.
        counts: Compressed run lengths.
    """

    size: list[int]
    counts: str


def encode_rle(mask: Mask) -> Rle:
    """Return the encoding that pycocotools gives for the whole image, made from the transitions alone."""
    height, width = mask.size
    counts = np.diff(mask.transitions, prepend=0, append=height * width).astype(np.uint32)
    packed = coco.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    return {"size": [height, width], "counts": packed["counts"].decode("ascii")}


def decode_counts(counts: str) -> NDArray[np.int64]:
    """Return the run lengths of COCO's compressed text, (n,) int64, which may be negative or too large. Blocking.

    pycocotools writes what such a text says into memory without a check, so this function reads it.

    Args:
        counts: Compressed run lengths of any content.

    Raises:
        InvalidRequest: The text is cut off, or has a character or a number that none of these texts has.

    Source: cocodataset/cocoapi, common/maskApi.c, rleFrString.
    """
    symbols = np.frombuffer(counts.encode("utf-8"), np.uint8).astype(np.int64) - _FIRST_CHARACTER
    if len(symbols) == 0:
        return np.zeros(0, np.int64)
    ends = np.flatnonzero((symbols & _CONTINUES) == 0)
    if symbols.min() < 0 or symbols.max() > _PAYLOAD + _CONTINUES or len(ends) == 0 or ends[-1] != len(symbols) - 1:
        raise InvalidRequest("The text of the run lengths is cut off, or has a character that does not belong there.")
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends - starts + 1
    if lengths.max() > _MAX_CHARACTERS:
        raise InvalidRequest("A run length is larger than any image.")
    places = np.arange(len(symbols)) - np.repeat(starts, lengths)
    runs = np.add.reduceat((symbols & _PAYLOAD) << (5 * places), starts)
    is_negative = (symbols[ends] & _SIGN) != 0
    runs[is_negative] -= np.left_shift(np.int64(1), 5 * lengths[is_negative])
    for first in (1, 2):  # from the fourth on, a number is the difference from the run two before it
        runs[first::2] = np.cumsum(runs[first::2])
    return runs
