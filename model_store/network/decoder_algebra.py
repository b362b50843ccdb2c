"""Steps of the mask decoder as matrix products, shared by the exported graphs and by the fast decoder of training.

Letters: P prompts, T tokens of a prompt, H = 8 heads, C = 128 channels of cross attention, M = g·g image tokens.
"""

import torch
from torch import Tensor

from model_store.network.transformer import HEADS

CHANNELS = 128
"""Inner width of cross attention."""


def head_owners(device: torch.device | None = None) -> Tensor:
    """Return which channels belong to which head: (H, 1, C) float32, 1 or 0."""
    owner = torch.arange(CHANNELS, device=device) // (CHANNELS // HEADS)
    return (owner == torch.arange(HEADS, device=device)[:, None]).float()[:, None]


def spread_heads(tokens: Tensor, owners: Tensor) -> Tensor:
    """Lay the heads of few tokens side by side as rows, so that one product serves all heads.

    Args:
        tokens: (P, T, C).
        owners: From `head_owners`, times a factor that the rows are to have.

    Returns:
        (P, H·T, C); row h·T + t holds the channels of head h of token t, and zeros elsewhere.
    """
    rows = tokens[:, None] * owners  # (P, H, T, C)
    return rows.reshape(rows.shape[0], -1, CHANNELS)


def collapse_heads(rows: Tensor, owners: Tensor) -> Tensor:
    """Take each head's own channels out of its rows: (P, H·T, C) → (P, T, C)."""
    by_head = rows.reshape(rows.shape[0], HEADS, -1, CHANNELS)
    return (by_head * owners).sum(dim=1)


def kernel_as_matrix(weight: Tensor) -> Tensor:
    """Return a transposed 2×2 convolution of stride 2 as a matrix: (in, out, 2, 2) → (in, 4·out).

    Columns are (ky, kx, out). Its windows do not overlap, so each image token makes its four cells alone.
    """
    return weight.permute(0, 2, 3, 1).reshape(weight.shape[0], -1)


def arrange_cells(cells: Tensor, grid: int) -> Tensor:
    """Put the cells that two such convolutions made of each image token into their places.

    Args:
        cells: (P, 16·M, n), in the order (y, x, ky1, kx1, ky2, kx2).
        grid: g, side of the image tokens.

    Returns:
        (P, n, 4g, 4g).
    """
    prompts, _, count = cells.shape
    split = cells.reshape(prompts, grid, grid, 2, 2, 2, 2, count)
    return split.permute(0, 7, 1, 3, 5, 2, 4, 6).reshape(prompts, count, grid * 4, grid * 4)
