"""The neck of SAM's encoders: two convolutions with layer norms, from an encoder's channels to the embedding's."""

from torch import Tensor, nn

from model_store.network.encoders.image_encoder import EMBEDDING_CHANNELS
from model_store.network.exporting import is_exporting
from model_store.network.layer_norm import LayerNorm2d
from model_store.network.winograd import TILE, conv3x3


class Neck(nn.Sequential):
    """The neck: (B, in, H, W) -> (B, 256, H, W).

    Source: docs/explanation/model.md, section 2.4; in exported graphs docs/explanation/encoder-speed.md.

    Args:
        in_channels: Channels of the encoder's last map.
    """

    def __init__(self, in_channels: int) -> None:
        super().__init__(
            nn.Conv2d(in_channels, EMBEDDING_CHANNELS, 1, bias=False),
            LayerNorm2d(EMBEDDING_CHANNELS),
            nn.Conv2d(EMBEDDING_CHANNELS, EMBEDDING_CHANNELS, 3, padding=1, bias=False),
            LayerNorm2d(EMBEDDING_CHANNELS),
        )

    @property
    def projection(self) -> nn.Conv2d:
        """The first convolution, 1x1 without bias."""
        projection = self[0]
        assert isinstance(projection, nn.Conv2d)
        return projection

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, 256, H, W)."""
        return self.smooth(self.projection(x))

    def smooth(self, x: Tensor) -> Tensor:
        """Apply everything behind the first convolution: (B, 256, H, W) -> (B, 256, H, W)."""
        x = self[1](x)
        if is_exporting() and int(x.shape[2]) % TILE == 0 and int(x.shape[3]) % TILE == 0:
            convolution = self[2]
            assert isinstance(convolution, nn.Conv2d)
            x = conv3x3(x.permute(0, 2, 3, 1), convolution.weight).permute(0, 3, 1, 2)
        else:
            x = self[2](x)
        y: Tensor = self[3](x)
        return y
