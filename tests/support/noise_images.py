"""Images of smooth noise, no two seeds alike, and the files they are sent as."""

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def noise_image(size: tuple[int, int], seed: int = 0) -> NDArray[np.uint8]:
    """An image (H, W, 3) of colour blobs of about twelve pixels."""
    height, width = size
    coarse = (max(2, height // 12), max(2, width // 12), 3)
    colours = np.random.default_rng((seed, height, width)).integers(0, 256, coarse, dtype=np.uint8)
    return np.asarray(Image.fromarray(colours).resize((width, height), Image.Resampling.BICUBIC))


def as_file(image: NDArray[np.uint8], file_format: str = "PNG", **options: Any) -> bytes:
    """The image as a file; `options` are Pillow's."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, file_format, **options)
    return buffer.getvalue()


def noise_file(size: tuple[int, int], seed: int = 0) -> bytes:
    """`noise_image` as PNG, from which a decoder gets the same pixels back."""
    return as_file(noise_image(size, seed))
