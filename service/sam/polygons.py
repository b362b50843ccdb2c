"""Masks as polygons: outlines and holes along the edges of the pixels."""

from typing import NamedTuple, TypedDict

import numpy as np
from numpy.typing import NDArray

from service.sam.masks import Mask, row_changes
from service.sam.simplification import simplify_rings

Ring = list[list[float]]


class Polygon(TypedDict):
    """One connected part of a mask.

    Attributes:
        exterior: Outline, a ring of [x, y] whose first corner is not repeated at the end.
        holes: Rings of the holes.
    """

    exterior: Ring
    holes: list[Ring]


class Outline(NamedTuple):
    """The outline of one connected part of a mask.

    Attributes:
        area: Area inside the outline, with the holes, pixels.
        ring: Outline, a ring of [x, y] whose first corner is not repeated at the end.
    """

    area: float
    ring: Ring


def encode_polygons(mask: Mask, *, tolerance_pixels: float = 0.0) -> list[Polygon]:
    """Return the outlines of a mask along the edges of its pixels, one polygon for each connected part.

    Coordinates count pixel corners: pixel (x, y) is the square from (x, y) to (x + 1, y + 1). Pixels that touch only at
    a corner belong to different parts. No ring visits a corner twice. With tolerance 0 filling the rings gives the mask
    back exactly.

    Args:
        mask: Mask to encode.
        tolerance_pixels: Tolerance of Douglas-Peucker, pixels; a simplified ring is at most twice as far from the
            outline. A hole that vanishes is dropped with the parts in it. An exterior that would vanish gets a lower
            tolerance. The polygons stay valid, see `simplify_rings`.

    Returns:
        Parts by the first row and column of their outline; exteriors run clockwise on the screen, holes the other way.
    """
    origin = np.array(mask.box[:2])
    rings = [ring + origin for ring in _simple_rings(_walks(mask.crop))]
    if not rings:
        return []
    corners, lengths = np.concatenate(rings), np.array([len(ring) for ring in rings])
    is_hole = _doubled_areas(corners, lengths) < 0
    parents = _parents(corners, lengths, is_hole)
    if tolerance_pixels > 0.0:
        remains = simplify_rings(corners, lengths, parents, is_hole, tolerance_pixels)
        rings = [ring[mask] for ring, mask in zip(rings, np.split(remains, np.cumsum(lengths)[:-1]), strict=True)]
    lists = [ring.tolist() for ring in rings]
    parts: dict[int, Polygon] = {
        index: {"exterior": ring, "holes": []} for index, ring in enumerate(lists) if ring and not is_hole[index]
    }
    for index, ring in enumerate(lists):
        if ring and is_hole[index]:
            parts[parents[index]]["holes"].append(ring)
    return list(parts.values())


def encode_outlines(mask: Mask, *, tolerance_pixels: float = 0.0) -> list[Outline]:
    """Return the exteriors of `encode_polygons`, largest first, for tools that do not support holes.

    Args:
        mask: Mask to encode.
        tolerance_pixels: Tolerance of the simplification, pixels; see `encode_polygons`.
    """
    rings = [polygon["exterior"] for polygon in encode_polygons(mask, tolerance_pixels=tolerance_pixels)]
    if not rings:
        return []
    lengths = np.array([len(ring) for ring in rings])
    areas = _doubled_areas(np.concatenate([np.array(ring, np.int64) for ring in rings]), lengths) / 2
    outlines = [Outline(area, ring) for area, ring in zip(areas.tolist(), rings, strict=True)]
    return sorted(outlines, key=lambda outline: -outline.area)


def _walks(crop: NDArray[np.bool_]) -> list[NDArray[np.int64]]:
    """Return the closed walks along the mask's border, with the mask on the right hand; (n, 2) corners each.

    Horizontal and vertical edges of a border alternate. So the horizontal edges are found row by row. In each column
    their ends, taken in pairs from the top, are the vertical edges. Where two pixels of the mask touch at a corner,
    four edges meet: there the walk changes its direction so that the pixels stay apart.
    """
    rows, columns = row_changes(crop)
    if len(rows) == 0:
        return []
    height = len(crop)
    enters = crop[np.minimum(rows, height - 1), columns] & (rows < height)
    opens = np.ones(len(rows), np.bool_)
    opens[1:] = (rows[1:] != rows[:-1]) | (columns[1:] != columns[:-1] + 1) | (enters[1:] != enters[:-1])
    starts = np.flatnonzero(opens)
    stops = np.append(starts[1:], len(rows)) - 1
    edge_rows, left, right, enters = rows[starts], columns[starts], columns[stops] + 1, enters[starts]
    count = len(starts)

    # Ends 0 .. count-1 are the left ones, count .. 2*count-1 the right ones. Where four edges meet, the end of the edge
    # above mask pixels belongs to the vertical edge that goes down. So it sorts after the other end.
    end_columns, end_rows = np.concatenate((left, right)), np.tile(edge_rows, 2)
    order = np.lexsort((np.tile(enters, 2), end_rows, end_columns))
    partner = np.empty(2 * count, np.int64)
    partner[order[0::2]], partner[order[1::2]] = order[1::2], order[0::2]

    # Above mask pixels the walk goes right, below them left, so that the mask is always on the right hand.
    edges = np.arange(count)
    head = np.where(enters, left, right)
    tail = np.where(enters, right, left)
    following = (partner[np.where(enters, edges + count, edges)] % count).tolist()
    corners = np.stack((np.stack((head, edge_rows), 1), np.stack((tail, edge_rows), 1)), 1)  # (edges, 2 ends, 2)
    walks, is_seen = [], bytearray(count)
    for start in range(count):
        walk, edge = [], start
        while not is_seen[edge]:
            is_seen[edge] = 1
            walk.append(edge)
            edge = following[edge]
        if walk:
            walks.append(corners[walk].reshape(-1, 2))
    return walks


