"""The building blocks of TinyViT: inverted bottlenecks, and transformer blocks with attention inside windows.

Letters: B images, H, W sides of the map, C channels, h heads, d = C/h, w side of a window, n windows of an image.
Source: TinyViT (arXiv 2207.10666); docs/explanation/sam-family.md, section "TinyViT".
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from model_store.network.encoders.conv_norm import ConvBN

EXPANSION = 4
"""Hidden channels of inverted bottlenecks and of the transformer's MLP, as a multiple of the channels."""


def patch_embedding(channels: int) -> nn.Sequential:
    """Return the stem: (B, 3, H, W) -> (B, channels, H/4, W/4), without activation at the end."""
    half = channels // 2
    return nn.Sequential(ConvBN(3, half, 3, stride=2), nn.GELU(), ConvBN(half, channels, 3, stride=2))


class InvertedBottleneck(nn.Module):
    """1x1 expansion, depthwise 3x3, 1x1 projection. The last activation stands behind the residual sum."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = EXPANSION * channels
        self.conv1 = ConvBN(channels, hidden, 1)
        self.conv2 = ConvBN(hidden, hidden, 3, groups=hidden)
        self.conv3 = ConvBN(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        y = functional.gelu(self.conv2(functional.gelu(self.conv1(x))))  # (B, 4C, H, W)
        return functional.gelu(x + self.conv3(y))


class Downsampling(nn.Module):
    """Change of channels between two stages, with a stride of 1 or 2 and without activation at the end."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = ConvBN(in_channels, out_channels, 1)
        self.conv2 = ConvBN(out_channels, out_channels, 3, stride=stride, groups=out_channels)
        self.conv3 = ConvBN(out_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H/stride, W/stride)."""
        y: Tensor = self.conv3(functional.gelu(self.conv2(functional.gelu(self.conv1(x)))))
        return y


class TransformerBlock(nn.Module):
    """Attention inside windows, a depthwise convolution without residual, and an MLP."""

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        self.attn = WindowAttention(channels, heads, window)
        self.local_conv = ConvBN(channels, channels, 3, groups=channels)
        self.mlp = MLP(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        tokens: Tensor = x.permute(0, 2, 3, 1)  # (B, H, W, C)
        tokens = tokens + self.attn(tokens)
        tokens = self.local_conv(tokens.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        tokens = tokens + self.mlp(tokens)
        return tokens.permute(0, 3, 1, 2)


class WindowAttention(nn.Module):
    """Attention inside windows of w x w tokens, with a trained bias for each absolute distance of two tokens.

    The map is padded with zeros to a multiple of w, at its end, before the norm. Padded tokens take part as keys and
    values; nothing masks them. So a padded token equals the norm's bias, and all tokens, padded or not, have the same
    constant part in their query, key and value: the projection of that bias, plus the projection's own bias.

    The constant of the keys adds one number to all scores of a query, which the softmax does not see. The constant of
    the values passes through the softmax unchanged, because its weights sum to 1. So only queries get a constant, the
    constant of the values is added behind the attention, and padding with zeros comes after the projections.

    The table of biases is computed from the parameter at every call. A table that was kept would not follow weights
    that are loaded later.
    """

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.norm = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self.attention_biases = nn.Parameter(torch.zeros(heads, window * window))

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        # Plain integers, so that a traced graph contains no arithmetic of shapes; only the batch stays free.
        height, width, channels = (int(size) for size in x.shape[1:])
        normed = functional.layer_norm(x, (channels,), self.norm.weight, eps=self.norm.eps).reshape(-1, channels)
        (query, key, value), (query_constant, _, value_constant) = self._projections()
        scale = (channels // self.heads) ** -0.5
        q = self._windows(functional.linear(normed, query * scale, query_constant * scale), height, width)
        k = self._windows(functional.linear(normed, key), height, width)
        v = self._windows(functional.linear(normed, value), height, width)
        scores = q @ k.transpose(2, 3) + self.bias_table()  # (B*n, h, w*w, w*w)
        attended = self._joined(scores.softmax(3) @ v, height, width).reshape(-1, channels)
        constant = functional.linear(value_constant, self.proj.weight, self.proj.bias)
        return functional.linear(attended, self.proj.weight, constant).reshape(-1, height, width, channels)

    def _projections(self) -> tuple[Tensor, Tensor]:
        """Return the weights (3, C, C) and the constants (3, C) of queries, keys and values.

        The parameters contain them head by head, as (h, 3, d).
        """
        channels = self.proj.in_features
        constants = functional.linear(self.norm.bias, self.qkv.weight, self.qkv.bias).reshape(self.heads, 3, -1)
        weights = self.qkv.weight.reshape(self.heads, 3, -1, channels)
        return weights.transpose(0, 1).reshape(3, -1, channels), constants.transpose(0, 1).reshape(3, -1)

    def _windows(self, tokens: Tensor, height: int, width: int) -> Tensor:
        """(B*H*W, C) -> (B*n, h, w*w, d), padded with zeros."""
        side, channels = self.window, self.proj.in_features
        rows, columns = _count(height, side), _count(width, side)
        grid = tokens.reshape(-1, height, width, channels)
        grid = functional.pad(grid, (0, 0, 0, columns * side - width, 0, rows * side - height))
        windows = grid.reshape(-1, rows, side, columns, side, self.heads, channels // self.heads)
        return windows.permute(0, 1, 3, 5, 2, 4, 6).reshape(-1, self.heads, side * side, channels // self.heads)

    def _joined(self, windows: Tensor, height: int, width: int) -> Tensor:
        """(B*n, h, w*w, d) -> (B, H, W, C), without the padding."""
        side, channels = self.window, self.proj.in_features
        rows, columns = _count(height, side), _count(width, side)
        split = windows.reshape(-1, rows, columns, self.heads, side, side, channels // self.heads)
        grid = split.permute(0, 1, 4, 2, 5, 3, 6).reshape(-1, rows * side, columns * side, channels)
        return grid[:, :height, :width]

    def bias_table(self) -> Tensor:
        """Return the biases of all pairs of tokens of a window, (h, w*w, w*w)."""
        side = self.window
        position = torch.arange(side, device=self.attention_biases.device)
        distance = (position[:, None] - position).abs().flatten()  # (w*w,) of all pairs of rows, or of columns
        by_distance = self.attention_biases.reshape(self.heads, side, side)
        pairs = by_distance[:, distance][:, :, distance].reshape(self.heads, side, side, side, side)
        return pairs.transpose(2, 3).reshape(self.heads, side * side, side * side)


class MLP(nn.Module):
    """Layer norm and two linear layers with four times the channels between them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.fc1 = nn.Linear(channels, EXPANSION * channels)
        self.fc2 = nn.Linear(EXPANSION * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        y: Tensor = self.fc2(functional.gelu(self.fc1(self.norm(x))))
        return y


def _count(size: int, window: int) -> int:
    """Return the number of windows that cover a size."""
    return -(-size // window)
