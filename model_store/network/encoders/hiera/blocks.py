"""The blocks of Hiera: attention inside windows or of the whole image, some with queries of half the resolution.

Letters: B images, T tokens of an image, C channels, n heads, d = C/n, w side of a window or of the whole image in
tokens, u that of its queries, M = B or B * windows.

Source: docs/explanation/sam2.md, section "Encoders".
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from model_store.hiera_shape import EXPANSION, HieraBlockShape
from model_store.network.encoders.hiera.order import TokenOrder

NORM_EPSILON = 1e-6  # nn.LayerNorm's default is 1e-5; the maps would differ by 5e-4
# Queries of a global block at a time. The scores of all 4096 queries would be 268 MB for Hiera-T and S, 537 MB for B+
# and L, in each of several arrays.
QUERIES = 512


class HieraBlock(nn.Module):
    """Pre-norm transformer block. One that begins a stage has half the grid and twice the channels in its output.

    Args:
        shape: Size of the block.
        order: Order of its input's tokens.
    """

    def __init__(self, shape: HieraBlockShape, order: TokenOrder) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(shape.in_channels, eps=NORM_EPSILON)
        self.attn = HieraAttention(shape, order)
        self.norm2 = nn.LayerNorm(shape.channels, eps=NORM_EPSILON)
        self.mlp = HieraMLP(shape.channels)
        self.proj = nn.Linear(shape.in_channels, shape.channels) if shape.pools else None

    def forward(self, tokens: Tensor) -> Tensor:
        """(B*T, C_in) -> (B*T, C), or (B*T/4, C) of a block that begins a stage."""
        normed = self.norm1(tokens)
        # Where the channels change, the shortcut begins behind the norm.
        shortcut = tokens if self.proj is None else pooled(self.proj(normed))
        tokens = shortcut + self.attn(normed)
        out: Tensor = tokens + self.mlp(self.norm2(tokens))
        return out


class HieraAttention(nn.Module):
    """Attention inside windows of w x w tokens, or of the whole image.

    The map is padded with zeros to whole windows, before the projections. So the query, key and value of a padded token
    are the biases of the projection. It takes part as key and value; nothing masks it.

    The bias of the keys adds one number to all scores of a query, which the softmax removes. The bias of the
    values passes through the softmax unchanged, because its weights sum to 1. So only queries get their bias, that of
    the values is added behind the attention, and padding with zeros comes after the projections.

    A pooling joins 2x2 queries. All windows are of an even side, so it may come before the map is cut.

    Args:
        shape: Size of the block.
        order: Order of its input's tokens.
    """

    def __init__(self, shape: HieraBlockShape, order: TokenOrder) -> None:
        super().__init__()
        self.channels, self.heads, self.pools = shape.channels, shape.heads, shape.pools
        self.order = order
        self.window = order.grid if shape.window is None else shape.window
        self.query_order = order.pooled() if shape.pools else order
        self.query_window = self.window // 2 if shape.pools else self.window
        self.qkv = nn.Linear(shape.in_channels, 3 * shape.channels)
        self.proj = nn.Linear(shape.channels, shape.channels)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B*T, C_in) -> (B*T, C), or (B*T/4, C) if queries are pooled."""
        # One product for each part: ONNX Runtime would copy the parts of a common one.
        query, key, value = self.qkv.weight.reshape(3, self.channels, -1)
        query_bias, _, value_bias = self.qkv.bias.reshape(3, self.channels)
        q, k, v = (
            functional.linear(tokens, query, query_bias),
            functional.linear(tokens, key),
            functional.linear(tokens, value),
        )
        q = self.query_order.cut(pooled(q) if self.pools else q, self.query_window)  # (M, u*u, C)
        k, v = self.order.cut(k, self.window), self.order.cut(v, self.window)  # (M, w*w, C)
        attended = self._attend(self._heads(q), self._heads(k), self._heads(v))  # (M, n, u*u, d)
        if self.heads > 1:
            attended = attended.transpose(1, 2)
        attended = attended.reshape(-1, self.query_window**2, self.channels)
        constant = functional.linear(value_bias, self.proj.weight, self.proj.bias)
        return functional.linear(self.query_order.join(attended, self.query_window), self.proj.weight, constant)

    def _heads(self, windows: Tensor) -> Tensor:
        """(M, w*w, C) -> (M, n, w*w, d)."""
        count, width = int(windows.shape[1]), self.channels // self.heads
        if self.heads == 1:  # a transposition of an axis of size 1 would be a copy in ONNX Runtime
            return windows.reshape(-1, 1, count, width)
        return windows.reshape(-1, count, self.heads, width).transpose(1, 2)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(M, n, u*u, d), (M, n, w*w, d), (M, n, w*w, d) -> (M, n, u*u, d)."""
        keys, scale = k.transpose(2, 3), 1.0 / math.sqrt(self.channels // self.heads)
        count = self.query_window**2
        if count <= QUERIES:
            return torch.softmax((q * scale) @ keys, dim=-1) @ v
        attended = []
        for start in range(0, count, QUERIES):
            some = q[:, :, start : start + QUERIES]
            attended.append(torch.softmax((some * scale) @ keys, dim=-1) @ v)
        return torch.cat(attended, dim=2)


class HieraMLP(nn.Module):
    """Two linear layers with exact GELU between."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = EXPANSION * channels
        self.layers = nn.ModuleList([nn.Linear(channels, hidden), nn.Linear(hidden, channels)])

    def forward(self, x: Tensor) -> Tensor:
        """(…, C) -> (…, C)."""
        y: Tensor = self.layers[1](functional.gelu(self.layers[0](x)))
        return y


def pooled(tokens: Tensor) -> Tensor:
    """Return the maximum of each four consecutive tokens: (4T, C) -> (T, C)."""
    # ONNX Runtime computes two maxima of two arrays faster than one maximum along an axis.
    channels = int(tokens.shape[-1])
    fours = tokens.reshape(-1, 4 * channels)
    pairs = torch.maximum(fours[:, : 2 * channels], fours[:, 2 * channels :])
    return torch.maximum(pairs[:, :channels], pairs[:, channels:])
