"""Reading JPEG: at reduced scale where the frame needs no more, and files without an end marker."""

import itertools
import random
from collections.abc import Callable
from functools import partial
from typing import Final

from PIL import Image, ImageChops, JpegImagePlugin  # noqa: F401 - the plugin is imported so that Image.open finds it

from service.errors import UndecodableImage
from service.sam.decoded_image import DecodedImage, ReadOptions
from service.sam.decoding.joined_file import joined_file
from service.sam.decoding.jpeg_markers import JpegMarkers, check_scans, jpeg_markers, next_restart
from service.sam.decoding.orientation import exif_orientation, turned_upright
from service.sam.decoding.sample_levels import with_options
from service.sam.frame import Resize
from service.sam.image_guards import ImageLimits, check_size
from service.sam.region import Region
from service.sam.transforms import FRAME_SIZE, Size

# libjpeg decodes at 1/2, 1/4 or 1/8 of the scale, in half the time and into a fraction of the memory. From 1.9 times
# the frame's side, masks have a mean IoU of 0.99 to those from full resolution; from 1.5 times 0.98.
_SCALES: Final = (8, 4, 2)
_SMALLEST_RESIZED_SIDE: Final = -(-FRAME_SIZE * 19 // 10)
# Reducing rounds each side up to whole pixels, which must not change the aspect ratio.
_SMALLEST_SIDE: Final = 256

_END: Final = b"\xff\xd9"
# The byte behind an 0xff that belongs to coded data. Behind half a marker it belongs to nothing.
_STUFFING: Final = b"\0"
# Bytes that are no markers. Where coded data is missing, a decoder takes them for pixels.
_FILLER: Final = bytes(random.Random(0).choices(range(255), k=4096))  # noqa: S311 - no secret


def read_jpeg(data: bytes, limits: ImageLimits, options: ReadOptions) -> DecodedImage:
    """Return the image upright, perhaps at reduced scale.

    Args:
        data: The file.
        limits: Sizes that the model takes.
        options: How the samples are read.

    Raises:
        UndecodableImage, ImageTooLarge, UnusableAspectRatio: The image cannot be used.
        InvalidRequest: A band that was asked for does not exist.
    """
    markers = jpeg_markers(data)
    decode = partial(_decode, markers=markers, limits=limits, region=options.region)
    pixels, size = decode([data]) if markers.has_end else _decode_endless(data, markers, decode)
    pixels, levels = with_options(pixels, options)
    return turned_upright(pixels, exif_orientation(markers.exif), stored_size=size, levels=levels)


def _decode_endless(
    data: bytes, markers: JpegMarkers, decode: Callable[[list[bytes]], tuple[Image.Image, Size]]
) -> tuple[Image.Image, Size]:
    """Return the image of a file without an end marker; refuse one whose pixels are missing, too."""
    cut_off = UndecodableImage("The JPEG is cut off; send the complete file.")
    if not markers.has_all_coefficients:
        raise cut_off
    pixels, size = decode([data, _END])
    # libjpeg makes up what is missing, and says so only in a warning. Pixels that depend on bytes behind the data were
    # not in the data. Where a restart marker is missing, libjpeg skips bytes up to it.
    rest = [_STUFFING, _FILLER, next_restart(data), _FILLER, _END]
    filled, _ = decode([data, *(rest if data.endswith(b"\xff") else rest[1:])])
    if ImageChops.difference(pixels, filled).getbbox() is not None:
        raise cut_off
    return pixels, size


def _decode(
    parts: list[bytes], *, markers: JpegMarkers, limits: ImageLimits, region: Region | None
) -> tuple[Image.Image, Size]:
    """Return the stored image in RGB, and its height and width at full scale."""
    with Image.open(joined_file(parts), formats=["JPEG"]) as image:
        size = image.height, image.width
        check_size(size, limits)
        check_scans(markers.scans, image.height * image.width, limits.max_pixels)
        scale = _scale(size if region is None else region.size, limits.resize)
        if scale > 1:
            image.draft(None, (image.width // scale, image.height // scale))
        image.load()
        rgb = image if image.mode == "RGB" else image.convert("RGB")
    if rgb is not image:
        image.close()  # otherwise its pixels stay in memory
    return rgb, size


def _scale(size: Size, resize: Resize) -> int:
    """Return the factor by which an image, or the region of it that is embedded, is decoded smaller.

    It is 1 for a stretched image.

    The official code of models that stretch resizes in float, so that no grey level is rounded. Their masks follow such
    differences: with seeded weights, half the scale gave a mask IoU of 0.95 to 0.99.
    """
    if resize == "stretch":
        return 1
    is_large = (s for s in _SCALES if max(size) >= s * _SMALLEST_RESIZED_SIDE and min(size) >= s * _SMALLEST_SIDE)
    return next(itertools.chain(is_large, [1]))
