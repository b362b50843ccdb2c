"""Folding for inference: merges batch norms into the convolutions before them."""

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn


@runtime_checkable
class Foldable(Protocol):
    """A module that a simpler module can replace in eval mode."""

    def folded(self) -> nn.Module:
        """Return the replacement; it equals this module in eval mode up to rounding."""
        ...


def fold_in_place(module: nn.Module) -> None:
    """Replace every foldable module below ``module``. The result is meant for inference.

    Source: docs/explanation/model.md, section 2.5.
    """
    for name, child in module.named_children():
        if isinstance(child, Foldable):
            setattr(module, name, child.folded())
        else:
            fold_in_place(child)


def folded_weights(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return the kernel (out, in/groups, k, k) and bias (out,) of a convolution without bias and the norm behind it.

    Both are float64: rounding happens once, when they are stored.
    """
    scale, shift = norm_scale_and_shift(norm)
    return conv.weight.double() * scale[:, None, None, None], shift


def norm_scale_and_shift(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return the factor (C,) and the summand (C,) that a batch norm applies in eval mode, float64."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
    return scale, norm.bias.double() - norm.running_mean.double() * scale


def folded_conv(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """Return one biased convolution that equals a convolution without bias and the norm behind it in eval mode."""
    return biased_like(conv, *folded_weights(conv, norm))


def biased_like(conv: nn.Conv2d, kernel: Tensor, bias: Tensor) -> nn.Conv2d:
    """Return a convolution with the stride, groups and number format of another one, and "same" padding.

    Args:
        conv: Convolution to imitate.
        kernel: Kernel of the result, (out, in/groups, k, k), k odd.
        bias: Bias of the result, (out,).
    """
    out_channels, _, height, width = kernel.shape
    stride = (conv.stride[0], conv.stride[1])
    padding = (height // 2, width // 2)
    # On the meta device nothing is initialised, so folding draws no random numbers.
    folded = nn.Conv2d(
        conv.in_channels, out_channels, (height, width), stride, padding, groups=conv.groups, device="meta"
    )
    folded.weight = nn.Parameter(kernel.detach().to(conv.weight.dtype))
    folded.bias = nn.Parameter(bias.detach().to(conv.weight.dtype))
    return folded
