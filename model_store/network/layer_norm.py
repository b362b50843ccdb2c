"""Layer normalisation of channels-first maps, for the neck, the mask prompt and the mask upscaling."""

from torch import Tensor, nn
from torch.nn import functional

# Not nn.LayerNorm's 1e-5: the difference shows in the embedding (1.3e-4, docs/explanation/model.md, section 2.6).
EPSILON = 1e-6


class LayerNorm2d(nn.LayerNorm):
    """Normalises over the channels at each pixel, biased variance (docs/explanation/model.md, section 2.4)."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        x = x.permute(0, 2, 3, 1)
        x = functional.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)
