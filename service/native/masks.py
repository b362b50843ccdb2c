"""Masks at the resolution of the image as runs of pixels, made in C (csrc/masks.c).

Small pieces and holes are taken out of the logits (csrc/pieces.c), and of the runs (csrc/run_pieces.c).
The C code computes only the pixels near an edge of the object. It writes pixels only for the formats that need them.
"""

import ctypes
import functools
from ctypes import c_double, c_float, c_int32, c_int64, c_void_p
from typing import Final

import numpy as np
from numpy.typing import NDArray

from service.native import library
from service.sam.enlarged_pieces import MarkedPixels
from service.sam.frame import Frame
from service.sam.mask_pieces import LEAST_LOGIT, REJECTED_SHARE, SMALL_SHARE, MarkedCells
from service.sam.mask_runs import RunMask
from service.sam.masks import Mask
from service.sam.transforms import MASK_SIZE, TAPS, Size, Upsampling, upsampling

# Objects have some thousand transitions. Noise has more: its mask is computed a second time, with enough memory.
_CAPACITY: Final = 32_768


class _Axis(ctypes.Structure):
    """`edgesam_axis`."""

    _fields_ = (("length", c_int32), ("first", c_void_p), ("weights", c_void_p), ("starts", c_void_p))


class _Cells(ctypes.Structure):
    """`edgesam_cells`."""

    _fields_ = (("cells", c_void_p), ("count", c_int32))


class _Pixels(ctypes.Structure):
    """`edgesam_pixels`."""

    _fields_ = (("pixels", c_void_p), ("count", c_int32))


