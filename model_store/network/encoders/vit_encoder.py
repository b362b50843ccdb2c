"""The image encoders of SAM: plain ViT-B, ViT-L and ViT-H with windowed and global attention.

Numbers: docs/explanation/sam-family.md, section "SAM's ViT encoder".

Letters: B images, G side of the image in tokens (64 for 1024 pixels), C channels, n heads, d = C/n, w side of a window
or of the whole image in tokens, M = B or B * windows.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from model_store.network.encoders.image_encoder import EMBEDDING_CHANNELS, ImageEncoder, UnsupportedByEncoderError
from model_store.network.layer_norm import LayerNorm2d
from model_store.vit_shape import IMAGE_SIDE, PATCH, WINDOW, ViTShape

NORM_EPSILON = 1e-6  # nn.LayerNorm's default is 1e-5; the embedding would differ by 2e-3
# Rows of the image whose tokens are queries at a time. The scores of all 4096 tokens would be 805 MB for ViT-B; those
# of 4 rows are 50 MB. More rows are not faster, and fewer make the matrix products small.
QUERY_ROWS = 4


class ViTEncoder(ImageEncoder):
    """Frames (B, 3, S, S) to image embeddings (B, 256, S/16, S/16). The position embedding fixes S.

    Args:
        shape: Size of the network.
        frame_size: Side S of the frame, in pixels; a multiple of 16. All published files have 1024.
    """

    frame_multiple = IMAGE_SIDE

    def __init__(self, shape: ViTShape, *, frame_size: int = IMAGE_SIDE) -> None:
        super().__init__()
        self.name = shape.name
        self.grid = frame_size // PATCH
        self.patch_embed = PatchEmbedding(shape.channels)
        self.pos_embed = nn.Parameter(torch.zeros(1, self.grid, self.grid, shape.channels))
        self.blocks = nn.ModuleList(
            [
                ViTBlock(shape.channels, shape.heads, shape.attention_side(block, self.grid), self.grid)
                for block in range(shape.depth)
            ]
        )
        self.neck = nn.Sequential(
            nn.Conv2d(shape.channels, EMBEDDING_CHANNELS, 1, bias=False),
            LayerNorm2d(EMBEDDING_CHANNELS),
            nn.Conv2d(EMBEDDING_CHANNELS, EMBEDDING_CHANNELS, 3, padding=1, bias=False),
            LayerNorm2d(EMBEDDING_CHANNELS),
        )

    def forward(self, image: Tensor) -> Tensor:
        """Embed frames (B, 3, S, S) float32 as (B, 256, S/16, S/16).

        Raises:
            UnsupportedByEncoderError: The frame has another side than the position embedding.
        """
        side = self.grid * PATCH
        if image.shape[-2:] != (side, side):
            size = " x ".join(str(int(found)) for found in image.shape[-2:])
            raise UnsupportedByEncoderError(f"{self.name} takes images of {side} x {side} pixels, not {size}.")
        x = self.patch_embed(image) + self.pos_embed  # (B, G, G, C)
        channels = x.shape[-1]
        # Two axes make each linear layer one Gemm in ONNX, which takes the weights as they are stored.
        tokens = x.reshape(-1, channels)  # (B*G*G, C)
        for block in self.blocks:
            tokens = block(tokens)
        x = tokens.reshape(-1, self.grid, self.grid, channels)
        embedding: Tensor = self.neck(x.permute(0, 3, 1, 2))
        return embedding


class PatchEmbedding(nn.Module):
    """(B, 3, S, S) -> (B, G, G, C)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, channels, PATCH, PATCH)

    def forward(self, image: Tensor) -> Tensor:
        patches: Tensor = self.proj(image)
        return patches.permute(0, 2, 3, 1)


