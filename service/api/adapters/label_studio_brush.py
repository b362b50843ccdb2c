"""The format of Label Studio's brush regions: run lengths as a stream of bits.

An image is H x W x 4 values of 8 bits, row by row. Here all four are 255 inside the mask and 0 outside. The bits are

    number of values u32 | bits of a value - 1 u5 | four widths of lengths, each - 1, u4 | runs

and a run is 1 | index of the width u2 | length - 1 in that width | value u8. (A first bit 0 announces values without a
length, which a mask does not need.) Zeros fill the last byte.

Source: the format of @thi.ng/rle-pack, which Label Studio's editor unpacks.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from service.sam.masks import Mask

_CHANNELS: Final = 4
_VALUE_BITS: Final = 8
_LENGTH_BITS: Final = np.array((3, 4, 8, 16))
_LONGEST: Final = 1 << 16

# Number of runs encoded together, so that the arrays stay below some ten megabytes.
_BLOCK: Final = 32_768


def encode_brush(mask: Mask) -> NDArray[np.uint8]:
    """Return the bytes of a brush region, (n,).

    Args:
        mask: Mask in pixels of the image.
    """
    height, width = mask.size
    lengths, values = _split(_row_runs(mask) * _CHANNELS)
    blocks = [slice(start, start + _BLOCK) for start in range(0, len(lengths), _BLOCK)]
    runs = [_run_bits(lengths[block], values[block]) for block in blocks]
    return np.packbits(np.concatenate([_header(height * width * _CHANNELS), *runs]))


def _row_runs(mask: Mask) -> NDArray[np.int64]:
    """Return the lengths of runs in pixels, row by row: outside, inside, outside, …; the first may be 0."""
    height, width = mask.size
    x0, y0 = mask.box[:2]
    crop = mask.crop
    # True where a pixel differs from the one on its left.
    differs = np.zeros((crop.shape[0], crop.shape[1] + 1), np.bool_)
    if crop.size:
        differs[:, 0], differs[:, -1] = crop[:, 0], crop[:, -1]
        np.not_equal(crop[:, 1:], crop[:, :-1], out=differs[:, 1:-1])
    rows, columns = np.divmod(np.flatnonzero(differs), differs.shape[1])
    transitions = (rows + y0) * width + columns + x0
    # A run that reaches the right border and continues at the left one ends and begins at the same position.
    is_twin = np.zeros(len(transitions), np.bool_)
    is_twin[1:] = transitions[1:] == transitions[:-1]
    is_twin[:-1] |= is_twin[1:]
    transitions = transitions[~is_twin]
    if len(transitions) and transitions[-1] == height * width:
        transitions = transitions[:-1]
    return np.diff(np.concatenate(([0], transitions, [height * width])))


def _split(lengths: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the runs in pieces that a length of 16 bits can hold, and their values."""
    values = np.where(np.arange(len(lengths)) % 2 == 1, 255, 0)
    pieces = -(-lengths // _LONGEST)
    whole = np.full(int(pieces.sum()), _LONGEST)
    ends = np.cumsum(pieces)
    whole[ends[pieces > 0] - 1] = ((lengths - 1) % _LONGEST + 1)[pieces > 0]
    return whole, np.repeat(values, pieces)


def _header(count: int) -> NDArray[np.uint8]:
    widths = "".join(f"{bits - 1:04b}" for bits in _LENGTH_BITS.tolist())
    text = f"{count:032b}{_VALUE_BITS - 1:05b}{widths}"
    return np.array(list(text), np.uint8)


def _run_bits(lengths: NDArray[np.int64], values: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return the bits of some runs, one in each byte."""
    which = np.searchsorted(1 << _LENGTH_BITS, lengths)
    length_bits = _LENGTH_BITS[which]
    codes = ((4 + which) << length_bits | (lengths - 1)) << _VALUE_BITS | values
    bits = 3 + length_bits + _VALUE_BITS
    ends = np.cumsum(bits)
    shifts = np.repeat(ends, bits) - 1 - np.arange(ends[-1])
    written: NDArray[np.uint8] = (np.repeat(codes, bits) >> shifts & 1).astype(np.uint8)
    return written
