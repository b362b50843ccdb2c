"""Outlines of masks as polygons without holes, for annotation formats that have none."""

from collections.abc import Iterable
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

# Directions 0 to 3: east, south, west, north. A line always has the inside on its right.
_STEPS: Final = ((1, 0), (0, 1), (-1, 0), (0, -1))
_EAST, _WEST = 1, 4
# Half the width of a cut is one gap.
_GAPS_PER_PIXEL = 100


def _next_direction(borders: int, direction: int) -> int:
    """The direction after a corner: right before straight, so that pixels that touch at a corner stay apart."""
    candidates = ((direction + turn) % 4 for turn in (1, 0, 3, 2))
    return next((candidate for candidate in candidates if borders >> candidate & 1), direction)


_NEXT: Final = tuple(tuple(_next_direction(borders, direction) for direction in range(4)) for borders in range(16))


class _Visit(NamedTuple):
    """A corner at which a line bends, or that is visited several times.

    Args:
        x: Column of the corner.
        y: Row of the corner.
        before: Direction of the side before it.
        after: Direction of the side after it.
        is_alone: Whether the corner is visited once.
    """

    x: int
    y: int
    before: int
    after: int
    is_alone: bool


def polygons_of(pixels: NDArray[np.bool_]) -> list[NDArray[np.float64]]:
    """The connected parts of a mask as polygons without holes.

    Coordinates count corners of pixels: pixel (x, y) is the square from (x, y) to (x + 1, y + 1). Pixels that touch
    only at a corner belong to different parts. A cut leads from each hole to the line on its left. Cuts run along
    borders of pixels and are 1/50 pixel wide. Corners at which a line would touch itself or another line are moved
    inwards by 1/100 pixel. Each polygon is therefore valid: no two of its sides touch, and no two polygons touch. The
    centres of pixels inside are the same as in the mask.

    Args:
        pixels: (H, W) bool, True inside the mask.

    Returns:
        (N, 2) corners x, y of each part, clockwise on the screen. Parts are ordered by their first row and column.
    """
    rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
    if len(rows) == 0:
        return []
    top, left = int(rows[0]), int(columns[0])
    crop = pixels[top : rows[-1] + 1, left : columns[-1] + 1]
    borders, width = _borders(crop), crop.shape[1] + 1
    lines = list(_walks(borders, width))
    holes = [line for line in lines if _doubled_area(line) < 0]
    for hole in holes:
        _cut(borders, width, min(hole))
    if holes:
        lines = list(_walks(borders, width))
    return [_corners(line) / _GAPS_PER_PIXEL + (left, top) for line in lines]


def _borders(crop: NDArray[np.bool_]) -> bytearray:
    """For each corner of the pixels, row by row, a bit for every direction in which a border leaves it."""
    padded = np.pad(crop, 1)
    north_west, north_east = padded[:-1, :-1], padded[:-1, 1:]
    south_west, south_east = padded[1:, :-1], padded[1:, 1:]
    pairs = ((south_east, north_east), (south_west, south_east), (north_west, south_west), (north_east, north_west))
    borders = np.zeros(north_west.shape, np.uint8)
    for direction, (right, left) in enumerate(pairs):
        borders |= (right & ~left).astype(np.uint8) << direction
    return bytearray(borders.tobytes())


def _cut(borders: bytearray, width: int, corner: _Visit) -> None:
    """Cut from the leftmost corner of a hole, the upper one of several, to the next line on the left.

    Both pixels beside each border on the way are inside. At the end another line passes.
    """
    at = corner.y * width + corner.x
    is_reached = False
    while not is_reached:
        borders[at] |= _WEST
        at -= 1
        is_reached = borders[at] != 0
        borders[at] |= _EAST


def _walks(borders: bytearray, width: int) -> Iterable[list[_Visit]]:
    """All lines along the borders, by their first row and column."""
    steps = tuple(y * width + x for x, y in _STEPS)
    is_walked = bytearray(len(borders))  # by corner: its border to the east; every line has such a border
    for start in np.flatnonzero(np.frombuffer(bytes(borders), np.uint8) & _EAST).tolist():
        if is_walked[start]:
            continue
        visits = []
        at, direction = start, 0
        while True:
            if direction == 0:
                if is_walked[at]:
                    break
                is_walked[at] = 1
            at += steps[direction]
            code = borders[at]
            after = _NEXT[code][direction]
            is_alone = code & (code - 1) == 0
            if after != direction or not is_alone:
                visits.append(_Visit(at % width, at // width, direction, after, is_alone))
            direction = after
        yield visits


def _doubled_area(line: list[_Visit]) -> int:
    """Twice the area inside; positive for outer lines, negative for holes."""
    x, y = np.array([visit[:2] for visit in line], np.int64).T
    return int(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y))


def _corners(line: list[_Visit]) -> NDArray[np.int64]:
    """The corners of a line in gaps, (N, 2), without those on a straight side."""
    points = np.array([_moved(visit) for visit in line], np.int64)
    before, after = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
    is_corner: NDArray[np.bool_] = before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]
    return points[is_corner]


def _moved(visit: _Visit) -> tuple[int, int]:
    """A corner in gaps. One that is visited several times is moved to the inside, which is on the right."""
    x, y = visit.x * _GAPS_PER_PIXEL, visit.y * _GAPS_PER_PIXEL
    if visit.is_alone:
        return x, y
    for direction in {visit.before, visit.after}:
        right, down = _STEPS[(direction + 1) % 4]
        x, y = x + right, y + down
    return x, y