def _simple_rings(walks: list[NDArray[np.int64]]) -> list[NDArray[np.int64]]:
    """Return the walks cut where they come back to a corner, so that every ring visits a corner once."""
    if not walks:
        return []
    corners = np.concatenate(walks)
    walk_of = np.repeat(np.arange(len(walks)), [len(walk) for walk in walks])
    keys = corners[:, 1] << 32 | corners[:, 0]
    order = np.lexsort((walk_of, keys))
    keys, walk_of = keys[order], walk_of[order]
    comes_back = set(walk_of[1:][(keys[1:] == keys[:-1]) & (walk_of[1:] == walk_of[:-1])].tolist())
    return [ring for index, walk in enumerate(walks) for ring in (_cut(walk) if index in comes_back else [walk])]


def _cut(walk: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    rings: list[list[int]] = []
    open_corners: list[int] = []
    position: dict[tuple[int, int], int] = {}
    corners = list(map(tuple, walk.tolist()))
    for index, corner in enumerate(corners):
        if corner in position:
            since = position[corner]
            rings.append(open_corners[since:])
            for closed in open_corners[since:]:
                del position[corners[closed]]
            del open_corners[since:]
        position[corner] = len(open_corners)
        open_corners.append(index)
    return [walk[ring] for ring in [open_corners, *rings]]


def _doubled_areas(corners: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return twice the area inside each ring, (r,); positive for an exterior, negative for a hole.

    Args:
        corners: Corners of all rings, ring after ring, (m, 2).
        lengths: Number of corners of each ring, (r,).
    """
    ahead = _following(corners, lengths)
    doubled = corners[:, 0] * ahead[:, 1] - ahead[:, 0] * corners[:, 1]
    areas: NDArray[np.int64] = np.add.reduceat(doubled, np.cumsum(lengths) - lengths)
    return areas


def _following(corners: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the corner after each corner in its ring, (m, 2)."""
    stops = np.cumsum(lengths)
    following = np.empty_like(corners)
    following[:-1] = corners[1:]
    following[stops - 1] = corners[stops - lengths]
    return following


def _parents(corners: NDArray[np.int64], lengths: NDArray[np.int64], is_hole: NDArray[np.bool_]) -> list[int]:
    """Return for every hole the exterior of its part, and for every exterior the hole in which it lies or -1.

    The next edge on the left of a ring's leftmost edge belongs to the parent, or to another ring of the same parent.
    That ring begins further left and is resolved already.
    """
    parents = np.full(len(lengths), -1)
    exteriors = np.flatnonzero(~is_hole)
    if len(exteriors) == 1:
        parents[is_hole] = exteriors[0]
    if len(exteriors) == 1 or not is_hole.any():
        return parents.tolist()
    ahead = _following(corners, lengths)
    vertical = np.flatnonzero(corners[:, 0] == ahead[:, 0])
    columns, ring_of = corners[vertical, 0], np.repeat(np.arange(len(lengths)), lengths)[vertical]
    tops = np.minimum(corners[vertical, 1], ahead[vertical, 1])
    heights = np.abs(corners[vertical, 1] - ahead[vertical, 1])
    edges = np.repeat(np.arange(len(vertical)), heights)
    rows = tops[edges] + np.arange(len(edges)) - (np.cumsum(heights) - heights)[edges]
    keys = rows << 32 | columns[edges]
    order = np.argsort(keys)
    by_column = np.lexsort((columns, ring_of))
    leftmost = by_column[np.searchsorted(ring_of[by_column], np.arange(len(lengths)))]
    before = order[np.searchsorted(keys[order], tops[leftmost] << 32 | columns[leftmost]) - 1]
    # The first edge of a row follows the last edge of a row above, or the end of the list.
    is_first = rows[before] != tops[leftmost]
    is_first |= columns[edges[before]] >= columns[leftmost]
    neighbours = np.where(is_first, -1, ring_of[edges[before]]).tolist()
    result, holes = parents.tolist(), is_hole.tolist()
    for ring in np.argsort(columns[leftmost], kind="stable").tolist():
        neighbour = neighbours[ring]
        if neighbour >= 0:
            result[ring] = neighbour if holes[neighbour] != holes[ring] else result[neighbour]
    return result
