"""A 3x3 convolution as products of matrices: Winograd's minimal filtering for tiles of 2x2 pixels.

A tile takes 16 multiplications per pair of channels instead of 36. ONNX Runtime has no such convolution on CPUs.

Source: Fast Algorithms for Convolutional Neural Networks (arXiv 1509.09308), F(2x2, 3x3).
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

TILE = 2
"""Side of a tile of the output, in pixels. Tiles of 4x4 lose a digit (docs/explanation/encoder-speed.md)."""

_PATCH = TILE + 2
# Matrices of one axis: from a patch of 4 pixels, from a kernel of 3 weights, and to a tile of 2 pixels.
_FROM_PATCH = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))
_FROM_KERNEL = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))
_TO_TILE = ((1, 1, 1, 0), (0, 1, -1, -1))


def conv3x3(x: Tensor, kernel: Tensor) -> Tensor:
    """Return the convolution of channels-last maps (B, H, W, C) with padding 1 and without bias: (B, H, W, O).

    Sizes but B become constants of an exported graph.

    Args:
        x: Maps, (B, H, W, C); H and W are even.
        kernel: Kernel, (O, C, 3, 3).
    """
    height, width, channels = (int(side) for side in x.shape[1:])
    if height % TILE or width % TILE:
        raise ValueError(f"Both sides of the map are multiples of {TILE}, not {height} x {width}.")
    outputs = int(kernel.shape[0])
    rows, columns = height // TILE, width // TILE
    weights = _both_axes(_FROM_KERNEL, x) @ kernel.permute(2, 3, 1, 0).reshape(9, channels * outputs)  # (16, C·O)
    padded = torch.nn.functional.pad(x, (0, 0, 1, 1, 1, 1)).reshape(-1, (height + 2) * (width + 2), channels)
    pixels = torch.as_tensor(_patch_pixels(rows, columns, width + 2), device=x.device)
    patches = padded.index_select(1, pixels).reshape(-1, _PATCH**2, rows * columns * channels)
    transformed = (_both_axes(_FROM_PATCH, x) @ patches).reshape(-1, _PATCH**2, rows * columns, channels)
    products = transformed @ weights.reshape(_PATCH**2, channels, outputs)  # (B, 16, rows·columns, O)
    tiles = _both_axes(_TO_TILE, x) @ products.reshape(-1, _PATCH**2, rows * columns * outputs)
    tiles = tiles.reshape(-1, TILE, TILE, rows, columns, outputs)  # (B, dy, dx, row, column, O)
    return tiles.permute(0, 3, 1, 4, 2, 5).reshape(-1, height, width, outputs)


def _both_axes(matrix: tuple[tuple[float, ...], ...], like: Tensor) -> Tensor:
    """Return the matrix that applies a matrix along y and along x; rows and columns count y first."""
    return torch.as_tensor(np.kron(matrix, matrix), dtype=like.dtype, device=like.device)


def _patch_pixels(rows: int, columns: int, width: int) -> NDArray[np.int32]:
    """Return the index of a pixel of the padded map for each place of a patch and each tile: (16·rows·columns,).

    Args:
        rows: Number of tiles along y.
        columns: Number of tiles along x.
        width: Width of the padded map.
    """
    place, corner_y, corner_x = np.arange(_PATCH), np.arange(rows) * TILE, np.arange(columns) * TILE
    y = place[:, None, None, None] + corner_y[None, None, :, None]
    x = place[None, :, None, None] + corner_x[None, None, None, :]
    return (y * width + x).astype(np.int32).reshape(-1)
