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
# Outlines with very many corners get fewer passes, to bound the time.
_PASSES_OF_SPLITS, _CORNERS_OF_ALL_PASSES = 16, 4_000_000
_PASSES = 64


def simplify_rings(
    corners: Integers, lengths: Integers, parents: list[int], is_hole: Bools, tolerance_pixels: float
) -> Bools:
    """Return which corners of exact rings remain, so that the rings neither cross nor overlap and are nested as before.

    Douglas-Peucker simplifies each ring alone. Then segments that cross, overlap or swallow other rings get corners of
    the exact outline back, until no conflict is left. Rings touch only where the exact rings touch.

    Args:
        corners: Corners of all rings along the edges of pixels, ring after ring, (m, 2). No ring visits a point twice.
        lengths: Number of corners of each ring, (r,).
        parents: The exterior of each hole, and the hole around each exterior or -1, r indices.
        is_hole: Whether a ring is a hole, (r,).
        tolerance_pixels: Tolerance of Douglas-Peucker, above 0, pixels. A ring is at most twice as far from its
            outline. OpenCV may exceed the tolerance: it removes nearly straight corners afterwards.

    Returns:
        Whether a corner remains, (m,). No corner of a hole that vanishes remains, and none of the rings in it.
    """
    count = len(corners)
    rings = np.split(corners.astype(np.int32), np.cumsum(lengths)[:-1])
    holes = is_hole.tolist()
    simplified = [
        _douglas_peucker(ring, tolerance_pixels, can_vanish=hole) for ring, hole in zip(rings, holes, strict=True)
    ]
    is_drawn = _drawn([len(ring) > 0 for ring in simplified], parents)
    drawn = np.flatnonzero(is_drawn[np.repeat(np.arange(len(lengths)), lengths)])
    corners, lengths, is_hole = corners[drawn], lengths[is_drawn], is_hole[is_drawn]
    ring_of = np.repeat(np.arange(len(lengths)), lengths)
    is_kept = _find(corners, ring_of, [ring for ring, is_one in zip(simplified, is_drawn, strict=True) if is_one])
    order = _turned(lengths, ring_of, is_kept)
    remains = np.zeros(count, np.bool_)
    remains[drawn[order]] = _repaired(corners[order], ring_of, is_kept[order], is_hole, 2 * tolerance_pixels)
    return remains


def _douglas_peucker(ring: NDArray[np.int32], tolerance_pixels: float, *, can_vanish: bool) -> NDArray[np.int32]:
    """Return the corners that remain in a ring, (k, 2); none if it vanishes.

    The tolerance is lowered until something remains of a ring that cannot vanish. Below half a pixel everything does.
    """
    simplified = _approximated(ring, tolerance_pixels)
    if can_vanish or len(simplified):
        return simplified
    _, _, width, height = cv2.boundingRect(ring)
    tolerance_pixels = min(tolerance_pixels, max(width, height) / 2)
    while tolerance_pixels >= 0.5:
        tolerance_pixels *= 0.75
        simplified = _approximated(ring, tolerance_pixels)
        if len(simplified):
            return simplified
    return ring


def _approximated(ring: NDArray[np.int32], tolerance_pixels: float) -> NDArray[np.int32]:
    """Return the corners that Douglas-Peucker keeps, (k, 2); none if they have no area."""
    corners: NDArray[np.int32] = cv2.approxPolyDP(ring, tolerance_pixels, closed=True)[:, 0]  # type: ignore[assignment]
    return corners if len(corners) >= 3 and cv2.contourArea(corners) > 0 else corners[:0]


def _drawn(remains: list[bool], parents: list[int]) -> Bools:
    """Return whether a ring is drawn, (r,): it remains, and so do all holes around it."""
    is_drawn: dict[int, bool] = {-1: True}
    for ring in range(len(remains)):
        way = [ring]
        while way[-1] not in is_drawn:
            way.append(parents[way[-1]])
        for index in reversed(way[:-1]):
            is_drawn[index] = remains[index] and is_drawn[parents[index]]
    return np.array([is_drawn[ring] for ring in range(len(remains))])


def _find(corners: Integers, ring_of: Integers, simplified: list[NDArray[np.int32]]) -> Bools:
    """Return which corners are among the points of their simplified ring, (m,)."""
    points = np.concatenate(simplified).astype(np.int64)
    ring_of_points = np.repeat(np.arange(len(simplified)), [len(ring) for ring in simplified])
    low = corners.min(0)
    width, height = (corners.max(0) + 1 - low).tolist()

    def number(rings: Integers, points: Integers) -> Integers:
        x, y = (points - low).T
        result: Integers = (rings * height + y) * width + x
        return result

    return np.isin(number(ring_of, corners), number(ring_of_points, points))


def _turned(lengths: Integers, ring_of: Integers, is_kept: Bools) -> Integers:
    """Return the order of the corners in which each ring begins with a corner that remains, (m,)."""
    kept = np.flatnonzero(is_kept)
    _, first = np.unique(ring_of[kept], return_index=True)
    offsets = np.cumsum(lengths) - lengths
    order: Integers = np.arange(len(ring_of)) + (kept[first] - offsets)[ring_of]
    order -= np.where(order >= (offsets + lengths)[ring_of], lengths[ring_of], 0)
    return order


