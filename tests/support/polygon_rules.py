"""Strict rules of polygons, checked in exact integers and without a geometry library."""

import numpy as np

GAPS_PER_PIXEL = 100
MOST_SIDES = 2500  # every side is compared with every other one


def touching_sides(polygons):
    """Number of pairs of sides that touch, apart from neighbours at their common corner.

    Args:
        polygons: Closed lines, (N, 2) each, in hundredths of a pixel.
    """
    lines = [np.rint(np.asarray(line) * GAPS_PER_PIXEL).astype(np.int64) for line in polygons]
    starts = np.concatenate(lines)
    ends = np.concatenate([np.roll(line, -1, axis=0) for line in lines])
    firsts = np.cumsum([0, *map(len, lines[:-1])])
    following = np.concatenate(
        [first + np.roll(np.arange(len(line)), -1) for first, line in zip(firsts, lines, strict=True)]
    )
    assert len(starts) <= MOST_SIDES
    one, other = np.triu_indices(len(starts), 1)
    is_next, is_before = following[one] == other, following[other] == one
    a, b, c, d = starts[one], ends[one], starts[other], ends[other]
    crosses = (_side(a, b, c) * _side(a, b, d) <= 0) & (_side(c, d, a) * _side(c, d, b) <= 0) & _boxes_meet(a, b, c, d)
    # Neighbours share one corner. They touch elsewhere only if one runs back along the other.
    runs_back = (_side(a, b, c) == 0) & (_side(a, b, d) == 0) & (((b - a) * (d - c)).sum(1) < 0)
    return int(np.count_nonzero(crosses & ~(is_next | is_before)) + np.count_nonzero(runs_back & (is_next | is_before)))


def doubled_area(line):
    """Twice the area inside, positive if the line is clockwise on the screen."""
    x, y = np.asarray(line).T
    return float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y))


def _side(a, b, point):
    (ax, ay), (bx, by), (x, y) = a.T, b.T, point.T
    return np.sign((bx - ax) * (y - ay) - (by - ay) * (x - ax))


def _boxes_meet(a, b, c, d):
    return np.all((np.minimum(a, b) <= np.maximum(c, d)) & (np.minimum(c, d) <= np.maximum(a, b)), axis=1)
