"""EdgeSAM's image encoder: RepViT-M1, two of its stages fused to one map, and the neck.

Source: docs/explanation/model.md, sections 2.1 to 2.6.
"""

from typing import get_args

from torch import Tensor, nn
from torch.nn import functional

from model_store.network.encoders.conv_norm import pointwise_product
from model_store.network.encoders.image_encoder import EMBEDDING_CHANNELS, ImageEncoder, UpsampleMode
from model_store.network.encoders.neck import Neck
from model_store.network.encoders.repvit.blocks import Block, DownsamplingBlock, stem
from model_store.network.exporting import is_exporting
from model_store.network.resampling import enlarge

# (channels, which of its blocks have squeeze-excite); a downsampling block stands before each stage but the first.
STAGES: tuple[tuple[int, tuple[bool, ...]], ...] = (
    (48, (True, False, False)),
    (96, (True, False, False)),
    (192, (True, False) * 7 + (False,)),
    (384, (True, False)),
)
# Indices in ``features`` of the last block of each stage that is used; stage 1 is for the granularity module.
STAGE1_END, STAGE2_END, STAGE3_END = 7, 23, 26


class RepViTEncoder(ImageEncoder):
    """Frames to image embeddings. S is a multiple of 32 pixels.

    EdgeSAM trains with bicubic upsampling and publishes its ONNX and CoreML encoders with bilinear: the same weights,
    another function (docs/explanation/model.md, section 2.4).
    """

    name = "RepViT-M1"
    granularity_channels = (STAGES[1][0], STAGES[2][0], STAGES[3][0])

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.ModuleList(_features())
        self.fuse_stage2 = nn.Conv2d(STAGES[2][0], EMBEDDING_CHANNELS, 1, bias=False)
        self.fuse_stage3 = ProjectAndDouble(STAGES[3][0], EMBEDDING_CHANNELS)
        self.neck = Neck(EMBEDDING_CHANNELS)

    @property
    def upsample_mode(self) -> UpsampleMode:
        return self.fuse_stage3.upsample_mode

    def set_upsample_mode(self, mode: UpsampleMode) -> None:
        if mode not in get_args(UpsampleMode):
            raise ValueError(f"upsample_mode is 'bicubic' or 'bilinear', not {mode!r}.")
        self.fuse_stage3.upsample_mode = mode

    def forward(self, image: Tensor) -> Tensor:
        _, stage2, stage3 = self.stages(image)
        return self.fuse(stage2, stage3)

    def stages(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the outputs of stages 1 to 3: (B, 96, H/8, W/8), (B, 192, H/16, W/16), (B, 384, H/32, W/32)."""
        stage1 = self._run(image, 0, STAGE1_END)
        stage2 = self._run(stage1, STAGE1_END + 1, STAGE2_END)
        return stage1, stage2, self._run(stage2, STAGE2_END + 1, STAGE3_END)

    def fuse(self, stage2: Tensor, stage3: Tensor) -> Tensor:
        """Return the embedding, (B, 256, H/16, W/16), of the last two stages."""
        if not is_exporting():
            fused: Tensor = self.neck(self.fuse_stage2(stage2) + self.fuse_stage3(stage3))
            return fused
        # Enlarging and 1x1 convolutions without bias are linear, so both projections contain that of the neck.
        projection = self.neck.projection
        fine = functional.conv2d(stage2, *pointwise_product(self.fuse_stage2, projection))
        coarse = functional.conv2d(stage3, *pointwise_product(self.fuse_stage3.projection, projection))
        return self.neck.smooth(fine + self.fuse_stage3.doubled(coarse))

    def _run(self, x: Tensor, first: int, last: int) -> Tensor:
        for block in self.features[first : last + 1]:
            x = block(x)
        return x


class ProjectAndDouble(nn.Module):
    """1x1 projection, then upsampling by two; the reverse order is a different function."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.upsample_mode: UpsampleMode = "bicubic"
        self.op_list = nn.ModuleList([nn.Conv2d(in_channels, out_channels, 1, bias=False)])

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, 2H, 2W)."""
        return self.doubled(self.projection(x))

    @property
    def projection(self) -> nn.Conv2d:
        """The projection, 1x1 without bias."""
        projection = self.op_list[0]
        assert isinstance(projection, nn.Conv2d)
        return projection

    def doubled(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, 2H, 2W)."""
        return enlarge(x, 2 * int(x.shape[2]), 2 * int(x.shape[3]), self.upsample_mode)


def _features() -> list[nn.Module]:
    channels = STAGES[0][0]
    features: list[nn.Module] = [stem(channels)]
    for stage, (stage_channels, squeeze_excites) in enumerate(STAGES):
        if stage > 0:
            features.append(DownsamplingBlock(channels, stage_channels))
        channels = stage_channels
        features += [Block(channels, has_squeeze_excite=flag) for flag in squeeze_excites]
    assert len(features) == STAGE3_END + 1
    return features
