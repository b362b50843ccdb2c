"""A mask kept as runs of pixels: the positions where it begins and ends along the columns."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from service.sam.transforms import Size

if TYPE_CHECKING:
    from service.sam.masks import Mask

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


def as_runs(mask: "Mask") -> RunMask:
    """Return a mask as runs, which take little memory; the same object where it is one already.

    Args:
        mask: Mask of any kind, fewer than 2^32 pixels.
    """
    if isinstance(mask, RunMask):
        return mask
    return RunMask(mask.size, mask.transitions.astype(np.uint32), mask.area, mask.box, draw_runs)


def draw_runs(mask: RunMask) -> NDArray[np.bool_]:
    """Return the pixels inside the box of a mask, (h, w) bool, without the native library.

    Args:
        mask: Mask to draw.
    """
    height, (x0, y0, x1, y1) = mask.size[0], mask.box
    changes = np.zeros((x1 - x0) * height, np.uint8)
    # Runs begin and end inside the columns of the box, or at the first pixel behind them.
    positions = mask.transitions.astype(np.int64) - x0 * height
    changes[positions[positions < len(changes)]] = 1
    columns = np.bitwise_xor.accumulate(changes).reshape(x1 - x0, height)
    return np.ascontiguousarray(columns[:, y0:y1].T).view(np.bool_)
