"""The chunks of a PNG: those that give the pixels are kept, all others are dropped before Pillow opens the file.

Metadata that is damaged, too long or in excess cannot refuse an intact image so. Of an animation the first frame is
kept, as browsers show it. A chunk with pixels whose checksum is wrong is refused, as browsers do.
"""

import itertools
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from service.errors import UndecodableImage
from service.sam.decoding.orientation import exif_orientation
from service.sam.image_guards import check_pixels
from service.sam.transforms import Size

GREY, RGB, PALETTE, GREY_ALPHA, RGB_ALPHA = 0, 2, 3, 4, 6
"""Colour types."""

_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
# libpng cuts the pixels into chunks of 8 KiB: 4096 for the largest upload. A chunk costs up to 17 µs.
_MAX_CHUNKS = 16_384
_END: Final = b"\0\0\0\0IEND\xaeB`\x82"
_CRITICAL: Final = {b"IHDR", b"PLTE", b"IDAT", b"IEND"}
_KEPT: Final = {b"PLTE", b"tRNS", b"eXIf", b"acTL", b"fcTL"}
_HEADER = struct.Struct(">IIBBBBB")
_FRAME = struct.Struct(">IIIII")
_FRAME_CONTROL_BYTES = 26


@dataclass(frozen=True, slots=True)
class PngPixels:
    """What the chunks of a PNG say.

    Args:
        size: Height and width of the image, pixels.
        depth: Bits of a sample.
        kind: Colour type.
        transparency: Content of the tRNS chunk, empty without one.
        orientation: EXIF orientation, 1 to 8.
        offset: Position (x, y) of the pixels in the image; (0, 0) unless the first frame of an animation is smaller.
        parts: Contents of a PNG file that holds these pixels and nothing else.
    """

    size: Size
    depth: int
    kind: int
    transparency: bytes
    orientation: int
    offset: tuple[int, int]
    parts: list[bytes | memoryview]

    @property
    def parts_by_byte(self) -> list[bytes | memoryview]:
        """Contents of a PNG file in which the four bytes of 16-bit grey with alpha are samples of 8 bits each.

        Filters of PNG work on the bytes of a pixel, so the compressed pixels stay as they are.
        """
        signature, header, *others = self.parts
        width, height, _, _, *methods = _HEADER.unpack(header[8 : 8 + _HEADER.size])
        return [signature, _chunk(b"IHDR", _HEADER.pack(width, height, 8, RGB_ALPHA, *methods)), *others]

    @property
    def colour_key(self) -> tuple[int, ...] | None:
        """Samples of the transparent colour; None without one."""
        if self.kind not in {GREY, RGB} or not self.transparency:
            return None
        samples = len(self.transparency) // 2
        return tuple(sample & (1 << self.depth) - 1 for sample in struct.unpack(f">{samples}H", self.transparency))


def png_pixels(data: bytes, max_pixels: int) -> PngPixels:
    """Return the pixels of a PNG, without decoding them.

    Args:
        data: The file.
        max_pixels: Largest number of pixels.

    Raises:
        UndecodableImage, ImageTooLarge: The image cannot be used.
    """
    chunks = _chunks(data)
    header = next(chunks, None)
    if header is None or header.kind != b"IHDR" or len(header.content) != _HEADER.size:
        raise UndecodableImage("The PNG does not begin with a header; send the complete file.")
    _check_critical(header)
    width, height, depth, kind, *_ = _HEADER.unpack(header.content)
    size = height, width
    check_pixels(size, max_pixels)
    found, pixels = _before_pixels(chunks)
    end, after = _end_of_pixels(pixels, chunks)
    frame = _Frame((0, 0), size, [memoryview(data)[pixels.start : end]])
    if _is_animated(found):
        frame = _first_frame(itertools.chain(after, chunks), size)
    transparency = _transparency(found, kind)
    parts = [
        _SIGNATURE,
        _chunk(b"IHDR", struct.pack(">II", frame.size[1], frame.size[0]) + bytes(header.content[8:])),
        *(
            [memoryview(data)[found[b"PLTE"].start : found[b"PLTE"].end]]
            if kind == PALETTE and b"PLTE" in found
            else []
        ),
        *([_chunk(b"tRNS", transparency)] if kind == PALETTE and transparency else []),
        *frame.parts,
        *([_END] if end <= len(data) else []),  # behind a chunk that is cut off it would be taken for its content
    ]
    exif = found[b"eXIf"].content if b"eXIf" in found else b""
    return PngPixels(size, depth, kind, transparency, exif_orientation(exif), frame.offset, parts)


@dataclass(frozen=True, slots=True)
class _Chunk:
    """A chunk of a PNG.

    Args:
        kind: Type, four letters.
        start: Position of the chunk in the file.
        content: Bytes of the chunk, perhaps cut off by the end of the file.
        end: Position behind the checksum; it may lie behind the end of the file.
        is_intact: Whether the checksum is right.
    """

    kind: bytes
    start: int
    content: memoryview
    end: int
    is_intact: bool


