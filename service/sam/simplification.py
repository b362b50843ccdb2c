"""Simplification of a mask's rings together, so that they stay valid polygons."""

import cv2
import numpy as np
from numpy.typing import NDArray

from service.sam.ring_conflicts import (
    Bools,
    Integers,
    Segments,
    SharedCorners,
    crossing,
    degenerate,
    swallowing,
    touching_wrongly,
)

# A pass gives every segment in conflict the corner that it misses most. After so many passes it gets all corners.
_PASSES_OF_SPLITS = 16
_PASSES = 32


def simplify_rings(rings: list[Integers], is_hole: Bools, tolerance_pixels: float) -> list[Integers]:
    """Return exact rings with fewer corners, which still neither cross nor overlap and are nested as before.

    Douglas-Peucker simplifies each ring alone. Then segments that cross, overlap or swallow other rings get corners of
    the exact outline back, until no conflict is left. Rings touch only where the exact rings touch.

    Args:
        rings: Outlines along the edges of pixels, each (n, 2); no ring visits a corner twice.
        is_hole: Whether a ring is a hole, (r,).
        tolerance_pixels: Largest distance of a simplified ring from the outline, above 0, pixels.

    Returns:
        The rings in the same order, each (k, 2) of corners of the exact ring. A hole that vanishes has none, unless a
        part lies in it.
    """
    kept = [_douglas_peucker(ring, tolerance_pixels) for ring in rings]
    for index in np.flatnonzero(is_hole):
        if np.count_nonzero(kept[index]) < 3 or _doubled_area(rings[index][kept[index]]) == 0:
            kept[index][:] = False
            kept[index][0] = True
    firsts = [int(np.argmax(mask)) for mask in kept]
    corners = np.concatenate([np.roll(ring, -first, 0) for ring, first in zip(rings, firsts, strict=True)])
    is_kept = np.concatenate([np.roll(mask, -first) for mask, first in zip(kept, firsts, strict=True)])
    lengths = np.array([len(ring) for ring in rings])
    _repair(corners, lengths, is_kept, is_hole)
    bounds = np.cumsum(lengths)[:-1]
    simplified = [ring[mask] for ring, mask in zip(np.split(corners, bounds), np.split(is_kept, bounds), strict=True)]
    return [ring if len(ring) > 1 else ring[:0] for ring in simplified]


def _douglas_peucker(ring: Integers, tolerance_pixels: float) -> Bools:
    """Return which corners of the ring remain, (n,)."""
    remaining = cv2.approxPolyDP(ring.astype(np.int32), tolerance_pixels, closed=True).reshape(-1, 2).astype(np.int64)
    return np.isin(ring[:, 1] << 32 | ring[:, 0], remaining[:, 1] << 32 | remaining[:, 0])


def _doubled_area(ring: Integers) -> int:
    x, y = ring[:, 0], ring[:, 1]
    return int(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y))


def _repair(corners: Integers, lengths: Integers, is_kept: Bools, is_hole: Bools) -> None:
    """Keep more corners, in place, until the rings have no conflict.

    Args:
        corners: Corners of all exact rings, ring after ring, (m, 2).
        lengths: Number of corners of each ring, (r,).
        is_kept: Whether a corner is kept, (m,); true for the first corner of each ring.
        is_hole: Whether a ring is a hole, (r,).
    """
    ring_of = np.repeat(np.arange(len(lengths)), lengths)
    offsets = np.cumsum(lengths) - lengths
    before, after = np.arange(len(corners)) - 1, np.arange(len(corners)) + 1
    before[offsets], after[offsets + lengths - 1] = offsets + lengths - 1, offsets
    shared = SharedCorners.of(corners, before, after)
    is_shared = np.zeros(len(corners), np.bool_)
    is_shared[shared.one] = True
    added: Integers | Bools = is_kept.copy()
    for done in range(_PASSES):
        is_kept[added] = True
        anchors = _missing_anchors(lengths, ring_of, is_kept, is_shared)
        is_new = np.zeros(len(corners), np.bool_)
        is_new[added] = is_new[anchors] = is_kept[anchors] = True
        segments = Segments.between(corners, ring_of, is_kept)
        marked = degenerate(segments, is_hole) | touching_wrongly(segments, shared)
        marked |= crossing(segments, is_new[segments.starts] | is_new[segments.ends])
        if not marked.any():
            is_drawn = np.bincount(ring_of, is_kept) > 1
            marked = swallowing(segments, *_anchors(corners, ring_of, is_kept, is_shared, is_drawn))
        if not marked.any():
            return
        added = _farthest(segments, marked) if done < _PASSES_OF_SPLITS else _between(segments, marked)
    is_kept[:] = True


def _missing_anchors(lengths: Integers, ring_of: Integers, is_kept: Bools, is_shared: Bools) -> Integers:
    """Return corners to keep so that each drawn ring has a point that is on no other ring.

    That is one corner that is not shared. A ring that has none keeps all, so that the middle of its first edge is on it.
    """
    count = len(lengths)
    is_drawn = np.bincount(ring_of, is_kept, count) > 1
    is_missing = is_drawn & (np.bincount(ring_of, is_kept & ~is_shared, count) == 0)
    if not is_missing.any():
        return np.zeros(0, np.int64)
    candidates = np.flatnonzero(is_missing[ring_of] & ~is_shared)
    rings, first = np.unique(ring_of[candidates], return_index=True)
    is_missing[rings] = False
    return np.concatenate((candidates[first], np.flatnonzero(is_missing[ring_of])))


def _anchors(
    corners: Integers, ring_of: Integers, is_kept: Bools, is_shared: Bools, is_drawn: Bools
) -> tuple[Integers, Integers]:
    """Return a point of each drawn ring that is on no other ring, (p, 2) in half pixels, and the rings, (p,)."""
    alone = np.flatnonzero(is_kept & ~is_shared & is_drawn[ring_of])
    rings, first = np.unique(ring_of[alone], return_index=True)
    alone = alone[first]
    is_rest = is_drawn.copy()
    is_rest[rings] = False
    rest = np.flatnonzero(is_rest)
    edges = np.searchsorted(ring_of, rest)
    points = np.concatenate((2 * corners[alone], corners[edges] + corners[edges + 1]))
    return points, np.concatenate((rings, rest))


def _farthest(segments: Segments, marked: Bools) -> Integers:
    """Return for each marked segment the corner of the exact outline that is farthest from it."""
    corners = _between(segments, marked)
    which = np.searchsorted(segments.starts, corners, side="right") - 1
    first, last = segments.corners[segments.starts[which]], segments.corners[segments.ends[which]]
    along, offset = (last - first).astype(np.float64), (segments.corners[corners] - first).astype(np.float64)
    length = np.maximum(np.sum(along * along, 1), 1.0)
    share = np.clip(np.sum(along * offset, 1) / length, 0.0, 1.0)
    distance = np.sum((offset - along * share[:, None]) ** 2, 1)
    order = np.lexsort((distance, which))
    is_last = np.append(which[order[1:]] != which[order[:-1]], [True] * (len(order) > 0))
    return corners[order[is_last]]


def _between(segments: Segments, marked: Bools) -> Integers:
    """Return the corners of the exact outline that the marked segments leave out."""
    begins, counts = segments.starts + 1, segments.stops - segments.starts - 1
    begins, counts = begins[marked], counts[marked]
    return np.repeat(begins - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
