"""Decoding of uploaded bytes, with any content, to an upright RGB image.

The header is checked first, so that an image that has to be refused is not decoded. Colour profiles are ignored:
the numbers in the file are taken as sRGB. `service.process.configure_image_libraries` has to be called first, once.
"""

import io
import struct
from collections.abc import Callable, Mapping
from typing import Final

# The plugins are imported by name, so that Image.open finds them without loading all the others on first use.
from PIL import (
    BmpImagePlugin,  # noqa: F401
    GifImagePlugin,  # noqa: F401
    Image,
    WebPImagePlugin,  # noqa: F401
)

from service.errors import Overloaded, ServiceError, UndecodableImage
from service.sam.decoded_image import USUAL, DecodedImage, ReadOptions
from service.sam.decoding.heif import read_avif, read_heic
from service.sam.decoding.jpeg import read_jpeg
from service.sam.decoding.png import read_png
from service.sam.decoding.regions import cut
from service.sam.decoding.sample_levels import with_options
from service.sam.decoding.sniffing import sniff
from service.sam.decoding.tiff import read_tiff
from service.sam.decoding.transparency import to_rgb
from service.sam.frame import Resize
from service.sam.image_guards import BMP_RUN_LENGTHS, ImageLimits, check_bmp_runs, check_size, check_upright, gif_size
from service.sam.transforms import FRAME_SIZE, Size


def decode_image(
    data: bytes,
    *,
    max_pixels: int,
    options: ReadOptions = USUAL,
    resize: Resize = "letterbox",
    image_size: int = FRAME_SIZE,
) -> DecodedImage:
    """Return the image upright, in RGB, with transparent parts on white. Of an animation it is the first frame.

    The orientation is applied as browsers do. Large JPEGs, and large regions of JPEGs, are decoded at reduced scale.

    Args:
        data: File in one of the supported formats. Its name and content type do not matter.
        max_pixels: Largest number of pixels. Larger images are refused before they are decoded.
        options: How the samples are read, and the region that is returned.
        resize: How the model's images are resized, which bounds their shape and the scale at which JPEGs are decoded.
        image_size: Side of the encoder's input, pixels.

    Returns:
        The upright image or its region, and the size of the whole image. Its pixels are a loaded Pillow image, which
        `transforms.preprocess` takes as it is: an array in between would copy all pixels twice.

    Raises:
        UnsupportedImage: The format is another, or its samples define no white (32-bit integers, floats, Lab).
        UndecodableImage: The format is supported, but the file is broken or cut off.
        ImageTooLarge: The image has more than `max_pixels` pixels.
        UnusableAspectRatio: The shorter side would be 0 in the encoder's input, or a stretched side is too long or
            the width too large.
        InvalidRequest: `options` names a band that the image does not have, or a region that is not in it.
        Overloaded: The process gets no memory for the image.
    """
    file_format = sniff(data)
    limits = ImageLimits(max_pixels, resize, image_size)
    try:
        image = _READERS[file_format](data, limits, options)
        check_upright(image.size, limits)  # some files crop or turn the image that their header describes
        return cut(image, options.region, limits)
    except ServiceError:
        raise
    except MemoryError as error:
        # The process may not have more memory, which is no fault of the image.
        raise Overloaded(
            "There is no memory to decode this image now. Retry shortly, or send it scaled down.", retry_after_s=1.0
        ) from error
    except Exception as error:
        # On damaged files Pillow raises nearly every type of exception.
        raise UndecodableImage(
            f"The file begins like a {file_format} but is broken, cut off or of a rare kind; send the complete "
            "file, or save the image again as JPEG or PNG."
        ) from error


def _read_webp(data: bytes, limits: ImageLimits, options: ReadOptions) -> DecodedImage:
    if size := _webp_size(data):
        check_size(size, limits)  # Opening allocates two canvases.
    return _read_plain(data, "WEBP", limits, options)


def _read_gif(data: bytes, limits: ImageLimits, options: ReadOptions) -> DecodedImage:
    if size := gif_size(data):
        check_size(size, limits)  # Opening allocates as many pixels as the first frame has.
    return _read_plain(data, "GIF", limits, options)


def _read_bmp(data: bytes, limits: ImageLimits, options: ReadOptions) -> DecodedImage:
    return _read_plain(data, "BMP", limits, options)


_READERS: Final[Mapping[str, Callable[[bytes, ImageLimits, ReadOptions], DecodedImage]]] = {
    "JPEG": read_jpeg,
    "PNG": read_png,
    "WEBP": _read_webp,
    "GIF": _read_gif,
    "BMP": _read_bmp,
    "TIFF": read_tiff,
    "AVIF": read_avif,
    "HEIF": read_heic,
}


def _read_plain(data: bytes, file_format: str, limits: ImageLimits, options: ReadOptions) -> DecodedImage:
    """Return an image of a format whose Pillow reader gives the pixels that browsers show."""
    with Image.open(io.BytesIO(data), formats=[file_format]) as image:
        check_size((image.height, image.width), limits)
        if file_format == "BMP" and image.info.get("compression") in BMP_RUN_LENGTHS:
            check_bmp_runs(image.height * image.width, data)
        image.load()
        rgb = to_rgb(image)
    if rgb is not image:
        image.close()  # otherwise its pixels stay in memory
    rgb, levels = with_options(rgb, options)
    return DecodedImage(rgb, (rgb.height, rgb.width), levels=levels)


def _webp_size(data: bytes) -> Size | None:
    """Return height and width from the first chunk of a WebP file; None where they are missing."""
    kind = data[12:16]
    if len(data) < 30:
        return None
    if kind == b"VP8X":
        return int.from_bytes(data[27:30], "little") + 1, int.from_bytes(data[24:27], "little") + 1
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return height & 0x3FFF, width & 0x3FFF
    return None
