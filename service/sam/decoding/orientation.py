"""The EXIF orientation of an image, by the rule of browsers, and turning the image upright.

Browsers apply the tag of the EXIF block at the place that the format defines for it, and only as a number of type
SHORT. They ignore orientations in XMP, in text of a PNG and in WebP.
"""

import struct
from typing import Final

from PIL import Image

from service.sam.decoded_image import UPRIGHT, AppliedLevels, DecodedImage
from service.sam.transforms import Size

_ORIENTATION_TAG: Final = 0x0112
_SHORT = 3
_HEADER_BYTES = 8
_ENTRY_BYTES = 12
_TRANSPOSITIONS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def exif_orientation(exif: bytes | memoryview) -> int:
    """Return the orientation of an EXIF block, 1 to 8; 1 also for a block that is damaged or has none.

    Pillow's reader takes orientations of other types and places, too, and reads all tags.

    Args:
        exif: The block as a TIFF file, without a prefix. It may be empty.
    """
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(bytes(exif[:4]))
    if order is None or len(exif) < _HEADER_BYTES:
        return UPRIGHT
    (directory,) = struct.unpack_from(f"{order}I", exif, 4)
    if directory + 2 > len(exif):
        return UPRIGHT
    (count,) = struct.unpack_from(f"{order}H", exif, directory)
    entries = bytes(exif[directory + 2 : directory + 2 + _ENTRY_BYTES * count])
    for at in range(0, len(entries) - _ENTRY_BYTES + 1, _ENTRY_BYTES):
        tag, kind, values, orientation = struct.unpack_from(f"{order}HHIH", entries, at)
        if tag == _ORIENTATION_TAG:
            return orientation if kind == _SHORT and values == 1 and orientation in _TRANSPOSITIONS else UPRIGHT
    return UPRIGHT


def turned_upright(
    stored: Image.Image, orientation: int, *, stored_size: Size | None = None, levels: AppliedLevels = "full"
) -> DecodedImage:
    """Return an image with its orientation applied.

    Args:
        stored: Image as its file stores it, of mode RGB, perhaps at reduced scale.
        orientation: EXIF orientation of the file, 1 to 8.
        stored_size: Height and width of the stored image at full resolution, pixels; None: the size of `stored`.
        levels: Conversion of samples to grey levels that was applied.
    """
    height, width = stored_size or (stored.height, stored.width)
    upright = stored if orientation == UPRIGHT else stored.transpose(_TRANSPOSITIONS[orientation])
    return DecodedImage(upright, (width, height) if orientation >= 5 else (height, width), orientation, levels)
