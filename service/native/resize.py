"""Resizing of images to the encoder's input in C (csrc/resize.c), equal to that of Pillow.

Letterboxed images are equal bit for bit. Stretched ones are so on x86-64. For other processors Pillow is compiled with
fused multiplications and additions, which changes some floats in the last bit.
"""

import ctypes
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from ctypes import c_char_p, c_int32, c_int64, c_void_p, py_object
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.native import library
from service.sam.transforms import Size

# Pillow's fixed-point weights for images of 8 bits are whole multiples of 2^-22.
_WEIGHT_BITS: Final = 22
# Memory of an image of more than 16 MiB is in several pieces. Tiles of it are copied, with so many pixels at a time.
_TILE_PIXELS: Final = 1 << 19
# Neighbouring tiles read some samples twice. Along both axes a tile has at least so many times the filter's taps.
_LEAST_REACHES: Final = 8
# Weights of longer axes are not kept: one for 65536 pixels takes a megabyte.
_LONGEST_KEPT: Final = 16_384


class _Axis(ctypes.Structure):
    """`edgesam_resize_axis`."""

    _fields_ = (("length", c_int32), ("taps", c_int32), ("first", c_void_p), ("weights", c_void_p))


class _Band(ctypes.Structure):
    """`edgesam_resize_band`."""

    _fields_ = (
        ("pixels", c_void_p), ("width", c_int32), ("top", c_int32), ("begin", c_int32), ("end", c_int32),
        ("mean", c_void_p), ("std", c_void_p), ("planes", c_void_p), ("side", c_int32),
    )  # fmt: skip


class _ArrowArray(ctypes.Structure):
    """`ArrowArray` of Arrow's C data interface."""


_ArrowArray._fields_ = (
    ("length", c_int64), ("null_count", c_int64), ("offset", c_int64), ("n_buffers", c_int64), ("n_children", c_int64),
    ("buffers", ctypes.POINTER(c_void_p)), ("children", ctypes.POINTER(ctypes.POINTER(_ArrowArray))),
    ("dictionary", c_void_p), ("release", c_void_p), ("private_data", c_void_p),
)  # fmt: skip
_capsule_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_capsule_pointer.restype, _capsule_pointer.argtypes = c_void_p, [py_object, c_char_p]

_Passes = Callable[..., int]


class NativeResizer:
    """The resize functions of the native library. They release Python's global lock.

    Args:
        loaded: The library, see `service.native.library`.
    """

    def __init__(self, loaded: ctypes.CDLL) -> None:
        for function in (loaded.edgesam_resize_levels, loaded.edgesam_resize_floats):
            function.restype, function.argtypes = c_int32, [c_void_p, c_void_p, c_void_p]
        self._levels: _Passes = loaded.edgesam_resize_levels
        self._floats: _Passes = loaded.edgesam_resize_floats

    def letterbox(
        self, image: Image.Image, size: Size, mean: Sequence[float], std: Sequence[float], image_size: int
    ) -> NDArray[np.float32]:
        """Return what `service.sam.resizing.PillowResizer.letterbox` returns.

        Args:
            image: Image of mode RGB.
            size: Height and width of the image inside the input, pixels, from 1 to `image_size`.
            mean: Means of the three channels, on the scale 0..255.
            std: Standard deviations of the three channels, on the scale 0..255.
            image_size: Side of the encoder's input, pixels.

        Raises:
            ValueError: The image has another mode, or the size does not fit.
            MemoryError: There is no memory for the resize.
        """
        if min(size) < 1 or max(size) > image_size:
            raise ValueError(f"A size of {size} does not fit into an input of {image_size} pixels.")
        planes = np.zeros((3, image_size, image_size), np.float32)
        rows, columns = (
            _axis(source, target, is_rounded=True)
            for source, target in zip((image.height, image.width), size, strict=True)
        )
        _resize(self._levels, image, rows, columns, mean, std, planes)
        return planes

    def stretch(
        self, image: Image.Image, mean: Sequence[float], std: Sequence[float], image_size: int
    ) -> NDArray[np.float32]:
        """Return what `service.sam.resizing.PillowResizer.stretch` returns.

        Args:
            image: Image of mode RGB.
            mean: Means of the three channels, on the scale 0..255.
            std: Standard deviations of the three channels, on the scale 0..255.
            image_size: Side of the encoder's input, pixels.

        Raises:
            ValueError: The image has another mode.
            MemoryError: There is no memory for the resize.
        """
        planes = np.empty((3, image_size, image_size), np.float32)
        rows, columns = (_axis(source, image_size, is_rounded=False) for source in (image.height, image.width))
        _resize(self._floats, image, rows, columns, mean, std, planes)
        return planes


def native_resizer() -> NativeResizer | None:
    """Return the resize functions of the build in use; None where no build runs."""
    loaded = library()
    return None if loaded is None else NativeResizer(loaded)


@dataclass(frozen=True, slots=True)
class _Interval:
    """Neighbouring target samples of an axis, and the source samples that they need.

    Args:
        low: First source sample.
        high: End of the source samples.
        begin: First target sample.
        end: End of the target samples.
    """

    low: int
    high: int
    begin: int
    end: int


