"""Laying transparent images on white, band by band: a whole copy in RGBA of 50 megapixels took 600 MiB."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_BAND_ROWS = 256


def to_rgb(image: Image.Image) -> Image.Image:
    """Return an image of 8 bits in RGB, on white where it is transparent; the same image if it is RGB already."""
    if image.has_transparency_data:
        return on_white(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def on_white(image: Image.Image) -> Image.Image:
    """Return an image with an alpha channel, or with transparency that Pillow knows, in RGB on white."""
    page = Image.new("RGB", image.size, "white")
    for box in bands(image):
        layer = image.crop(box).convert("RGBA")
        page.paste(layer, box[:2], layer.getchannel("A"))
    return page


def whiten_colour(page: Image.Image, samples: Image.Image | NDArray[Any], colour: tuple[int, ...]) -> None:
    """Make the pixels of a transparent colour white.

    Args:
        page: Image of mode RGB that is changed.
        samples: Samples of the file: an image of the same size, or (H, W) or (H, W, channels).
        colour: The transparent colour: a number for each channel.
    """
    for box in bands(page):
        band = np.asarray(samples.crop(box)) if isinstance(samples, Image.Image) else samples[box[1] : box[3]]
        channels = [band] if band.ndim == 2 else [band[..., channel] for channel in range(len(colour))]
        is_transparent = np.logical_and.reduce(
            [channel == value for channel, value in zip(channels, colour, strict=True)]
        )
        if is_transparent.any():
            page.paste("white", box, Image.fromarray(is_transparent.astype(np.uint8) * np.uint8(255)))


def bands(image: Image.Image) -> Iterator[tuple[int, int, int, int]]:
    """Yield the boxes of bands of rows, which cover an image."""
    for top in range(0, image.height, _BAND_ROWS):
        yield 0, top, image.width, min(top + _BAND_ROWS, image.height)
