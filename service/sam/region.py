"""Regions: parts of an image that are embedded by themselves, at their full resolution.

Clients always use pixels of the whole image. Prompts are moved into the region before they are decoded
(`region_prompts`), and a mask of the region's pixels is placed into the whole image here.
"""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from service.sam.transforms import Size

if TYPE_CHECKING:
    from service.sam.mask_runs import Box
    from service.sam.masks import Mask

LEAST_SIDE: Final = 32
"""Shortest side of a region, pixels."""

# Nine digits, without leading zeros: more pixels than an image has along an axis, and few enough for every key.
_NUMBER: Final = "(?:0|[1-9][0-9]{0,8})"
REGION_PATTERN: Final = rf"{_NUMBER}(?:,{_NUMBER}){{3}}"
_REGION: Final = re.compile(REGION_PATTERN, re.ASCII)


@dataclass(frozen=True, slots=True)
class Region:
    """A part of an upright image. `str` gives the text of an image_id, `x0,y0,x1,y1`.

    Args:
        x0: First column, pixels.
        y0: First row, pixels.
        x1: Column behind the last one, pixels.
        y1: Row behind the last one, pixels.
    """

    x0: int
    y0: int
    x1: int
    y1: int

    def __post_init__(self) -> None:
        if min(self.x0, self.y0) < 0 or min(self.x1 - self.x0, self.y1 - self.y0) < LEAST_SIDE:
            raise ValueError(
                f"a region is x0,y0,x1,y1 in pixels of the upright image, with x1 - x0 and y1 - y0 of at least "
                f"{LEAST_SIDE}"
            )

    def __str__(self) -> str:
        """Return the text of an image_id."""
        return ",".join(map(str, self.corners))

    @property
    def corners(self) -> "Box":
        """The region as (x0, y0, x1, y1), pixels, exclusive at the end."""
        return self.x0, self.y0, self.x1, self.y1

    @property
    def size(self) -> Size:
        """Height and width, pixels."""
        return self.y1 - self.y0, self.x1 - self.x0

    def lies_in(self, size: Size) -> bool:
        """Return whether the region has no pixel outside an image of this height and width."""
        return self.y1 <= size[0] and self.x1 <= size[1]


def parse_region(text: str) -> Region:
    """Return the region that a client names.

    Args:
        text: Four whole numbers, `x0,y0,x1,y1`.

    Raises:
        ValueError: The text is no such list, or the region is too small. The message says what a region is.
    """
    if not _REGION.fullmatch(text):
        raise ValueError(
            "a region is four whole numbers x0,y0,x1,y1 in pixels of the upright image, such as region=0,0,1024,768"
        )
    return Region(*map(int, text.split(",")))


@dataclass(frozen=True, slots=True, eq=False)
class PlacedMask:
    """A mask of a region's pixels as a mask of the whole image. It implements `service.sam.masks.Mask`.

    Args:
        part: Mask of the region, of its size.
        region: Place of the region in the image.
        size: Height and width of the whole image, pixels.
    """

    part: "Mask"
    region: Region
    size: Size

    def __post_init__(self) -> None:
        if self.part.size != self.region.size or not self.region.lies_in(self.size):
            raise ValueError(f"A mask of {self.part.size} does not fit {self.region} in an image of {self.size}.")

    @property
    def box(self) -> "Box":
        """Bounding box in the whole image, see `Mask`."""
        x0, y0, x1, y1 = self.part.box
        if x0 == x1:
            return 0, 0, 0, 0
        left, top = self.region.x0, self.region.y0
        return left + x0, top + y0, left + x1, top + y1

    @property
    def area(self) -> int:
        """Number of pixels in the mask."""
        return self.part.area

    @property
    def crop(self) -> NDArray[np.bool_]:
        """Pixels inside the box, see `Mask`."""
        return self.part.crop

    @property
    def transitions(self) -> NDArray[np.int64]:
        """See `Mask`. The work follows the runs and the columns of the mask, and not the pixels of the image."""
        height, total = self.size[0], self.size[0] * self.size[1]
        rows = self.region.size[0]
        transitions = np.asarray(self.part.transitions, np.int64)
        if len(transitions) % 2:
            transitions = np.append(transitions, rows * self.region.size[1])
        if rows == height:
            placed = transitions + self.region.x0 * height
        else:
            starts, ends, columns = _by_column(transitions[0::2], transitions[1::2], rows)
            placed = np.empty(2 * len(starts), np.int64)
            top = (columns + self.region.x0) * height + self.region.y0 - columns * rows
            placed[0::2], placed[1::2] = starts + top, ends + top
        return placed[:-1] if len(placed) and placed[-1] == total else placed


def placed(mask: "Mask", region: Region | None, size: Size) -> "Mask":
    """Return a mask of what is embedded as a mask of the whole image.

    Args:
        mask: Mask of the region, or of the whole image.
        region: Region of the image; None for the whole image, whose masks stay as they are.
        size: Height and width of the whole image, pixels.
    """
    return mask if region is None else PlacedMask(mask, region, size)


def _by_column(
    starts: NDArray[np.int64], ends: NDArray[np.int64], rows: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return runs of pixels cut where a column ends, and the column of each.

    Args:
        starts: First pixel of each run, counted column after column, (n,).
        ends: Pixel behind each run, (n,).
        rows: Pixels of a column.
    """
    first = starts // rows
    pieces = (ends - 1) // rows - first + 1
    run = np.repeat(np.arange(len(starts)), pieces)
    columns = first[run] + np.arange(len(run)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    return np.maximum(starts[run], columns * rows), np.minimum(ends[run], (columns + 1) * rows), columns
