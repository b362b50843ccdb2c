"""Positional codes in the graphs, and the grid of image tokens that they are for."""

import math

import torch
from torch import Tensor, nn

from model_store.network.prompt_encoder import PositionalCode, PromptEncoder

GRID = 64
"""Image tokens along a side of the frame."""
IMAGE_TOKENS = GRID * GRID


class DensePosition(nn.Module):
    """The positional code of the 64×64 grid, (4096, 256).

    The graph computes it from (2, 128) numbers, so that no file carries 4 MB of it. ONNX Runtime folds it when the
    session is made.
    """

    centres: Tensor

    def __init__(self, prompt_encoder: PromptEncoder) -> None:
        super().__init__()
        self.pe_layer: PositionalCode = prompt_encoder.pe_layer
        centres = (torch.arange(GRID, dtype=torch.float32) + 0.5) / GRID
        y, x = torch.meshgrid(centres, centres, indexing="ij")
        centred = torch.stack([x, y], dim=-1).reshape(IMAGE_TOKENS, 2)
        self.register_buffer("centres", centred, persistent=False)

    def forward(self) -> Tensor:
        return position_code(self.centres, self.pe_layer.positional_encoding_gaussian_matrix)


def position_code(positions: Tensor, gaussian: Tensor) -> Tensor:
    """Return the positional code of positions, all sines before all cosines (docs/explanation/model.md 3.1).

    Args:
        positions: Positions (x, y) in [0, 1], (…, 2).
        gaussian: Frequencies, (2, 128).

    Returns:
        (…, 256).
    """
    angles = ((2.0 * positions - 1.0) @ gaussian) * (2.0 * math.pi)
    return torch.cat([torch.sin(angles), torch.cos(angles)], dim=-1)
