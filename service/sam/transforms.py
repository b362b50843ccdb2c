"""Geometry: from images and prompts to the encoder's square frame, and from low-resolution logits back to the image.

The module `masks` decides which pixels a mask has.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from service.sam.frame import Frame, Resize

if TYPE_CHECKING:
    from PIL import Image

    from service.sam.resizing import Resizer

Size = tuple[int, int]
"""Height and width in pixels, always in this order."""

FRAME_SIZE = 1024
"""Side of the square frame of prompts and masks, pixels, for all models. The input of an encoder may be smaller."""

MASK_SIZE = 256
"""Side of the decoder's logits, pixels; they cover the whole frame, padding included."""

_CELL = FRAME_SIZE // MASK_SIZE  # side of a logit in the frame

TAPS = 3
"""Low-resolution samples that one pixel of the image can depend on, along one axis."""


def input_size(original_size: Size, frame_size: int = FRAME_SIZE) -> Size:
    """Return the size of a letterboxed image inside the square frame, before padding.

    Args:
        original_size: Height and width of the image, pixels, both at least 1.
        frame_size: Side of the frame, pixels.

    Returns:
        Height and width. The longer one equals `frame_size`. The shorter one is 0 for an image with a ratio of more
        than 2 * frame_size to 1. Callers refuse such an image, because it cannot be encoded.

    Source: docs/explanation/model.md, section 1.1. A fraction of one half is rounded up, unlike `round` does.
    """
    height, width = original_size
    scale = frame_size / max(height, width)
    return int(height * scale + 0.5), int(width * scale + 0.5)


def content_size(frame: Frame) -> Size:
    """Return the height and width of an image inside the frame of prompts and masks, pixels.

    Args:
        frame: Image in the frame. If it is letterboxed, its `input_size` has no side of 0.
    """
    return (FRAME_SIZE, FRAME_SIZE) if frame.resize == "stretch" else input_size(frame.size)


def preprocess(
    image: "NDArray[np.uint8] | Image.Image",
    mean: Sequence[float],
    std: Sequence[float],
    image_size: int = FRAME_SIZE,
    *,
    original_size: Size | None = None,
    resize: Resize = "letterbox",
    resizer: "Resizer | None" = None,
) -> NDArray[np.float32]:
    """Return the encoder's input: resized and normalised.

    A letterboxed image is padded with the mean colour on the right and at the bottom. A stretched one fills the input.

    Args:
        image: RGB array (H, W, 3) uint8 or Pillow image of mode RGB. If it is letterboxed, its `input_size` has no side
            of 0.
        mean: Means of the three channels, on the scale 0..255.
        std: Standard deviations of the three channels, on the scale 0..255.
        image_size: Side of the encoder's input, pixels. For a model of 512 it is not the frame of prompts, and the size
            inside it is rounded anew: 600 x 900 is 341 x 512 here and 683 x 1024 there.
        original_size: Height and width of the image at full resolution, pixels. It gives the size inside the input, so
            that a scale of decoding, which rounds, does not change the geometry. None: the size of `image`. It does not
            matter if the image is stretched.
        resize: How the image is resized to the input.
        resizer: Implementation of the resize; None for Pillow's. All give the same input.

    Returns:
        (3, image_size, image_size) float32.

    Source: docs/explanation/model.md, section 1.1. See `service.sam.resizing`.
    """
    from PIL import Image  # noqa: PLC0415 - training needs the rest of this module on machines without Pillow

    from service.sam.resizing import PillowResizer  # noqa: PLC0415 - it needs Pillow, too

    pillow_image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    resizer = resizer or PillowResizer()
    if resize == "stretch":
        return resizer.stretch(pillow_image, mean, std, image_size)
    height, width = input_size(original_size or (pillow_image.height, pillow_image.width), image_size)
    if height == 0 or width == 0:
        raise ValueError(f"An image of {pillow_image.size} pixels has none in the frame; check `input_size` before.")
    return resizer.letterbox(pillow_image, (height, width), mean, std, image_size)


def points_to_frame(points: ArrayLike, frame: Frame) -> NDArray[np.float32]:
    """Convert pixels of the image to coordinates of the frame, before the prompt encoder adds its half pixel.

    Args:
        points: Points as (x, y), (..., 2), pixels of the upright image.
        frame: Image in the frame of prompts and masks.

    Returns:
        Points in the frame, (..., 2) float32, not clipped.

    Source: docs/explanation/model.md, section 1.3: one ratio for each axis, of the rounded size, in float64. For a
    stretched image docs/explanation/sam2.md, section "Images in, masks out": float32, and the division comes first.
    """
    if frame.resize == "stretch":
        height, width = frame.size
        shares = np.asarray(points, np.float32) / np.array((width, height), np.float32)
        return np.asarray(shares * FRAME_SIZE, np.float32)
    scaled: NDArray[np.float64] = np.asarray(points, np.float64) * _scale(frame)
    return scaled.astype(np.float32)


def points_from_frame(points: ArrayLike, frame: Frame) -> NDArray[np.float64]:
    """Convert coordinates of the frame to pixels of the image, which may lie outside: the inverse of `points_to_frame`.

    Args:
        points: Points as (x, y), (..., 2), in the frame.
        frame: Image in the frame of prompts and masks.
    """
    scaled: NDArray[np.float64] = np.asarray(points, np.float64) / _scale(frame)
    return scaled


