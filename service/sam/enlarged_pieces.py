"""Dropping islands and filling holes that enlarging made in a mask, on the pixels of the image.

Pixels belong to one piece, or to one hole, when they share a side. `mask_pieces` does the same on the logits, before.
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from service.sam.mask_pieces import SMALL_SHARE
from service.sam.masks import BinaryMask, Mask
from service.sam.point_agreement import point_pixels
from service.sam.prompts import POSITIVE, Prompt
from service.sam.transforms import Size


@dataclass(frozen=True, slots=True, eq=False)
class MarkedPixels:
    """Pixels at the points of a prompt, counted column after column, int64.

    Args:
        positive: Pixels whose piece stays whatever its size.
        negative: Pixels whose hole stays whatever its size.
    """

    positive: NDArray[np.int64]
    negative: NDArray[np.int64]


FilterEnlarged = Callable[[Mask, MarkedPixels], Mask]
"""A function that returns a mask without small pieces and holes: `filter_enlarged` or its native counterpart."""


def marked_pixels(prompt: Prompt, original_size: Size) -> MarkedPixels:
    """Return the pixels at the points of a prompt.

    Args:
        prompt: Prompt whose points lie in the image, see `check_prompt`.
        original_size: Height and width of the image, pixels.
    """
    x, y = point_pixels(prompt, original_size).T
    flat = x * original_size[0] + y
    is_positive = prompt.labels == POSITIVE
    return MarkedPixels(flat[is_positive], flat[~is_positive])


def filter_enlarged(mask: Mask, marked: MarkedPixels) -> BinaryMask:
    """Return a mask without its small pieces, and with its small holes filled.

    This is the fallback where the native library is missing. `service.native.masks` returns the same mask in a fraction
    of the time.

    Args:
        mask: Mask at the resolution of the image.
        marked: Pixels at the points of the prompt.
    """
    x0, y0, _, _ = mask.box
    pixels = np.array(mask.crop, order="C")
    if pixels.size:
        largest = _drop(pixels, _in_crop(marked.positive, mask))
        _fill(pixels, _in_crop(marked.negative, mask), SMALL_SHARE * largest)
    return BinaryMask.cut(mask.size, x0, y0, pixels)


def _drop(pixels: NDArray[np.bool_], held: tuple[NDArray[np.int64], NDArray[np.int64]]) -> int:
    """Drop the small pieces, in place, and return the area of the largest one."""
    labels, areas = _components(pixels)
    largest = int(areas.max())
    is_kept = areas >= SMALL_SHARE * largest
    is_kept[labels[held]] = True
    is_kept[0] = False
    np.take(is_kept, labels, out=pixels)
    return largest


def _fill(pixels: NDArray[np.bool_], held: tuple[NDArray[np.int64], NDArray[np.int64]], least: float) -> None:
    """Fill the holes below an area, in place. What reaches the border of the crop is no hole."""
    labels, areas = _components(~pixels)
    is_filled = areas < least
    for border in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        is_filled[border] = False
    is_filled[labels[held]] = False
    is_filled[0] = True
    np.take(is_filled, labels, out=pixels)


def _components(pixels: NDArray[np.bool_]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return the component of each pixel, 0 outside, and the area of each component; that of component 0 is 0."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(pixels.view(np.uint8), connectivity=4, ltype=cv2.CV_32S)
    areas = stats[:, cv2.CC_STAT_AREA].astype(np.int64)
    areas[0] = 0
    return labels.astype(np.int32, copy=False), areas


def _in_crop(flat: NDArray[np.int64], mask: Mask) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows and columns, in the crop of a mask, of those pixels that lie in it."""
    x0, y0, x1, y1 = mask.box
    x, y = np.divmod(flat, mask.size[0])
    is_in = (x0 <= x) & (x < x1) & (y0 <= y) & (y < y1)
    return y[is_in] - y0, x[is_in] - x0
