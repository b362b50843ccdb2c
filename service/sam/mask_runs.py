"""Masks as runs of pixels, made by the native library (service/native/csrc/masks.c): no pixel of the picture is touched
but those near an edge, and the pixels themselves are written only for the formats that need them.
"""

import ctypes
import functools
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from service.sam.transforms import MASK_SIZE, TAPS, Size, input_size, upsampling

Box = tuple[int, int, int, int]

# Objects have some thousand turns. Noise has more, and is then done a second time.
_TURNS: Final = 32_768


class _Axis(ctypes.Structure):
    """`edgesam_axis`."""

    _fields_ = (
        ("length", ctypes.c_int32),
        ("first", ctypes.c_void_p),
        ("weights", ctypes.c_void_p),
        ("starts", ctypes.c_void_p),
    )


@dataclass(frozen=True, slots=True, eq=False)
class RunMask:
    """A mask at the picture's resolution, kept as the places where it begins and ends.

    Args:
        size: (H, W) of the picture.
        turns: (n,) uint32, the first pixels of its runs and those behind their last, column after column, rising; the
            end of the picture is none.
        area: number of pixels.
        box: (x0, y0, x1, y1), pixels, exclusive at the end; four zeros when the mask is empty.
        library: draws the pixels.
    """

    size: Size
    turns: NDArray[np.uint32]
    area: int
    box: Box
    library: "MaskLibrary"

    @property
    def crop(self) -> NDArray[np.bool_]:
        """(h, w) bool, the pixels inside the box, drawn anew each time."""
        return self.library.draw(self)


class MaskLibrary:
    """The functions of masks.c in a loaded library. They let go of Python's lock."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._turns = library.edgesam_mask_turns
        self._pixels = library.edgesam_mask_pixels

    def mask(self, logits: NDArray[np.float32], original_size: Size) -> RunMask:
        """`masks.binary_mask`."""
        height, width = original_size
        input_height, input_width = input_size(original_size)
        rows, columns = _axis(height, input_height), _axis(width, input_width)
        logits = np.ascontiguousarray(logits, np.float32)
        if logits.shape != (MASK_SIZE, MASK_SIZE):
            raise ValueError(f"Logits have the shape {logits.shape}, not (256, 256).")
        area, box = ctypes.c_int64(), (ctypes.c_int32 * 4)()
        count = _TURNS
        while True:
            turns = np.empty(count, np.uint32)
            count = self._turns(
                logits.ctypes.data, rows.address, columns.address, len(turns), turns.ctypes.data,
                ctypes.byref(area), ctypes.byref(box),
            )  # fmt: skip
            if count < 0:
                raise MemoryError("There is no memory for a mask.")
            if count <= len(turns):
                x0, y0, x1, y1 = box
                return RunMask(original_size, turns[:count].copy(), area.value, (x0, y0, x1, y1), self)

    def draw(self, mask: RunMask) -> NDArray[np.bool_]:
        """The pixels inside the mask's box."""
        x0, y0, x1, y1 = mask.box
        pixels = np.empty((y1 - y0, x1 - x0), np.bool_)
        if pixels.size:
            box = (ctypes.c_int32 * 4)(*mask.box)
            self._pixels(mask.turns.ctypes.data, len(mask.turns), mask.size[0], ctypes.byref(box), pixels.ctypes.data)
        return pixels


class _AxisArrays:
    """An axis and the arrays that it points to."""

    def __init__(self, original_length: int, input_length: int) -> None:
        operator = upsampling(original_length, input_length)
        first = operator.first.astype(np.int32)
        weights = np.ascontiguousarray(operator.weights.T)
        starts = np.searchsorted(first, np.arange(MASK_SIZE - TAPS + 2)).astype(np.int32)
        self._arrays = first, weights, starts
        self._axis = _Axis(original_length, *(array.ctypes.data for array in self._arrays))
        self.address = ctypes.addressof(self._axis)


_axis = functools.lru_cache(maxsize=32)(_AxisArrays)