def to_cells(points: ArrayLike, frame: Frame) -> NDArray[np.float64]:
    """Convert pixels of the image to indices of the decoder's logits. The centre of a logit is a whole number.

    Args:
        points: Points as (x, y), (..., 2), pixels of the upright image.
        frame: Image in the frame of prompts and masks.
    """
    cells: NDArray[np.float64] = np.asarray(points, np.float64) * (_scale(frame) / _CELL) - 0.5
    return cells


def from_cells(cells: ArrayLike, frame: Frame) -> NDArray[np.float64]:
    """Convert indices of the decoder's logits to pixels of the image: the inverse of `to_cells`.

    Args:
        cells: Indices as (x, y), (..., 2).
        frame: Image in the frame of prompts and masks.
    """
    points: NDArray[np.float64] = (np.asarray(cells, np.float64) + 0.5) / (_scale(frame) / _CELL)
    return points


def used_cells(frame: Frame) -> Size:
    """Return the rows and columns of the decoder's logits that lie in the image. The rest is padding.

    A stretched image has none: all 256 x 256 logits lie in it.

    Args:
        frame: Image in the frame of prompts and masks.
    """
    rows, columns = (min(int((length - 0.5) / _CELL - 0.5) + 2, MASK_SIZE) for length in content_size(frame))
    return rows, columns


def cell_size(frame: Frame) -> float:
    """Return the side of a logit in the image, pixels: the longer one where a stretched image has two.

    Args:
        frame: Image in the frame of prompts and masks.
    """
    return float(_CELL / _scale(frame).min())


def _scale(frame: Frame) -> NDArray[np.float64]:
    """Return the frame pixels for one pixel of the image, (2,) for x and y."""
    height, width = frame.size
    content_height, content_width = content_size(frame)
    return np.array([content_width / width, content_height / height])


@dataclass(frozen=True, slots=True, eq=False)
class Upsampling:
    """The upsampling of logits to pixels of the image along one axis, as one operator.

    Pixel i of the image is `sum(weights[i, k] * logits[first[i] + k] for k in range(TAPS))`. The logits of a
    letterboxed image are enlarged to the frame, and then resized to the image. These two bilinear steps use two
    neighbouring frame samples, and so at most three neighbouring logits. Those of a stretched image are resized to it
    in one bilinear step, which uses two.

    Args:
        first: First logit of each pixel, (n,) int64, not decreasing, from 0 to MASK_SIZE - TAPS.
        weights: Weights of the logits, (n, TAPS) float32, not negative; each row has the sum 1.
    """

    first: NDArray[np.int64]
    weights: NDArray[np.float32]


def upsampling(frame: Frame) -> tuple[Upsampling, Upsampling]:
    """Return the operators of rows and of columns.

    Args:
        frame: Image in the frame of prompts and masks.

    Source: docs/explanation/model.md, section 1.4; for stretched images docs/explanation/sam2.md, section "Images in,
    masks out".
    """
    height, width = frame.size
    if frame.resize == "stretch":
        return _one_step(height), _one_step(width)
    content_height, content_width = content_size(frame)
    return _two_steps(height, content_height), _two_steps(width, content_width)


# The operators are cached, because an image gets many prompts, and many images have one size.
@functools.lru_cache(maxsize=32)
def _two_steps(original_length: int, content_length: int) -> Upsampling:
    """Return the operator of one axis of a letterboxed image, from its side and its side in the frame, pixels."""
    below, above, fraction = _bilinear(original_length, content_length)
    frame_below, frame_above, frame_fraction = _bilinear(FRAME_SIZE, MASK_SIZE)
    first = np.minimum(frame_below[below], MASK_SIZE - TAPS)
    exact = np.zeros((original_length, TAPS))
    pixels = np.arange(original_length)
    for frame_pixels, share in ((below, 1.0 - fraction), (above, fraction)):
        inner = frame_fraction[frame_pixels]
        exact[pixels, frame_below[frame_pixels] - first] += share * (1.0 - inner)
        exact[pixels, frame_above[frame_pixels] - first] += share * inner
    return _operator(first, exact)


@functools.lru_cache(maxsize=32)
def _one_step(original_length: int) -> Upsampling:
    """Return the operator of one axis of a stretched image, from its side, pixels."""
    below, above, fraction = _bilinear(original_length, MASK_SIZE)
    first = np.minimum(below, MASK_SIZE - TAPS)
    exact = np.zeros((original_length, TAPS))
    pixels = np.arange(original_length)
    exact[pixels, below - first] += 1.0 - fraction
    exact[pixels, above - first] += fraction
    return _operator(first, exact)


def _operator(first: NDArray[np.int64], exact: NDArray[np.float64]) -> Upsampling:
    weights = exact.astype(np.float32)
    first.flags.writeable = weights.flags.writeable = False
    return Upsampling(first, weights)


def _bilinear(
    target_length: int, source_length: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Return for each target sample its two source samples and the weight of the second.

    Samples lie at pixel centres, and the edges are repeated.
    """
    source = np.maximum((np.arange(target_length) + 0.5) * (source_length / target_length) - 0.5, 0.0)
    below = np.minimum(source.astype(np.int64), source_length - 1)
    return below, np.minimum(below + 1, source_length - 1), source - below
