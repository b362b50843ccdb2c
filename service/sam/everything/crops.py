"""The masks that the edge of a crop cuts off."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from service.sam.transforms import Size

EDGE_DISTANCE: Final = 20.0
"""Distance from an edge of its crop, in pixels, up to which a mask counts as cut off there."""


def is_cut_off(boxes: NDArray[np.integer], crop_box: tuple[int, int, int, int], size: Size) -> NDArray[np.bool_]:
    """Return which masks end at an edge of their crop, where the image goes on, (n,) bool.

    Args:
        boxes: Boxes of n masks, (n, 4) as x0, y0, x1, y1, pixels of the image, inclusive at the end.
        crop_box: Crop as x0, y0, x1, y1, pixels of the image, exclusive at the end.
        size: Height and width of the image, pixels.
    """
    height, width = size
    is_near_crop = np.abs(boxes - np.array(crop_box, np.float64)) <= EDGE_DISTANCE
    is_near_image = np.abs(boxes - np.array((0, 0, width, height), np.float64)) <= EDGE_DISTANCE
    cut: NDArray[np.bool_] = (is_near_crop & ~is_near_image).any(axis=1)
    return cut
