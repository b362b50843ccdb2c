"""EfficientNet-Lite2: the ImageNet backbone of the lite encoder.

Lite variants have no squeeze-excite, ReLU6 instead of swish, and a stem and head that width does not scale.
Source: EfficientNet (arXiv 1905.11946); its authors' release of the lite variants (March 2020).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from model_store.network.exporting import is_exporting
from model_store.network.folding import folded_weights

WIDTH, DEPTH = 1.1, 1.2
STEM_CHANNELS = 32
CLASSES = 1000


@dataclass(frozen=True, slots=True)
class Stage:
    """A row of EfficientNet-B0's table before scaling; the stride is that of its first block."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    channels: int


STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)


class EfficientNetLite2(nn.Module):
    """Images (B, 3, H, W), normalised with ImageNet's statistics, to maps of strides 4, 8, 16 and 32.

    H and W are multiples of 32 pixels.

    Attributes:
        channels: Channels of the four maps: 24, 48, 120, 352.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvNorm(3, STEM_CHANNELS, 3, stride=2, activation="relu6")
        blocks: list[InvertedResidual] = []
        ends: list[int] = []  # the last block of each stride
        channels = STEM_CHANNELS
        for index, stage in enumerate(STAGES):
            if stage.stride == 2 and index > 1:
                ends.append(len(blocks) - 1)
            is_scaled_in_depth = index not in (0, len(STAGES) - 1)
            out_channels = _scaled_channels(stage.channels)
            for repeat in range(math.ceil(stage.repeats * DEPTH) if is_scaled_in_depth else stage.repeats):
                stride = stage.stride if repeat == 0 else 1
                blocks.append(InvertedResidual(channels, out_channels, stage.kernel, stride, stage.expansion))
                channels = out_channels
        ends.append(len(blocks) - 1)
        self.blocks = nn.ModuleList(blocks)
        self._ends = frozenset(ends)
        self.channels = tuple(blocks[end].out_channels for end in ends)

    def forward(self, image: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> [(B, 24, H/4, W/4), (B, 48, H/8, W/8), (B, 120, H/16, W/16), (B, 352, H/32, W/32)]."""
        x = self.stem(image)
        maps = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in self._ends:
                maps.append(x)
        return maps


class Classifier(nn.Module):
    """The backbone with ImageNet's classification head, to check pretrained weights."""

    def __init__(self, backbone: EfficientNetLite2) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = ConvNorm(backbone.channels[-1], 1280, 1, activation="relu6")
        self.fc = nn.Linear(1280, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) -> logits (B, 1000)."""
        logits: Tensor = self.fc(self.head(self.backbone(image)[-1]).mean((2, 3)))
        return logits


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise convolution, 1x1 projection without activation; residual where the shape stays."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.out_channels = out_channels
        self.expand = ConvNorm(in_channels, hidden, 1, activation="relu6") if expansion > 1 else nn.Identity()
        self.depthwise = ConvNorm(hidden, hidden, kernel, stride=stride, groups=hidden, activation="relu6")
        self.project = ConvNorm(hidden, out_channels, 1)
        self.has_residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H/stride, W/stride)."""
        y: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + y if self.has_residual else y


