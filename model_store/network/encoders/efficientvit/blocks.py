"""The building blocks of EfficientViT's large models, under the module names of the official checkpoints.

All batch norms have an epsilon of 1e-6, and all activations are GELU in its tanh approximation.

Source: EfficientViT (arXiv 2205.14756), EfficientViT-SAM (arXiv 2402.05008); docs/explanation/sam-family.md.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional

from model_store.network.folding import folded_conv

EPSILON = 1e-6
HEAD_CHANNELS = 32
ATTENTION_EPSILON = 1e-15
"""Keeps the quotient of the attention finite where all products of a query and the keys are 0."""


class OpList(nn.Module):
    """Modules in a row, as `op_list`."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        super().__init__()
        self.op_list = nn.ModuleList(modules)

    def forward(self, x: Tensor) -> Tensor:
        """Run all modules."""
        for module in self.op_list:
            x = module(x)
        return x


class Branch(nn.Module):
    """A module as `main`, with the input added to its output or not."""

    def __init__(self, main: nn.Module, *, has_shortcut: bool) -> None:
        super().__init__()
        self.main = main
        self.has_shortcut = has_shortcut

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H/stride, W/stride)."""
        y: Tensor = self.main(x)
        return x + y if self.has_shortcut else y


class Conv(nn.Module):
    """Convolution with "same" padding and no norm; GELU or none behind it."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int = 1,
        *,
        stride: int = 1,
        groups: int = 1,
        bias: bool = True,
        gelu: bool = False,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=bias)
        self.activation = _activation(gelu=gelu)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H/stride, W/stride)."""
        y: Tensor = self.activation(self.conv(x))
        return y


class ConvNorm(nn.Module):
    """Convolution without bias and with "same" padding, then batch norm; GELU or none behind it."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int = 1, *, stride: int = 1, gelu: bool = False
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(out_channels, eps=EPSILON)
        self.activation = _activation(gelu=gelu)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H/stride, W/stride)."""
        y: Tensor = self.activation(self.norm(self.conv(x)))
        return y

    def folded(self) -> nn.Module:
        """Return one biased convolution and the activation, which equal this module in eval mode."""
        return nn.Sequential(folded_conv(self.conv, self.norm), self.activation)


class ResidualConvs(nn.Module):
    """Two 3x3 convolutions, without an activation behind the second one."""

    def __init__(self, channels: int, expansion: int) -> None:
        super().__init__()
        hidden = channels * expansion
        self.conv1 = ConvNorm(channels, hidden, 3, gelu=True)
        self.conv2 = ConvNorm(hidden, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        y: Tensor = self.conv2(self.conv1(x))
        return y


class FusedConvs(nn.Module):
    """A full 3x3 convolution that widens, then a 1x1 convolution without an activation behind it."""

    def __init__(self, in_channels: int, out_channels: int, expansion: int, *, stride: int = 1) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.spatial_conv = ConvNorm(in_channels, hidden, 3, stride=stride, gelu=True)
        self.point_conv = ConvNorm(hidden, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H/stride, W/stride)."""
        y: Tensor = self.point_conv(self.spatial_conv(x))
        return y


class InvertedConvs(nn.Module):
    """1x1 that widens, depthwise 3x3, 1x1 back; only the last one has a norm, the others have biases instead."""

    def __init__(self, in_channels: int, out_channels: int, expansion: int, *, stride: int = 1) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.inverted_conv = Conv(in_channels, hidden, gelu=True)
        self.depth_conv = Conv(hidden, hidden, 3, stride=stride, groups=hidden, gelu=True)
        self.point_conv = ConvNorm(hidden, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H/stride, W/stride)."""
        y: Tensor = self.point_conv(self.depth_conv(self.inverted_conv(x)))
        return y


class LinearAttention(nn.Module):
    """Attention over the whole map with ReLU as the kernel: no softmax, no scale, cost linear in the places.

    Half of the heads read queries, keys and values as they are. The other half reads them aggregated: a depthwise
    convolution and a 1x1 convolution within each 32 channels.

    Args:
        channels: Channels C of the map.
        kernel: Side of the depthwise kernel.
    """

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        triple = 3 * channels
        self.qkv = Conv(channels, triple, bias=False)
        aggregate = nn.Sequential(
            nn.Conv2d(triple, triple, kernel, padding=kernel // 2, groups=triple, bias=False),
            nn.Conv2d(triple, triple, 1, groups=triple // HEAD_CHANNELS, bias=False),
        )
        self.aggreg = nn.ModuleList([aggregate])
        self.proj = ConvNorm(2 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        qkv = self.qkv(x)  # (B, 3C, H, W)
        qkv = torch.cat([qkv, self.aggreg[0](qkv)], dim=1)  # (B, 6C, H, W)
        with torch.autocast(x.device.type, enabled=False):  # sums over many places
            attended = _attend(qkv.float())  # (B, 2C, H, W)
        y: Tensor = self.proj(attended)
        return y


class AttentionBlock(nn.Module):
    """Linear attention, then `InvertedConvs`; each with a shortcut."""

    def __init__(self, channels: int, expansion: int, kernel: int) -> None:
        super().__init__()
        self.context_module = Branch(LinearAttention(channels, kernel), has_shortcut=True)
        self.local_module = Branch(InvertedConvs(channels, channels, expansion), has_shortcut=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        y: Tensor = self.local_module(self.context_module(x))
        return y


def _attend(qkv: Tensor) -> Tensor:
    """Return the attention's output of G heads: (B, 3·32·G, H, W), each head as q, k, v -> (B, 32·G, H, W)."""
    channels, height, width = (int(side) for side in qkv.shape[1:])  # constants of a traced graph
    heads = channels // (3 * HEAD_CHANNELS)
    query, key, value = qkv.reshape(-1, heads, 3, HEAD_CHANNELS, height * width).unbind(2)  # (B, G, 32, N) each
    query, key = functional.relu(query), functional.relu(key)
    sums = value @ key.transpose(2, 3)  # (B, G, 32, 32), sums over all places
    numerator = sums @ query  # (B, G, 32, N)
    denominator = key.sum(3).unsqueeze(2) @ query  # (B, G, 1, N)
    return (numerator / (denominator + ATTENTION_EPSILON)).reshape(-1, heads * HEAD_CHANNELS, height, width)


def _activation(*, gelu: bool) -> nn.Module:
    return nn.GELU(approximate="tanh") if gelu else nn.Identity()
