"""Masks as whole images, to compare with."""

import numpy as np
from numpy.typing import NDArray

from service.sam.masks import Mask


def full(mask: Mask) -> NDArray[np.bool_]:
    """(H, W) bool."""
    image = np.zeros(mask.size, np.bool_)
    x0, y0, x1, y1 = mask.box
    image[y0:y1, x0:x1] = mask.crop
    return image