class SameConv2d(nn.Conv2d):
    """Convolution with TensorFlow's "same" padding: with stride 2 an even side gets its odd zero at the end.

    PyTorch's own padding would shift the map by half a pixel against the pretrained weights.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        stride: int = 1,
        groups: int = 1,
        bias: bool = False,
        device: str | None = None,
    ) -> None:
        symmetric = kernel // 2 if stride == 1 else 0
        super().__init__(in_channels, out_channels, kernel, stride, symmetric, groups=groups, bias=bias, device=device)
        zeros = 0 if stride == 1 else kernel - stride
        self.before, self.after = zeros // 2, zeros - zeros // 2

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name that torch gives it
        """(B, in, H, W) -> (B, out, H/stride, W/stride); H and W are even where the stride is 2."""
        if not self.after:
            return super().forward(input)
        if is_exporting():
            # ONNX's convolution has a padding of its own for each side. ONNX Runtime leaves its blocked memory layout
            # for a Pad node, and returns to it behind the node.
            padded: Tensor = _PaddedConv.apply(  # type: ignore[no-untyped-call]
                input, self.weight, self.bias, self.stride[0], self.groups, self.before, self.after
            )
            return padded
        input = functional.pad(input, (self.before, self.after, self.before, self.after))  # noqa: A001 - the same
        return super().forward(input)


class _PaddedConv(torch.autograd.Function):
    """Convolution with different padding before and after, as one operator of an exported graph."""

    @staticmethod
    def forward(
        _: Any, x: Tensor, kernel: Tensor, bias: Tensor | None, stride: int, groups: int, before: int, after: int
    ) -> Tensor:
        """(B, in, H, W) -> (B, out, H/stride, W/stride)."""
        padded = functional.pad(x, (before, after, before, after))
        return functional.conv2d(padded, kernel, bias, stride, groups=groups)

    @staticmethod
    def symbolic(graph: Any, x: Any, kernel: Any, bias: Any, stride: int, groups: int, before: int, after: int) -> Any:
        """Return the operator for the exporter."""
        inputs = (x, kernel) if bias is None else (x, kernel, bias)
        pads, strides = [before, before, after, after], [stride, stride]
        return graph.op("Conv", *inputs, group_i=groups, pads_i=pads, strides_i=strides)


class ConvNorm(nn.Module):
    """Convolution without bias, batch norm, and an optional activation.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel: Side of the kernel, odd.
        stride: Stride, 1 or 2.
        groups: Groups of channels.
        activation: Name of the activation: "relu6", "relu" or "none".
        epsilon: Epsilon of the batch norm; 1e-3 is EfficientNet's.
        momentum: Weight of a new batch in the running statistics.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        stride: int = 1,
        groups: int = 1,
        activation: str = "none",
        epsilon: float = 1e-3,
        momentum: float = 0.01,
    ) -> None:
        super().__init__()
        self.conv = SameConv2d(in_channels, out_channels, kernel, stride=stride, groups=groups)
        self.norm = nn.BatchNorm2d(out_channels, eps=epsilon, momentum=momentum)
        self.activation: nn.Module = {"relu6": nn.ReLU6, "relu": nn.ReLU, "none": nn.Identity}[activation]()

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H/stride, W/stride)."""
        y: Tensor = self.activation(self.norm(self.conv(x)))
        return y

    def folded(self) -> nn.Module:
        """Return one biased convolution and the activation, which equal this module in eval mode."""
        kernel, bias = folded_weights(self.conv, self.norm)
        old = self.conv
        conv = SameConv2d(
            old.in_channels,
            old.out_channels,
            old.kernel_size[0],
            stride=old.stride[0],
            groups=old.groups,
            bias=True,
            device="meta",  # nothing is initialised, so folding draws no random numbers
        )
        conv.weight = nn.Parameter(kernel.detach().to(old.weight.dtype))
        conv.bias = nn.Parameter(bias.detach().to(old.weight.dtype))
        return conv if isinstance(self.activation, nn.Identity) else nn.Sequential(conv, self.activation)


def from_published_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return published EfficientNet-Lite weights under the names of `Classifier`.

    The published names count norms within a block, where a block without expansion has one fewer.
    """
    parts = {
        "_expand_conv": "expand.conv", "_bn0": "expand.norm", "_depthwise_conv": "depthwise.conv",
        "_bn1": "depthwise.norm", "_project_conv": "project.conv", "_bn2": "project.norm",
    }  # fmt: skip
    outer = {"_conv_stem": "backbone.stem.conv", "_bn0": "backbone.stem.norm", "_conv_head": "head.conv",
             "_bn1": "head.norm", "_fc": "fc"}  # fmt: skip
    renamed = {}
    for key, value in state.items():
        first, *rest = key.split(".")
        if first == "_blocks":
            number, part, parameter = rest
            renamed[f"backbone.blocks.{number}.{parts[part]}.{parameter}"] = value
        else:
            renamed[f"{outer[first]}.{rest[0]}"] = value
    return renamed


def _scaled_channels(channels: int) -> int:
    """Return channels scaled in width, as a multiple of 8 that is at most a tenth smaller."""
    scaled = channels * WIDTH
    rounded = max(8, int(scaled + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * scaled else rounded
