"""Writes cut-outs and masks as PNG files. The functions block."""

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageOps

from .values import Box, Mask

# Colour profiles of other modes do not fit the RGB that is written.
_KEEPS_PROFILE = frozenset({"RGB", "RGBA"})


def write_cutout(data: bytes, mask: Mask, path: Path, *, crop: bool) -> None:
    """Write the image as PNG, transparent outside the mask.

    Args:
        data: Bytes of the image's file, as it was embedded.
        mask: Mask of this image.
        path: Path of the PNG file.
        crop: Whether to crop to the mask's box.

    Raises:
        OSError: if the file cannot be written.
        ValueError: if Pillow reads another size than the service.
    """
    with Image.open(io.BytesIO(data)) as opened:
        profile = opened.info.get("icc_profile") if opened.mode in _KEEPS_PROFILE else None
        upright = ImageOps.exif_transpose(opened)
        image = _eight_bit(upright).convert("RGBA")
    height, width = mask.size
    if image.size != (width, height):
        raise ValueError(f"Pillow reads {image.width} x {image.height} pixels, the service {width} x {height}.")
    image.putalpha(ImageChops.multiply(image.getchannel("A"), _grey(mask.pixels)))
    if crop:
        image = image.crop(_at_least_one_pixel(mask.box))
    image.save(path, "PNG", icc_profile=profile)


def write_mask(mask: Mask, path: Path, *, crop: bool) -> None:
    """Write the mask as a grey PNG, white inside.

    Args:
        mask: The mask.
        path: Path of the PNG file.
        crop: Whether to crop to the mask's box.

    Raises:
        OSError: if the file cannot be written.
    """
    image = _grey(mask.pixels)
    if crop:
        image = image.crop(_at_least_one_pixel(mask.box))
    image.save(path, "PNG")


def _at_least_one_pixel(box: Box) -> Box:
    """The box, or one pixel for an empty mask, since a PNG cannot be empty."""
    x0, y0, x1, y1 = box
    return x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)


def _grey(pixels: NDArray[np.bool_]) -> Image.Image:
    return Image.fromarray(pixels.astype(np.uint8) * np.uint8(255))


def _eight_bit(image: Image.Image) -> Image.Image:
    """Scale 16-bit grey to 8 bits. Pillow would clip it to white."""
    if not image.mode.startswith("I;16"):
        return image
    return Image.fromarray((np.asarray(image).astype(np.uint32) * 255 // 65535).astype(np.uint8))
