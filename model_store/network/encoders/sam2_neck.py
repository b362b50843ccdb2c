"""The end of SAM 2's encoders: the neck, and the three maps of an image that the decoder reads.

EdgeTAM and SAM 2.1 differ in the trunk in front of it only.

Source: docs/explanation/sam2.md, section "Encoders".
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from model_store.network.encoders.image_encoder import EMBEDDING_CHANNELS, EncodedImage, HighResTensors, ImageEncoder

S1_CHANNELS = 64
S0_CHANNELS = 32


class SAM2Neck(nn.Module):
    """One biased 1x1 convolution for each of the trunk's maps, deepest map first, without norms and activations.

    Args:
        channels: Channels of the maps of strides 4, 8, 16 and 32.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.convs = nn.ModuleList([Projection(count) for count in reversed(channels)])

    @property
    def projections(self) -> list[nn.Conv2d]:
        """The convolutions of the maps of strides 4, 8, 16 and 32."""
        return [part.conv for part in reversed(self.convs) if isinstance(part, Projection)]


class Projection(nn.Module):
    """A 1x1 convolution to the embedding's channels; the module around it gives its arrays the published names."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, EMBEDDING_CHANNELS, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, 256, H, W)."""
        projected: Tensor = self.conv(x)
        return projected


class SAM2Encoder(ImageEncoder):
    """An image encoder of SAM 2's family: a trunk, the neck, and the maps that belong to an image.

    The published files list the projections of the two high-resolution maps among the decoder's arrays. They depend on
    the image alone, so they are part of the encoder here.

    Args:
        trunk: Network from images (B, 3, S, S) to four maps of strides 4, 8, 16 and 32.
        channels: Channels of these maps.
    """

    def __init__(self, trunk: nn.Module, channels: Sequence[int]) -> None:
        super().__init__()
        self.trunk = trunk
        self.neck = SAM2Neck(channels)
        # Stands for the memory of earlier frames of a video, which a single image lacks.
        self.no_mem_embed = nn.Parameter(torch.empty(1, 1, EMBEDDING_CHANNELS))
        nn.init.trunc_normal_(self.no_mem_embed, std=0.02)
        self.conv_s1 = nn.Conv2d(EMBEDDING_CHANNELS, S1_CHANNELS, 1)
        self.conv_s0 = nn.Conv2d(EMBEDDING_CHANNELS, S0_CHANNELS, 1)

    def forward(self, image: Tensor) -> Tensor:
        return self.encode(image).embedding

    def encode(self, image: Tensor) -> EncodedImage:
        stride4, stride8, stride16, stride32 = self.trunk(image)
        finest, fine, middle, deepest = self.neck.projections
        assert middle.bias is not None
        coarse = functional.interpolate(deepest(stride32), scale_factor=2.0, mode="nearest")  # (B, 256, S/16, S/16)
        bias = middle.bias + self.no_mem_embed.flatten()
        embedding = functional.conv2d(stride16, middle.weight, bias) + coarse  # (B, 256, S/16, S/16)
        s1 = functional.conv2d(stride8, *composed(fine, self.conv_s1))  # (B, 64, S/8, S/8)
        s0 = functional.conv2d(stride4, *composed(finest, self.conv_s0))  # (B, 32, S/4, S/4)
        return EncodedImage(embedding, HighResTensors(s1, s0))


def composed(first: nn.Conv2d, second: nn.Conv2d) -> tuple[Tensor, Tensor]:
    """Return kernel (out, in, 1, 1) and bias (out,) of one 1x1 convolution that equals two in sequence.

    It saves a tenth of EdgeTAM's arithmetic and a map of 256 channels at stride 4, 64 MiB in float32. In a graph these
    are nodes that depend on weights alone, so ONNX Runtime computes them once, when it opens the graph.
    """
    assert first.bias is not None
    assert second.bias is not None
    kernel = second.weight.flatten(1) @ first.weight.flatten(1)  # (out, in)
    bias = second.weight.flatten(1) @ first.bias + second.bias
    return kernel.reshape(second.out_channels, first.in_channels, 1, 1), bias
