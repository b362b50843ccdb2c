"""The resize of an image to the encoder's input, as Pillow does it, and the interface of its implementations."""

from collections.abc import Sequence
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.sam.stretching import stretch
from service.sam.transforms import Size


class Resizer(Protocol):
    """An implementation of the resize: `PillowResizer`, or `service.native.resize.NativeResizer`."""

    def letterbox(
        self, image: Image.Image, size: Size, mean: Sequence[float], std: Sequence[float], image_size: int
    ) -> NDArray[np.float32]:
        """Return an image resized to a size in whole grey levels, normalised, and padded at the right and bottom."""

    def stretch(
        self, image: Image.Image, mean: Sequence[float], std: Sequence[float], image_size: int
    ) -> NDArray[np.float32]:
        """Return an image resized to a square in float, and normalised."""


class PillowResizer:
    """The resize with Pillow, for machines without the native library."""

    def letterbox(
        self, image: Image.Image, size: Size, mean: Sequence[float], std: Sequence[float], image_size: int
    ) -> NDArray[np.float32]:
        """Return an image resized to a size in whole grey levels, normalised, and padded at the right and bottom.

        Args:
            image: Image of mode RGB.
            size: Height and width of the image inside the input, pixels, from 1 to `image_size`.
            mean: Means of the three channels, on the scale 0..255.
            std: Standard deviations of the three channels, on the scale 0..255.
            image_size: Side of the encoder's input, pixels.

        Returns:
            (3, image_size, image_size) float32. The padding is 0, the mean colour.

        Source: docs/explanation/model.md, section 1.1. Pillow's bilinear filter is antialiased and rounds to uint8
        behind each axis, as in the official predictor. A resize in float differs by up to one grey level.
        """
        height, width = size
        # Columns first, as the official code got it from older versions. Pillow 13 begins with the rows of tall images,
        # which changes some pixels by a grey level.
        columns = image.resize((width, image.height), Image.Resampling.BILINEAR)
        resized = np.asarray(columns.resize((width, height), Image.Resampling.BILINEAR))
        planes = np.zeros((3, image_size, image_size), np.float32)
        for channel, plane in enumerate(cv2.split(resized)):
            # A table gives (x - mean) / std in float32 bit for bit, in half the time of the arithmetic.
            levels = np.arange(256, dtype=np.float32)
            table = (levels - np.float32(mean[channel])) / np.float32(std[channel])
            planes[channel, :height, :width] = cv2.LUT(plane, table)
        return planes

    def stretch(
        self, image: Image.Image, mean: Sequence[float], std: Sequence[float], image_size: int
    ) -> NDArray[np.float32]:
        """Return an image resized to a square in float, and normalised: `service.sam.stretching.stretch`.

        Args:
            image: Image of mode RGB.
            mean: Means of the three channels, on the scale 0..255.
            std: Standard deviations of the three channels, on the scale 0..255.
            image_size: Side of the encoder's input, pixels.
        """
        return stretch(image, mean, std, image_size)
