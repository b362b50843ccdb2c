"""The forms in which a mask leaves the service: run lengths, PNG, polygons and raw logits.

All are made from the turns or the crop of a `Mask`; nothing of the picture's full size is touched but a PNG's bytes.
"""

import struct
import zlib
from typing import NamedTuple, TypedDict

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from service.errors import InvalidRequest
from service.sam.float16 import as_float16, as_float32
from service.sam.masks import Mask, row_changes
from service.sam.transforms import MASK_SIZE

Ring = list[list[float]]

# Finite logits stay finite in float16.
_LARGEST_FLOAT16 = 65504.0


class Rle(TypedDict):
    """COCO's compressed run-length encoding; `size` is [H, W], columns run first."""

    size: list[int]
    counts: str


class Polygon(TypedDict):
    """One connected part: its outline and its holes, each a ring of [x, y] without a repeated end."""

    exterior: Ring
    holes: list[Ring]


class Outline(NamedTuple):
    """The outline of one connected part, and what it encloses with its holes, pixels."""

    area: float
    ring: Ring


def encode_rle(mask: Mask) -> Rle:
    """The same text that pycocotools gives for the full picture, from the turns alone."""
    height, width = mask.size
    found = mask.turns
    turns = np.zeros(len(found) + 2, np.int64)
    turns[1:-1], turns[-1] = found, height * width
    counts = np.diff(turns).astype(np.uint32)
    packed = coco.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    return {"size": [height, width], "counts": packed["counts"].decode("ascii")}


