"""Segments of simplified rings that make a drawing invalid: they cross, overlap, touch, or swallow another ring."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]
Integers = NDArray[np.int64]

# Side of the square cells that sort the segments, for few segments and for many. Few are long. Of many a cell holds a
# bounded number: an exact outline has at most about two edges for each pixel of a cell.
_FEW_SEGMENTS, _LARGE_CELL_PIXELS, _SMALL_CELL_PIXELS = 4096, 16, 4
# Pairs that are tested in one step, to bound the memory.
_CHUNK_PAIRS = 1 << 19
# Bounds of the search for swallowed rings: pairs of a segment and a ring, and edges of their outlines. Beyond them all
# segments that may have swallowed a ring are split.
_MAX_SWALLOWED_PAIRS, _MAX_SWALLOWED_EDGES = 1 << 24, 1 << 22


@dataclass(frozen=True, slots=True, eq=False)
class Segments:
    """The n segments of all simplified rings, ring after ring, each from one kept corner to the next.

    Args:
        corners: Corners of all exact rings, ring after ring, (m, 2). The first corner of each ring is kept.
        starts: Index of each segment's first corner, (n,), rising.
        ends: Index of each segment's last corner, (n,).
        rings: Index of each segment's ring, (n,).
        firsts: Index of the first segment of each ring, (r,).
    """

    corners: Integers
    starts: Integers
    ends: Integers
    rings: Integers
    firsts: Integers

    @classmethod
    def between(cls, corners: Integers, ring_of: Integers, is_kept: Bools) -> "Segments":
        """Return the segments between kept corners.

        Args:
            corners: Corners of all exact rings, ring after ring, (m, 2).
            ring_of: Index of each corner's ring, (m,).
            is_kept: Whether a corner is kept, (m,); true for the first corner of each ring.
        """
        starts = np.flatnonzero(is_kept)
        rings = ring_of[starts]
        begins = np.ones(len(starts), np.bool_)
        begins[1:] = rings[1:] != rings[:-1]
        firsts = np.flatnonzero(begins)
        ends = np.append(starts[1:], 0)
        ends[np.append(firsts[1:], len(starts)) - 1] = starts[firsts]
        return cls(corners, starts, ends, rings, firsts)

    @property
    def stops(self) -> Integers:
        """Index after the last corner of the outline that a segment replaces, its end not included, (n,)."""
        return np.append(self.starts[1:], len(self.corners))

    @property
    def left_out(self) -> Integers:
        """Number of corners of the exact outline that each segment leaves out, (n,); 0 for its edges."""
        return self.stops - self.starts - 1

    @property
    def counts(self) -> Integers:
        """Number of segments of each ring, (r,)."""
        return np.diff(self.firsts, append=len(self.starts))

    @property
    def doubled_areas(self) -> Integers:
        """Twice the area inside each ring, (r,); negative for a hole."""
        areas: Integers = np.add.reduceat(_cross(self.corners[self.starts], self.corners[self.ends]), self.firsts)
        return areas

    @property
    def previous(self) -> Integers:
        """Index of the segment that ends where a segment begins, (n,)."""
        previous = np.arange(len(self.starts)) - 1
        previous[self.firsts] = np.append(self.firsts[1:], len(self.starts)) - 1
        return previous


@dataclass(frozen=True, slots=True, eq=False)
class SharedCorners:
    """The corners at which two rings touch, seen from both rings.

    Args:
        one: Index of the corner in the one ring, (k,).
        other: Index of the same point in the other ring, (k,).
        is_left: Whether the other ring is on the left hand of the one, (k,).
    """

    one: Integers
    other: Integers
    is_left: Bools

    @classmethod
    def of(cls, corners: Integers, before: Integers, after: Integers) -> "SharedCorners":
        """Return the shared corners of exact rings.

        Args:
            corners: Corners of all rings, (m, 2). A ring visits a point once, and at most two rings meet at it.
            before: Index of the corner before each corner in its ring, (m,).
            after: Index of the corner after each corner in its ring, (m,).
        """
        keys = corners[:, 1] << 32 | corners[:, 0]
        order = np.argsort(keys, kind="stable")
        twins = np.flatnonzero(keys[order[1:]] == keys[order[:-1]])
        one = np.concatenate((order[twins], order[twins + 1]))
        other = np.concatenate((order[twins + 1], order[twins]))
        is_left = _is_left(corners, one, corners[before[one]], corners[after[one]], corners[before[other]])
        return cls(one, other, is_left)


def degenerate(segments: Segments, is_hole: Bools) -> Bools:
    """Return the segments of rings without an inside, or with the outside in, and those that run back; (n,).

    Args:
        segments: Segments of all rings.
        is_hole: Whether a ring is a hole, (r,).
    """
    first, last = segments.corners[segments.starts], segments.corners[segments.ends]
    counts, areas = segments.counts, segments.doubled_areas
    is_wrong = (counts < 3) | (np.where(is_hole, -areas, areas) <= 0)
    marked = is_wrong[segments.rings]
    previous = segments.previous
    back, ahead = first[previous] - first, last - first
    runs_back = (_cross(back, ahead) == 0) & (_dot(back, ahead) > 0)
    marked |= runs_back
    marked[previous[runs_back]] = True
    return marked


def touching_wrongly(segments: Segments, shared: SharedCorners) -> Bools:
    """Return the segments at shared corners where one ring passes through the other, (n,)."""
    corners, previous = segments.corners, segments.previous
    segment_of = np.full(len(corners), -1)
    segment_of[segments.starts] = np.arange(len(segments.starts))
    one, other = segment_of[shared.one], segment_of[shared.other]
    both = np.flatnonzero((one >= 0) & (other >= 0))
    marked = np.zeros(len(segments.starts), np.bool_)
    if len(both) == 0:
        return marked
    one, other, at = one[both], other[both], shared.one[both]
    before, after = corners[segments.starts[previous[one]]], corners[segments.ends[one]]
    is_right = np.ones(len(both), np.bool_)
    for direction in (corners[segments.starts[previous[other]]], corners[segments.ends[other]]):
        is_right &= _is_left(corners, at, before, after, direction) == shared.is_left[both]
    wrong = np.concatenate((one[~is_right], other[~is_right]))
    marked[wrong] = True
    marked[previous[wrong]] = True
    return marked


def crossing(segments: Segments, is_new: Bools) -> Bools:
    """Return the segments to split because they meet another one elsewhere than at a common corner, (n,).

    Args:
        segments: Segments of all rings.
        is_new: Segments that are tested against all others, (n,).
    """
    marked = np.zeros(len(segments.starts), np.bool_)
    first, last = segments.corners[segments.starts], segments.corners[segments.ends]
    low, high = np.minimum(first, last), np.maximum(first, last)
    left_out = segments.left_out
    for one, other in _close_pairs(segments, is_new, left_out > 0):
        overlap = (low[one] <= high[other]) & (low[other] <= high[one])
        near = np.flatnonzero(overlap[:, 0] & overlap[:, 1])
        near = near[_conflict(segments, one[near], other[near])]
        # The one that leaves out more is split. Two edges of the exact outline are never in conflict.
        difference = left_out[one[near]] - left_out[other[near]]
        marked[one[near[difference >= 0]]] = True
        marked[other[near[difference <= 0]]] = True
    return marked


def swallowing(segments: Segments, doubled_points: Integers) -> Bools:
    """Return the segments that have another ring between themselves and the outline that they replace, (n,).

    Args:
        segments: Segments that cross nowhere.
        doubled_points: A point of each ring, on its simplified and its exact outline and on no other, (r, 2), in half
            pixels.
    """
    marked = np.zeros(len(segments.starts), np.bool_)
    low, high = (
        2 * reduce(reduce.reduceat(segments.corners, segments.starts), segments.corners[segments.ends])
        for reduce in (np.minimum, np.maximum)
    )
    rings = np.argsort(doubled_points[:, 0])
    points = doubled_points[rings]
    replaces = np.flatnonzero(segments.left_out > 0)
    from_point = np.searchsorted(points[:, 0], low[replaces, 0], side="right")
    to_point = np.maximum(np.searchsorted(points[:, 0], high[replaces, 0], side="left"), from_point)
    if np.sum(to_point - from_point) > _MAX_SWALLOWED_PAIRS:
        marked[replaces[to_point > from_point]] = True
        return marked
    edges = 0
    for which, at in _ranges(from_point, to_point):
        segment, point = replaces[which], points[at]
        is_near = (point[:, 1] > low[segment, 1]) & (point[:, 1] < high[segment, 1])
        near = np.flatnonzero(is_near & (rings[at] != segments.rings[segment]))
        segment, point = segment[near], point[near]
        edges += int(np.sum(segments.left_out[segment] + 2))
        marked[segment if edges > _MAX_SWALLOWED_EDGES else segment[_encloses(segments, segment, point)]] = True
    return marked


def _encloses(segments: Segments, segment: Integers, doubled_points: Integers) -> Bools:
    """Return whether a point is between a segment and the outline that it replaces, (k,).

    Args:
        segments: Segments of all rings.
        segment: Index of each pair's segment, (k,).
        doubled_points: Each pair's point, which is on no line, (k, 2), in half pixels.
    """
    starts, stops, ends = segments.starts[segment], segments.stops[segment], segments.ends[segment]
    hits = np.zeros(len(segment), np.int64)
    for pair, corner in _ranges(starts, stops + 1):
        # The corners of the outline, then the segment's end. From there the segment goes back to its start.
        here = np.where(corner == stops[pair], ends[pair], corner)
        ahead = np.where(
            corner == stops[pair], starts[pair], np.where(corner + 1 == stops[pair], ends[pair], corner + 1)
        )
        is_hit = _hits(2 * segments.corners[here], 2 * segments.corners[ahead], doubled_points[pair])
        hits += np.bincount(pair[is_hit], minlength=len(segment))
    is_odd: Bools = hits % 2 == 1
    return is_odd


def _hits(here: Integers, ahead: Integers, point: Integers) -> Bools:
    """Return whether the ray from a point to the right meets the edge from `here` to `ahead`."""
    goes_down = here[:, 1] <= point[:, 1]
    spans = goes_down != (ahead[:, 1] <= point[:, 1])
    is_hit: Bools = spans & ((_cross(ahead - here, point - here) > 0) == goes_down)
    return is_hit


def _close_pairs(segments: Segments, is_new: Bools, is_free: Bools) -> Iterator[tuple[Integers, Integers]]:
    """Yield pairs of segments with a common cell, some of them several times.

    Args:
        segments: Segments of all rings.
        is_new: Segments one of which is in each pair, (n,).
        is_free: Segments one of which is in each pair, too, (n,).
    """
    cells, owners = _cells(segments)
    order = np.argsort(cells, kind="stable")
    cells, owners = cells[order], owners[order]
    begins = np.ones(len(cells), np.bool_)
    begins[1:] = cells[1:] != cells[:-1]
    group = np.cumsum(begins) - 1
    keep = ((np.bincount(group, is_new[owners]) > 0) & (np.bincount(group, is_free[owners]) > 0))[group]
    owners, group = owners[keep], group[keep]
    ends = np.searchsorted(group, group, side="right")
    for one, other in _ranges(np.arange(1, len(owners) + 1), ends):
        first, second = owners[one], owners[other]
        is_pair = (first != second) & (is_new[first] | is_new[second]) & (is_free[first] | is_free[second])
        yield first[is_pair], second[is_pair]


def _cells(segments: Segments) -> tuple[Integers, Integers]:
    """Return the cells that the segments pass, and the segment of each."""
    first = segments.corners[segments.starts]
    step = segments.corners[segments.ends] - first
    cell_pixels = _LARGE_CELL_PIXELS if len(first) <= _FEW_SEGMENTS else _SMALL_CELL_PIXELS
    # A piece is shorter than a cell, so that it passes at most two columns and two rows of cells.
    pieces = np.maximum(1, -(-np.abs(step).max(1) // (cell_pixels - 1)))
    owners = np.repeat(np.arange(len(first)), pieces)
    within = np.arange(len(owners)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    stride = step[owners] / pieces[owners, None]
    piece = first[owners] + stride * within[:, None]
    # The margin is more than what rounding may lose.
    low = np.floor((np.minimum(piece, piece + stride) - 1e-6) / cell_pixels).astype(np.int64)
    high = np.floor((np.maximum(piece, piece + stride) + 1e-6) / cell_pixels).astype(np.int64)
    wide, tall = high[:, 0] > low[:, 0], high[:, 1] > low[:, 1]
    parts = [
        (low, np.ones(len(owners), np.bool_)),
        (np.stack((high[:, 0], low[:, 1]), 1), wide),
        (np.stack((low[:, 0], high[:, 1]), 1), tall),
        (high, wide & tall),
    ]
    cells = np.concatenate([cell[has] for cell, has in parts])
    return cells[:, 1] << 32 | cells[:, 0] + 1, np.concatenate([owners[has] for _, has in parts])


def _conflict(segments: Segments, one: Integers, other: Integers) -> Bools:
    """Return whether two segments meet elsewhere than at a common corner; their boxes overlap, (k,)."""
    corners, starts, ends = segments.corners, segments.starts, segments.ends
    a, b, c, d = corners[starts[one]], corners[ends[one]], corners[starts[other]], corners[ends[other]]
    side_c, side_d = np.sign(_cross(b - a, c - a)), np.sign(_cross(b - a, d - a))
    side_a, side_b = np.sign(_cross(d - c, a - c)), np.sign(_cross(d - c, b - c))
    meets = (side_c * side_d <= 0) & (side_a * side_b <= 0)
    # Neighbours in a ring meet at their common corner. `degenerate` finds those that run back.
    meets &= (ends[one] != starts[other]) & (ends[other] != starts[one])
    # Different rings may touch at a corner of both, as the exact ones do, unless they run along each other from there.
    for p, q, is_start_p, is_start_q in ((a, c, 1, 1), (a, d, 1, 0), (b, c, 0, 1), (b, d, 0, 0)):
        is_common = np.all(p == q, 1)
        away_p = (b if is_start_p else a) - p
        away_q = (d if is_start_q else c) - q
        meets &= ~is_common | ((_cross(away_p, away_q) == 0) & (_dot(away_p, away_q) > 0))
    result: Bools = meets
    return result


def _is_left(corners: Integers, at: Integers, before: Integers, after: Integers, point: Integers) -> Bools:
    """Return whether points are on the left hand of ways from `before` by the corner `at` to `after`."""
    middle = corners[at]
    back, ahead, away = before - middle, after - middle, point - middle
    turn = _cross(ahead, back)
    is_after, is_before = _cross(ahead, away) > 0, _cross(away, back) > 0
    return np.where(turn > 0, is_after & is_before, np.where(turn < 0, is_after | is_before, is_after))


def _ranges(begins: Integers, ends: Integers) -> Iterator[tuple[Integers, Integers]]:
    """Yield (i, number) for each number from begins[i] to ends[i] - 1, in chunks that never cut an i in two."""
    counts = ends - begins
    total = np.cumsum(counts)
    at = 0
    while at < len(counts):
        done = total[at - 1] if at else 0
        to = max(at + 1, int(np.searchsorted(total, done + _CHUNK_PAIRS, side="right")))
        count = counts[at:to]
        index = np.repeat(np.arange(at, to), count)
        if len(index):
            offset = np.repeat(np.cumsum(count) - count, count)
            yield index, begins[index] + np.arange(len(index)) - offset
        at = to


def _cross(a: Integers, b: Integers) -> Integers:
    result: Integers = a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]
    return result


def _dot(a: Integers, b: Integers) -> Integers:
    result: Integers = a[:, 0] * b[:, 0] + a[:, 1] * b[:, 1]
    return result
