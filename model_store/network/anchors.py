"""Anchors of the granularity module: where they are, their shapes, and the boxes that deltas make of them.

Letters: A = 9 anchors a position, M positions of all levels, N = A · M anchors; levels 3 to 7 have strides 8 to 128.
Source: EfficientDet (arXiv 1911.09070); docs/explanation/model.md, section 6.1.
"""

import itertools

import torch
from torch import Tensor

STRIDES = (8, 16, 32, 64, 128)
ANCHORS = 9
"""Anchors of one position."""


def anchor_boxes(frame_size: int, device: torch.device | None = None) -> Tensor:
    """Return all anchors of a frame.

    Args:
        frame_size: Side of the frame, in pixels.
        device: Device of the result; None for the CPU.

    Returns:
        (N, 4) as x0, y0, x1, y1 in the frame: level by level, row by row, ratio by ratio, scale by scale.
    """
    positions, shapes = anchor_positions(frame_size, device), anchor_shapes(device)
    return anchors_of(positions[:, None], shapes).reshape(-1, 4)


def anchor_positions(frame_size: int, device: torch.device | None = None) -> Tensor:
    """Return the positions of all levels.

    Args:
        frame_size: Side of the frame, in pixels.
        device: Device of the result; None for the CPU.

    Returns:
        (M, 3): x and y of the centre in the frame, and the stride of the level.
    """
    levels = []
    for stride in STRIDES:
        centres = (torch.arange(-(-frame_size // stride), device=device) + 0.5) * stride
        y, x = torch.meshgrid(centres, centres, indexing="ij")
        levels.append(torch.stack([x, y, torch.full_like(x, stride)], dim=-1).reshape(-1, 3))
    return torch.cat(levels)


def anchor_shapes(device: torch.device | None = None) -> Tensor:
    """Return the shapes of one position's anchors, (A, 2) as (width, height) in strides."""
    shapes = [
        (4 * 2 ** (octave / 3) / ratio**0.5, 4 * 2 ** (octave / 3) * ratio**0.5)
        for ratio, octave in itertools.product((1.0, 0.5, 2.0), range(3))
    ]
    return torch.tensor(shapes, device=device)


def anchors_of(positions: Tensor, shapes: Tensor) -> Tensor:
    """Return the anchors (..., 4) of positions (..., 3) and shapes (..., 2), which are broadcast."""
    half = positions[..., 2:] * shapes / 2
    return torch.cat([positions[..., :2] - half, positions[..., :2] + half], dim=-1)


def decode_boxes(anchors: Tensor, deltas: Tensor, frame_size: int) -> Tensor:
    """Return the boxes of anchors and deltas, clipped to the frame.

    Args:
        anchors: Anchors, (..., 4), as x0, y0, x1, y1 in the frame.
        deltas: Predicted deltas, (..., 4): shift of the centre in anchor sizes, then logarithm of the size ratio.
        frame_size: Side of the frame, in pixels.

    Returns:
        (..., 4) as x0, y0, x1, y1 in the frame.
    """
    sizes = anchors[..., 2:] - anchors[..., :2]
    centres = (anchors[..., 2:] + anchors[..., :2]) / 2 + deltas[..., :2] * sizes
    # exp(±4.135) is 62.5 or its inverse, the limit of the usual box coders. It keeps exp() finite.
    half = sizes * deltas[..., 2:].clamp(-4.135, 4.135).exp() / 2
    return torch.cat([centres - half, centres + half], dim=-1).clamp(0, frame_size)