class ViTBlock(nn.Module):
    """Pre-norm transformer block.

    Args:
        channels: Number of channels.
        heads: Number of attention heads.
        side: Side of the square in which the block attends, in tokens.
        grid: Side of the image, in tokens.
    """

    def __init__(self, channels: int, heads: int, side: int, grid: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps=NORM_EPSILON)
        self.attn = RelativeAttention(channels, heads, side, grid)
        self.norm2 = nn.LayerNorm(channels, eps=NORM_EPSILON)
        self.mlp = ViTMLP(channels)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B*G*G, C) -> (B*G*G, C)."""
        tokens = tokens + self.attn(self.norm1(tokens))
        out: Tensor = tokens + self.mlp(self.norm2(tokens))
        return out


class RelativeAttention(nn.Module):
    """Attention in squares, with a trained relative position along each axis.

    The relative position is multiplied with the unscaled query. The image is padded with zeros to whole squares before
    the projections, so a padded place is a token whose query, key and value are the bias. It is not masked.

    Args:
        channels: Number of channels.
        heads: Number of attention heads.
        side: Side of a square, in tokens; the side of the image for global attention.
        grid: Side of the image, in tokens.
    """

    def __init__(self, channels: int, heads: int, side: int, grid: int) -> None:
        super().__init__()
        self.channels, self.heads, self.side, self.grid = channels, heads, side, grid
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * side - 1, channels // heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * side - 1, channels // heads))

    def forward(self, tokens: Tensor) -> Tensor:
        """(B*G*G, C) -> (B*G*G, C)."""
        qkv = self.qkv(tokens).reshape(-1, self.grid**2, 3 * self.channels)
        attended = self._attend(qkv) if self.side == self.grid else self._attend_in_windows(qkv)
        out: Tensor = self.proj(attended.reshape(-1, self.channels))
        return out

    def _attend_in_windows(self, qkv: Tensor) -> Tensor:
        """(B, G*G, 3C) -> (B, G*G, C).

        Tokens are gathered after the projection, which then does not compute padded places.
        """
        padding = self.qkv.bias.expand(qkv.shape[0], 1, 3 * self.channels)
        places = _window_places(self.grid, self.side, device=qkv.device)
        windows = torch.cat((qkv, padding), dim=1)[:, places]  # (B, windows*w*w, 3C)
        attended = self._attend(windows.reshape(-1, self.side**2, 3 * self.channels))
        attended = attended.reshape(-1, len(places), self.channels)
        return attended[:, _places_in_windows(self.grid, self.side, device=qkv.device)]

    def _attend(self, qkv: Tensor) -> Tensor:
        """(M, w*w, 3C) -> (M, w*w, C)."""
        side, heads, width = self.side, self.heads, self.channels // self.heads
        q, k, v = (
            part.reshape(-1, side * side, heads, width).transpose(1, 2)  # (M, n, w*w, d)
            for part in qkv.chunk(3, dim=-1)
        )
        keys = k.transpose(2, 3) * (1.0 / math.sqrt(width))  # (M, n, d, w*w)
        by_place = q.reshape(-1, heads, side, side, width)
        down = by_place @ _distances(self.rel_pos_h, side)  # (M, n, w, w, w): query row, query column, key row
        right = (by_place.transpose(2, 3) @ _distances(self.rel_pos_w, side)).transpose(2, 3)  # (…, key column)
        rows = side if side <= WINDOW else QUERY_ROWS
        attended = []
        for row in range(0, side, rows):
            some, count = slice(row, row + rows), min(rows, side - row) * side
            scores = by_place[:, :, some].reshape(-1, heads, count, width) @ keys
            scores = scores.reshape(-1, heads, count, side, side)
            scores = scores + down[:, :, some].reshape(-1, heads, count, side, 1)
            scores = scores + right[:, :, some].reshape(-1, heads, count, 1, side)
            attended.append(torch.softmax(scores.reshape(-1, heads, count, side * side), dim=-1) @ v)
        return torch.cat(attended, dim=2).transpose(1, 2).reshape(-1, side * side, self.channels)


class ViTMLP(nn.Module):
    """Two linear layers with exact GELU between."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.lin1 = nn.Linear(channels, 4 * channels)
        self.lin2 = nn.Linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(…, C) -> (…, C)."""
        y: Tensor = self.lin2(functional.gelu(self.lin1(x)))
        return y


def _distances(table: Tensor, side: int) -> Tensor:
    """Return (w, d, w): the table's entry for query position i and key position j at [i, :, j]."""
    positions = torch.arange(side, device=table.device)
    return table[positions[:, None] - positions[None, :] + side - 1].transpose(1, 2)


def _window_places(grid: int, window: int, *, device: torch.device) -> Tensor:
    """Return the index of the token at each place of all windows, (windows*w*w,); G*G for places beyond the image."""
    across = (grid + window - 1) // window
    places = torch.arange(across * window, device=device).reshape(across, window)
    rows, columns = places[:, None, :, None], places[None, :, None, :]
    inside = (rows < grid) & (columns < grid)  # (across, across, w, w)
    return torch.where(inside, rows * grid + columns, grid * grid).reshape(-1)


def _places_in_windows(grid: int, window: int, *, device: torch.device) -> Tensor:
    """Return the place of each token of the image in the order of `_window_places`, (G*G,)."""
    across = (grid + window - 1) // window
    positions = torch.arange(grid, device=device)
    window_index, inner = positions // window, positions % window
    windows = window_index[:, None] * across + window_index[None, :]
    return (windows * window**2 + inner[:, None] * window + inner[None, :]).reshape(-1)
