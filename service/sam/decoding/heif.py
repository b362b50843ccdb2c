"""Reading AVIF and HEIC: the boxes and the coded headers are checked before a codec decodes the image.

The rotation and mirroring of the boxes (`irot`, `imir`) are applied, as browsers do; EXIF orientations are not. Of an
image sequence the still image is read, which encoders make from the first frame.
"""

import io
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Final

import numpy as np
from PIL import AvifImagePlugin, Image  # noqa: F401 - the plugin is imported so that Image.open finds it

from service.errors import UndecodableImage, UnsupportedImage
from service.sam.decoded_image import DecodedImage, ReadOptions
from service.sam.decoding.av1 import av1_size
from service.sam.decoding.heif_boxes import HeifItems, Item, heif_items
from service.sam.decoding.hevc import hevc_size
from service.sam.decoding.joined_file import joined_file
from service.sam.decoding.orientation import turned_upright
from service.sam.decoding.sample_levels import LevelRange, grey_levels, with_options
from service.sam.decoding.transparency import to_rgb
from service.sam.image_guards import ImageLimits, check_size
from service.sam.transforms import Size

# Coded frames are whole blocks of at most this side.
_BLOCK_SIDE = 64
# All coded images of a file together, in images of `max_pixels`: the image, its opacity, a thumbnail and a gain map.
_MAX_CODED_IMAGES = 4
# Tiles of a grid and other coded images. Photos of 50 megapixels have 300; each takes some 0.1 ms before it is decoded.
_MAX_CODED_ITEMS = 1024
# EXIF orientations of (irot, imir): quarters anticlockwise, then mirrored: 0 top to bottom, 1 left to right.
_ORIENTATIONS: Final[Mapping[tuple[int, int | None], int]] = {
    (0, None): 1, (0, 0): 4, (0, 1): 2, (1, None): 8, (1, 0): 5, (1, 1): 7,
    (2, None): 3, (2, 0): 2, (2, 1): 4, (3, None): 6, (3, 0): 7, (3, 1): 5,
}  # fmt: skip
_BRAND_AT = 8
# Decoders spread 10 and 12 bits over 16.
_FULL_16_BITS: Final = LevelRange(0.0, 65535.0, "full")


def read_avif(data: bytes, limits: ImageLimits, options: ReadOptions) -> DecodedImage:
    """Return an AVIF image upright and on white.

    Args:
        data: The file.
        limits: Sizes that the model takes.
        options: How the samples are read.

    Raises:
        UndecodableImage, ImageTooLarge, UnusableAspectRatio: The image cannot be used.
        InvalidRequest: A band that was asked for does not exist.
    """
    items = heif_items(data)
    size = _check(items, limits, {b"av01": _av1_size})
    with Image.open(joined_file(_still_avif(data, items)), formats=["AVIF"]) as image:
        if (image.height, image.width) != size:
            raise UndecodableImage("The AVIF contradicts itself about its size; save the image again.")
        image.load()
        rgb = _rgb(image)
    if rgb is not image:
        image.close()  # otherwise its pixels stay in memory
    aperture = _clean_aperture(items.primary, size)
    rgb, levels = with_options(rgb.crop(aperture) if aperture else rgb, options)
    return turned_upright(rgb, _orientation(items.primary), levels=levels)


def read_heic(data: bytes, limits: ImageLimits, options: ReadOptions) -> DecodedImage:
    """Return a HEIC image upright and on white.

    Args:
        data: The file.
        limits: Sizes that the model takes.
        options: How the samples are read.

    Raises:
        UnsupportedImage: The service is installed without the extra `heif`.
        UndecodableImage, ImageTooLarge, UnusableAspectRatio: The image cannot be used.
        InvalidRequest: A band that was asked for does not exist.
    """
    try:
        import pillow_heif  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise UnsupportedImage(
            "HEIC images are read only where the operator of the service has installed its extra `heif`. "
            "Save the image as JPEG, PNG or AVIF."
        ) from error
    items = heif_items(data)
    _check(items, limits, {b"hvc1": _hevc_size, b"hev1": _hevc_size})
    image: Image.Image = pillow_heif.open_heif(io.BytesIO(data), convert_hdr_to_8bit=True).to_pillow()
    check_size((image.height, image.width), limits)
    # libheif has applied the crop, the rotation and the mirroring.
    rgb, levels = with_options(_rgb(image), options)
    return DecodedImage(rgb, (rgb.height, rgb.width), _orientation(items.primary), levels)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return Image.fromarray(grey_levels(np.asarray(image), _FULL_16_BITS)).convert("RGB")
    return to_rgb(image)


def _av1_size(item: Item) -> Size | None:
    return av1_size(_joined(item))


def _hevc_size(item: Item) -> Size | None:
    configuration = item.property(b"hvcC")
    return None if configuration is None else hevc_size(configuration, _joined(item))


