"""The building blocks of RepViT in its first published form, and how they fold for inference.

Source: RepViT (arXiv 2307.09283), block of July 2023; docs/explanation/model.md, sections 2.2 and 2.5.
The block that carries the name RepViT-M0.9 today is a different one, its weights do not fit.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from model_store.network.folding import biased_like, folded_weights


class ConvBN(nn.Module):
    """Convolution without bias, then batch norm; "same" padding for odd kernels."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        padding = kernel_size // 2
        self.c = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H/stride, W/stride)."""
        y: Tensor = self.bn(self.c(x))
        return y

    def folded(self) -> nn.Conv2d:
        """Return one biased convolution that equals this pair in eval mode."""
        kernel, bias = self.folded_weights()
        return biased_like(self.c, kernel, bias)

    def folded_weights(self) -> tuple[Tensor, Tensor]:
        """Return kernel (out, in/groups, k, k) and bias (out,), float64, so that they are rounded only when stored."""
        return folded_weights(self.c, self.bn)


class RepDepthwise(nn.Module):
    """Three parallel depthwise branches, 3x3 + 1x1 + identity, with nothing after their sum."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = ConvBN(channels, channels, 3, groups=channels)
        self.conv1 = ConvBN(channels, channels, 1, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        y: Tensor = self.conv(x) + self.conv1(x) + x
        return y

    def folded(self) -> nn.Conv2d:
        """Return one biased depthwise 3x3 that equals the three branches in eval mode."""
        kernel, bias = self.conv.folded_weights()
        centre, centre_bias = self.conv1.folded_weights()
        kernel = kernel + functional.pad(centre + 1.0, (1, 1, 1, 1))  # the identity branch is a 1 in the centre
        return biased_like(self.conv.c, kernel, bias + centre_bias)


class SqueezeExcite(nn.Module):
    """Scales each channel by a gate (sigmoid) that is computed from the spatial means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        # A quarter of the channels, rounded to a multiple of 8, at least 8: 48 -> 16, not 12.
        reduced = max(8, (channels // 4 + 4) // 8 * 8)
        self.fc1 = nn.Conv2d(channels, reduced, 1)
        self.fc2 = nn.Conv2d(reduced, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        gate = self.fc2(functional.relu(self.fc1(x.mean((2, 3), keepdim=True))))  # (B, C, 1, 1)
        return x * torch.sigmoid(gate)


class ChannelMixer(nn.Module):
    """Residual pair of 1x1 convolutions with twice the channels between them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        last = ConvBN(2 * channels, channels, 1)
        # A fresh block starts as its token mixer alone (docs/explanation/model.md, section 2.2).
        nn.init.zeros_(last.bn.weight)
        self.m = nn.Sequential(ConvBN(channels, 2 * channels, 1), nn.GELU(), last)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        y: Tensor = x + self.m(x)
        return y


class Block(nn.Module):
    """Block that keeps channels and resolution; the residual is around the channel mixer only."""

    def __init__(self, channels: int, *, has_squeeze_excite: bool) -> None:
        super().__init__()
        gate = SqueezeExcite(channels) if has_squeeze_excite else nn.Identity()
        self.token_mixer = nn.Sequential(RepDepthwise(channels), gate)
        self.channel_mixer = ChannelMixer(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        y: Tensor = self.channel_mixer(self.token_mixer(x))
        return y


class DownsamplingBlock(nn.Module):
    """Block with a stride of 2 that changes the channels, without an activation between its two convolutions."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.token_mixer = nn.Sequential(
            ConvBN(in_channels, in_channels, 3, stride=2, groups=in_channels),
            nn.Identity(),  # M1 has no squeeze-excite here; the identity keeps the checkpoint's numbering
            ConvBN(in_channels, out_channels, 1),
        )
        self.channel_mixer = ChannelMixer(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H/2, W/2)."""
        y: Tensor = self.channel_mixer(self.token_mixer(x))
        return y


def stem(channels: int) -> nn.Sequential:
    """Return the stem: (B, 3, H, W) -> (B, channels, H/4, W/4), without activation at the end."""
    half = channels // 2
    return nn.Sequential(ConvBN(3, half, 3, stride=2), nn.GELU(), ConvBN(half, channels, 3, stride=2))
