"""A mask kept as runs of pixels: the positions where it begins and ends along the columns."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.sam.transforms import Size

Box = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels, exclusive at the end."""


@dataclass(frozen=True, slots=True, eq=False)
class RunMask:
    """A mask at the resolution of the image, kept as its transitions.

    Args:
        size: Height and width of the image, pixels.
        transitions: First pixel of each run and the pixel after its last, (n,) uint32, rising. Pixels are counted
            column after column. The end of the image is no transition.
        area: Number of pixels in the mask.
        box: Bounding box as (x0, y0, x1, y1), pixels, exclusive at the end; four zeros for an empty mask.
        draw: Function that returns the pixels inside the box of a mask, (h, w) bool.
    """

    size: Size
    transitions: NDArray[np.uint32]
    area: int
    box: Box
    draw: Callable[["RunMask"], NDArray[np.bool_]]

    @property
    def crop(self) -> NDArray[np.bool_]:
        """Pixels inside the box, (h, w) bool. Each access draws them anew."""
        return self.draw(self)