class NativeMasks:
    """The mask functions of the native library. They release Python's global lock.

    Args:
        loaded: The library, see `service.native.library`.
    """

    def __init__(self, loaded: ctypes.CDLL) -> None:
        loaded.edgesam_mask_transitions.restype = c_int64
        loaded.edgesam_mask_transitions.argtypes = [c_void_p, c_void_p, c_void_p, c_int64, *[c_void_p] * 3]
        loaded.edgesam_mask_pixels.restype = None
        loaded.edgesam_mask_pixels.argtypes = [c_void_p, c_int64, c_int32, c_void_p, c_void_p]
        loaded.edgesam_filter_pieces.restype = c_int32
        loaded.edgesam_filter_pieces.argtypes = [
            c_void_p, c_int32, c_int32, c_void_p, c_void_p, c_double, c_double, c_float
        ]  # fmt: skip
        loaded.edgesam_filter_transitions.restype = c_int64
        loaded.edgesam_filter_transitions.argtypes = [
            c_void_p, c_int64, c_int32, c_int32, c_void_p, c_void_p, c_double, c_void_p, c_void_p
        ]  # fmt: skip
        self._transitions = loaded.edgesam_mask_transitions
        self._pixels = loaded.edgesam_mask_pixels
        self._filter_pieces = loaded.edgesam_filter_pieces
        self._filter_transitions = loaded.edgesam_filter_transitions

    def binary_mask(self, logits: NDArray[np.float32], frame: Frame) -> RunMask:
        """Return the mask that `service.sam.masks.binary_mask` returns, as runs.

        Args:
            logits: Low-resolution logits, (256, 256) float32, finite.
            frame: Image in the frame of prompts and masks.

        Raises:
            ValueError: The logits have another shape.
            MemoryError: There is no memory for the mask.
        """
        rows, columns = _axes(frame)
        logits = np.ascontiguousarray(logits, np.float32)
        if logits.shape != (MASK_SIZE, MASK_SIZE):
            raise ValueError(f"Logits have the shape {logits.shape}, not (256, 256).")
        area, box = c_int64(), (c_int32 * 4)()
        count = _CAPACITY
        while True:
            transitions = np.empty(count, np.uint32)
            count = self._transitions(
                logits.ctypes.data, rows.address, columns.address, len(transitions), transitions.ctypes.data,
                ctypes.byref(area), ctypes.byref(box),
            )  # fmt: skip
            if count < 0:
                raise MemoryError("There is no memory for a mask.")
            if count <= len(transitions):
                x0, y0, x1, y1 = box
                return RunMask(frame.size, transitions[:count].copy(), area.value, (x0, y0, x1, y1), self._draw)

    def filter_pieces(self, mask_logits: NDArray[np.float32], cells: Size, marked: MarkedCells) -> None:
        """Change the logits as `service.sam.mask_pieces.filter_pieces` does.

        Args:
            mask_logits: Logits, (256, 256) float32, contiguous, changed in place.
            cells: Rows and columns of the logits that lie in the image, at most 256.
            marked: Cells at the points of the prompt.

        Raises:
            ValueError: The logits have another shape, type or layout, or there are more cells than logits.
            MemoryError: There is no memory for the pieces.
        """
        is_usable = mask_logits.dtype == np.float32 and mask_logits.flags.c_contiguous and mask_logits.flags.writeable
        if mask_logits.shape != (MASK_SIZE, MASK_SIZE) or not is_usable or max(cells) > MASK_SIZE:
            raise ValueError(f"Logits {mask_logits.dtype} {mask_logits.shape} with cells {cells} cannot be changed.")
        held, rejected = (np.ascontiguousarray(array, np.int32) for array in (marked.held, marked.rejected))
        status = self._filter_pieces(
            mask_logits.ctypes.data, *cells,
            ctypes.byref(_Cells(held.ctypes.data, len(held))),
            ctypes.byref(_Cells(rejected.ctypes.data, len(rejected))),
            SMALL_SHARE, REJECTED_SHARE, LEAST_LOGIT,
        )  # fmt: skip
        if status < 0:
            raise MemoryError("There is no memory for the pieces of a mask.")

    def filter_enlarged(self, mask: Mask, marked: MarkedPixels) -> RunMask:
        """Return the mask that `service.sam.enlarged_pieces.filter_enlarged` returns, as runs.

        Args:
            mask: Mask at the resolution of the image, fewer than 2^32 pixels.
            marked: Pixels at the points of the prompt.

        Raises:
            MemoryError: There is no memory for the pieces.
        """
        height, width = mask.size
        transitions = np.array(mask.transitions, np.uint32)
        positive, negative = (np.ascontiguousarray(each, np.uint32) for each in (marked.positive, marked.negative))
        area, box = c_int64(), (c_int32 * 4)()
        count = self._filter_transitions(
            transitions.ctypes.data, len(transitions), height, width,
            ctypes.byref(_Pixels(positive.ctypes.data, len(positive))),
            ctypes.byref(_Pixels(negative.ctypes.data, len(negative))),
            SMALL_SHARE, ctypes.byref(area), ctypes.byref(box),
        )  # fmt: skip
        if count < 0:
            raise MemoryError("There is no memory for the pieces of a mask.")
        x0, y0, x1, y1 = box
        return RunMask(mask.size, transitions[:count], area.value, (x0, y0, x1, y1), self._draw)

    def _draw(self, mask: RunMask) -> NDArray[np.bool_]:
        """Return the pixels inside the mask's box, (h, w) bool."""
        x0, y0, x1, y1 = mask.box
        pixels = np.empty((y1 - y0, x1 - x0), np.bool_)
        if pixels.size:
            box = (c_int32 * 4)(*mask.box)
            starts_and_ends = mask.transitions
            self._pixels(
                starts_and_ends.ctypes.data, len(starts_and_ends), mask.size[0], ctypes.byref(box), pixels.ctypes.data
            )
        return pixels


def native_masks() -> NativeMasks | None:
    """Return the mask functions of the build in use; None where no build runs."""
    loaded = library()
    return None if loaded is None else NativeMasks(loaded)


class _AxisArrays:
    """An axis of the upsampling and the arrays that it points to."""

    def __init__(self, operator: Upsampling) -> None:
        first = operator.first.astype(np.int32)
        weights = np.ascontiguousarray(operator.weights.T)
        starts = np.searchsorted(first, np.arange(MASK_SIZE - TAPS + 2)).astype(np.int32)
        self._arrays = first, weights, starts
        self._axis = _Axis(len(first), *(array.ctypes.data for array in self._arrays))
        self.address = ctypes.addressof(self._axis)


@functools.lru_cache(maxsize=16)
def _axes(frame: Frame) -> tuple[_AxisArrays, _AxisArrays]:
    """Return the axes of rows and columns. They are cached as the operators are."""
    rows, columns = upsampling(frame)
    return _AxisArrays(rows), _AxisArrays(columns)
