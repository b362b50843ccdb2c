"""Masks as arrays of the size of the image."""

import numpy as np
from numpy.typing import NDArray

from service.sam.masks import Mask


def full(mask: Mask) -> NDArray[np.bool_]:
    """Return a mask as an array (H, W) of bool."""
    pixels = np.zeros(mask.size, np.bool_)
    x0, y0, x1, y1 = mask.box
    pixels[y0:y1, x0:x1] = mask.crop
    return pixels
