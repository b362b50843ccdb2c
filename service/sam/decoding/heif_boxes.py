"""The boxes of HEIC and AVIF files: the items, their properties and their bytes, read before a codec decodes them.

Source: ISO/IEC 14496-12 (boxes, items), ISO/IEC 23008-12 (properties of images).
"""

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from service.errors import UndecodableImage

# Photos of phones have about 300 items: tiles of 512 pixels, a thumbnail, a gain map. Each has some properties.
_MAX_BOXES = 4096
_MAX_ENTRIES = 32_768
# Bytes of all items together, beside twice those of the file: encoders store equal tiles once. Pieces that overlap
# would else make gigabytes of a small file.
_MAX_SHARED_BYTES = 1 << 20
_SINGLE: Final = {b"meta", b"iinf", b"iloc", b"pitm", b"iref", b"idat", b"iprp", b"ipco"}


@dataclass(frozen=True, slots=True)
class Box:
    """A box.

    Args:
        kind: Type, four bytes.
        content: Bytes of the box behind its header.
        start: Position of the box in the file.
    """

    kind: bytes
    content: memoryview
    start: int


@dataclass(frozen=True, slots=True)
class Item:
    """An image, or metadata, of the file.

    Args:
        kind: Type, such as `av01`, `hvc1`, `grid` or `Exif`.
        kind_at: Position of the type in the file.
        properties: Property boxes in the order in which they apply.
        data: Contents, in one or more pieces.
        parts: Numbers of the items that a derived image, such as a grid, is made of.
    """

    kind: bytes
    kind_at: int
    properties: list[Box] = field(default_factory=list)
    data: list[memoryview] = field(default_factory=list)
    parts: list[int] = field(default_factory=list)

    def property(self, kind: bytes) -> memoryview | None:
        """Return the content of the first property of a type; None without one."""
        return next((box.content for box in self.properties if box.kind == kind), None)


@dataclass(frozen=True, slots=True)
class HeifItems:
    """The items of a file.

    Args:
        primary: Image to show.
        items: All items by their number.
        properties: All property boxes, also of no item.
    """

    primary: Item
    items: dict[int, Item]
    properties: list[Box]


def heif_items(data: bytes) -> HeifItems:
    """Return the items of a HEIC or AVIF file.

    Raises:
        UndecodableImage: There is no image, the boxes are broken, or there are too many.
    """
    try:
        return _Reader(data).read()
    except (struct.error, IndexError, StopIteration, KeyError) as error:
        raise UndecodableImage(
            "The boxes of the HEIC or AVIF file are broken or cut off; send the complete file."
        ) from error


def _single(boxes: Iterable[Box]) -> dict[bytes, Box]:
    """Return boxes by their type. A decoder could take another one of two boxes of a type than was checked."""
    found: dict[bytes, Box] = {}
    for box in boxes:
        if box.kind in _SINGLE and box.kind in found:
            raise UndecodableImage(f"The file has two boxes {box.kind.decode()!r}; save the image again.")
        found[box.kind] = box
    return found


