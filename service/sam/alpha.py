"""Masks with a soft edge: an 8-bit alpha value for each pixel, from the enlarged logits.

With the enlarged logits L and their slope G, in logits per cell, the alpha of a pixel is

    alpha = clip(1/2 + L / G, 0, 1).

L / G estimates the distance to the mask's border, in cells of the decoder's logits. A cell is 1/256 of the frame's
side. The edge is therefore about one cell wide, which is the detail that the decoder resolves. Its alpha is 1/2 where
L is 0, which is the border of the mask. A sigmoid of L would also be 1/2 there. But its width would depend on how sure
the model is: up to hundreds of pixels, or less than one.

L / G says little where the logits are flat, and where cleanup changed the mask. Therefore the distance D to the border
of the mask itself, in cells, bounds it. The alpha is at least D inside the mask, and at most 1 - D outside. So no pixel
is soft that lies more than a cell from the border.
"""

import math
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from service.sam.frame import Frame
from service.sam.mask_runs import Box
from service.sam.masks import Mask
from service.sam.region import Region
from service.sam.transforms import TAPS, Size, Upsampling, cell_size, upsampling

INSIDE: Final = 128
"""Least alpha of a pixel in the mask, of 255. All pixels outside have less."""

# The alpha is computed in square tiles, to bound the memory of the float32 intermediates. Most tiles have no border.
_TILE: Final = 256
# The mask comes from logits in float32, in another order of additions. Where a logit is below this share of the largest
# one, rounding may put a pixel on the other side.
_ROUNDING: Final = 1e-4


@dataclass(frozen=True, slots=True, eq=False)
class Alpha:
    """Alpha of a mask, kept as the smallest rectangle that holds all values above 0.

    Args:
        size: Height and width of the image, pixels.
        x0: First column of the crop, pixels; 0 for an empty mask.
        y0: First row of the crop, pixels; 0 for an empty mask.
        values: Alpha inside the rectangle, (h, w) uint8; (0, 0) for an empty mask. It is 0 outside.
    """

    size: Size
    x0: int
    y0: int
    values: NDArray[np.uint8]

    @property
    def box(self) -> Box:
        """Rectangle as (x0, y0, x1, y1), pixels, exclusive at the end; four zeros for an empty mask."""
        height, width = self.values.shape
        return self.x0, self.y0, self.x0 + width, self.y0 + height

    def placed(self, region: Region, size: Size) -> "Alpha":
        """Return the alpha of a region's mask as that of the whole image.

        Args:
            region: Place of the region in the image.
            size: Height and width of the whole image, pixels.
        """
        if self.values.size == 0:
            return Alpha(size, 0, 0, self.values)
        return Alpha(size, region.x0 + self.x0, region.y0 + self.y0, self.values)


def soft_alpha(logits: NDArray[np.float32], frame: Frame, mask: Mask) -> Alpha:
    """Return the alpha of a mask: at least 128 for the pixels of the mask, and less for all others.

    The memory is two bytes for each pixel of the mask's box and a margin of one cell, and some megabytes. Tiles without
    a border of the mask are filled, so the time grows with the length of the border. At 52 megapixels it is 0.1 s for
    an object of one piece, and 1 s for a mask of noise in which every tile has a border.

    Args:
        logits: Low-resolution logits of the mask, (256, 256) float32, finite, after cleanup.
        frame: Image in the frame of prompts and masks.
        mask: Mask of these logits at the resolution of the image, after cleanup.
    """
    height, width = mask.size
    if mask.area == 0:
        return Alpha(mask.size, 0, 0, np.zeros((0, 0), np.uint8))
    cell = cell_size(frame)
    margin = math.ceil(cell)
    x0, y0, x1, y1 = mask.box
    left, top, right, bottom = (
        max(0, x0 - margin),
        max(0, y0 - margin),
        min(width, x1 + margin),
        min(height, y1 + margin),
    )
    pixels = np.zeros((bottom - top, right - left), np.uint8)
    pixels[y0 - top : y1 - top, x0 - left : x1 - left] = mask.crop
    edge = _SoftEdge(logits, frame, cell)
    values = np.empty_like(pixels)
    for row in range(0, bottom - top, _TILE):
        for column in range(0, right - left, _TILE):
            tile = np.s_[row : row + _TILE, column : column + _TILE]
            above, before = min(row, margin), min(column, margin)
            # Whether a border is near depends on pixels of other tiles.
            around = pixels[row - above : row + _TILE + margin, column - before : column + _TILE + margin]
            if not around.any():
                values[tile] = 0
            elif around.all():
                values[tile] = 255
            else:
                rows, columns = pixels[tile].shape
                inner = np.s_[above : above + rows, before : before + columns]
                values[tile] = edge.alpha(around, inner, top + row, left + column)
    dx, dy, w, h = cv2.boundingRect(values)
    return Alpha(mask.size, left + dx, top + dy, values[dy : dy + h, dx : dx + w])