class _AxisArrays:
    """The weights of one axis, computed in double as Pillow does, in the same order.

    The bilinear filter is a triangle. Where the axis shrinks, it is widened by the scale.

    Args:
        source: Samples of the image.
        target: Samples of the resized image.
        is_rounded: Whether the weights are those of grey levels (int32) or of floats (double).
    """

    def __init__(self, source: int, target: int, *, is_rounded: bool) -> None:
        scale = source / target
        support = max(scale, 1.0)
        centres = (np.arange(target) + 0.5) * scale
        begins = np.maximum((centres - support + 0.5).astype(np.int64), 0)
        ends = np.minimum((centres + support + 0.5).astype(np.int64), source)
        taps = int((ends - begins).max())
        first = np.minimum(begins, source - taps)
        samples = first[:, np.newaxis] + np.arange(taps)
        exact = np.maximum(1.0 - np.abs((samples - centres[:, np.newaxis] + 0.5) * (1.0 / support)), 0.0)
        exact[(samples < begins[:, np.newaxis]) | (samples >= ends[:, np.newaxis])] = 0.0
        exact /= np.cumsum(exact, axis=1)[:, -1:]  # `sum` adds in another order
        weights = (exact * (1 << _WEIGHT_BITS) + 0.5).astype(np.int32) if is_rounded else exact
        self.first = first.astype(np.int32)  # (target)
        self.taps = taps
        self.weights = np.ascontiguousarray(weights)  # (target, taps)

    @property
    def length(self) -> int:
        """Target samples."""
        return len(self.first)

    def split(self, source: int, samples: int) -> Iterator[_Interval]:
        """Yield intervals of at most `samples` source samples, as far as the filter allows.

        Args:
            source: Samples of the image.
            samples: Most source samples of an interval.
        """
        longest = max(samples, _LEAST_REACHES * self.taps)
        step = max(1, math.floor((longest - self.taps) * self.length / source)) if longest < source else self.length
        for begin in range(0, self.length, step):
            end = min(begin + step, self.length)
            yield _Interval(int(self.first[begin]), int(self.first[end - 1]) + self.taps, begin, end)

    def part(self, interval: _Interval) -> "_AxisPart":
        """Return the weights of an interval, for an image that begins with the interval's first source sample."""
        targets = slice(interval.begin, interval.end)
        return _AxisPart(self.first[targets] - np.int32(interval.low), self.weights[targets])


class _AxisPart:
    """The weights of neighbouring target samples, as the C code reads them.

    Args:
        first: First source sample of each target sample, (target) int32.
        weights: Weights of the source samples, (target, taps) int32 or double. Neither array has gaps.
    """

    def __init__(self, first: NDArray[np.int32], weights: NDArray[np.generic]) -> None:
        self._arrays = first, weights
        self._axis = _Axis(*weights.shape, first.ctypes.data, weights.ctypes.data)
        self.address = ctypes.addressof(self._axis)


_kept_axis = functools.lru_cache(maxsize=16)(_AxisArrays)


def _axis(source: int, target: int, *, is_rounded: bool) -> _AxisArrays:
    make = _kept_axis if source <= _LONGEST_KEPT else _AxisArrays
    return make(source, target, is_rounded=is_rounded)


def _resize(
    passes: _Passes,
    image: Image.Image,
    rows: _AxisArrays,
    columns: _AxisArrays,
    mean: Sequence[float],
    std: Sequence[float],
    planes: NDArray[np.float32],
) -> None:
    """Write the resized and normalised image to the planes."""
    if image.mode != "RGB":
        raise ValueError(f"An image of mode {image.mode} cannot be resized, only RGB.")
    means, stds = np.array(mean, np.float32), np.array(std, np.float32)
    whole = _Interval(0, image.height, 0, rows.length)
    all_rows = rows.part(whole)

    def write(address: int, band: _Interval, tile: _Interval) -> None:
        some_columns = columns.part(tile)
        c_band = _Band(
            address, tile.high - tile.low, band.low, band.begin, band.end, means.ctypes.data, stds.ctypes.data,
            planes[:, :, tile.begin :].ctypes.data, planes.shape[-1],
        )  # fmt: skip
        if passes(ctypes.byref(c_band), all_rows.address, some_columns.address) < 0:
            raise MemoryError("There is no memory to resize an image.")

    lent = _lent(image)
    if lent is not None:
        write(lent.address, whole, _Interval(0, image.width, 0, columns.length))
        return
    for band in rows.split(image.height, _TILE_PIXELS // image.width):
        for tile in columns.split(image.width, _TILE_PIXELS // (band.high - band.low)):
            part = image.crop((tile.low, band.low, tile.high, band.high))
            lent = _lent(part)
            if lent is not None:
                write(lent.address, band, tile)
            else:  # a later Pillow, or one with smaller pieces
                copy = np.frombuffer(part.tobytes("raw", "RGBX"), np.uint8)
                write(copy.ctypes.data, band, tile)


@dataclass(frozen=True, slots=True)
class _Lent:
    """Memory of an image.

    Args:
        address: First pixel. Rows follow each other without a gap, four bytes for each pixel.
        owner: Object that keeps the memory.
    """

    address: int
    owner: object


def _lent(image: Image.Image) -> _Lent | None:
    """Return the memory of an image of mode RGB; None if it is not in one piece."""
    try:
        _, capsule = image.__arrow_c_array__()
    except ValueError:
        return None
    array = _ArrowArray.from_address(_capsule_pointer(capsule, b"arrow_array"))
    samples = array.children[0].contents if array.n_children == 1 else None
    pixels = image.width * image.height
    if samples is None or (array.offset, samples.offset, array.length, samples.length) != (0, 0, pixels, 4 * pixels):
        return None  # a later Pillow, which stores pixels in another way
    return _Lent(samples.buffers[1], capsule)
