"""Removing holes and islands of a few pixels from a mask."""

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from service.sam.mask_runs import Box
from service.sam.masks import BinaryMask, Mask

_AREA: Final = cv2.CC_STAT_AREA
# Labels are looked up in parts of so many pixels: NumPy makes indices of 8 bytes of them.
_BAND_PIXELS: Final = 1 << 20


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
    window = _Window.around(mask)
    is_small = window.small_holes(area)
    if is_small[window.labels_at_sides()].any():  # a hole that reaches beyond the window
        window = _Window.of_image(mask)
        is_small = window.small_holes(area)
    pixels, left, top = window.pixels, window.left, window.top
    filled = pixels | _pixels_of(is_small, window.labels) if is_small.any() else pixels
    del window  # its labels take as much memory as those of the islands
    cleaned = _without_islands(filled, area)
    return mask if cleaned is pixels else BinaryMask.cut(mask.size, left, top, cleaned)


class _Window:
    """A part of the image with all pixels of a mask, in which regions are counted.

    Args:
        mask: Mask at the resolution of the image.
        box: Part as x0, y0, x1, y1, pixels, exclusive at the end. Where it ends inside the image, its first or last
            row or column is no part of the mask.
    """

    def __init__(self, mask: Mask, box: Box) -> None:
        height, width = mask.size
        self.left, self.top, right, bottom = box
        x0, y0, x1, y1 = mask.box
        self.pixels = np.zeros((bottom - self.top, right - self.left), np.bool_)
        self.pixels[y0 - self.top : y1 - self.top, x0 - self.left : x1 - self.left] = mask.crop
        _, labels, stats, _ = cv2.connectedComponentsWithStats((~self.pixels).view(np.uint8), connectivity=8)
        self.labels: NDArray[np.int32] = np.asarray(labels, np.int32)
        self._areas = stats[:, _AREA].astype(np.int64)
        # The pixels beyond each side, and one pixel of the hole that goes on there. Neighbouring sides are connected
        # around their corner, in the image as in the window.
        rows = bottom - self.top
        self._beyond = (
            (self.top * width, self.labels[0, 0]),
            ((height - bottom) * width, self.labels[-1, 0]),
            (self.left * rows, self.labels[0, 0]),
            ((width - right) * rows, self.labels[0, -1]),
        )

    @classmethod
    def around(cls, mask: Mask) -> "_Window":
        """Return the box of a mask with a margin of a pixel or two where the image goes on.

        It begins at even pixels, because OpenCV orders regions by blocks of two by two pixels: so the first of equal
        regions is that of the whole image.
        """
        height, width = mask.size
        x0, y0, x1, y1 = mask.box
        left, top = (max(0, (start - 1) // 2 * 2) for start in (x0, y0))
        return cls(mask, (left, top, min(width, x1 + 1), min(height, y1 + 1)))

    @classmethod
    def of_image(cls, mask: Mask) -> "_Window":
        """Return the whole image."""
        height, width = mask.size
        return cls(mask, (0, 0, width, height))

    def small_holes(self, area: int) -> NDArray[np.bool_]:
        """Return which regions outside the mask have fewer pixels than `area`, by label."""
        areas = self._areas.copy()
        for pixels, label in self._beyond:
            areas[label] += pixels
        is_small: NDArray[np.bool_] = areas < area
        is_small[0] = False  # the mask itself
        return is_small

    def labels_at_sides(self) -> list[int]:
        """Return the labels of regions that reach beyond the window."""
        return [int(label) for pixels, label in self._beyond if pixels]


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
    return _pixels_of(stays, np.asarray(labels, np.int32))


def _pixels_of(is_chosen: NDArray[np.bool_], labels: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Return which pixels have a chosen label, (h, w).

    Args:
        is_chosen: Whether each label is chosen.
        labels: Label of each pixel, (h, w).
    """
    pixels = np.empty(labels.shape, np.bool_)
    rows = max(1, _BAND_PIXELS // labels.shape[1])
    for top in range(0, len(labels), rows):
        band = slice(top, top + rows)
        pixels[band] = is_chosen[labels[band]]
    return pixels
