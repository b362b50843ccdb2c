"""The building blocks of TinyViT: inverted bottlenecks, and transformer blocks with attention inside windows.

Letters: B images, H, W sides of the map, C channels, h heads, d = C/h, w side of a window, n windows of an image.
Source: TinyViT (arXiv 2207.10666); docs/explanation/sam-family.md, section "TinyViT".
"""

import math

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
    values; nothing masks them.

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
        height, width, channels = (int(side) for side in x.shape[1:])
        side, depth = self.window, channels // self.heads
        rows, columns = -(-height // side), -(-width // side)
        x = functional.pad(x, (0, 0, 0, columns * side - width, 0, rows * side - height))
        windows = x.reshape(-1, rows, side, columns, side, channels).permute(0, 1, 3, 2, 4, 5)
        windows = windows.reshape(-1, side * side, channels)  # (B*n, w*w, C)
        qkv = self.qkv(self.norm(windows)).reshape(-1, side * side, self.heads, 3, depth)
        q, k, v = qkv.permute(3, 0, 2, 1, 4).unbind(0)  # (B*n, h, w*w, d) each
        scores = (q * (1 / math.sqrt(depth))) @ k.transpose(2, 3) + self.bias_table()  # (B*n, h, w*w, w*w)
        attended = (scores.softmax(3) @ v).transpose(1, 2).reshape(-1, side * side, channels)
        joined: Tensor = self.proj(attended).reshape(-1, rows, columns, side, side, channels).permute(0, 1, 3, 2, 4, 5)
        return joined.reshape(-1, rows * side, columns * side, channels)[:, :height, :width]

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
