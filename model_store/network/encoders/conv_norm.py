"""Convolution with batch norm under RepViT's and TinyViT's key names: how the pair, and two of them, fold to one."""

from torch import Tensor, nn
from torch.nn import functional

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


def pointwise_product(first: ConvBN | nn.Conv2d, second: ConvBN | nn.Conv2d) -> tuple[Tensor, Tensor | None]:
    """Return one 1x1 convolution that equals two in eval mode: kernel (out, in, 1, 1) and bias (out,).

    It is cheaper than both where nothing else reads the map between them, or where that map has more channels than
    the input.

    Args:
        first: 1x1 convolution whose output the second one reads.
        second: 1x1 convolution.

    Returns:
        Kernel, and the bias or None if neither has one.
    """
    kernel, bias = _kernel_and_bias(first)
    outer, outer_bias = _kernel_and_bias(second)
    # A convolution of the first kernel, as a map of one pixel for each input channel.
    product = functional.conv2d(kernel.transpose(0, 1), outer).transpose(0, 1)  # (out, in, 1, 1)
    if bias is not None:
        carried = functional.conv2d(bias.reshape(1, -1, 1, 1), outer).reshape(-1)  # (out,)
        outer_bias = carried if outer_bias is None else carried + outer_bias
    return product, outer_bias


def _kernel_and_bias(module: ConvBN | nn.Conv2d) -> tuple[Tensor, Tensor | None]:
    if isinstance(module, nn.Conv2d):
        return module.weight, module.bias
    kernel, bias = module.folded_weights()
    return kernel.to(module.c.weight.dtype), bias.to(module.c.weight.dtype)
