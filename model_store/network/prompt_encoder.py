"""The prompt encoder: converts points, boxes and low-resolution masks into tokens and a dense map.

Source: docs/explanation/model.md, sections 1.6 and 3.1.
"""

import math

import torch
from torch import Tensor, nn

from model_store.network.layer_norm import LayerNorm2d
from service.sam.prompts import BOX_BOTTOM_RIGHT, BOX_TOP_LEFT, IGNORED, NEGATIVE, PADDING, POSITIVE

CHANNELS = 256


class PromptEncoder(nn.Module):
    """SAM's prompt encoder.

    Letters: P prompts, N points each, S = frame side in pixels (1024). Coordinates are (x, y) in the frame, before
    the half pixel is added that moves them to pixel centres.

    Args:
        frame_size: Side of the frame, in pixels.
        pads_boxes: Whether a padding point follows a box as well, as in SAM 2's family, and not only points.
    """

    def __init__(self, *, frame_size: int = 1024, pads_boxes: bool = False) -> None:
        super().__init__()
        self.frame_size = frame_size
        self.pads_boxes = pads_boxes
        self.pe_layer = PositionalCode(CHANNELS // 2)
        # negative, positive, top-left corner, bottom-right corner
        self.point_embeddings = nn.ModuleList([nn.Embedding(1, CHANNELS) for _ in range(4)])
        self.not_a_point_embed = nn.Embedding(1, CHANNELS)
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, 4, 2, stride=2),
            LayerNorm2d(4),
            nn.GELU(),
            nn.Conv2d(4, 16, 2, stride=2),
            LayerNorm2d(16),
            nn.GELU(),
            nn.Conv2d(16, CHANNELS, 1),
        )
        self.no_mask_embed = nn.Embedding(1, CHANNELS)

    @property
    def grid_size(self) -> int:
        """Side of the image embedding, S/16."""
        return self.frame_size // 16

    def forward(
        self,
        points: tuple[Tensor, Tensor] | None = None,
        boxes: Tensor | None = None,
        mask_logits: Tensor | None = None,
        box_labels: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Encode P prompts of one shape.

        Args:
            points: Coordinates (P, N, 2) and labels (P, N): 1 positive, 0 negative, -1 not a point, -2 ignored (a
                zero token).
            boxes: Boxes as x0, y0, x1, y1, (P, 4).
            mask_logits: Logits of an earlier mask, (P, 1, S/4, S/4).
            box_labels: Labels of the boxes, (P,); a box with label -1 is absent, and both its corners become padding.

        Returns:
            Sparse tokens (P, T, 256): points, then corners, then one padding point for prompts without boxes, or for
            all with ``pads_boxes``; T = 0 when there are neither points nor boxes. Dense (P, 256, S/16, S/16).
        """
        tokens = []
        if points is not None:
            coords, labels = points if boxes is not None else _with_padding_point(*points)
            tokens.append(self._point_tokens(coords, labels))
        if boxes is not None:
            tokens.append(self._box_tokens(boxes, box_labels))
            if self.pads_boxes:
                tokens.append(self.not_a_point_embed.weight.expand(boxes.shape[0], 1, -1))
        if tokens:
            sparse = torch.cat(tokens, dim=1)
        else:
            prompts = 1 if mask_logits is None else mask_logits.shape[0]
            sparse = self.not_a_point_embed.weight.new_zeros(prompts, 0, CHANNELS)
        return sparse, self.dense(mask_logits, sparse.shape[0])

    def dense_positional_code(self) -> Tensor:
        """Return the positional code of the embedding's pixel centres, (1, 256, S/16, S/16)."""
        side = self.grid_size
        centres = (torch.arange(side, device=self.pe_layer.device, dtype=torch.float32) + 0.5) / side
        y, x = torch.meshgrid(centres, centres, indexing="ij")
        code: Tensor = self.pe_layer(torch.stack([x, y], dim=-1))  # (S/16, S/16, 256)
        return code.permute(2, 0, 1).unsqueeze(0)

    def point_code(self, coords: Tensor) -> Tensor:
        """Return the positional code (..., 256) of frame coordinates (..., 2), without type embedding or clamping."""
        code: Tensor = self.pe_layer(((coords + 0.5) / self.frame_size).float())
        return code

    def dense(self, mask_logits: Tensor | None, prompts: int) -> Tensor:
        """Return the dense map (P, 256, S/16, S/16) of mask prompts (P, 1, S/4, S/4), or of none."""
        if mask_logits is None:
            embed = self.no_mask_embed.weight.reshape(1, CHANNELS, 1, 1)
            return embed.expand(prompts, CHANNELS, self.grid_size, self.grid_size)
        dense: Tensor = self.mask_downscaling(mask_logits)
        return dense

    def type_embedding(self, label: int) -> Tensor:
        """Return the type embedding (1, 256) of a label, from 0, negative, to 3, bottom-right corner of a box."""
        embedding = self.point_embeddings[label]
        assert isinstance(embedding, nn.Embedding)
        return embedding.weight

    def _point_tokens(self, coords: Tensor, labels: Tensor) -> Tensor:
        label = labels.unsqueeze(-1)  # (P, N, 1)
        tokens = self.point_code(coords)  # (P, N, 256)
        tokens = torch.where(label == NEGATIVE, tokens + self.type_embedding(NEGATIVE), tokens)
        tokens = torch.where(label == POSITIVE, tokens + self.type_embedding(POSITIVE), tokens)
        tokens = torch.where(label == PADDING, self.not_a_point_embed.weight, tokens)
        return torch.where(label == IGNORED, torch.zeros_like(tokens), tokens)

    def _box_tokens(self, boxes: Tensor, box_labels: Tensor | None) -> Tensor:
        corners = self.point_code(boxes.reshape(-1, 2, 2))  # (P, 2, 256)
        types = torch.cat([self.type_embedding(BOX_TOP_LEFT), self.type_embedding(BOX_BOTTOM_RIGHT)])  # (2, 256)
        tokens = corners + types
        if box_labels is None:
            return tokens
        return torch.where(box_labels.reshape(-1, 1, 1) == PADDING, self.not_a_point_embed.weight, tokens)


class PositionalCode(nn.Module):
    """Random Fourier features of positions in [0, 1]^2: all sines, then all cosines.

    Source: Tancik et al. 2020 (arXiv 2006.10739), as in SAM (arXiv 2304.02643). The matrix is part of the checkpoint.
    """

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(2, features))

    @property
    def device(self) -> torch.device:
        return self.positional_encoding_gaussian_matrix.device

    def forward(self, positions: Tensor) -> Tensor:
        """(..., 2) as (x, y) -> (..., 2 * features)."""
        angles = 2 * math.pi * ((2 * positions - 1) @ self.positional_encoding_gaussian_matrix)
        return torch.cat([torch.sin(angles), torch.cos(angles)], dim=-1)


def _with_padding_point(coords: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    prompts = coords.shape[0]
    coords = torch.cat([coords, coords.new_zeros(prompts, 1, 2)], dim=1)
    return coords, torch.cat([labels, labels.new_full((prompts, 1), PADDING)], dim=1)
