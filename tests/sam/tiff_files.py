"""TIFF files of any layout, written tag by tag, for kinds of files that Pillow does not write."""

import struct
import zlib

import numpy as np

SHORT, LONG, LONG8, ASCII = 3, 4, 16, 2
_CODES = {SHORT: "H", LONG: "I", LONG8: "Q"}


def directory(pixels, *, tile=None, rows=None, planar=1, predictor=1, compress=None, order="<", **tags):
    """Return the tags of an image as {tag: (type, values)}, and its pieces as {tag of the offsets: bytes}.

    Args:
        pixels: Samples, (H, W, bands), of any type.
        tile: Side of tiles; None for strips.
        rows: Rows of a strip; None for all.
        planar: 1: bands together; 2: planes.
        predictor: 1: none, 2: differences, 3: differences of the bytes of floats.
        compress: Function that compresses a piece, and the number of the compression; None for none.
        order: Byte order, as in `struct`.
        **tags: Values of further or other tags as `t338=2`, of type SHORT.
    """
    height, width, bands = pixels.shape
    function, compression = compress or (bytes, 1)
    format_code = {"u": 1, "i": 2, "f": 3}[pixels.dtype.kind]
    found = {
        256: (LONG, [width]), 257: (LONG, [height]), 258: (SHORT, [pixels.dtype.itemsize * 8] * bands),
        259: (SHORT, [compression]), 262: (SHORT, [2 if bands == 3 else 1]), 277: (SHORT, [bands]),
        284: (SHORT, [planar]), 317: (SHORT, [predictor]), 339: (SHORT, [format_code] * bands),
    }  # fmt: skip
    planes = [pixels] if planar == 1 else [pixels[..., band : band + 1] for band in range(bands)]
    down, across = (tile, tile) if tile else (rows or height, width)
    pieces = []
    for plane in planes:
        for top in range(0, height, down):
            for left in range(0, width, across):
                piece = plane[top : top + down, left : left + across]
                if tile:
                    margins = ((0, tile - piece.shape[0]), (0, tile - piece.shape[1]), (0, 0))
                    piece = np.pad(piece, margins)
                pieces.append(function(_predicted(piece, predictor, order)))
    if tile:
        found |= {322: (SHORT, [tile]), 323: (SHORT, [tile])}
    else:
        found |= {278: (LONG, [down])}
    found |= {int(name[1:]): (SHORT, value if isinstance(value, list) else [value]) for name, value in tags.items()}
    return found, {324 if tile else 273: pieces}


def tiff_file(*directories, order="<", big=False, loop=False, subs=()):
    """Return a TIFF file of directories one after the other. `subs` are sub-directories of the first one."""
    word = "Q" if big else "I"
    mark = b"II" if order == "<" else b"MM"
    head = mark + struct.pack(order + ("HHHQ" if big else "HI"), *((43, 8, 0, 0) if big else (42, 0)))
    body = bytearray(head)
    places, nexts = [], []
    sub_places = [_append(body, each, order, big)[0] for each in subs]
    for index, (tags, pieces) in enumerate(directories):
        more = {330: (LONG8 if big else LONG, sub_places)} if sub_places and index == 0 else {}
        place, next_place = _append(body, ({**tags, **more}, pieces), order, big)
        places.append(place)
        nexts.append(next_place)
    struct.pack_into(order + word, body, 8 if big else 4, places[0])
    for next_place, place in zip(nexts, [*places[1:], places[0] if loop else 0], strict=True):
        struct.pack_into(order + word, body, next_place, place)
    return bytes(body)


def one(pixels, *, order="<", big=False, **options):
    """Return a TIFF file of one image; see `directory`."""
    return tiff_file(directory(pixels, order=order, **options), order=order, big=big)


def deflate(data):
    return zlib.compress(data)


def lzw(data):
    """Return LZW codes of nine bits: a clear code before every 200 bytes keeps the table small."""
    codes = []
    for start in range(0, len(data), 200):
        codes += [256, *data[start : start + 200]]
    bits = (np.array([*codes, 257])[:, None] >> np.arange(8, -1, -1)) & 1
    return np.packbits(bits.astype(np.uint8).reshape(-1)).tobytes()


def _predicted(piece, predictor, order):
    if predictor == 1:
        return piece.astype(piece.dtype.newbyteorder(order)).tobytes()
    if predictor == 2:
        whole = np.ascontiguousarray(piece).view(f"u{piece.dtype.itemsize}")
        differences = whole.copy()
        differences[:, 1:] -= whole[:, :-1]
        return differences.astype(differences.dtype.newbyteorder(order)).tobytes()
    rows, width, bands = piece.shape
    size = piece.dtype.itemsize
    planes = piece.astype(piece.dtype.newbyteorder(">")).view(np.uint8).reshape(rows, width * bands, size)
    flat = planes.transpose(0, 2, 1).reshape(rows, -1)
    differences = flat.copy()
    differences[:, bands:] -= flat[:, :-bands]
    return differences.tobytes()


def _append(body, image, order, big):
    """Append the pieces and the directory of an image; return its position and that of the next position."""
    tags, pieces = image
    entries = dict(tags)
    for tag, contents in pieces.items():
        offsets = []
        for content in contents:
            offsets.append(len(body))
            body += content
        kind = LONG8 if big else LONG
        entries[tag] = (kind, offsets)
        entries[325 if tag == 324 else 279] = (kind, [len(content) for content in contents])
    values = {}
    for tag, (kind, numbers) in entries.items():
        content = struct.pack(f"{order}{len(numbers)}{_CODES[kind]}", *numbers)
        if len(content) > (8 if big else 4):
            position = len(body)
            body += content
            content = struct.pack(order + ("Q" if big else "I"), position)
        values[tag] = struct.pack(order + ("HHQ" if big else "HHI"), tag, kind, len(numbers)) + content.ljust(
            8 if big else 4, b"\0"
        )
    if len(body) % 2:
        body += b"\0"
    place = len(body)
    body += struct.pack(order + ("Q" if big else "H"), len(values)) + b"".join(values[tag] for tag in sorted(values))
    next_place = len(body)
    body += bytes(8 if big else 4)
    return place, next_place
