"""The granularity module: proposes boxes on the frozen encoder, from which the service infers the extent of a point.

A BiFPN over three of the encoder's stages and a head with one class, under the keys of EdgeSAM's `efficient_det`
variant. Its losses are in `model_store.training.objectives.granularity_losses`, its anchors in `anchors`.

Letters: B images, N anchors, F = 64 channels; levels 3 to 7 have strides 8 to 128.
Source: EfficientDet (arXiv 1911.09070); docs/explanation/model.md, section 6.1.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from model_store.network.anchors import ANCHORS, STRIDES
from model_store.network.encoders.image_encoder import ImageEncoder, UnsupportedByEncoderError

CHANNELS = 64
Channels = tuple[int, int, int]


class GranularityModule(nn.Module):
    """Maps three stages of an encoder to scores and boxes of all anchors.

    Args:
        in_channels: Channels of the stages, of strides 8, 16 and 32.
    """

    def __init__(self, in_channels: Channels) -> None:
        super().__init__()
        self.fpn = Pyramid(in_channels)
        self.rpn_head = BoxHead()

    def forward(self, stages: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Stages (B, c, S/8, S/8), (B, c, S/16, …), (B, c, S/32, …) to logits (B, N) and deltas (B, N, 4)."""
        scored: tuple[Tensor, Tensor] = self.rpn_head(self.fpn(stages))
        return scored


def granularity_module(encoder: ImageEncoder) -> GranularityModule:
    """Return a module with initial weights that fits an encoder.

    Raises:
        UnsupportedByEncoderError: The encoder has no stages that the module could read.
    """
    if encoder.granularity_channels is None:
        raise UnsupportedByEncoderError(
            f"{encoder.name} has no stages of strides 8, 16 and 32 for the granularity module."
        )
    return GranularityModule(encoder.granularity_channels)


class Pyramid(nn.Module):
    """Three rounds of fusion, top-down and back, over five levels."""

    def __init__(self, in_channels: Channels) -> None:
        super().__init__()
        self.bifpn = nn.Sequential(*[Fusion(in_channels if index == 0 else None) for index in range(3)])

    def forward(self, stages: Sequence[Tensor]) -> list[Tensor]:
        fused: list[Tensor] = self.bifpn(list(stages))
        return fused


class Fusion(nn.Module):
    """One round of fusion. The first one makes five levels of three stages, and projects stages 4 and 5 twice.

    Args:
        in_channels: Channels of the stages in the first round; None for later rounds, which take five levels.
    """

    def __init__(self, in_channels: Channels | None) -> None:
        super().__init__()
        self.is_first = in_channels is not None
        for level, inputs in (("6", 2), ("5", 2), ("4", 2), ("3", 2)):
            self.register_parameter(f"p{level}_w1", nn.Parameter(torch.ones(inputs)))
        for level, inputs in (("4", 3), ("5", 3), ("6", 3), ("7", 2)):
            self.register_parameter(f"p{level}_w2", nn.Parameter(torch.ones(inputs)))
        if in_channels is not None:
            for level, channels in zip("345", in_channels, strict=True):
                self.add_module(f"p{level}_down_channel", Projection(channels))
            self.p5_to_p6 = nn.Sequential(Projection(in_channels[2]), SamePool())
            self.p4_level_connection = Projection(in_channels[1])
            self.p5_level_connection = Projection(in_channels[2])
        for level in "6543":
            self.add_module(f"conv{level}_up", SeparableConv(CHANNELS, has_norm=True))
        for level in "4567":
            self.add_module(f"conv{level}_down", SeparableConv(CHANNELS, has_norm=True))
        self.pool = SamePool()

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        projected: dict[int, Tensor] = {}
        if self.is_first:
            p3, p4, p5 = levels
            p6 = self.p5_to_p6(p5)
            given = {3: self._apply_named("p3_down_channel", p3), 4: self._apply_named("p4_down_channel", p4)}
            given |= {5: self._apply_named("p5_down_channel", p5), 6: p6, 7: self.pool(p6)}
            projected = {4: self.p4_level_connection(p4), 5: self.p5_level_connection(p5)}
        else:
            given = dict(zip(range(3, 8), levels, strict=True))
        down = {7: given[7]}  # from coarse to fine
        for level in (6, 5, 4, 3):
            coarse = functional.interpolate(down[level + 1], size=_sides(given[level]), mode="nearest")
            down[level] = self._apply_named(f"conv{level}_up", self._weighted_sum(f"p{level}_w1", given[level], coarse))
        up = {3: down[3]}  # and back
        for level in (4, 5, 6):
            inputs = (projected.get(level, given[level]), down[level], self.pool(up[level - 1]))
            up[level] = self._apply_named(f"conv{level}_down", self._weighted_sum(f"p{level}_w2", *inputs))
        up[7] = self._apply_named("conv7_down", self._weighted_sum("p7_w2", given[7], self.pool(up[6])))
        return [up[level] for level in range(3, 8)]

    def _weighted_sum(self, weights: str, *inputs: Tensor) -> Tensor:
        positive = functional.relu(self.get_parameter(weights))
        shares = positive / (positive.sum() + 1e-4)
        return functional.silu(sum((share * x for share, x in zip(shares, inputs, strict=True)), start=torch.zeros(())))

    def _apply_named(self, name: str, x: Tensor) -> Tensor:
        y: Tensor = self.get_submodule(name)(x)
        return y


