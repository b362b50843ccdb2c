"""The building blocks of RepViT in its two published forms, and how they fold for inference.

EdgeSAM has the first form, the block of July 2023. RepViT-SAM has the second form, which names such as RepViT-M0.9 and
RepViT-M2.3 mean today. The two differ in the depthwise branches only, but weights of one do not fit the other.

Source: RepViT (arXiv 2307.09283); docs/explanation/model.md, sections 2.2 and 2.5; docs/explanation/sam-family.md.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from model_store.network.encoders.conv_norm import ConvBN, pointwise_product
from model_store.network.exporting import is_exporting
from model_store.network.folding import biased_like, norm_scale_and_shift


class RepDepthwise(nn.Module):
    """Three parallel depthwise branches of the first form, 3x3 + 1x1 + identity, with nothing after their sum."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = ConvBN(channels, channels, 3, groups=channels)
        self.conv1 = ConvBN(channels, channels, 1, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        if is_exporting() and not self.training:
            # The graph computes the kernel from the weights of a checkpoint. ONNX Runtime does it once, when it opens
            # the graph. It cannot merge the branches itself.
            kernel, bias = (value.to(x.dtype) for value in self.merged_weights())
            return functional.conv2d(x, kernel, bias, padding=1, groups=self.conv.c.groups)
        y: Tensor = self.conv(x) + self.conv1(x) + x
        return y

    def folded(self) -> nn.Conv2d:
        """Return one biased depthwise 3x3 that equals the three branches in eval mode."""
        kernel, bias = self.merged_weights()
        return biased_like(self.conv.c, kernel, bias)

    def merged_weights(self) -> tuple[Tensor, Tensor]:
        """Return kernel (C, 1, 3, 3) and bias (C,) of one convolution for all branches, float64."""
        kernel, bias = self.conv.folded_weights()
        centre, centre_bias = self.conv1.folded_weights()
        return kernel + _padded(centre + 1.0), bias + centre_bias


class NormedRepDepthwise(nn.Module):
    """`RepDepthwise` of RepViT's second form: the 1x1 branch has a bias and no norm, and a norm follows the sum."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = ConvBN(channels, channels, 3, groups=channels)
        self.conv1 = nn.Conv2d(channels, channels, 1, groups=channels)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        if is_exporting() and not self.training:
            # As in RepDepthwise.
            kernel, bias = (value.to(x.dtype) for value in self.merged_weights())
            return functional.conv2d(x, kernel, bias, padding=1, groups=self.conv.c.groups)
        y: Tensor = self.bn(self.conv(x) + self.conv1(x) + x)
        return y

    def folded(self) -> nn.Conv2d:
        """Return one biased depthwise 3x3 that equals the branches and the norm in eval mode."""
        kernel, bias = self.merged_weights()
        return biased_like(self.conv.c, kernel, bias)

    def merged_weights(self) -> tuple[Tensor, Tensor]:
        """Return the kernel (C, 1, 3, 3) and bias (C,) of the one convolution, float64."""
        kernel, bias = self.conv.folded_weights()
        assert self.conv1.bias is not None
        kernel = kernel + _padded(self.conv1.weight.double() + 1.0)
        scale, shift = norm_scale_and_shift(self.bn)
        return kernel * scale[:, None, None, None], (bias + self.conv1.bias.double()) * scale + shift


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
        # Axis by axis: ONNX Runtime adds all 65,536 places of a map one after the other, which loses four digits.
        mean = x.mean(3, keepdim=True).mean(2, keepdim=True)  # (B, C, 1, 1)
        gate = self.fc2(functional.relu(self.fc1(mean)))  # (B, C, 1, 1)
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
    """Block that keeps channels and resolution; the residual is around the channel mixer only.

    Args:
        channels: Number of channels.
        has_squeeze_excite: Whether a gate follows the depthwise branches.
        depthwise: Class of the depthwise branches: that of the first or the second form.
    """

    def __init__(
        self,
        channels: int,
        *,
        has_squeeze_excite: bool,
        depthwise: type[RepDepthwise | NormedRepDepthwise] = RepDepthwise,
    ) -> None:
        super().__init__()
        gate = SqueezeExcite(channels) if has_squeeze_excite else nn.Identity()
        self.token_mixer = nn.Sequential(depthwise(channels), gate)
        self.channel_mixer = ChannelMixer(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        y: Tensor = self.channel_mixer(self.token_mixer(x))
        return y


class DownsamplingBlock(nn.Module):
    """Block that changes the channels, without an activation between its two convolutions."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 2) -> None:
        super().__init__()
        self.token_mixer = nn.Sequential(
            ConvBN(in_channels, in_channels, 3, stride=stride, groups=in_channels),
            nn.Identity(),  # there is no squeeze-excite here; the identity keeps the checkpoint's numbering
            ConvBN(in_channels, out_channels, 1),
        )
        self.channel_mixer = ChannelMixer(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H/stride, W/stride)."""
        if is_exporting() and not self.training:
            return self._with_merged_products(x)
        y: Tensor = self.channel_mixer(self.token_mixer(x))
        return y

    def _with_merged_products(self, x: Tensor) -> Tensor:
        """Compute the same with half the products of the mixer's first convolution.

        No activation stands before that convolution, so it reads the fewer channels in front of the widening one.
        """
        depthwise, _, widening = self.token_mixer
        first, activation, last = self.channel_mixer.m
        assert isinstance(widening, ConvBN | nn.Conv2d)
        assert isinstance(first, ConvBN | nn.Conv2d)
        narrow = depthwise(x)  # (B, in, H/stride, W/stride)
        kernel, bias = pointwise_product(widening, first)
        y: Tensor = widening(narrow) + last(activation(functional.conv2d(narrow, kernel, bias)))
        return y


def stem(channels: int) -> nn.Sequential:
    """Return the stem: (B, 3, H, W) -> (B, channels, H/4, W/4), without activation at the end."""
    half = channels // 2
    return nn.Sequential(ConvBN(3, half, 3, stride=2), nn.GELU(), ConvBN(half, channels, 3, stride=2))


def _padded(centre: Tensor) -> Tensor:
    """Return a 3x3 kernel (C, 1, 3, 3) for a 1x1 kernel (C, 1, 1, 1). The identity branch is a 1 in the centre."""
    # The exporter does not see that padding gives a fixed size.
    return functional.pad(centre, (1, 1, 1, 1)).reshape(centre.shape[0], 1, 3, 3)
