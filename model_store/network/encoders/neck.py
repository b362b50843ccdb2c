"""The neck of SAM's encoders: two convolutions with layer norms, from an encoder's channels to the embedding's."""

from torch import nn

from model_store.network.encoders.image_encoder import EMBEDDING_CHANNELS
from model_store.network.layer_norm import LayerNorm2d


def neck(in_channels: int) -> nn.Sequential:
    """Return the neck: (B, in, H, W) -> (B, 256, H, W).

    Source: docs/explanation/model.md, section 2.4.
    """
    return nn.Sequential(
        nn.Conv2d(in_channels, EMBEDDING_CHANNELS, 1, bias=False),
        LayerNorm2d(EMBEDDING_CHANNELS),
        nn.Conv2d(EMBEDDING_CHANNELS, EMBEDDING_CHANNELS, 3, padding=1, bias=False),
        LayerNorm2d(EMBEDDING_CHANNELS),
    )
