"""Stretching of an image to the square input of an encoder, in float and with antialiasing."""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# A band of so many pixels in float is quicker than a whole plane, which does not fit into the processor's cache.
_BAND_PIXELS: Final = 1 << 19
# Neighbouring bands read some rows twice. A band has at least so many times the rows that the filter reads on one side.
_LEAST_REACHES: Final = 8


def stretch(image: Image.Image, mean: Sequence[float], std: Sequence[float], image_size: int) -> NDArray[np.float32]:
    """Return an image resized to a square, each axis by its own scale, and normalised.

    Where an axis shrinks, the triangle of the bilinear filter is widened by the scale. Nothing is rounded to grey
    levels. The image is resized band by band, which takes some megabytes whatever its size.

    Args:
        image: Image of mode RGB.
        mean: Means of the three channels, on the scale 0..255.
        std: Standard deviations of the three channels, on the scale 0..255.
        image_size: Side of the square, pixels.

    Returns:
        (3, image_size, image_size) float32.

    Source: docs/explanation/sam2.md, section "Images in, masks out".
    """
    scale = image.height / image_size
    reach = max(scale, 1.0) + 1.0  # rows that the filter reads above and below, and one for rounding
    source_rows = max(_BAND_PIXELS / max(image.width, image_size), _LEAST_REACHES * reach)
    band_rows = math.ceil((source_rows - 2.0 * reach) / scale)
    planes = np.empty((3, image_size, image_size), np.float32)
    for first in range(0, image_size, band_rows):
        end = min(first + band_rows, image_size)
        top = max(0, math.floor(first * scale - reach))
        bottom = min(image.height, math.ceil(end * scale + reach))
        box = (0.0, first * scale - top, float(image_size), end * scale - top)
        for channel, levels in enumerate(image.crop((0, top, image.width, bottom)).split()):
            # Columns first. Pillow 13 begins with the rows of tall images, which rounds in another order.
            columns = levels.convert("F").resize((image_size, bottom - top), Image.Resampling.BILINEAR)
            resized = columns.resize((image_size, end - first), Image.Resampling.BILINEAR, box)
            band = planes[channel, first:end]
            np.subtract(np.asarray(resized), np.float32(mean[channel]), out=band)
            np.divide(band, np.float32(std[channel]), out=band)
    return planes
