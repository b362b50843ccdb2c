"""From pictures and prompts to the encoder's square frame, and from low-resolution logits back to the picture.

Everything here is geometry; which pixels a mask has is decided in `masks`.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from PIL import Image

Size = tuple[int, int]
"""(height, width) in pixels, in this order everywhere."""

FRAME_SIZE = 1024
"""Side of the square the encoder sees, pixels."""

MASK_SIZE = 256
"""Side of the decoder's logits, pixels; they cover the whole frame, padding included."""

TAPS = 3
"""Low-resolution samples that one pixel of the picture can depend on, along one axis."""


def input_size(original_size: Size, frame_size: int = FRAME_SIZE) -> Size:
    """Size a picture has inside the frame, before padding.

    Args:
        original_size: (H, W) of the picture, pixels, both at least 1.
        frame_size: side of the frame, pixels.

    Returns:
        (h, w), the longer one equal to `frame_size`. The shorter one is 0 for a picture of more than 2 * frame_size to
        1; such a picture cannot be encoded and callers refuse it.

    Source: docs/explanation/model.md, section 1.1. Rounds half up; `round` would give some sizes one row less.
    """
    height, width = original_size
    scale = frame_size / max(height, width)
    return int(height * scale + 0.5), int(width * scale + 0.5)


def preprocess(
    image: "NDArray[np.uint8] | Image.Image", mean: Sequence[float], std: Sequence[float], frame_size: int = FRAME_SIZE
) -> NDArray[np.float32]:
    """The encoder's input: resized, normalised, padded with the mean colour on the right and at the bottom.

    Args:
        image: (H, W, 3) uint8 RGB or a Pillow picture of mode RGB, of a size whose `input_size` has no side of 0.
        mean: three channel means, on the scale 0..255.
        std: three channel standard deviations, on the same scale.
        frame_size: side of the frame, pixels.

    Returns:
        (3, frame_size, frame_size) float32.

    Source: docs/explanation/model.md, section 1.1. The resize is Pillow's antialiased bilinear one, rounded to uint8,
    as the official predictor does it; a resize in float differs by up to one grey level.
    """
    from PIL import Image  # noqa: PLC0415 - training needs the rest of this module on machines without Pillow

    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    height, width = input_size((picture.height, picture.width), frame_size)
    if height == 0 or width == 0:
        raise ValueError(f"A picture of {picture.size} pixels has none in the frame. This is a bug.")
    resized = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))
    frame = np.zeros((3, frame_size, frame_size), np.float32)
    for channel, plane in enumerate(cv2.split(resized)):
        # One table look-up is bit for bit (x - mean) / std in float32, and half as slow as the arithmetic.
        levels = np.arange(256, dtype=np.float32)
        table = (levels - np.float32(mean[channel])) / np.float32(std[channel])
        frame[channel, :height, :width] = cv2.LUT(plane, table)
    return frame


def points_to_frame(points: ArrayLike, original_size: Size) -> NDArray[np.float32]:
    """Pixels of the picture as coordinates of the frame, before the prompt encoder adds its half pixel.

    Args:
        points: (..., 2) as (x, y), pixels of the upright original.
        original_size: (H, W) of the picture.

    Returns:
        (..., 2) float32, not clamped.

    Source: docs/explanation/model.md, section 1.3: one ratio for each axis, of the rounded size, in float64.
    """
    scaled: NDArray[np.float64] = np.asarray(points, np.float64) * _scale(original_size)
    return scaled.astype(np.float32)


def points_from_frame(points: ArrayLike, original_size: Size) -> NDArray[np.float64]:
    """Coordinates of the frame (..., 2) as pixels of the picture, which may lie outside: the other way round."""
    scaled: NDArray[np.float64] = np.asarray(points, np.float64) / _scale(original_size)
    return scaled


def _scale(original_size: Size) -> NDArray[np.float64]:
    """Frame pixels a pixel of the picture, (2,) for x and y."""
    height, width = original_size
    input_height, input_width = input_size(original_size)
    return np.array([input_width / width, input_height / height])


@dataclass(frozen=True, slots=True, eq=False)
class Upsampling:
    """The two bilinear steps of docs/explanation/model.md, section 1.4 along one axis, as one operator.

    Pixel i of the picture is `sum(weights[i, k] * logits[first[i] + k] for k in range(TAPS))`. Two steps of bilinear
    interpolation reach two neighbouring frame samples, hence at most three neighbouring logits.

    Args:
        first: (n,) int64, not decreasing, from 0 to MASK_SIZE - TAPS.
        weights: (n, TAPS) float32, not negative, rows of sum 1.
    """

    first: NDArray[np.int64]
    weights: NDArray[np.float32]


@functools.lru_cache(maxsize=32)
def upsampling(original_length: int, input_length: int) -> Upsampling:
    """The operator of one axis; kept, since clicks come many to a picture and pictures many to a size.

    Args:
        original_length: side of the picture, pixels.
        input_length: the same side inside the frame, at least 1.
    """
    below, above, fraction = _bilinear(original_length, input_length)
    frame_below, frame_above, frame_fraction = _bilinear(FRAME_SIZE, MASK_SIZE)
    first = np.minimum(frame_below[below], MASK_SIZE - TAPS)
    exact = np.zeros((original_length, TAPS))
    pixels = np.arange(original_length)
    for frame_pixels, share in ((below, 1.0 - fraction), (above, fraction)):
        inner = frame_fraction[frame_pixels]
        exact[pixels, frame_below[frame_pixels] - first] += share * (1.0 - inner)
        exact[pixels, frame_above[frame_pixels] - first] += share * inner
    weights = exact.astype(np.float32)
    first.flags.writeable = weights.flags.writeable = False
    return Upsampling(first, weights)


def _bilinear(
    target_length: int, source_length: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """For each target sample its two source samples and the share of the second; pixel centres, edges repeated."""
    source = np.maximum((np.arange(target_length) + 0.5) * (source_length / target_length) - 0.5, 0.0)
    below = np.minimum(source.astype(np.int64), source_length - 1)
    return below, np.minimum(below + 1, source_length - 1), source - below
