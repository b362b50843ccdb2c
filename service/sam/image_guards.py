"""Limits on the number of parts of an image file, checked before Pillow reads the parts one by one in Python.

The size of such a file does not bound its cost. Eight megabytes of empty PNG chunks hold Python's global lock, and so
all requests, for twelve seconds. Ordinary images have a handful of parts, or as many as their data has pieces.
"""

import re
import struct

from service.errors import ImageTooLarge, UndecodableImage, UnusableAspectRatio
from service.sam.transforms import FRAME_SIZE, Size, input_size

# Every scan of a progressive JPEG costs a pass over all its pixels, and an empty one takes a dozen bytes. Encoders
# write about ten, optimisers a few more. The second number is for images of `max_pixels`, whose passes are long.
_MAX_JPEG_SCANS = 100
_MAX_LARGE_JPEG_SCANS = 20
# Pillow reads everything before the first scan in Python. Large files have one segment for each 64 KiB of metadata.
_MAX_JPEG_SEGMENTS = 4096
_MAX_JPEG_PADDING_BYTES = 64 * 1024
# A marker that ends a scan or begins a segment: no stuffed 255 (0), no restart (D0-D7), none without parameters.
_JPEG_MARKER = re.compile(rb"\xff[\x02-\xcf\xd9-\xfe]")
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
# A search holds Python's global lock: in a whole file for a quarter of a second.
_SEARCH_BYTES = 1 << 20

# libpng cuts the pixels into chunks of 8 KiB: 4096 for the largest upload. A chunk costs Pillow up to 17 µs.
_MAX_PNG_CHUNKS = 16_384
# Blocks before the first frame: comments, profiles and XMP, in pieces of at most 255 bytes each.
_MAX_GIF_BLOCKS = 16_384
_GIF_COMMENT, _GIF_APPLICATION = 254, 255
# One strip for each row is usual, and tiles of 16 pixels are allowed. Each uncompressed piece costs 20 µs.
_MAX_TIFF_PIECES = 65_536
# Pillow decodes the runs of a BMP in Python, at worst pixel by pixel: 0.3 s for either of these.
_MAX_BMP_RUN_PIXELS = 2_000_000
_MAX_BMP_RUN_BYTES = 1 << 20
BMP_RUN_LENGTHS = (1, 2)  # of 8 and of 4 bits, as the header names them


def check_size(size: Size, max_pixels: int) -> None:
    """Refuse an image that has too many pixels, or none in the encoder's frame.

    Args:
        size: Height and width of the image, pixels.
        max_pixels: Largest number of pixels.

    Raises:
        UndecodableImage, ImageTooLarge, UnusableAspectRatio: The image cannot be used.
    """
    height, width = size
    if height < 1 or width < 1:
        raise UndecodableImage(f"The image is {width} x {height} pixels; both sides must be at least 1.")
    if height * width > max_pixels:
        raise ImageTooLarge(
            f"The image has {width} x {height} = {height * width} pixels, at most {max_pixels} are taken; "
            "send it scaled down.",
            extra={"limit": max_pixels, "width": width, "height": height},
        )
    if 0 in input_size(size):
        raise UnusableAspectRatio(
            f"The image is {width} x {height} pixels; its longer side may be at most {2 * FRAME_SIZE} times the "
            "shorter one. Cut it into parts.",
            extra={"width": width, "height": height},
        )


def check_bmp_runs(pixels: int, data: bytes) -> None:
    """Refuse a large BMP that is run-length coded, which is rare.

    Raises:
        UndecodableImage: The BMP has too many pixels or bytes.
    """
    if pixels > _MAX_BMP_RUN_PIXELS or len(data) > _MAX_BMP_RUN_BYTES:
        raise UndecodableImage(
            f"The BMP is run-length coded, of which at most {_MAX_BMP_RUN_PIXELS} pixels and {_MAX_BMP_RUN_BYTES} "
            "bytes are read; save the image as PNG."
        )


def check_pieces(pieces: int) -> None:
    """Refuse a TIFF with more uncompressed strips or tiles than ordinary images have.

    Raises:
        UndecodableImage: The TIFF has too many pieces.
    """
    if pieces > _MAX_TIFF_PIECES:
        raise UndecodableImage(
            f"The TIFF is cut into {pieces} pieces, at most {_MAX_TIFF_PIECES} are read; save the image again."
        )


