"""Stretching of an image to the square input of an encoder, in float and with antialiasing."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def stretch(image: Image.Image, mean: Sequence[float], std: Sequence[float], image_size: int) -> NDArray[np.float32]:
    """Return an image resized to a square, each axis by its own scale, and normalised.

    Where an axis shrinks, the triangle of the bilinear filter is widened by the scale. Nothing is rounded to grey
    levels.

    Args:
        image: Image of mode RGB.
        mean: Means of the three channels, on the scale 0..255.
        std: Standard deviations of the three channels, on the scale 0..255.
        image_size: Side of the square, pixels.

    Returns:
        (3, image_size, image_size) float32.

    Source: docs/explanation/sam2.md, section "Images in, masks out".
    """
    planes = np.empty((3, image_size, image_size), np.float32)
    for channel, plane in enumerate(planes):
        levels = image.getchannel(channel).convert("F")
        resized = levels.resize((image_size, image_size), Image.Resampling.BILINEAR)
        np.subtract(np.asarray(resized), np.float32(mean[channel]), out=plane)
        np.divide(plane, np.float32(std[channel]), out=plane)
    return planes
