"""A mask applied to its picture, as files. Blocking."""

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageOps

from service.client.values import Box, Mask

# Profiles of other colour models would not fit the RGB that is written.
_KEEPS_PROFILE = frozenset({"RGB", "RGBA"})


def write_cutout(data: bytes, mask: Mask, path: Path, *, crop: bool) -> None:
    """The picture as PNG, transparent outside the mask.

    Args:
        data: the picture's file, as it was embedded.
        mask: of this picture.
        path: where to write.
        crop: cut to the mask's box.

    Raises:
        OSError: the file cannot be written.
        ValueError: Pillow reads another size than the service.
    """
    with Image.open(io.BytesIO(data)) as opened:
        profile = opened.info.get("icc_profile") if opened.mode in _KEEPS_PROFILE else None
        upright = ImageOps.exif_transpose(opened)
        picture = _eight_bit(upright).convert("RGBA")
    height, width = mask.size
    if picture.size != (width, height):
        raise ValueError(f"Pillow reads {picture.width} x {picture.height} pixels, the service {width} x {height}.")
    picture.putalpha(ImageChops.multiply(picture.getchannel("A"), _grey(mask.pixels)))
    if crop:
        picture = picture.crop(_visible(mask.box))
    picture.save(path, "PNG", icc_profile=profile)


def write_mask(mask: Mask, path: Path, *, crop: bool) -> None:
    """The mask as a grey PNG, white inside. OSError when the file cannot be written."""
    picture = _grey(mask.pixels)
    if crop:
        picture = picture.crop(_visible(mask.box))
    picture.save(path, "PNG")


def _visible(box: Box) -> Box:
    """The box; of an empty mask one pixel, since a PNG has at least one."""
    x0, y0, x1, y1 = box
    return x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)


def _grey(pixels: NDArray[np.bool_]) -> Image.Image:
    return Image.fromarray(pixels.astype(np.uint8) * np.uint8(255))


def _eight_bit(image: Image.Image) -> Image.Image:
    """16-bit grey scaled to 8 bits; Pillow would clip it to white."""
    if not image.mode.startswith("I;16"):
        return image
    return Image.fromarray((np.asarray(image).astype(np.uint32) * 255 // 65535).astype(np.uint8))