def check_png_chunks(data: bytes) -> None:
    """Refuse a PNG with more chunks than ordinary images have. The decoder deals with a damaged one.

    Raises:
        UndecodableImage: The PNG has so many chunks that reading them is an attack.
    """
    position = 8
    for _ in range(_MAX_PNG_CHUNKS):
        if position + 8 > len(data) or data[position + 4 : position + 8] == b"IEND":
            return
        (length,) = struct.unpack_from(">I", data, position)
        position += 12 + length
    raise UndecodableImage(f"The PNG has more than {_MAX_PNG_CHUNKS} chunks; save the image again.")


def gif_size(data: bytes) -> tuple[int, int] | None:
    """Return the height and width of a GIF with its first frame; None where there is no frame.

    While it opens the file, Pillow enlarges the image to hold the first frame and allocates its background. A few
    hundred bytes made it take 4 GiB before it reported a size. The blocks are read exactly as Pillow reads them, empty
    ones included, so that it finds no other frame.

    Raises:
        UndecodableImage: So many blocks precede the frame that reading them is an attack.
    """
    if len(data) < 13:
        return None
    blocks = _GifBlocks(data)
    while (introducer := blocks.byte()) is not None and introducer != ord(";"):
        if introducer == ord("!"):
            blocks.skip_extension()
        elif introducer == ord(",") and blocks.position + 8 <= len(data):
            left, top, width, height = struct.unpack_from("<4H", data, blocks.position)
            screen_width, screen_height = struct.unpack_from("<HH", data, 6)
            return max(top + height, screen_height), max(left + width, screen_width)
    return None


class _GifBlocks:
    """A position in a GIF, at first behind the header, and the number of blocks before it."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._count = 0
        self.position = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)

    def byte(self) -> int | None:
        """Return the next byte; None at the end."""
        self._count += 1
        if self._count > _MAX_GIF_BLOCKS:
            raise UndecodableImage(
                f"The GIF has more than {_MAX_GIF_BLOCKS} blocks before its first frame; save the image again."
            )
        if self.position >= len(self._data):
            return None
        self.position += 1
        return self._data[self.position - 1]

    def skip_extension(self) -> None:
        """Skip the blocks of an extension. For Pillow an empty first block is no end, except in comments."""
        label = self.byte()
        block = self._block()
        if label == _GIF_COMMENT:
            while block:
                block = self._block()
            return
        if label == _GIF_APPLICATION and block.startswith(b"NETSCAPE2.0"):
            self._block()
        while self._block():
            pass

    def _block(self) -> bytes:
        length = self.byte() or 0
        self.position += length
        return self._data[self.position - length : self.position]


def jpeg_scans(data: bytes) -> int:
    """Return the number of scans of the first image in a JPEG file, as libjpeg will find them.

    Segments are skipped by their length, because metadata may hold any bytes, and thumbnails have scans. Bytes after
    the end of the image do not count: phones append whole videos. A file without an end is searched to its last byte.

    Raises:
        UndecodableImage: So many segments, or so many bytes between them, that reading them is an attack.
    """
    scans = padding_bytes = 0
    position = 2
    for _ in range(_MAX_JPEG_SEGMENTS):
        found = _next_jpeg_marker(data, position)
        if found is None or data[found + 1] == _END_OF_IMAGE:
            return scans
        if scans == 0:
            padding_bytes += found - position
            if padding_bytes > _MAX_JPEG_PADDING_BYTES:
                raise UndecodableImage("The JPEG has more padding than images have; save the image again.")
        scans += data[found + 1] == _START_OF_SCAN
        position = found + 2 + max(2, int.from_bytes(data[found + 2 : found + 4], "big"))
    raise UndecodableImage(f"The JPEG has more than {_MAX_JPEG_SEGMENTS} segments; save the image again.")


def _next_jpeg_marker(data: bytes, position: int) -> int | None:
    for start in range(position, len(data), _SEARCH_BYTES):
        if found := _JPEG_MARKER.search(data, start, start + _SEARCH_BYTES + 1):
            return found.start()
    return None


def check_scans(scans: int, pixels: int, max_pixels: int) -> None:
    """Refuse a progressive JPEG whose passes over all its pixels would take long.

    Args:
        scans: Number of scans.
        pixels: Number of pixels of the image.
        max_pixels: Largest number of pixels that is accepted.

    Raises:
        UndecodableImage: The JPEG has too many scans.
    """
    if scans > _MAX_JPEG_SCANS or scans * pixels > _MAX_LARGE_JPEG_SCANS * max_pixels:
        most = min(_MAX_JPEG_SCANS, _MAX_LARGE_JPEG_SCANS * max_pixels // pixels)
        raise UndecodableImage(
            f"The JPEG has {scans} scans, at most {most} are decoded at its {pixels} pixels; save the image again."
        )