def encode_png(mask: Mask, *, crop: bool) -> bytes:
    """A grey PNG of one bit a pixel, white where the mask is.

    Args:
        mask: the mask.
        crop: cut to the mask's box instead of the whole picture. An empty mask is then a single black pixel, since
            a PNG has at least one.
    """
    pixels = mask.crop
    box_height, box_width = pixels.shape
    height, width = (max(1, box_height), max(1, box_width)) if crop else mask.size
    left, top = (0, 0) if crop else mask.box[:2]
    # A PNG row is one byte that names its filter, here 0 for none, and the pixels from the highest bit on.
    lines = np.zeros((box_height, 1 + (width + 7) // 8), np.uint8)
    if box_width:
        first, shift = divmod(left, 8)
        packed = np.packbits(np.pad(pixels, ((0, 0), (shift, 0))) if shift else pixels, axis=1)
        lines[:, 1 + first : 1 + first + packed.shape[1]] = packed
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    row_bytes = lines.shape[1]
    data = _compressed(top * row_bytes, lines.reshape(-1).data, (height - top - box_height) * row_bytes)
    return b"\x89PNG\r\n\x1a\n" + _png_chunk(b"IHDR", header) + _png_chunk(b"IDAT", data) + _png_chunk(b"IEND", b"")


def encode_polygons(mask: Mask, *, tolerance_pixels: float = 0.0) -> list[Polygon]:
    """Outlines along the edges of the pixels, one entry for each part.

    Coordinates count pixel corners: pixel (x, y) is the square from (x, y) to (x + 1, y + 1). Pixels that touch only at
    a corner belong to different parts. No ring visits a corner twice. With tolerance 0 filling the rings gives the mask
    back exactly.

    Args:
        mask: the mask.
        tolerance_pixels: how far a simplified ring may be from the outline (Douglas-Peucker). Holes that vanish are
            dropped; an exterior that would vanish stays as it was.

    Returns:
        Parts by the first row and column of their outline; exteriors run clockwise on the screen, holes the other way.
    """
    origin = np.array(mask.box[:2])
    rings = [ring + origin for walk in _walks(mask.crop) for ring in _simple_rings(walk)]
    is_hole = [_doubled_area(ring) < 0 for ring in rings]
    owner = _owners(rings, is_hole)
    parts: dict[int, Polygon] = {
        index: {"exterior": _simplified(ring, tolerance_pixels) or ring.tolist(), "holes": []}
        for index, ring in enumerate(rings)
        if not is_hole[index]
    }
    for index, ring in enumerate(rings):
        if is_hole[index] and (hole := _simplified(ring, tolerance_pixels)):
            parts[owner[index]]["holes"].append(hole)
    return list(parts.values())


def encode_outlines(mask: Mask, *, tolerance_pixels: float = 0.0) -> list[Outline]:
    """The exteriors of `encode_polygons`, largest first, for tools that know polygons without holes only."""
    rings = [polygon["exterior"] for polygon in encode_polygons(mask, tolerance_pixels=tolerance_pixels)]
    outlines = [Outline(_doubled_area(np.array(ring, np.int64)) / 2, ring) for ring in rings]
    return sorted(outlines, key=lambda outline: -outline.area)


def encode_logits(logits: NDArray[np.floating]) -> bytes:
    """(256, 256) logits as little-endian float16, row by row: 131,072 bytes. Larger values become the largest."""
    return to_float16(logits).astype("<f2", copy=False).tobytes()


def decode_logits(data: bytes) -> NDArray[np.float32]:
    """The logits that `encode_logits` wrote; (256, 256) float32.

    Raises:
        InvalidRequest: another length, or a value that is not finite.
    """
    expected = MASK_SIZE * MASK_SIZE * 2
    if len(data) != expected:
        raise InvalidRequest(
            f"Mask logits are {MASK_SIZE} x {MASK_SIZE} little-endian float16, {expected} bytes; these are {len(data)}."
        )
    logits = as_float32(np.frombuffer(data, "<f2").reshape(MASK_SIZE, MASK_SIZE))
    if not np.isfinite(logits).all():
        raise InvalidRequest("Mask logits must be finite numbers; these hold NaN or infinity.")
    return logits


def to_float16(logits: NDArray[np.floating]) -> NDArray[np.float16]:
    """Logits as they are kept and sent: rounded to float16, what is beyond its range becomes its largest number.

    Args:
        logits: (256, 256); what is float16 already is finite and stays as it is.
    """
    if logits.dtype == np.float16:
        return np.asarray(logits, np.float16)
    return as_float16(np.clip(logits, -_LARGEST_FLOAT16, _LARGEST_FLOAT16))


def _deflater() -> "zlib._Compress":
    # Z_RLE finds the runs a mask consists of; at 12 megapixels it is as fast as level 1 and gives half the bytes.
    return zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS, 9, zlib.Z_RLE)


def _deflated_zeros(count: int) -> bytes:
    """Zeros as whole bytes of a deflate stream that refer to nothing before them."""
    deflater = _deflater()
    return deflater.compress(bytes(count)) + deflater.flush(zlib.Z_FULL_FLUSH)


# Most of a large picture is outside the mask's box. This many zeros were compressed once for all pictures.
_ZEROS = 65_536
_DEFLATED_ZEROS = _deflated_zeros(_ZEROS)
_END_OF_DEFLATE = b"\x03\x00"
_ZLIB_HEADER = b"\x78\x01"
_ADLER_PRIME = 65_521


def _compressed(zeros_before: int, data: memoryview, zeros_behind: int) -> bytes:
    """Zeros, data and zeros as one zlib stream (RFC 1950)."""
    blocks_before, zeros = divmod(zeros_before, _ZEROS)
    blocks_behind, zeros_between = divmod(zeros_behind, _ZEROS)
    deflater = _deflater()
    body = deflater.compress(bytes(zeros)) + deflater.compress(data) + deflater.compress(bytes(zeros_between))
    end = b"" if blocks_behind == 0 else _DEFLATED_ZEROS * blocks_behind + _END_OF_DEFLATE
    body += deflater.flush(zlib.Z_FULL_FLUSH if end else zlib.Z_FINISH) + end
    # Adler-32 is two sums: of the bytes and one, and of what the first has been after each byte.
    checksum = zlib.adler32(data, zeros_before % _ADLER_PRIME << 16 | 1)
    first, second = checksum & 0xFFFF, checksum >> 16
    second = (second + zeros_behind * first) % _ADLER_PRIME
    return b"".join((_ZLIB_HEADER, _DEFLATED_ZEROS * blocks_before, body, struct.pack(">HH", second, first)))


def _png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))


