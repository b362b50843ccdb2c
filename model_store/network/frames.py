"""Frames, the network's input: images resized, normalised and padded as in the service, or resized as in training."""

from importlib.util import find_spec

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from model_store.architectures import PIXEL_MEAN, PIXEL_STD
from service.sam.transforms import FRAME_SIZE, input_size, preprocess

_HAS_PILLOW = find_spec("PIL") is not None


def frame(image: NDArray[np.uint8], frame_size: int = FRAME_SIZE) -> Tensor:
    """Return the frame of an image, with the same pixels as in the service (docs/explanation/model.md, section 1.1).

    Without Pillow, on a machine that only trains, torch resizes. Then one pixel in ten differs by one grey level.

    Args:
        image: Image, (H, W, 3) RGB.
        frame_size: Side of the frame, S, in pixels.

    Returns:
        (1, 3, S, S) float32.
    """
    if _HAS_PILLOW:
        return torch.from_numpy(preprocess(image, PIXEL_MEAN, PIXEL_STD, frame_size)).unsqueeze(0)
    resized = resize_float(image, frame_size).round()
    mean, deviation = (torch.tensor(values)[:, None, None] for values in (PIXEL_MEAN, PIXEL_STD))
    padding = (0, frame_size - resized.shape[2], 0, frame_size - resized.shape[1])
    return functional.pad((resized - mean) / deviation, padding).unsqueeze(0)


def resize_float(image: NDArray[np.uint8], frame_size: int = FRAME_SIZE) -> Tensor:
    """Return an image at its size in the frame, as training and evaluation resize it: floats, never rounded.

    Source: docs/explanation/model.md, section 1.2.

    Args:
        image: Image, (H, W, 3) RGB.
        frame_size: Longer side of the result, S, in pixels.

    Returns:
        (3, h, w) float32 in [0, 255], neither normalised nor padded.
    """
    height, width, _ = image.shape
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).unsqueeze(0).float()
    size = list(input_size((height, width), frame_size))
    return functional.interpolate(pixels, size, mode="bilinear", align_corners=False, antialias=True)[0]
