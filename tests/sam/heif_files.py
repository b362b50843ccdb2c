"""AVIF and HEIC files made box by box around coded images, for kinds that no encoder writes."""

import struct
from dataclasses import dataclass

from service.sam.decoding.heif_boxes import heif_items

_ESSENTIAL = {b"irot", b"imir", b"clap"}  # readers must know these


@dataclass(frozen=True)
class Coded:
    """A coded image.

    Attributes:
        kind: Type of the item, `av01` or `hvc1`.
        configuration: Its `av1C` or `hvcC` box.
        size: Height and width, pixels.
        data: Coded bytes.
    """

    kind: bytes
    configuration: bytes
    size: tuple[int, int]
    data: bytes


def coded_image(file):
    """Return the primary image of a file."""
    item = heif_items(file).primary
    height, width = struct.unpack(">4xII", item.property(b"ispe"))[::-1]
    name = {b"av01": b"av1C", b"hvc1": b"hvcC"}[item.kind]
    return Coded(item.kind, box(name, bytes(item.property(name))), (height, width), b"".join(item.data))


def box(kind, *content):
    """Return a box."""
    joined = b"".join(content)
    return struct.pack(">I", 8 + len(joined)) + kind + joined


def full_box(kind, *content, version=0, flags=0):
    """Return a box with version and flags."""
    return box(kind, struct.pack(">I", version << 24 | flags), *content)


def extent(size):
    """Return the property with height and width."""
    return full_box(b"ispe", struct.pack(">II", size[1], size[0]))


def rotation(quarters):
    """Return the property of a rotation anticlockwise."""
    return box(b"irot", bytes((quarters,)))


def mirror(axis):
    """Return the property of mirroring: 0 top to bottom, 1 left to right."""
    return box(b"imir", bytes((axis,)))


def aperture(width, height, x, y, size):
    """Return the property of a crop of an image of height and width `size`, whose left upper pixel is (x, y)."""
    offsets = 2 * x + width - size[1], 2, 2 * y + height - size[0], 2
    return box(b"clap", struct.pack(">IIII", width, 1, height, 1), struct.pack(">iIiI", *offsets))


def grid(columns, rows, size):
    """Return the content of a grid of items."""
    return struct.pack(">BBBBII", 0, 1, rows - 1, columns - 1, size[1], size[0])


def heif(items, *, brand=b"avif", references=()):
    """Return a file whose first item is the image to show.

    Args:
        items: For each item its type, its property boxes and its bytes.
        brand: Major brand of the file.
        references: For derived images: number of the item, from 1, and numbers of its parts.
    """
    properties, associations, infos = [], [], []
    for number, (kind, own, _) in enumerate(items, 1):
        first = len(properties) + 1
        properties += own
        indices = bytes(first + place | (128 if content[4:8] in _ESSENTIAL else 0) for place, content in enumerate(own))
        associations.append(struct.pack(">HB", number, len(own)) + indices)
        infos.append(full_box(b"infe", struct.pack(">HH4s", number, 0, kind) + b"\0", version=2))
    parts = [
        full_box(b"hdlr", b"\0\0\0\0pict", bytes(13)),
        full_box(b"pitm", struct.pack(">H", 1)),
        full_box(b"iinf", struct.pack(">H", len(items)), *infos),
        box(
            b"iprp",
            box(b"ipco", *properties),
            full_box(b"ipma", struct.pack(">I", len(items)), *associations),
        ),
    ]
    if references:
        dimg = [box(b"dimg", struct.pack(f">HH{len(to)}H", of, len(to), *to)) for of, to in references]
        parts.append(full_box(b"iref", *dimg))
    start = box(b"ftyp", brand, bytes(4), brand, b"mif1miaf")
    locations = full_box(b"iloc", bytes((0x44, 0)), struct.pack(">H", len(items)), bytes(14 * len(items)))
    at = len(start) + len(full_box(b"meta", *parts, locations)) + 8
    entries = b""
    for number, (_, _, data) in enumerate(items, 1):
        entries += struct.pack(">HHHII", number, 0, 1, at, len(data))
        at += len(data)
    locations = full_box(b"iloc", bytes((0x44, 0)), struct.pack(">H", len(items)), entries)
    return start + full_box(b"meta", *parts, locations) + box(b"mdat", *(data for _, _, data in items))


def still(coded, *properties, size=None, **options):
    """Return a file with one coded image; `size` replaces the size that its boxes say."""
    own = [extent(size or coded.size), coded.configuration, *properties]
    return heif([(coded.kind, own, coded.data)], **options)
