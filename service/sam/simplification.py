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
_PASSES_OF_SPLITS = 32
_PASSES = 64


def simplify_rings(corners: Integers, lengths: Integers, is_hole: Bools, tolerance_pixels: float) -> Bools:
    """Return which corners of exact rings remain, so that the rings neither cross nor overlap and are nested as before.

    Douglas-Peucker simplifies each ring alone. Then segments that cross, overlap or swallow other rings get corners of
    the exact outline back, until no conflict is left. Rings touch only where the exact rings touch.

    Args:
        corners: Corners of all rings along the edges of pixels, ring after ring, (m, 2). No ring visits a point twice.
        lengths: Number of corners of each ring, (r,).
        is_hole: Whether a ring is a hole, (r,).
        tolerance_pixels: Largest distance of a simplified ring from the outline, above 0, pixels.

    Returns:
        Whether a corner remains, (m,). A hole that vanishes has no corner, unless a part lies in it.
    """
    ring_of = np.repeat(np.arange(len(lengths)), lengths)
    is_kept = _douglas_peucker(corners, lengths, is_hole, tolerance_pixels)
    # Each ring is turned so that it begins with a corner that remains.
    kept = np.flatnonzero(is_kept)
    _, first = np.unique(ring_of[kept], return_index=True)
    offsets = np.cumsum(lengths) - lengths
    order = np.arange(len(corners)) + (kept[first] - offsets)[ring_of]
    order -= np.where(order >= (offsets + lengths)[ring_of], lengths[ring_of], 0)
    is_kept[order] = _repaired(corners[order], ring_of, is_kept[order], is_hole)
    return is_kept


def _douglas_peucker(corners: Integers, lengths: Integers, is_hole: Bools, tolerance_pixels: float) -> Bools:
    """Return which corners Douglas-Peucker keeps in each ring alone, (m,); one corner of a hole that vanishes."""
    ring_of = np.repeat(np.arange(len(lengths)), lengths)
    rings = np.split(corners.astype(np.int32), np.cumsum(lengths)[:-1])
    simplified = [
        _simplified(ring, tolerance_pixels, can_vanish=hole)[:, 0] for ring, hole in zip(rings, is_hole.tolist(), strict=True)
    ]
    low, high = corners.min(0), corners.max(0) + 1
    points = np.concatenate(simplified).astype(np.int64)
    ring_of_points = np.repeat(np.arange(len(lengths)), list(map(len, simplified)))
    width, height = (high - low).tolist()

    def number(rings: Integers, points: Integers) -> Integers:
        x, y = (points - low).T
        return (rings * height + y) * width + x

    return np.isin(number(ring_of, corners), number(ring_of_points, points))


def _simplified(ring: NDArray[np.int32], tolerance_pixels: float, *, can_vanish: bool) -> NDArray[np.int32]:
    """Return the corners that Douglas-Peucker keeps, (k, 1, 2); a single one if the ring vanishes.

    The tolerance is halved until something is left of a ring that may not vanish. All corners are left below 0.5.
    """
    while True:
        simplified: NDArray[np.int32] = cv2.approxPolyDP(ring, tolerance_pixels, closed=True)  # type: ignore[assignment]
        if len(simplified) >= 3 and cv2.contourArea(simplified) > 0:
            return simplified
        if can_vanish or tolerance_pixels < 0.5:
            return simplified[:1]
        tolerance_pixels /= 2


def _repaired(corners: Integers, ring_of: Integers, is_kept: Bools, is_hole: Bools) -> Bools:
    """Return which corners remain after some were added, until the rings have no conflict, (m,).

    Args:
        corners: Corners of all exact rings, ring after ring, (m, 2).
        ring_of: Index of each corner's ring, (m,).
        is_kept: Whether Douglas-Peucker keeps a corner, (m,); true for the first corner of each ring.
        is_hole: Whether a ring is a hole, (r,).
    """
    before, after = _neighbours(ring_of)
    shared = SharedCorners.of(corners, before, after)
    is_shared = np.zeros(len(corners), np.bool_)
    is_shared[shared.one] = True
    is_kept = is_kept.copy()
    added: Integers | Bools = is_kept
    for done in range(_PASSES):
        is_kept[added] = True
        anchors = _missing_anchors(ring_of, is_kept, is_shared)
        is_new = np.zeros(len(corners), np.bool_)
        is_new[added] = is_new[anchors] = is_kept[anchors] = True
        segments = Segments.between(corners, ring_of, is_kept)
        marked = degenerate(segments, is_hole) | touching_wrongly(segments, shared)
        marked |= crossing(segments, is_new[segments.starts] | is_new[segments.ends])
        if not marked.any():
            is_drawn = segments.counts > 1
            marked = swallowing(segments, *_anchors(corners, ring_of, is_kept, is_shared, is_drawn))
            if not marked.any():
                return is_kept & is_drawn[ring_of]
        added = _farthest(segments, marked) if done < _PASSES_OF_SPLITS else _between(segments, marked)
    return np.ones(len(corners), np.bool_)


def _neighbours(ring_of: Integers) -> tuple[Integers, Integers]:
    """Return the index of the corner before and after each corner in its ring, (m,) each."""
    index = np.arange(len(ring_of))
    offsets = np.searchsorted(ring_of, np.arange(ring_of[-1] + 1))
    lasts = np.append(offsets[1:], len(ring_of)) - 1
    before, after = index - 1, index + 1
    before[offsets], after[lasts] = lasts, offsets
    return before, after


def _missing_anchors(ring_of: Integers, is_kept: Bools, is_shared: Bools) -> Integers:
    """Return corners to keep so that each drawn ring has a point that is on no other ring.

    That is one corner that is not shared. A ring that has none keeps all, so that the middle of its first edge is on it.
    """
    count = ring_of[-1] + 1
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
