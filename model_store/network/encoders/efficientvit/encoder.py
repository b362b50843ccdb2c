"""The image encoders of EfficientViT-SAM: L0, L1, L2 for frames of 512 pixels, XL0 and XL1 for frames of 1024.

Source: EfficientViT-SAM (arXiv 2402.05008); docs/explanation/sam-family.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from model_store.network.encoders.efficientvit.blocks import (
    AttentionBlock,
    Branch,
    Conv,
    ConvNorm,
    FusedConvs,
    InvertedConvs,
    OpList,
    ResidualConvs,
)
from model_store.network.encoders.image_encoder import EMBEDDING_CHANNELS, ImageEncoder
from model_store.network.layer_norm import LayerNorm2d
from model_store.network.resampling import enlarge


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a backbone; its first block has a stride of 2.

    Attributes:
        kind: Blocks of the stage. A stage with attention begins with an inverted block.
        channels: Channels of the stage's output.
        expansion: Factor of the inner channels of all blocks but the first, which has four times as much.
        kernel: Side of the depthwise kernel in the attention; 0 without attention.
    """

    kind: Literal["residual", "fused", "inverted", "attention"]
    channels: int
    expansion: int
    kernel: int = 0


@dataclass(frozen=True, slots=True)
class Family:
    """What the sizes L or the sizes XL have in common.

    Attributes:
        stages: Stages of the backbone.
        neck_expansion: Factor of the inner channels of the neck's blocks.
    """

    stages: tuple[Stage, ...]
    neck_expansion: int


L = Family(
    (
        Stage("residual", 32, 1),
        Stage("fused", 64, 4),
        Stage("fused", 128, 4),
        Stage("inverted", 256, 4),
        Stage("attention", 512, 6, 5),
    ),
    neck_expansion=1,
)
XL = Family(
    (
        Stage("residual", 32, 1),
        Stage("fused", 64, 4),
        Stage("fused", 128, 4),
        Stage("fused", 256, 4),
        Stage("attention", 512, 4, 3),
        Stage("attention", 1024, 6, 3),
    ),
    neck_expansion=4,
)


@dataclass(frozen=True, slots=True)
class Size:
    """One size of the encoder.

    Attributes:
        family: Stages, and expansion of the neck.
        blocks: Number of blocks behind the first one of each stage.
        neck_blocks: Number of blocks of the neck.
    """

    family: Family
    blocks: tuple[int, ...]
    neck_blocks: int


SIZES: Mapping[str, Size] = {
    "L0": Size(L, (1, 1, 1, 4, 4), 4),
    "L1": Size(L, (1, 1, 1, 6, 6), 8),
    "L2": Size(L, (1, 2, 2, 8, 8), 12),
    "XL0": Size(XL, (0, 1, 1, 2, 3, 3), 6),
    "XL1": Size(XL, (1, 2, 2, 4, 6, 6), 12),
}


class EfficientViTEncoder(ImageEncoder):
    """Frames to image embeddings of a side of S/8 (L, whose S is 512) or S/16 (XL, 1024): 64 for both.

    S is a multiple of 32 (L) or 64 pixels (XL).

    Args:
        size: Name in `SIZES`.
    """

    # From opset 20 on, GELU in its tanh form is one operator, which ONNX Runtime computes in the memory layout of its
    # convolutions. Before, it is nine operators and two reorderings, and L0 takes 1.26 times as long.
    opset = 20

    def __init__(self, size: str) -> None:
        super().__init__()
        self.name = f"EfficientViT-{size}"
        chosen = SIZES[size]
        stages = chosen.family.stages
        self.frame_multiple = 2 ** len(stages)
        self.backbone = Backbone(stages, chosen.blocks)
        self.neck = Neck([stage.channels for stage in stages[:-4:-1]], chosen.neck_blocks, chosen.family.neck_expansion)
        self.norm = LayerNorm2d(EMBEDDING_CHANNELS)

    def forward(self, image: Tensor) -> Tensor:
        embedding: Tensor = self.norm(self.neck(self.backbone(image)))
        return embedding


class Backbone(nn.Module):
    """Frames to the maps of the last three stages.

    Args:
        stages: Stages.
        blocks: Number of blocks behind the first one of each stage.
    """

    def __init__(self, stages: tuple[Stage, ...], blocks: tuple[int, ...]) -> None:
        super().__init__()
        channels = 3
        built = []
        for stage, count in zip(stages, blocks, strict=True):
            built.append(OpList([_first_block(channels, stage), *(_block(stage) for _ in range(count))]))
            channels = stage.channels
        self.stages = nn.ModuleList(built)

    def forward(self, image: Tensor) -> list[Tensor]:
        """(B, 3, S, S) -> the maps of the last three stages, deepest first; each next one has twice the side."""
        maps = []
        x = image
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps[:-4:-1]


class Neck(nn.Module):
    """The maps of three stages, enlarged to the finest one's size and added, to the embedding before its norm.

    Args:
        channels: Channels of the three maps, deepest first.
        blocks: Number of blocks behind the sum.
        expansion: Factor of the inner channels of these blocks.
    """

    def __init__(self, channels: list[int], blocks: int, expansion: int) -> None:
        super().__init__()
        width = EMBEDDING_CHANNELS
        self.input_ops = nn.ModuleList([OpList([ConvNorm(in_channels, width)]) for in_channels in channels])
        self.middle = OpList([Branch(FusedConvs(width, width, expansion), has_shortcut=True) for _ in range(blocks)])
        self.output_ops = nn.ModuleList([OpList([Conv(width, width)])])

    def forward(self, maps: list[Tensor]) -> Tensor:
        """[(B, c, s/4, s/4), (…, s/2, s/2), (…, s, s)] -> (B, 256, s, s)."""
        height, width = maps[-1].shape[2:]
        total = self.input_ops[-1](maps[-1])
        for project, x in zip(self.input_ops[:-1], maps[:-1], strict=True):
            total = total + enlarge(project(x), int(height), int(width), "bicubic")
        embedding: Tensor = self.output_ops[0](self.middle(total))
        return embedding


def _first_block(in_channels: int, stage: Stage) -> nn.Module:
    if stage.kind == "residual":
        return ConvNorm(in_channels, stage.channels, 3, stride=2, gelu=True)
    convs = FusedConvs if stage.kind == "fused" else InvertedConvs
    return Branch(convs(in_channels, stage.channels, 4 * stage.expansion, stride=2), has_shortcut=False)


def _block(stage: Stage) -> nn.Module:
    channels, expansion = stage.channels, stage.expansion
    match stage.kind:
        case "residual":
            return Branch(ResidualConvs(channels, expansion), has_shortcut=True)
        case "fused":
            return Branch(FusedConvs(channels, channels, expansion), has_shortcut=True)
        case "inverted":
            return Branch(InvertedConvs(channels, channels, expansion), has_shortcut=True)
        case "attention":
            return AttentionBlock(channels, expansion, stage.kernel)
