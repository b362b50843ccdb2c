"""Converting grey samples of more than 8 bits to 8 bits."""

import numpy as np
from PIL import Image


def grey_8_bit(image: Image.Image, *, white: int, is_negative: bool = False) -> Image.Image:
    """Return grey of more than 8 bits as 8-bit grey, rounded.

    Args:
        image: Image of a mode that begins with `I;16`.
        white: Sample that becomes white. Larger samples become white, too.
        is_negative: Whether 0 is white.
    """
    levels = np.minimum(np.asarray(image), white).astype(np.uint32)
    levels *= 255
    levels += white // 2
    levels //= white
    grey = levels.astype(np.uint8)
    return Image.fromarray(255 - grey if is_negative else grey)