def _walks(crop: NDArray[np.bool_]) -> list[NDArray[np.int64]]:
    """The closed walks along the mask's border, the mask on the right hand; (n, 2) corners each.

    A border of pixels has as many vertical edges as horizontal ones, and they take turns. So the horizontal ones are
    read off row by row, and each column of their ends, taken in pairs from the top, is a column of vertical edges.
    Where two pixels of the mask touch at a corner four edges meet; the walk then turns off, and the pixels stay apart.
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

    # Ends 0 .. count-1 are the left ones, count .. 2*count-1 the right ones. At a meeting of four edges the end of the
    # edge above mask pixels belongs to the vertical edge that goes down, hence sorts after the other.
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


def _simple_rings(walk: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """The walk cut where it comes back to a corner, so that every ring visits a corner once."""
    keys = walk[:, 1] << 32 | walk[:, 0]
    if len(np.unique(keys)) == len(keys):
        return [walk]
    rings: list[list[int]] = []
    open_corners: list[int] = []
    place: dict[int, int] = {}
    for index, key in enumerate(keys.tolist()):
        if key in place:
            since = place[key]
            rings.append(open_corners[since:])
            for closed in open_corners[since:]:
                del place[keys[closed].item()]
            del open_corners[since:]
        place[key] = len(open_corners)
        open_corners.append(index)
    return [walk[ring] for ring in [open_corners, *rings]]


def _doubled_area(ring: NDArray[np.int64]) -> int:
    """Twice the area inside; positive for an exterior, negative for a hole."""
    x, y = ring[:, 0], ring[:, 1]
    return int(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y))


def _owners(rings: list[NDArray[np.int64]], is_hole: list[bool]) -> dict[int, int]:
    """For every hole the exterior of the part it lies in.

    The pixel on the left of a hole's leftmost edge is of the mask. Going left from there, the first edge met is the
    part's exterior, or another hole of the same part that begins further left and has been dealt with.
    """
    holes = [index for index, hole in enumerate(is_hole) if hole]
    if not holes:
        return {}
    if len(rings) - len(holes) == 1:
        return dict.fromkeys(holes, is_hole.index(False))
    columns, tops, lengths, owners = [], [], [], []
    for index, ring in enumerate(rings):
        ahead = np.roll(ring, -1, axis=0)
        is_vertical = ring[:, 0] == ahead[:, 0]
        columns.append(ring[is_vertical, 0])
        tops.append(np.minimum(ring[is_vertical, 1], ahead[is_vertical, 1]))
        lengths.append(np.abs(ring[is_vertical, 1] - ahead[is_vertical, 1]))
        owners.append(np.full(len(columns[-1]), index))
    length = np.concatenate(lengths)
    within = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
    keys = (np.repeat(np.concatenate(tops), length) + within) << 32 | np.repeat(np.concatenate(columns), length)
    ring_of = np.repeat(np.concatenate(owners), length)
    order = np.argsort(keys)
    keys, ring_of = keys[order], ring_of[order]
    result: dict[int, int] = {}
    for hole in sorted(holes, key=lambda index: int(columns[index].min())):
        leftmost = int(np.argmin(columns[hole]))
        key = int(tops[hole][leftmost]) << 32 | int(columns[hole][leftmost])
        neighbour = int(ring_of[np.searchsorted(keys, key) - 1])
        result[hole] = result[neighbour] if is_hole[neighbour] else neighbour
    return result


def _simplified(ring: NDArray[np.int64], tolerance_pixels: float) -> Ring:
    """The ring with fewer corners, or nothing where no area is left."""
    if tolerance_pixels > 0.0:
        ring = cv2.approxPolyDP(ring.astype(np.int32), tolerance_pixels, closed=True).reshape(-1, 2).astype(np.int64)
        if len(ring) < 3 or _doubled_area(ring) == 0:
            return []
    corners: Ring = ring.tolist()
    return corners
