"""The binary mask of a prompt in the JSON format of /segment: as PNG in base64."""

import base64
import io

import numpy as np
from numpy.typing import ArrayLike


def mask_as_png(mask: ArrayLike) -> str:
    """Write a binary mask as a PNG file of one bit a pixel, in base64.

    Args:
        mask: (H, W) bool, or numbers of which those that are not 0 are inside.

    Raises:
        ValueError: if the array has another shape, or no pixel is inside.
    """
    from PIL import Image  # noqa: PLC0415 - Pillow is imported only when it is needed

    pixels = np.asarray(mask) != 0
    if pixels.ndim != 2:
        raise ValueError(f"a mask needs the shape (height, width), not {pixels.shape}.")
    if not pixels.any():
        raise ValueError("the mask is empty: no pixel is inside.")
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return base64.b64encode(file.getvalue()).decode("ascii")
