"""Convolution with batch norm under RepViT's and TinyViT's key names, and how the pair folds to one convolution."""

from torch import Tensor, nn

from model_store.network.folding import biased_like, folded_weights


class ConvBN(nn.Module):
    """Convolution without bias, then batch norm; "same" padding for odd kernels."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        padding = kernel_size // 2
        self.c = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H/stride, W/stride)."""
        y: Tensor = self.bn(self.c(x))
        return y

    def folded(self) -> nn.Conv2d:
        """Return one biased convolution that equals this pair in eval mode."""
        kernel, bias = self.folded_weights()
        return biased_like(self.c, kernel, bias)

    def folded_weights(self) -> tuple[Tensor, Tensor]:
        """Return kernel (out, in/groups, k, k) and bias (out,), float64, so that they are rounded only when stored."""
        return folded_weights(self.c, self.bn)
