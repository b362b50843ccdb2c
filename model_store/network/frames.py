"""Frames, the network's input: images resized, normalised and padded as in the service, or resized as in training."""

from importlib.util import find_spec

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from model_store.architectures import PIXEL_MEAN, PIXEL_STD
from service.sam.frame import Resize
from service.sam.transforms import FRAME_SIZE, input_size, preprocess

_HAS_PILLOW = find_spec("PIL") is not None


def frame(image: NDArray[np.uint8], frame_size: int = FRAME_SIZE, resize: Resize = "letterbox") -> Tensor:
    """Return the frame of an image, as the official code of a model makes it.

    A letterboxed image has the same pixels as in the service (docs/explanation/model.md, section 1.1). Without Pillow,
    on a machine that only trains, torch resizes. Then one pixel in ten differs by one grey level. A stretched image is
    resized in floats, as in `float_frame`; the service agrees within 2e-6.

    Args:
        image: Image, (H, W, 3) RGB.
        frame_size: Side of the frame, S, in pixels.
        resize: How the image gets into the frame, see `Architecture.resize`.

    Returns:
        (1, 3, S, S) float32.
    """
    if resize == "stretch":
        return float_frame(image, frame_size, resize)
    if _HAS_PILLOW:
        return torch.from_numpy(preprocess(image, PIXEL_MEAN, PIXEL_STD, frame_size)).unsqueeze(0)
    return _normalised(resize_float(image, frame_size).round(), frame_size)


def float_frame(image: NDArray[np.uint8], frame_size: int = FRAME_SIZE, resize: Resize = "letterbox") -> Tensor:
    """Return the frame of an image, resized in floats; see `frame` for arguments and result."""
    return _normalised(resize_float(image, frame_size, resize), frame_size)


def resize_float(image: NDArray[np.uint8], frame_size: int = FRAME_SIZE, resize: Resize = "letterbox") -> Tensor:
    """Return an image at its size in the frame, as training and evaluation resize it: floats, never rounded.

    Source: docs/explanation/model.md, section 1.2; docs/explanation/sam2.md, section "Images in, masks out".

    Args:
        image: Image, (H, W, 3) RGB.
        frame_size: Longer side of the result, S, in pixels.
        resize: How the image gets into the frame, see `Architecture.resize`.

    Returns:
        (3, h, w) float32 in [0, 255], neither normalised nor padded; (3, S, S) for a stretched image.
    """
    height, width, _ = image.shape
    pixels = torch.from_numpy(image.astype(np.float32)).permute(2, 0, 1).unsqueeze(0)
    size = [frame_size, frame_size] if resize == "stretch" else list(input_size((height, width), frame_size))
    return functional.interpolate(pixels, size, mode="bilinear", align_corners=False, antialias=True)[0]


def _normalised(pixels: Tensor, frame_size: int) -> Tensor:
    """Return pixels (3, h, w) in [0, 255], normalised, then padded with zeros: (1, 3, S, S)."""
    mean, deviation = (torch.tensor(values)[:, None, None] for values in (PIXEL_MEAN, PIXEL_STD))
    padding = (0, frame_size - pixels.shape[2], 0, frame_size - pixels.shape[1])
    return functional.pad((pixels - mean) / deviation, padding).unsqueeze(0)
