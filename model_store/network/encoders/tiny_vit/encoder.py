"""The image encoder of MobileSAM and TinySAM: TinyViT-5M, whose last stage keeps its resolution, and SAM's neck.

Source: docs/explanation/sam-family.md, section "TinyViT".
"""

from dataclasses import dataclass

from torch import Tensor, nn

from model_store.network.encoders.image_encoder import ImageEncoder
from model_store.network.encoders.neck import Neck
from model_store.network.encoders.tiny_vit.blocks import (
    Downsampling,
    InvertedBottleneck,
    TransformerBlock,
    patch_embedding,
)


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of TinyViT.

    Attributes:
        channels: Number of channels.
        depth: Number of blocks.
        heads: Number of attention heads; 0 for a stage of convolutions.
        window: Side of the attention's windows, in tokens.
        next_stride: Stride of the downsampling behind the blocks; None behind the last stage.
    """

    channels: int
    depth: int
    heads: int
    window: int
    next_stride: int | None


STAGES = (
    Stage(64, 2, 0, 0, 2),
    Stage(128, 2, 4, 7, 2),
    Stage(160, 6, 5, 14, 1),  # TinyViT itself has a stride of 2 here
    Stage(320, 2, 10, 7, None),
)


class TinyViTEncoder(ImageEncoder):
    """Frames to image embeddings. S is a multiple of 32 pixels."""

    name = "TinyViT-5M"

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = PatchEmbedding(STAGES[0].channels)
        widths = [stage.channels for stage in STAGES]
        self.layers = nn.ModuleList(
            [StageLayers(stage, following) for stage, following in zip(STAGES, [*widths[1:], None], strict=True)]
        )
        self.neck = Neck(widths[-1])

    def forward(self, image: Tensor) -> Tensor:
        x = self.patch_embed(image)  # (B, 64, S/4, S/4)
        for layers in self.layers:
            x = layers(x)
        embedding: Tensor = self.neck(x)
        return embedding


class PatchEmbedding(nn.Module):
    """(B, 3, S, S) -> (B, C, S/4, S/4)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.seq = patch_embedding(channels)

    def forward(self, image: Tensor) -> Tensor:
        patches: Tensor = self.seq(image)
        return patches


class StageLayers(nn.Module):
    """Blocks of a stage, then the downsampling to the next one."""

    def __init__(self, stage: Stage, next_channels: int | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([_block(stage) for _ in range(stage.depth)])
        self.downsample: Downsampling | None = None
        if next_channels is not None and stage.next_stride is not None:
            self.downsample = Downsampling(stage.channels, next_channels, stride=stage.next_stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, next C, H/stride, W/stride), or unchanged in shape behind the last stage."""
        for block in self.blocks:
            x = block(x)
        return x if self.downsample is None else self.downsample(x)


def _block(stage: Stage) -> nn.Module:
    if stage.heads == 0:
        return InvertedBottleneck(stage.channels)
    return TransformerBlock(stage.channels, stage.heads, stage.window)