@dataclass(frozen=True, slots=True)
class _Frame:
    """Pixels of an image or of a frame.

    Args:
        offset: Position (x, y) of the pixels in the image.
        size: Height and width of the pixels.
        parts: Chunks with the pixels.
    """

    offset: tuple[int, int]
    size: Size
    parts: list[bytes | memoryview]


def _chunks(data: bytes) -> Iterator[_Chunk]:
    """Yield the chunks of a file up to its end, or up to the first that is none."""
    view, start = memoryview(data), len(_SIGNATURE)
    for _ in range(_MAX_CHUNKS):
        if start + 8 > len(data):
            return
        (length,), kind = struct.unpack_from(">I", data, start), data[start + 4 : start + 8]
        if not kind.isalpha():
            return
        end = start + 12 + length
        is_intact = end > len(data) or view[end - 4 : end] == _checksum(view[start + 4 : end - 4])
        yield _Chunk(kind, start, view[start + 8 : end - 4], end, is_intact)
        start = end
    raise UndecodableImage(f"The PNG has more than {_MAX_CHUNKS} chunks; save the image again.")


def _check_critical(chunk: _Chunk) -> None:
    if chunk.kind[:1].islower():
        return
    name = chunk.kind.decode("ascii")
    if chunk.kind not in _CRITICAL:
        raise UndecodableImage(f"The PNG needs its chunk {name}, which is not in the standard; save the image again.")
    if not chunk.is_intact:
        raise UndecodableImage(f"The checksum of the chunk {name} of the PNG is wrong; send the file again.")


def _before_pixels(chunks: Iterator[_Chunk]) -> tuple[dict[bytes, _Chunk], _Chunk]:
    """Return the first intact chunk of each kind that matters, and the first chunk with pixels."""
    found: dict[bytes, _Chunk] = {}
    for chunk in chunks:
        _check_critical(chunk)
        if chunk.kind == b"IDAT":
            return found, chunk
        if chunk.kind == b"IEND":
            break
        if chunk.kind in _KEPT and chunk.is_intact:
            found.setdefault(chunk.kind, chunk)
    raise UndecodableImage("The PNG has no pixels; send the complete file.")


def _end_of_pixels(first: _Chunk, chunks: Iterator[_Chunk]) -> tuple[int, list[_Chunk]]:
    """Return the end of the chunks with pixels, which lie one behind the other, and the chunk that follows them."""
    end = first.end
    for chunk in chunks:
        if chunk.kind != b"IDAT":
            return end, [chunk]
        _check_critical(chunk)
        end = chunk.end
    return end, []


def _is_animated(found: dict[bytes, _Chunk]) -> bool:
    """Return whether the first frame is another image than the one for readers without animations."""
    control = found.get(b"acTL")
    return control is not None and any(control.content[:4]) and b"fcTL" not in found


def _first_frame(chunks: Iterable[_Chunk], canvas: Size) -> _Frame:
    """Return the first frame of an animation, from the chunks behind the image for readers without animations."""
    broken = UndecodableImage("The first frame of the animated PNG is broken or missing; save the image again.")
    offset, size = (0, 0), (0, 0)
    parts: list[bytes | memoryview] = []
    number = 0
    for chunk in chunks:
        if chunk.kind == b"IEND" or (chunk.kind == b"fcTL" and number > 0):
            break
        if chunk.kind not in {b"fcTL", b"fdAT"}:
            continue
        if (
            not chunk.is_intact
            or chunk.content[:4] != struct.pack(">I", number)
            or (chunk.kind == b"fdAT") != (number > 0)
        ):
            raise broken
        number += 1
        if chunk.kind == b"fcTL":
            if len(chunk.content) != _FRAME_CONTROL_BYTES:
                raise broken
            _, width, height, x, y = _FRAME.unpack_from(chunk.content)
            offset, size = (x, y), (height, width)
        else:
            parts += [struct.pack(">I", len(chunk.content) - 4), b"IDAT", chunk.content[4:], b"\0\0\0\0"]
    is_inside = size[0] > 0 < size[1] and offset[0] + size[1] <= canvas[1] and offset[1] + size[0] <= canvas[0]
    if not parts or not is_inside:
        raise broken
    return _Frame(offset, size, parts)


def _transparency(found: dict[bytes, _Chunk], kind: int) -> bytes:
    """Return the content of the tRNS chunk; empty if it is missing or does not fit the image."""
    chunk, palette = found.get(b"tRNS"), found.get(b"PLTE")
    if chunk is None:
        return b""
    length = len(chunk.content)
    if kind == PALETTE:
        fits = palette is not None and palette.start < chunk.start and 0 < length <= len(palette.content) // 3
    else:
        fits = length == {GREY: 2, RGB: 6}.get(kind)
    return bytes(chunk.content) if fits else b""


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + _checksum(kind + content)


def _checksum(content: bytes | memoryview) -> bytes:
    return struct.pack(">I", zlib.crc32(content))