class Projection(nn.Module):
    """1x1 convolution to F channels, then batch norm."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.down_conv = nn.Conv2d(in_channels, CHANNELS, 1)
        self.bn = _norm()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.bn(self.down_conv(x))
        return y


class SeparableConv(nn.Module):
    """Depthwise 3x3, pointwise, and a batch norm unless the head has its own."""

    def __init__(self, out_channels: int, *, has_norm: bool) -> None:
        super().__init__()
        self.depthwise_conv = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, groups=CHANNELS, bias=False)
        self.pointwise_conv = nn.Conv2d(CHANNELS, out_channels, 1)
        if has_norm:
            self.bn = _norm()
        self.has_norm = has_norm

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.pointwise_conv(self.depthwise_conv(x))
        return self.bn(y) if self.has_norm else y


class SamePool(nn.Module):
    """Maximum over 3x3 with stride 2; half the size, rounded up, with zeros where the map ends."""

    def forward(self, x: Tensor) -> Tensor:
        height, width = _sides(x)
        bottom, right = (max((-(-side // 2) - 1) * 2 + 3 - side, 0) for side in (height, width))
        x = functional.pad(x, (right // 2, right - right // 2, bottom // 2, bottom - bottom // 2))
        return functional.max_pool2d(x, 3, 2)


class BoxHead(nn.Module):
    """Convolutions shared by all levels, with batch norms for each level."""

    def __init__(self, depth: int = 3) -> None:
        super().__init__()
        self.reg_conv_list = nn.ModuleList([SeparableConv(CHANNELS, has_norm=False) for _ in range(depth)])
        self.cls_conv_list = nn.ModuleList([SeparableConv(CHANNELS, has_norm=False) for _ in range(depth)])
        self.reg_bn_list = nn.ModuleList([nn.ModuleList([_norm() for _ in STRIDES]) for _ in range(depth)])
        self.cls_bn_list = nn.ModuleList([nn.ModuleList([_norm() for _ in STRIDES]) for _ in range(depth)])
        self.cls_header = SeparableConv(ANCHORS, has_norm=False)
        self.reg_header = SeparableConv(ANCHORS * 4, has_norm=False)
        # Nearly all anchors are background. They start with a score of 0.01, or their losses would dominate all others.
        assert self.cls_header.pointwise_conv.bias is not None
        nn.init.constant_(self.cls_header.pointwise_conv.bias, -4.6)

    def forward(self, levels: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        scores, deltas = [], []
        for index, level in enumerate(levels):
            of_class, of_box = level, level
            for depth, (conv_class, conv_box) in enumerate(zip(self.cls_conv_list, self.reg_conv_list, strict=True)):
                norm_class = self.cls_bn_list.get_submodule(f"{depth}.{index}")
                norm_box = self.reg_bn_list.get_submodule(f"{depth}.{index}")
                of_class = functional.silu(norm_class(conv_class(of_class)))
                of_box = functional.silu(norm_box(conv_box(of_box)))
            scores.append(self.cls_header(of_class).permute(0, 2, 3, 1).flatten(1))
            deltas.append(self.reg_header(of_box).permute(0, 2, 3, 1).reshape(level.shape[0], -1, 4))
        return torch.cat(scores, dim=1).float(), torch.cat(deltas, dim=1).float()


def _sides(x: Tensor) -> tuple[int, int]:
    """Return height and width as numbers; as traced values, a graph would compute them at every run."""
    return int(x.shape[2]), int(x.shape[3])


def _norm() -> nn.BatchNorm2d:
    return nn.BatchNorm2d(CHANNELS, eps=1e-3, momentum=0.01)
