"""EdgeTAM's image encoder: a RepViT-M1 of EdgeSAM's blocks, of which every stage's end is read, and SAM 2's neck.

Layer by layer the network is that of EdgeSAM's encoder, but each stage ends one block earlier: the last block before a
downsampling belongs to the next stage. With EdgeSAM's ends all shapes fit, and all numbers differ.

Source: docs/explanation/sam2.md, section "Encoders".
"""

from torch import Tensor, nn

from model_store.network.encoders.repvit.blocks import Block, DownsamplingBlock, stem
from model_store.network.encoders.sam2_neck import SAM2Encoder

CHANNELS = (48, 96, 192, 384)
# Numbers of the blocks behind the downsampling. Every second one has squeeze-excite, from the first on.
DEPTHS = (2, 2, 14, 2)


class EdgeTAMEncoder(SAM2Encoder):
    """Frames to the three maps of an image. S is a multiple of 32 pixels."""

    name = "RepViT-M1 (EdgeTAM)"

    def __init__(self) -> None:
        super().__init__(RepViTTrunk(), CHANNELS)


class RepViTTrunk(nn.Module):
    """Images (B, 3, S, S) to the ends of the four stages, of strides 4, 8, 16 and 32."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.ModuleDict({"stem": stem(CHANNELS[0])})
        inputs = (None, *CHANNELS[:-1])
        for index, (in_channels, channels, depth) in enumerate(zip(inputs, CHANNELS, DEPTHS, strict=True)):
            self.body[f"stages_{index}"] = Stage(in_channels, channels, depth)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(B, 3, S, S) -> (B, 48, S/4, S/4), (B, 96, S/8, S/8), (B, 192, S/16, S/16), (B, 384, S/32, S/32)."""
        x = self.body["stem"](image)
        stride4 = self.body["stages_0"](x)
        stride8 = self.body["stages_1"](stride4)
        stride16 = self.body["stages_2"](stride8)
        return stride4, stride8, stride16, self.body["stages_3"](stride16)


class Stage(nn.Module):
    """One stage of the trunk.

    Args:
        in_channels: Channels of the stage before; None for the first one, which keeps the resolution of the stem.
        channels: Number of channels.
        depth: Number of blocks behind the downsampling.
    """

    def __init__(self, in_channels: int | None, channels: int, depth: int) -> None:
        super().__init__()
        self.downsample = nn.Identity() if in_channels is None else Downsampling(in_channels, channels)
        self.blocks = nn.Sequential(*[Block(channels, has_squeeze_excite=index % 2 == 0) for index in range(depth)])

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, C, H/2, W/2), or (B, C, H, W) in the first stage."""
        y: Tensor = self.blocks(self.downsample(x))
        return y


class Downsampling(DownsamplingBlock):
    """A block that keeps channels and resolution, then one that changes both."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__(in_channels, channels)
        self.pre_block = Block(in_channels, has_squeeze_excite=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, C, H/2, W/2)."""
        return super().forward(self.pre_block(x))
