"""The neck of SAM 2's encoders: its formula, and the convolutions that are composed."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from model_store.network.encoders.sam2_neck import SAM2Encoder, composed

TOLERANCE = 2e-5
CHANNELS = (8, 16, 32, 64)
SIDE = 64


class Trunk(nn.Module):
    """Four maps of strides 4 to 32, one convolution each."""

    def __init__(self) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            [nn.Conv2d(3, count, stride, stride) for count, stride in zip(CHANNELS, (4, 8, 16, 32), strict=True)]
        )

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        return [level(image) for level in self.levels]


class TinyEncoder(SAM2Encoder):
    """An encoder with a trunk that is quick to compute."""

    name = "tiny"

    def __init__(self) -> None:
        super().__init__(Trunk(), CHANNELS)


def test_two_convolutions_in_sequence_equal_one():
    torch.manual_seed(0)
    first, second = nn.Conv2d(12, 256, 1), nn.Conv2d(256, 32, 1)
    x = torch.randn(2, 12, 9, 7)

    with torch.inference_mode():
        found, expected = functional.conv2d(x, *composed(first, second)), second(first(x))

    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=0, atol=TOLERANCE)


def test_only_the_map_of_stride_16_gets_something_from_the_deepest_one():
    torch.manual_seed(1)
    encoder = TinyEncoder().eval()
    nn.init.normal_(encoder.no_mem_embed)
    image = torch.randn(2, 3, SIDE, SIDE)

    with torch.inference_mode():
        encoded = encoder.encode(image)
        stride4, stride8, stride16, stride32 = encoder.trunk(image)
        deepest, middle, fine, finest = encoder.neck.convs
        enlarged = deepest(stride32).repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        expected = {
            "embedding": middle(stride16) + enlarged + encoder.no_mem_embed.reshape(1, 256, 1, 1),
            "s1": encoder.conv_s1(fine(stride8)),
            "s0": encoder.conv_s0(finest(stride4)),
        }

    assert encoded.high_res is not None
    for name, found in {"embedding": encoded.embedding, **encoded.high_res._asdict()}.items():
        np.testing.assert_allclose(found.numpy(), expected[name].numpy(), rtol=0, atol=TOLERANCE, err_msg=name)


def test_every_array_of_an_encoder_gets_a_gradient():
    torch.manual_seed(2)
    encoder = TinyEncoder()

    encoded = encoder.encode(torch.randn(2, 3, SIDE, SIDE))
    assert encoded.high_res is not None
    (encoded.embedding.sum() + encoded.high_res.s1.square().sum() + encoded.high_res.s0.square().sum()).backward()

    assert all(parameter.grad is not None and parameter.grad.any() for parameter in encoder.parameters())