def _repaired(corners: Integers, ring_of: Integers, is_kept: Bools, is_hole: Bools, max_distance: float) -> Bools:
    """Return which corners remain after some were added, until the rings have no conflict, (m,).

    Args:
        corners: Corners of all exact rings, ring after ring, (m, 2).
        ring_of: Index of each corner's ring, (m,).
        is_kept: Whether Douglas-Peucker keeps a corner, (m,); true for the first corner of each ring.
        is_hole: Whether a ring is a hole, (r,).
        max_distance: Largest distance of a left out corner from the ring, pixels.
    """
    before, after = _neighbours(ring_of)
    shared = SharedCorners.of(corners, before, after)
    is_shared = np.zeros(len(corners), np.bool_)
    is_shared[shared.one] = True
    is_kept, added = is_kept.copy(), np.flatnonzero(is_kept)
    passes_of_splits = min(_PASSES_OF_SPLITS, _CORNERS_OF_ALL_PASSES // len(corners))
    for done in range(_PASSES):
        is_kept[added] = True
        anchors = _missing_anchors(ring_of, is_kept, is_shared)
        is_new = np.zeros(len(corners), np.bool_)
        is_new[added] = is_new[anchors] = is_kept[anchors] = True
        segments = Segments.between(corners, ring_of, is_kept)
        is_new_segment = is_new[segments.starts] | is_new[segments.ends]
        marked = _too_far(segments, is_new_segment, max_distance) | degenerate(segments, is_hole)
        marked |= touching_wrongly(segments, shared)
        marked |= crossing(segments, is_new_segment)
        if not marked.any():
            marked = swallowing(segments, _anchors(corners, ring_of, is_kept, is_shared))
        if not marked.any():
            return is_kept
        added = _farthest(segments, marked) if done < passes_of_splits else _between(segments, marked)
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
    """Return corners to keep so that each ring has a point that is on no other ring.

    That is one corner that is not shared. A ring without such a corner keeps all, so that its first edge remains.
    """
    has_anchor = np.bincount(ring_of, is_kept & ~is_shared) > 0
    if has_anchor.all():
        return np.zeros(0, np.int64)
    candidates = np.flatnonzero(~has_anchor[ring_of] & ~is_shared)
    rings, first = np.unique(ring_of[candidates], return_index=True)
    has_anchor[rings] = True
    return np.concatenate((candidates[first], np.flatnonzero(~has_anchor[ring_of])))


def _anchors(corners: Integers, ring_of: Integers, is_kept: Bools, is_shared: Bools) -> Integers:
    """Return a point of each ring that is on no other ring, (r, 2), in half pixels."""
    firsts = np.searchsorted(ring_of, np.arange(ring_of[-1] + 1))
    points = corners[firsts] + corners[firsts + 1]
    alone = np.flatnonzero(is_kept & ~is_shared)
    points[ring_of[alone]] = 2 * corners[alone]
    return points


def _too_far(segments: Segments, is_new: Bools, max_distance: float) -> Bools:
    """Return the new segments that leave out a corner farther from them than `max_distance`, in pixels, (n,)."""
    marked = np.zeros(len(segments.starts), np.bool_)
    which, squared_distances = _deviations(segments, _between(segments, is_new))
    marked[which[squared_distances > max_distance**2]] = True
    return marked


def _farthest(segments: Segments, marked: Bools) -> Integers:
    """Return for each marked segment the corner of the exact outline that is farthest from it."""
    corners = _between(segments, marked)
    which, squared_distances = _deviations(segments, corners)
    # Many steps of a staircase are equally far. The one in the middle leaves least work to the next pass.
    from_middle = np.abs(2 * corners - segments.starts[which] - segments.stops[which])
    order = np.lexsort((-from_middle, np.round(squared_distances, 3), which))
    farthest: Integers = corners[order[np.diff(which[order], append=-1) != 0]]
    return farthest


def _deviations(segments: Segments, corners: Integers) -> tuple[Integers, NDArray[np.float64]]:
    """Return for corners that are left out their segment and the square of their distance from it, (k,) each."""
    which = np.searchsorted(segments.starts, corners, side="right") - 1
    first, last = segments.corners[segments.starts[which]], segments.corners[segments.ends[which]]
    along, offset = (last - first).astype(np.float64), (segments.corners[corners] - first).astype(np.float64)
    length = np.maximum(np.sum(along * along, 1), 1.0)
    share = np.clip(np.sum(along * offset, 1) / length, 0.0, 1.0)
    return which, np.sum((offset - along * share[:, None]) ** 2, 1)


def _between(segments: Segments, marked: Bools) -> Integers:
    """Return the corners of the exact outline that the marked segments leave out."""
    begins, counts = segments.starts[marked] + 1, segments.left_out[marked]
    corners: Integers = np.repeat(begins - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
    return corners
