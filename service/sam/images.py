"""Decoding of uploaded bytes, with any content, to an upright RGB image.

The header is checked first, so that an image that has to be refused is not decoded. Colour profiles are ignored:
the numbers in the file are taken as sRGB. `service.process.configure_image_libraries` has to be called first, once.
"""

import io
import struct

import numpy as np

# The plugins are imported by name, so that Image.open finds them without loading all the others on first use.
from PIL import (
    BmpImagePlugin,  # noqa: F401
    ExifTags,
    GifImagePlugin,  # noqa: F401
    Image,
    JpegImagePlugin,  # noqa: F401
    PngImagePlugin,  # noqa: F401
    TiffImagePlugin,
    WebPImagePlugin,  # noqa: F401
)

from service.errors import (
    ImageTooLarge,
    Overloaded,
    ServiceError,
    UndecodableImage,
    UnsupportedImage,
)
from service.sam.decoded_image import UPRIGHT, USUAL, DecodedImage, ReadOptions
from service.sam.decoding.sample_levels import with_options
from service.sam.decoding.tiff import read_tiff
from service.sam.image_guards import (
    BMP_RUN_LENGTHS,
    check_bmp_runs,
    check_pieces,
    check_png_chunks,
    check_scans,
    check_size,
    gif_size,
    jpeg_scans,
)
from service.sam.transforms import Size

_SUPPORTED = "Supported are JPEG, PNG, WebP, GIF, BMP and TIFF."

# Rows that are laid on white together.
_BAND_ROWS = 256

# By EXIF orientation; 1 is upright.
_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode_image(data: bytes, *, max_pixels: int, options: ReadOptions = USUAL) -> DecodedImage:
    """Return the image upright, in RGB, with transparent parts on white. Of an animation it is the first frame.

    16-bit grey is scaled to 8 bits with rounding. 16-bit colour keeps its high byte.

    Args:
        data: File in one of the supported formats. Its name and content type do not matter.
        max_pixels: Largest number of pixels. Larger images are refused before they are decoded.
        options: How the samples are read.

    Returns:
        The upright image and its size. Its pixels are a loaded Pillow image, which `transforms.preprocess` takes as
        it is: an array in between would copy all pixels twice.

    Raises:
        UnsupportedImage: The format is another, or its samples define no white (32-bit integers, floats, Lab).
        UndecodableImage: The format is supported, but the file is broken or cut off.
        ImageTooLarge: The image has more than `max_pixels` pixels.
        UnusableAspectRatio: The shorter side would be 0 in the encoder's frame.
        Overloaded: The process gets no memory for the image.
    """
    file_format = _sniff(data)
    try:
        if file_format == "TIFF":
            return read_tiff(data, max_pixels, options)
        if file_format == "WEBP" and (size := _webp_size(data)):
            check_size(size, max_pixels)  # Opening allocates two canvases.
        if file_format == "GIF" and (size := gif_size(data)):
            check_size(size, max_pixels)  # Opening allocates as many pixels as the first frame has.
        if file_format == "PNG":
            check_png_chunks(data)
        scans = jpeg_scans(data) if file_format == "JPEG" else 0
        with Image.open(io.BytesIO(data), formats=[file_format]) as image:
            check_size((image.height, image.width), max_pixels)
            check_scans(scans, image.height * image.width, max_pixels)
            _check_samples(image, max_pixels)
            check_pieces(len(image.tile))
            if file_format == "BMP" and image.info.get("compression") in BMP_RUN_LENGTHS:
                check_bmp_runs(image.height * image.width, data)
            image.load()
            orientation = _exif_orientation(image)
            rgb = _rgb(image)
        if rgb is not image:
            image.close()  # otherwise its pixels stay in memory during the transposition
        rgb, levels = with_options(rgb, options)
        upright = rgb if orientation == UPRIGHT else rgb.transpose(_TRANSPOSITIONS[orientation])
        return DecodedImage(upright, (upright.height, upright.width), orientation, levels)
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


def _sniff(data: bytes) -> str:
    """Return Pillow's name of the format, by the first bytes."""
    if not data:
        raise UndecodableImage("The image has 0 bytes; send a file.")
    for file_format, signatures in (
        ("JPEG", (b"\xff\xd8\xff",)),
        ("PNG", (b"\x89PNG\r\n\x1a\n",)),
        ("GIF", (b"GIF87a", b"GIF89a")),
        ("BMP", (b"BM",)),
        ("TIFF", (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
    ):
        if data.startswith(signatures):
            return file_format
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:8] == b"ftyp":
        raise UnsupportedImage(f"HEIC and AVIF images and videos are not supported. {_SUPPORTED}")
    raise UnsupportedImage(f"The bytes are not an image in a supported format. {_SUPPORTED}")


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


def _check_samples(image: Image.Image, max_pixels: int) -> None:
    """Refuse samples that no rule converts to grey levels, and TIFF tiles that are larger than an image may be."""
    if image.mode in ("I", "F"):
        raise UnsupportedImage(
            "The samples are 32-bit or signed numbers or floats, for which no white is defined; save the image with "
            "8 or 16 bits per sample."
        )
    if image.mode in ("LAB", "HSV"):
        raise UnsupportedImage(f"The colours are {image.mode}; save the image as RGB.")
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        width, height = (image.tag_v2.get(tag) for tag in (TiffImagePlugin.TILEWIDTH, TiffImagePlugin.TILELENGTH))
        if isinstance(width, int) and isinstance(height, int) and width * height > max_pixels:
            raise ImageTooLarge(
                f"The TIFF has tiles of {width} x {height} pixels, at most {max_pixels} are taken; "
                "save it with smaller tiles.",
                extra={"limit": max_pixels},
            )


def _exif_orientation(image: Image.Image) -> int:
    """Return the orientation that is still to be applied, 1 to 8; 1 also for a damaged EXIF block.

    Pillow applies the orientation of a TIFF file by itself.
    """
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # noqa: BLE001 - damaged metadata; the image itself has been decoded
        return UPRIGHT
    return orientation if isinstance(orientation, int) and orientation in _TRANSPOSITIONS else UPRIGHT


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return _grey_8_bit(image).convert("RGB")
    if image.has_transparency_data:
        return _on_white(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    """Return the image on white, made band by band: with its copy in RGBA, 50 megapixels took 600 MiB."""
    page = Image.new("RGB", image.size, "white")
    for top in range(0, image.height, _BAND_ROWS):
        bottom = min(top + _BAND_ROWS, image.height)
        layer = image.crop((0, top, image.width, bottom)).convert("RGBA")
        page.paste(layer, (0, top), layer.getchannel("A"))
    return page


def _grey_8_bit(image: Image.Image) -> Image.Image:
    """Return 16-bit (in TIFF also 12-bit) grey as 8-bit grey, rounded."""
    white, is_negative = 65535, False
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        white = 4095 if image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE) == (12,) else white
        is_negative = image.tag_v2.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0
    levels = np.minimum(np.asarray(image), white).astype(np.uint32)
    levels *= 255
    levels += white // 2
    levels //= white
    grey = levels.astype(np.uint8)
    return Image.fromarray(255 - grey if is_negative else grey)
