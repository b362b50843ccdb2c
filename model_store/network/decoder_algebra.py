"""Steps of the mask decoder as matrix products, for the exported graphs and for the fast decoder of training.

Letters: P prompts, T tokens of a prompt, H = 8 heads, C = 128 channels of cross attention, M = g·g image tokens.
"""

import torch
from torch import Tensor

from model_store.network.transformer import HEADS

CHANNELS = 128
"""Inner channels of cross attention."""


def head_owners(device: torch.device | None = None) -> Tensor:
    """Return which channels belong to which head: (H, 1, C) float32, 1 for own channels and 0 for others."""
    owner = torch.arange(CHANNELS, device=device) // (CHANNELS // HEADS)
    return (owner == torch.arange(HEADS, device=device)[:, None]).float()[:, None]


def spread_heads(tokens: Tensor, owners: Tensor) -> Tensor:
    """Arrange the heads of a few tokens as rows, so that one product computes all heads.

    Args:
        tokens: Tokens, (P, T, C).
        owners: Result of `head_owners`, times a factor for the rows.

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

    Columns are (ky, kx, out). Its windows do not overlap, so each image token makes its own four cells.
    """
    return weight.permute(0, 2, 3, 1).reshape(weight.shape[0], -1)


def arrange_cells(cells: Tensor, grid: int) -> Tensor:
    """Arrange the cells that two such convolutions make of each image token as maps.

    Args:
        cells: Cells, (P, 16·M, n), in the order (y, x, ky1, kx1, ky2, kx2).
        grid: Side of the grid of image tokens, g.

    Returns:
        (P, n, 4g, 4g).
    """
    prompts, _, count = cells.shape
    split = cells.reshape(prompts, grid, grid, 2, 2, 2, 2, count)
    return split.permute(0, 7, 1, 3, 5, 2, 4, 6).reshape(prompts, count, grid * 4, grid * 4)
