"""The encoder of edgesam-lite: EfficientNet-Lite2 at half the frame's resolution, and a small neck."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from model_store.network.encoders.efficientnet_lite import ConvNorm, EfficientNetLite2
from model_store.network.encoders.image_encoder import EMBEDDING_CHANNELS, ImageEncoder
from model_store.network.exporting import is_exporting
from model_store.network.layer_norm import LayerNorm2d

NECK_CHANNELS = 192
# Training on few photos must not undo ImageNet's pretraining. The first blocks detect edges and textures, which are
# general, so they stay frozen. The other blocks are trained at a fifth of the learning rate.
FROZEN_BLOCKS = 7
BACKBONE_RATE = 0.2


class LiteEncoder(ImageEncoder):
    """Frames to image embeddings. S is a multiple of 64 pixels.

    The frame is first averaged over 2 × 2 pixels. The backbone is then four times cheaper, without loss for photos of
    up to 512 pixels.
    """

    name = "EfficientNet-Lite2"
    frame_multiple = 64

    def __init__(self) -> None:
        super().__init__()
        self.backbone = EfficientNetLite2()
        self.neck = Neck(self.backbone.channels)
        for frozen in (self.backbone.stem, *self.backbone.blocks[:FROZEN_BLOCKS]):
            frozen.requires_grad_(False)
        for part in self.backbone.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.requires_grad_(False)

    def forward(self, image: Tensor) -> Tensor:
        half = functional.avg_pool2d(image, 2)  # (B, 3, S/2, S/2)
        embedding: Tensor = self.neck(self.backbone(half))  # (B, 256, S/16, S/16)
        return embedding

    def train(self, mode: bool = True) -> "LiteEncoder":  # noqa: FBT001, FBT002 - torch's signature
        """Set the mode; the backbone's batch norms keep ImageNet's statistics in both."""
        super().train(mode)
        self.backbone.eval()
        return self

    def parameter_groups(self) -> Sequence[tuple[float, list[nn.Parameter]]]:
        trained = [parameter for parameter in self.backbone.parameters() if parameter.requires_grad]
        return [(BACKBONE_RATE, trained), (1.0, list(self.neck.parameters()))]


class Neck(nn.Module):
    """Maps of strides 4 to 32 of the half-size frame to the embedding, from coarse to fine.

    Args:
        channels: Channels of the four maps, from fine to coarse.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        width = NECK_CHANNELS
        self.lateral32 = _conv(channels[3], width)
        self.lateral16 = _conv(channels[2], width)
        self.lateral8 = _conv(channels[1], width)
        self.lateral4 = _conv(channels[0] * 4, width)  # four pixels of the finer map beside each other
        self.blocks32 = nn.Sequential(NeckBlock(width), NeckBlock(width))
        self.blocks16 = nn.Sequential(NeckBlock(width))
        self.blocks8 = nn.Sequential(NeckBlock(width), NeckBlock(width))
        self.out = nn.Conv2d(width, EMBEDDING_CHANNELS, 1, bias=False)
        self.norm = LayerNorm2d(EMBEDDING_CHANNELS)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """[(B, c, S/8, S/8), (…, S/16), (…, S/32), (…, S/64)] -> (B, 256, S/16, S/16)."""
        stride4, stride8, stride16, stride32 = maps
        x = self.blocks32(self.lateral32(stride32))  # (B, 192, S/64, S/64)
        x = self.blocks16(self.lateral16(stride16) + _upsampled(x))  # (B, 192, S/32, S/32)
        fine = self.finest(stride4)
        x = self.blocks8(self.lateral8(stride8) + fine + _upsampled(x))  # (B, 192, S/16, S/16)
        embedding: Tensor = self.norm(self.out(x))
        return embedding

    def finest(self, stride4: Tensor) -> Tensor:
        """Project the map of stride 4: (B, c, S/8, S/8) -> (B, 192, S/16, S/16)."""
        if not is_exporting():
            fine: Tensor = self.lateral4(functional.pixel_unshuffle(stride4, 2))
            return fine
        # Four pixels beside each other under a 1x1 kernel are one pixel under a 2x2 kernel.
        lateral: nn.Module = self.lateral4
        # Batch norms are folded in artifacts, but not in the graphs that conversions fill.
        conv = lateral.conv if isinstance(lateral, ConvNorm) else lateral
        assert isinstance(conv, nn.Conv2d)
        kernel = functional.pixel_shuffle(conv.weight, 2)  # (192, c, 2, 2)
        y = functional.conv2d(stride4, kernel, conv.bias, stride=2)
        if isinstance(lateral, ConvNorm):
            y = lateral.norm(y)
        return y


class NeckBlock(nn.Module):
    """Residual block: 5x5 depthwise, 1x1 to twice the channels, 1x1 back."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = _conv(channels, channels, 5, groups=channels)
        self.expand = _conv(channels, 2 * channels, activation="relu")
        self.project = _conv(2 * channels, channels)
        nn.init.constant_(self.project.norm.weight, 0.2)  # starts close to the identity

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        y: Tensor = self.project(self.expand(self.depthwise(x)))
        return x + y


def _conv(
    in_channels: int, out_channels: int, kernel: int = 1, *, groups: int = 1, activation: str = "none"
) -> ConvNorm:
    return ConvNorm(
        in_channels, out_channels, kernel, groups=groups, activation=activation, epsilon=1e-5, momentum=0.03
    )


def _upsampled(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, 2H, 2W)."""
    return functional.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