class _Fields:
    """Big-endian numbers, one behind the other."""

    def __init__(self, content: memoryview) -> None:
        self._content = content
        self._at = 0

    def number(self, size: int) -> int:
        """Return the next number of `size` bytes; 0 for no bytes."""
        self._at += size
        if self._at > len(self._content):
            raise IndexError
        return int.from_bytes(self._content[self._at - size : self._at], "big")

    def full_box(self) -> tuple[int, int]:
        """Return version and flags."""
        return self.number(1), self.number(3)


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)
        self._boxes = 0
        self._entries = 0

    def read(self) -> HeifItems:
        meta = _single(self._children(self._data, 0))[b"meta"]
        boxes = _single(self._children(meta.content[4:], meta.start + self._header_bytes(meta) + 4))
        items = self._infos(boxes[b"iinf"])
        groups = list(self._children(boxes[b"iprp"].content, 0))
        properties = list(self._children(_single(groups)[b"ipco"].content, 0))
        for box in groups:
            if box.kind == b"ipma":
                self._associate(box, items, properties)
        self._locate(boxes[b"iloc"], boxes.get(b"idat"), items)
        if b"iref" in boxes:
            self._refer(boxes[b"iref"], items)
        fields = _Fields(boxes[b"pitm"].content)
        version, _ = fields.full_box()
        return HeifItems(items[fields.number(4 if version else 2)], items, properties)

    def _header_bytes(self, box: Box) -> int:
        return 16 if int.from_bytes(self._data[box.start : box.start + 4], "big") == 1 else 8

    def _children(self, content: memoryview, start: int) -> Iterator[Box]:
        at = 0
        while at + 8 <= len(content):
            self._boxes += 1
            if self._boxes > _MAX_BOXES:
                raise UndecodableImage(f"The HEIC or AVIF file has more than {_MAX_BOXES} boxes; save the image again.")
            size, kind = int.from_bytes(content[at : at + 4], "big"), bytes(content[at + 4 : at + 8])
            header = 8
            if size == 1:
                size, header = int.from_bytes(content[at + 8 : at + 16], "big"), 16
            end = at + size if size else len(content)
            if end < at + header:
                raise IndexError
            yield Box(kind, content[at + header : end], start + at)
            at = end

    def _infos(self, box: Box) -> dict[int, Item]:
        fields = _Fields(box.content)
        version, _ = fields.full_box()
        head = 8 if version else 6
        items = {}
        for info in self._children(box.content[head:], box.start + self._header_bytes(box) + head):
            fields = _Fields(info.content)
            version, _ = fields.full_box()
            number = fields.number(4 if version == 3 else 2)
            kind_at = 4 + (4 if version == 3 else 2) + 2
            at = info.start + self._header_bytes(info) + kind_at
            items[number] = Item(bytes(info.content[kind_at : kind_at + 4]), at)
        return items

    def _associate(self, box: Box, items: dict[int, Item], properties: list[Box]) -> None:
        fields = _Fields(box.content)
        version, flags = fields.full_box()
        is_wide = flags & 1
        for _ in range(fields.number(4)):
            self._count()
            item = items[fields.number(4 if version else 2)]
            for _ in range(fields.number(1)):
                index = fields.number(2) & 0x7FFF if is_wide else fields.number(1) & 0x7F
                if index:
                    self._count()
                    item.properties.append(properties[index - 1])

    def _locate(self, box: Box, idat: Box | None, items: dict[int, Item]) -> None:
        fields = _Fields(box.content)
        version, _ = fields.full_box()
        sizes = fields.number(2)
        offset_size, length_size, base_size = sizes >> 12, sizes >> 8 & 15, sizes >> 4 & 15
        index_size = sizes & 15 if version else 0
        total = 0
        for _ in range(fields.number(4 if version == 2 else 2)):
            self._count()
            number = fields.number(4 if version == 2 else 2)
            method = fields.number(2) & 15 if version else 0
            fields.number(2)
            base = fields.number(base_size)
            source = {0: self._data, 1: idat.content if idat else memoryview(b"")}.get(method)
            for _ in range(fields.number(2)):
                self._count()
                fields.number(index_size)
                start = base + fields.number(offset_size)
                length = fields.number(length_size)
                if source is None or start + length > len(source):
                    raise IndexError
                items[number].data.append(source[start : start + length if length else len(source)])
                total += len(items[number].data[-1])
        if total > 2 * len(self._data) + _MAX_SHARED_BYTES:
            raise UndecodableImage("The pieces of the HEIC or AVIF file overlap; save the image again.")

    def _refer(self, box: Box, items: dict[int, Item]) -> None:
        size = 4 if box.content[0] else 2
        for reference in self._children(box.content[4:], 0):
            if reference.kind != b"dimg":
                continue
            fields = _Fields(reference.content)
            item = items[fields.number(size)]
            for _ in range(fields.number(2)):
                self._count()
                item.parts.append(fields.number(size))

    def _count(self) -> None:
        self._entries += 1
        if self._entries > _MAX_ENTRIES:
            raise UndecodableImage(f"The HEIC or AVIF file has more than {_MAX_ENTRIES} pieces; save the image again.")
