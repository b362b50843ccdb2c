"""How many parts a file is made of, counted before Pillow reads them one by one in Python.

Sizes say little about such files: eight megabytes of empty PNG chunks hold Python's global lock, and with it every
click, for twelve seconds. Pictures have a handful of parts, or as many as it takes to cut their data into pieces.
"""

import re
import struct

from service.errors import UndecodableImage

# Every scan of a progressive JPEG costs a pass over all its pixels, and an empty one takes a dozen bytes. Encoders
# write about ten, optimisers a few more; the second number is for pictures of `max_pixels`, whose passes are long.
_MAX_JPEG_SCANS = 100
_MAX_LARGE_JPEG_SCANS = 20
# Pillow reads everything before the first scan in Python. Large files have one segment for each 64 KiB of metadata.
_MAX_JPEG_SEGMENTS = 4096
_MAX_JPEG_PADDING_BYTES = 64 * 1024
# What ends a scan or stands between segments: not a stuffed 255 (0), a restart (D0-D7), or one without parameters.
_JPEG_MARKER = re.compile(rb"\xff[\x02-\xcf\xd9-\xfe]")
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
# A search holds Python's global lock: of a whole file for a quarter of a second.
_SEARCH_BYTES = 1 << 20

# libpng cuts the pixels into chunks of 8 KiB: 4096 for the largest upload. A chunk costs Pillow up to 17 µs.
_MAX_PNG_CHUNKS = 16_384
# In front of the first frame, where comments, profiles and XMP are, in pieces of at most 255 bytes each.
_MAX_GIF_BLOCKS = 16_384
_GIF_COMMENT, _GIF_APPLICATION = 254, 255
# A strip a row is usual, tiles of 16 pixels are allowed; each costs 20 µs where the samples are not compressed.
_MAX_TIFF_PIECES = 65_536
# Pillow decodes the runs of a BMP in Python, a loop turn a pixel at worst: 0.3 s for either of these.
_MAX_BMP_RUN_PIXELS = 2_000_000
_MAX_BMP_RUN_BYTES = 1 << 20
BMP_RUN_LENGTHS = (1, 2)  # of 8 and of 4 bits, as the header names them


def check_bmp_runs(pixels: int, data: bytes) -> None:
    """Refuses a large BMP that is run-length coded, which hardly any is.

    Raises:
        UndecodableImage: so many pixels or bytes.
    """
    if pixels > _MAX_BMP_RUN_PIXELS or len(data) > _MAX_BMP_RUN_BYTES:
        raise UndecodableImage(
            f"The BMP is run-length coded, of which at most {_MAX_BMP_RUN_PIXELS} pixels and {_MAX_BMP_RUN_BYTES} "
            "bytes are read; save the picture as PNG."
        )


def check_pieces(pieces: int) -> None:
    """Refuses a picture of more uncompressed strips or tiles than pictures have; only TIFF has such.

    Raises:
        UndecodableImage: so many.
    """
    if pieces > _MAX_TIFF_PIECES:
        raise UndecodableImage(
            f"The TIFF is cut into {pieces} pieces, at most {_MAX_TIFF_PIECES} are read; save the picture again."
        )


def check_png_chunks(data: bytes) -> None:
    """Refuses a PNG of more chunks than pictures have; a damaged one is left to the decoder.

    Raises:
        UndecodableImage: so many that reading them is the attack.
    """
    position = 8
    for _ in range(_MAX_PNG_CHUNKS):
        if position + 8 > len(data) or data[position + 4 : position + 8] == b"IEND":
            return
        (length,) = struct.unpack_from(">I", data, position)
        position += 12 + length
    raise UndecodableImage(f"The PNG has more than {_MAX_PNG_CHUNKS} chunks; save the picture again.")


def gif_size(data: bytes) -> tuple[int, int] | None:
    """(H, W) that a GIF with its first frame takes, None where there is no frame.

    Pillow enlarges the picture to hold its first frame, and allocates what the frame is to be cleared with, while it
    opens the file: a few hundred bytes made it take 4 GiB before it told a size. Blocks are walked through as Pillow
    does, empty ones and all; what it would take for another frame must not be overlooked here.

    Raises:
        UndecodableImage: so many blocks in front of the frame that reading them is the attack.
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
    """A place in a GIF, behind its header at first, and how many blocks have been read up to there."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._count = 0
        self.position = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)

    def byte(self) -> int | None:
        """The next byte; None at the end."""
        self._count += 1
        if self._count > _MAX_GIF_BLOCKS:
            raise UndecodableImage(
                f"The GIF has more than {_MAX_GIF_BLOCKS} blocks in front of its first frame; save the picture again."
            )
        if self.position >= len(self._data):
            return None
        self.position += 1
        return self._data[self.position - 1]

    def skip_extension(self) -> None:
        """All of its blocks; Pillow takes an empty first one for no end, except in comments."""
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
    """Scans of the first picture in a JPEG file, as libjpeg will find them.

    Segments are skipped by their length, since metadata may hold any bytes (thumbnails do have scans), and nothing
    counts after the end of the picture: phones append whole videos. A file without an end is looked at to its last
    byte.

    Raises:
        UndecodableImage: so many segments, or so much between them, that reading them is the attack.
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
                raise UndecodableImage("The JPEG has more padding than pictures have; save the picture again.")
        scans += data[found + 1] == _START_OF_SCAN
        position = found + 2 + max(2, int.from_bytes(data[found + 2 : found + 4], "big"))
    raise UndecodableImage(f"The JPEG has more than {_MAX_JPEG_SEGMENTS} segments; save the picture again.")


def _next_jpeg_marker(data: bytes, position: int) -> int | None:
    for start in range(position, len(data), _SEARCH_BYTES):
        if found := _JPEG_MARKER.search(data, start, start + _SEARCH_BYTES + 1):
            return found.start()
    return None


def check_scans(scans: int, pixels: int, max_pixels: int) -> None:
    """Refuses a progressive JPEG whose passes over all its pixels would take long.

    Raises:
        UndecodableImage: so many scans.
    """
    if scans > _MAX_JPEG_SCANS or scans * pixels > _MAX_LARGE_JPEG_SCANS * max_pixels:
        most = min(_MAX_JPEG_SCANS, _MAX_LARGE_JPEG_SCANS * max_pixels // pixels)
        raise UndecodableImage(
            f"The JPEG has {scans} scans, at most {most} are decoded at its {pixels} pixels; save the picture again."
        )
