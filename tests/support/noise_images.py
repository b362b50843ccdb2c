"""Images of smooth noise that differ by seed, and their files."""

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def noise_image(size: tuple[int, int], seed: int = 0) -> NDArray[np.uint8]:
    """Return an image (H, W, 3) of colour blobs of about twelve pixels."""
    height, width = size
    coarse = (max(2, height // 12), max(2, width // 12), 3)
    colours = np.random.default_rng((seed, height, width)).integers(0, 256, coarse, dtype=np.uint8)
    return np.asarray(Image.fromarray(colours).resize((width, height), Image.Resampling.BICUBIC))


def as_file(image: NDArray[np.uint8], file_format: str = "PNG", **options: Any) -> bytes:
    """Return the image as a file. `options` are those of Pillow."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, file_format, **options)
    return buffer.getvalue()


def noise_file(size: tuple[int, int], seed: int = 0) -> bytes:
    """Return `noise_image` as PNG, which is lossless."""
    return as_file(noise_image(size, seed))
