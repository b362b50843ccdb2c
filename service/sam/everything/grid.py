"""The grid of points that everything mode puts on an image."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

COARSE_STRIDE: Final = 4
"""Distance of the points of the coarsest level along each side, in points of the whole grid, see `coarse_to_fine`."""


def grid_points(points_per_side: int) -> NDArray[np.float64]:
    """Return the points of a grid as shares of width and height, (n * n, 2) as x, y, x fastest.

    Args:
        points_per_side: Number n of points along each side, at least 1. They lie at (i + 1/2) / n.

    Source: docs/explanation/everything.md, section "Steps".
    """
    offset = 1.0 / (2.0 * points_per_side)
    along = np.linspace(offset, 1.0 - offset, points_per_side)
    x, y = np.meshgrid(along, along)
    return np.stack((x.ravel(), y.ravel()), axis=1)


def coarse_to_fine(points_per_side: int) -> list[NDArray[np.int64]]:
    """Return the indices of the grid's points in levels: every fourth point a side, then every second, then the rest.

    Args:
        points_per_side: Number n of points along each side.

    Returns:
        Indices of `grid_points`, rising in each level. All levels together have each index once.
    """
    rows, columns = np.divmod(np.arange(points_per_side**2), points_per_side)
    levels = []
    taken = np.zeros(points_per_side**2, np.bool_)
    for stride in (COARSE_STRIDE, COARSE_STRIDE // 2, 1):
        # The middle of each cell: the coarsest level of a grid of 16 is at 2, 6, 10 and 14.
        first = stride // 2 if points_per_side > stride else 0
        is_level = (rows % stride == first) & (columns % stride == first) if stride > 1 else ~taken
        levels.append(np.flatnonzero(is_level & ~taken))
        taken |= is_level
    return [level for level in levels if len(level)]