def _joined(item: Item) -> bytes | memoryview:
    return item.data[0] if len(item.data) == 1 else b"".join(item.data)


def _check(items: HeifItems, limits: ImageLimits, codecs: Mapping[bytes, Callable[[Item], Size | None]]) -> Size:
    """Refuse an image that takes more memory or time to decode than `limits` admit.

    Args:
        items: Items of the file.
        limits: Sizes that the model takes.
        codecs: Functions that return the coded height and width of an item, by the types of items that may be decoded.

    Returns:
        Height and width of the image to show, before it is cropped and turned.
    """
    size = _extent(items.primary)
    if size is None:
        raise UndecodableImage("The file does not say how large its image is; save the image again.")
    check_size(size, limits)
    for box in items.properties:
        if box.kind == b"ispe" and _pixels(_size_of(box.content)) > limits.max_pixels:
            raise UndecodableImage("The file holds an image that is larger than the one to show; save it again.")
    excess = UndecodableImage("The file holds more pixels than its image has; save the image again.")
    total = largest = 0
    if sum(item.kind in codecs for item in items.items.values()) > _MAX_CODED_ITEMS:
        raise UndecodableImage(f"The file holds more than {_MAX_CODED_ITEMS} coded images; save the image again.")
    for item in items.items.values():
        if item.kind not in codecs:
            continue
        coded = codecs[item.kind](item)
        if coded is None:
            raise UndecodableImage("A coded image of the file has no header; send the complete file.")
        total, largest = total + _pixels(coded), max(largest, _pixels(coded))
        if max(0, coded[0] - _BLOCK_SIDE) * max(0, coded[1] - _BLOCK_SIDE) > limits.max_pixels:
            raise excess
    if max(total, _check_grids(items, set(codecs)) * largest) > _MAX_CODED_IMAGES * limits.max_pixels:
        raise excess
    return size


def _check_grids(items: HeifItems, codecs: set[bytes]) -> int:
    """Refuse images that are made of others in other ways than a grid; return the cells of the largest grid."""
    rare = UndecodableImage("The image is coded or composed in a rare way; save it as JPEG or PNG.")
    if items.primary.kind not in {*codecs, b"grid"}:
        raise rare
    most = 1
    for item in items.items.values():
        if item.kind != b"grid":
            continue
        if not item.parts or any(items.items[number].kind not in codecs for number in item.parts):
            raise rare  # a grid of grids multiplies
        most = max(most, len(item.parts))
    return most


def _extent(item: Item) -> Size | None:
    content = item.property(b"ispe")
    return None if content is None else _size_of(content)


def _size_of(content: memoryview) -> Size:
    """Return height and width in an `ispe` property."""
    return int.from_bytes(content[8:12], "big"), int.from_bytes(content[4:8], "big")


def _pixels(size: Size) -> int:
    return size[0] * size[1]


def _orientation(item: Item) -> int:
    """Return the EXIF orientation that equals the rotation and the mirroring of an item."""
    rotation, mirror = item.property(b"irot"), item.property(b"imir")
    quarters = rotation[0] & 3 if rotation else 0
    return _ORIENTATIONS[quarters, mirror[0] & 1 if mirror else None]


def _clean_aperture(item: Item, size: Size) -> tuple[int, int, int, int] | None:
    """Return the crop of an item as left, top, right, bottom; None where browsers crop nothing.

    Chromium crops only where the left upper corner stays.
    """
    content = item.property(b"clap")
    if content is None or len(content) != 32:
        return None
    sides: list[int] = []
    for axis, length in ((0, size[1]), (1, size[0])):
        side = _fraction(content[8 * axis :], signed=False)
        offset = _fraction(content[16 + 8 * axis :], signed=True)
        if side is None or offset is None or side.denominator > 1 or not 1 <= side <= length:
            return None
        if Fraction(length - 1, 2) + offset != (side - 1) / 2:
            return None
        sides.append(int(side))
    return 0, 0, sides[0], sides[1]


def _fraction(content: memoryview, *, signed: bool) -> Fraction | None:
    numerator = int.from_bytes(content[:4], "big", signed=signed)
    denominator = int.from_bytes(content[4:8], "big")
    return Fraction(numerator, denominator) if denominator else None


def _still_avif(data: bytes, items: HeifItems) -> list[memoryview | bytes]:
    """Return the parts of a file that Pillow reads as a still image without EXIF.

    Pillow refuses an image whose EXIF block is damaged. In a file of another brand than `avif` it would decode the
    frames of a track, whose sizes have not been checked.
    """
    view = memoryview(data)
    changes: list[tuple[int, bytes]] = [(_BRAND_AT, b"avif")]
    changes += sorted((item.kind_at, b"skip") for item in items.items.values() if item.kind == b"Exif")
    parts: list[memoryview | bytes] = []
    at = 0
    for position, replacement in changes:
        parts += [view[at:position], replacement]
        at = position + len(replacement)
    return [*parts, view[at:]]
