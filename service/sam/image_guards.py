"""Limits of an image's size, and of the number of parts of its file, checked before Pillow reads the file.

The size of such a file does not bound its cost. Eight megabytes of empty PNG chunks hold Python's global lock, and so
all requests, for twelve seconds. Ordinary images have a handful of parts, or as many as their data has pieces.
"""

import struct
from dataclasses import dataclass
from typing import Final

from service.errors import ImageTooLarge, UndecodableImage, UnusableAspectRatio
from service.sam.frame import Resize
from service.sam.transforms import FRAME_SIZE, MASK_SIZE, Size, input_size

# Work and memory of the resize follow the longer side. No JPEG has a longer one.
MAX_STRETCHED_SIDE: Final = 1 << 16
# Runs of a mask follow each other column by column, and each of the 256 rows of logits may begin one in every column.
# A letterboxed image of 52 megapixels has less than half as many. One of 65536 x 793 pixels has 8 million when it is
# stretched: a mask of it takes 0.8 GiB.
MAX_STRETCHED_RUNS: Final = 1 << 22

# Blocks before the first frame: comments, profiles and XMP, in pieces of at most 255 bytes each.
_MAX_GIF_BLOCKS = 16_384
_GIF_COMMENT, _GIF_APPLICATION = 254, 255
# One strip for each row is usual, and tiles of 16 pixels are allowed. Each uncompressed piece costs 20 µs.
_MAX_TIFF_PIECES = 65_536
# Pillow decodes the runs of a BMP in Python, at worst pixel by pixel: 0.3 s for either of these.
_MAX_BMP_RUN_PIXELS = 2_000_000
_MAX_BMP_RUN_BYTES = 1 << 20
BMP_RUN_LENGTHS = (1, 2)  # of 8 and of 4 bits, as the header names them


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """Sizes of images that a model takes.

    Args:
        max_pixels: Largest number of pixels.
        resize: How the model's images are resized.
        image_size: Side of the encoder's input, pixels.
    """

    max_pixels: int
    resize: Resize = "letterbox"
    image_size: int = FRAME_SIZE


def check_size(size: Size, limits: ImageLimits) -> None:
    """Refuse an image that has too many pixels, or a shape that the model does not take.

    Args:
        size: Height and width of the image, pixels.
        limits: Sizes that the model takes.

    Raises:
        UndecodableImage, ImageTooLarge, UnusableAspectRatio: The image cannot be used.
    """
    check_pixels(size, limits.max_pixels)
    check_shape(size, limits)


def check_pixels(size: Size, max_pixels: int) -> None:
    """Refuse an image that has too many pixels, or none.

    Args:
        size: Height and width of the image, pixels.
        max_pixels: Largest number of pixels.

    Raises:
        UndecodableImage, ImageTooLarge: The image cannot be used.
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


def check_shape(size: Size, limits: ImageLimits) -> None:
    """Refuse an image that is too long and thin.

    The shorter side of a letterboxed image must have a pixel in the input of the encoder. A stretched image always has
    pixels there.

    Args:
        size: Height and width of the image, pixels.
        limits: Sizes that the model takes.

    Raises:
        UnusableAspectRatio: The image is too long and thin.
    """
    height, width = size
    if limits.resize == "stretch":
        if max(size) <= MAX_STRETCHED_SIDE:
            return
        bound = f"a side may have at most {MAX_STRETCHED_SIDE} pixels"
    elif 0 not in input_size(size, limits.image_size):
        return
    else:
        bound = f"its longer side may be at most {2 * limits.image_size} times the shorter one"
    raise UnusableAspectRatio(
        f"The image is {width} x {height} pixels; {bound}. Cut it into parts.",
        extra={"width": width, "height": height},
    )


def check_upright(size: Size, limits: ImageLimits) -> None:
    """Refuse a decoded image that is too long and thin, or whose masks could have too many runs.

    Args:
        size: Height and width of the upright image, pixels.
        limits: Sizes that the model takes.

    Raises:
        UnusableAspectRatio: The image is too long and thin, or too wide.
    """
    check_shape(size, limits)
    height, width = size
    if limits.resize == "stretch" and stretched_runs(size) > MAX_STRETCHED_RUNS:
        raise UnusableAspectRatio(
            f"The image is {width} x {height} pixels; at this height the width may be at most "
            f"{MAX_STRETCHED_RUNS // min(height, MASK_SIZE)} pixels. Cut it into parts, or send it scaled down.",
            extra={"width": width, "height": height},
        )


def stretched_runs(size: Size) -> int:
    """Return a bound on the runs of a mask of a stretched image, from its height and width."""
    height, width = size
    return width * min(height, MASK_SIZE)


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
