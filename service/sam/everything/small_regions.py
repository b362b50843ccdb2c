"""Removing holes and islands of a few pixels from a mask."""

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from service.sam.masks import BinaryMask, Mask

_AREA: Final = cv2.CC_STAT_AREA


def without_small_regions(mask: Mask, area: int) -> Mask:
    """Return a mask without small holes, then without small islands; the same object where there are none.

    Regions are 8-connected. The largest island always stays, the first of equals.

    Args:
        mask: Mask at the resolution of the image.
        area: Number of pixels of which a region needs at least as many to stay.

    Source: docs/explanation/everything.md, section "Small regions".
    """
    if mask.area == 0:
        return mask
    window = _Window(mask)
    filled = window.filled(window.pixels, area)
    cleaned = _without_islands(filled, area)
    if cleaned is window.pixels:
        return mask
    return BinaryMask.cut(mask.size, window.left, window.top, cleaned)


class _Window:
    """The box of a mask and a margin where the image goes on, in which the regions are counted.

    The margin has at least one pixel. The window begins at even pixels, because OpenCV orders regions by blocks of two
    by two pixels: so the first of equal regions is that of the whole image.

    Args:
        mask: Mask at the resolution of the image.
    """

    def __init__(self, mask: Mask) -> None:
        height, width = mask.size
        x0, y0, x1, y1 = mask.box
        self.left, self.top = max(0, (x0 - 1) // 2 * 2), max(0, (y0 - 1) // 2 * 2)
        right, bottom = min(width, x1 + 1), min(height, y1 + 1)
        self.pixels = np.zeros((bottom - self.top, right - self.left), np.bool_)
        self.pixels[y0 - self.top : y1 - self.top, x0 - self.left : x1 - self.left] = mask.crop
        # Sides on which the image goes on, with the pixels beyond them. All of these are no part of the mask.
        rows = bottom - self.top
        self._beyond = {
            "top": self.top * width,
            "bottom": (height - bottom) * width,
            "left": self.left * rows,
            "right": (width - right) * rows,
        }

    def filled(self, pixels: NDArray[np.bool_], area: int) -> NDArray[np.bool_]:
        """Return the pixels with small holes filled; the same array where there are none."""
        _, labels, stats, _ = cv2.connectedComponentsWithStats((~pixels).view(np.uint8), connectivity=8)
        areas = stats[:, _AREA].astype(np.int64)
        self._add_what_lies_beyond(np.asarray(labels, np.int32), areas)
        is_small = areas < area
        is_small[0] = False  # the mask itself
        return pixels | is_small[labels] if is_small.any() else pixels

    def _add_what_lies_beyond(self, labels: NDArray[np.integer], areas: NDArray[np.int64]) -> None:
        """Add to the regions at the sides of the window the part that lies beyond."""
        at = {
            "top": labels[0, 0],
            "bottom": labels[-1, 0],
            "left": labels[0, 0],
            "right": labels[0, -1],
        }
        # Neighbouring sides are connected around their corner, in the image as in the window.
        for side, pixels in self._beyond.items():
            if pixels:
                areas[at[side]] += pixels


def _without_islands(pixels: NDArray[np.bool_], area: int) -> NDArray[np.bool_]:
    """Return the pixels without small islands; the same array where there are none."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(pixels.view(np.uint8), connectivity=8)
    areas = stats[1:, _AREA]
    is_small = areas < area
    if count == 1 or not is_small.any():
        return pixels
    stays = np.concatenate(([False], ~is_small))
    if is_small.all():
        stays[1 + int(np.argmax(areas))] = True
    kept: NDArray[np.bool_] = stays[labels]
    return kept
