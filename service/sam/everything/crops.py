"""Crops of an image in layers, and the masks that the edge of a crop cuts off."""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from service.sam.transforms import Size

OVERLAP_RATIO: Final = 512 / 1500
"""Overlap of the crops of the first layer, as a share of the shorter side of the image."""

EDGE_DISTANCE: Final = 20.0
"""Distance from an edge of its crop, in pixels, up to which a mask counts as cut off there."""


@dataclass(frozen=True, slots=True)
class Crop:
    """A part of an image that is searched by itself.

    Args:
        box: x0, y0, x1, y1, pixels of the image, exclusive at the end.
        layer: Layer of the crop; 0 for the whole image.
    """

    box: tuple[int, int, int, int]
    layer: int


def crops_of(size: Size, layers: int, overlap_ratio: float = OVERLAP_RATIO) -> list[Crop]:
    """Return the whole image, and the crops of each layer: layer i has 2^i crops a side, which overlap.

    Args:
        size: Height and width of the image, pixels.
        layers: Number of layers beside the whole image.
        overlap_ratio: Overlap of the first layer, as a share of the shorter side.

    Source: docs/explanation/everything.md, section "Crops".
    """
    height, width = size
    crops = [Crop((0, 0, width, height), 0)]
    for layer in range(1, layers + 1):
        per_side = 2**layer
        overlap = int(overlap_ratio * min(height, width) * (2 / per_side))
        crop_width, crop_height = (math.ceil((overlap * (per_side - 1) + side) / per_side) for side in (width, height))
        lefts, tops = ([(side - overlap) * i for i in range(per_side)] for side in (crop_width, crop_height))
        crops += [
            Crop((left, top, min(left + crop_width, width), min(top + crop_height, height)), layer)
            for left in lefts
            for top in tops
        ]
    return crops


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