class _SoftEdge:
    """Computes the alpha of tiles that have a border of the mask.

    Args:
        logits: Low-resolution logits of the mask, (256, 256).
        frame: Image in the frame of prompts and masks.
        cell: Longer side of a logit in the image, pixels.
    """

    def __init__(self, logits: NDArray[np.float32], frame: Frame, cell: float) -> None:
        self._logits = np.stack((logits, _slope(logits)))  # (2, 256, 256)
        self._rows, self._columns = upsampling(frame)
        self._cell = np.float32(cell)
        self._rounding = np.float32(_ROUNDING) * np.abs(logits).max()  # above 0, since a mask is not empty

    def alpha(self, around: NDArray[np.uint8], inner: tuple[slice, slice], top: int, left: int) -> NDArray[np.uint8]:
        """Return the alpha of a tile, (h, w) uint8.

        Args:
            around: Pixels of the mask in the tile and a margin around it, 0 or 1.
            inner: Rows and columns of the tile in `around`.
            top: First row of the tile in the image.
            left: First column of the tile in the image.
        """
        is_inside = around[inner].view(np.bool_)
        height, width = is_inside.shape
        enlarged, slope = _enlarged(
            self._logits, self._rows, self._columns, slice(top, top + height), slice(left, left + width)
        )
        alpha = np.float32(0.5) + enlarged / np.maximum(slope, self._rounding)
        distance = self._distance(around, inner)
        np.copyto(alpha, np.maximum(alpha, distance), where=is_inside)
        np.copyto(alpha, np.minimum(alpha, 1 - distance), where=~is_inside)
        # Cleanup dropped or filled these pixels. The alpha of the model's mask would show what it removed.
        is_cleaned = ((enlarged > 0) != is_inside) & (np.abs(enlarged) > self._rounding)
        alpha[is_cleaned] = is_inside[is_cleaned]
        levels = np.rint(np.clip(alpha, 0, 1) * 255).astype(np.uint8)
        least, most = np.where(is_inside, INSIDE, 0), np.where(is_inside, 255, INSIDE - 1)
        bounded: NDArray[np.uint8] = np.clip(levels, least, most).astype(np.uint8)
        return bounded

    def _distance(self, around: NDArray[np.uint8], inner: tuple[slice, slice]) -> NDArray[np.float32]:
        """Return the distance of the pixels of a tile to the mask's border, in cells, at most 1, (h, w)."""
        inside, outside = (cv2.distanceTransform(each, cv2.DIST_L2, 5)[inner] for each in (around, 1 - around))
        distance: NDArray[np.float32] = (np.maximum(inside, outside) - np.float32(0.5)) / self._cell
        return np.minimum(distance, 1, out=distance)


def _slope(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the largest slope around each logit, in logits per cell, (256, 256) float32.

    Along each axis the larger one of the differences to both neighbours counts. So the enlarged logits are hardly
    steeper.
    """
    across, down = np.abs(np.diff(logits, axis=1)), np.abs(np.diff(logits, axis=0))
    x = np.maximum(np.pad(across, ((0, 0), (0, 1))), np.pad(across, ((0, 0), (1, 0))))
    y = np.maximum(np.pad(down, ((0, 1), (0, 0))), np.pad(down, ((1, 0), (0, 0))))
    slope: NDArray[np.float32] = np.hypot(x, y)
    return slope


def _enlarged(
    fields: NDArray[np.float32], rows: Upsampling, columns: Upsampling, down: slice, across: slice
) -> NDArray[np.float32]:
    """Return a part of N enlarged fields, (N, h, w) float32.

    Args:
        fields: Fields of the frame, (N, 256, 256).
        rows: Operator of the image's rows.
        columns: Operator of the image's columns.
        down: Rows of the part.
        across: Columns of the part.
    """
    first, last = int(rows.first[down.start]), int(rows.first[min(down.stop, len(rows.first)) - 1]) + TAPS
    needed = fields[:, first:last]
    beside, across_weights = columns.first[across], columns.weights[across]
    wide = np.zeros((len(fields), last - first, len(beside)), np.float32)
    for tap in range(TAPS):
        wide += needed[:, :, beside + tap] * across_weights[:, tap]
    above, weights = rows.first[down] - first, rows.weights[down]
    enlarged = np.zeros((len(fields), len(above), len(beside)), np.float32)
    for tap in range(TAPS):
        enlarged += weights[:, tap, np.newaxis] * wide[:, above + tap]
    return enlarged
