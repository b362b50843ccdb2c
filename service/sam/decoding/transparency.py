"""Laying transparent images on white, band by band: a whole copy in RGBA of 50 megapixels took 600 MiB."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_BAND_ROWS = 256


def on_white(image: Image.Image) -> Image.Image:
    """Return an image with an alpha channel, or with transparency that Pillow knows, in RGB on white."""
    page = Image.new("RGB", image.size, "white")
    for box in _bands(image):
        layer = image.crop(box).convert("RGBA")
        page.paste(layer, box[:2], layer.getchannel("A"))
    return page


def whiten_colour(page: Image.Image, planes: Sequence[Image.Image], colours: Sequence[tuple[int, ...]]) -> None:
    """Make the pixels of a transparent colour white.

    Args:
        page: Image of mode RGB that is changed.
        planes: Images with the samples of the file, of the same size.
        colours: The transparent colour in each of `planes`. A pixel is transparent if it has the colour in all.
    """
    for box in _bands(page):
        is_transparent = np.logical_and.reduce(
            [_equals(plane.crop(box), colour) for plane, colour in zip(planes, colours, strict=True)]
        )
        if is_transparent.any():
            page.paste("white", box, Image.fromarray(is_transparent.astype(np.uint8) * np.uint8(255)))


def _equals(band: Image.Image, colour: tuple[int, ...]) -> NDArray[np.bool_]:
    samples = np.asarray(band)
    if len(colour) == 1:
        return np.asarray(samples == colour[0])
    return np.asarray(np.logical_and.reduce([samples[..., channel] == value for channel, value in enumerate(colour)]))


def _bands(image: Image.Image) -> Iterator[tuple[int, int, int, int]]:
    for top in range(0, image.height, _BAND_ROWS):
        yield 0, top, image.width, min(top + _BAND_ROWS, image.height)
