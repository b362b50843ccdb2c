"""RepViT-SAM's image encoder: RepViT-M2.3, whose last stage keeps its resolution, and SAM's neck.

The names of its parts are those of EdgeSAM's RepViT-M1, but the depthwise branches are of RepViT's second form.
No stages are fused: the neck reads the last one alone.

Source: docs/explanation/sam-family.md, section "RepViT-M2.3".
"""

from dataclasses import dataclass

from torch import Tensor, nn

from model_store.network.encoders.image_encoder import ImageEncoder
from model_store.network.encoders.neck import Neck
from model_store.network.encoders.repvit.blocks import Block, DownsamplingBlock, NormedRepDepthwise, stem


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of RepViT.

    Attributes:
        channels: Number of channels.
        depth: Number of blocks that keep the channels.
        gated: Number of these blocks, from the first on, of which every second one has squeeze-excite.
        stride: Stride of the downsampling block before them. The first stage follows the stem and has none.
    """

    channels: int
    depth: int
    gated: int
    stride: int


STAGES = (
    Stage(80, 7, 6, 2),
    Stage(160, 7, 6, 2),
    Stage(320, 35, 34, 2),
    Stage(640, 2, 2, 1),  # RepViT itself has a stride of 2 here
)


class RepViTSAMEncoder(ImageEncoder):
    """Frames to image embeddings. S is a multiple of 32 pixels."""

    name = "RepViT-M2.3"

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.ModuleList(_features())
        self.neck = Neck(STAGES[-1].channels)

    def forward(self, image: Tensor) -> Tensor:
        x = image
        for block in self.features:
            x = block(x)
        embedding: Tensor = self.neck(x)
        return embedding


def _features() -> list[nn.Module]:
    channels = STAGES[0].channels
    features: list[nn.Module] = [stem(channels)]
    for index, stage in enumerate(STAGES):
        if index > 0:
            features.append(DownsamplingBlock(channels, stage.channels, stride=stage.stride))
        channels = stage.channels
        features += [
            Block(channels, has_squeeze_excite=block < stage.gated and block % 2 == 0, depthwise=NormedRepDepthwise)
            for block in range(stage.depth)
        ]
    return features
