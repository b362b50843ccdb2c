"""Modules that are exported in a cheaper form give torch's numbers, and keep ONNX Runtime in its blocked layout."""

import numpy as np
import pytest
import torch
from support.traced_graph import session_nodes, write_traced
from torch import nn
from torch.nn import functional

from model_store.checkpoint import seeded_model
from model_store.export.onnx_export import export_graph
from model_store.export.onnx_session import open_graph
from model_store.export.served_graphs import encoder_graph
from model_store.network.encoders.conv_norm import ConvBN, pointwise_product
from model_store.network.encoders.efficientnet_lite import SameConv2d
from model_store.network.encoders.lite_encoder import Neck as LiteNeck
from model_store.network.encoders.neck import Neck
from model_store.network.encoders.repvit.blocks import DownsamplingBlock
from model_store.network.encoders.repvit.encoder import ProjectAndDouble
from model_store.network.folding import fold_in_place
from model_store.network.winograd import conv3x3

TOLERANCE = 2e-6  # of the largest value


def varied(module: nn.Module) -> nn.Module:
    """Give a module weights and norms that all differ, and put it into eval mode."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d):
                for tensor in (part.weight, part.bias, part.running_mean, part.running_var):
                    tensor.uniform_(0.5, 1.5, generator=generator)
    return module.eval()


def maps(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2))


def assert_graph_equals_torch(module: nn.Module, example: torch.Tensor, folder) -> None:
    """Export a module with one image and compare it on a batch."""
    write_traced(module, example[:1], folder / "module.onnx")
    (ours,) = open_graph(folder / "module.onnx").run(["y"], {"x": example.numpy()})
    with torch.inference_mode():
        theirs = module(example).numpy()
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= TOLERANCE * np.abs(theirs).max()


@pytest.mark.parametrize(("height", "width", "channels", "outputs"), [(2, 2, 1, 1), (8, 6, 5, 7), (64, 64, 32, 16)])
def test_winograd_tiles_give_the_convolution(height, width, channels, outputs):
    x, kernel = maps(2, channels, height, width).double(), maps(outputs, channels, 3, 3).double()

    ours = conv3x3(x.permute(0, 2, 3, 1), kernel).permute(0, 3, 1, 2)

    torch.testing.assert_close(ours, functional.conv2d(x, kernel, padding=1), rtol=0, atol=1e-11)


def test_winograd_tiles_keep_the_digits_of_float32():
    x, kernel = maps(1, 256, 64, 64), maps(256, 256, 3, 3) / 48

    ours = conv3x3(x.permute(0, 2, 3, 1), kernel).permute(0, 3, 1, 2)

    exact = functional.conv2d(x.double(), kernel.double(), padding=1)
    assert (ours - exact).abs().max() <= TOLERANCE * exact.abs().max()


def test_winograd_tiles_need_even_sides():
    with pytest.raises(ValueError, match="multiples of 2, not 3 x 4"):
        conv3x3(maps(1, 3, 4, 8), maps(8, 8, 3, 3))


@pytest.mark.parametrize("size", [(8, 8), (7, 8)])
def test_an_exported_neck_gives_the_embedding_of_torch(tmp_path, size):
    torch.manual_seed(0)

    assert_graph_equals_torch(Neck(24).eval(), maps(2, 24, *size), tmp_path)


@pytest.mark.parametrize("has_norms", [True, False])
def test_the_product_of_two_projections_is_both(has_norms):
    torch.manual_seed(0)
    if has_norms:
        first, second = varied(ConvBN(6, 10, 1)), varied(ConvBN(10, 4, 1))
    else:
        first, second = nn.Conv2d(6, 10, 1), nn.Conv2d(10, 4, 1)
    x = maps(2, 6, 5, 3)

    with torch.inference_mode():
        product = functional.conv2d(x, *pointwise_product(first, second))
        both = second(first(x))

    torch.testing.assert_close(product, both, rtol=1e-5, atol=1e-5)


def test_projections_without_bias_have_a_product_without_bias():
    first, second = nn.Conv2d(6, 10, 1, bias=False), nn.Conv2d(10, 4, 1, bias=False)

    _, bias = pointwise_product(first, second)

    assert bias is None


@pytest.mark.parametrize("is_folded", [True, False])
@pytest.mark.parametrize("stride", [1, 2])
def test_an_exported_downsampling_gives_the_numbers_of_torch(tmp_path, is_folded, stride):
    torch.manual_seed(0)
    module = varied(DownsamplingBlock(16, 32, stride=stride))
    if is_folded:
        fold_in_place(module)

    assert_graph_equals_torch(module, maps(2, 16, 12, 8), tmp_path)


def test_a_projection_may_follow_the_doubling(tmp_path):
    torch.manual_seed(0)
    module = ProjectAndDouble(24, 16).eval()
    x = maps(2, 24, 6, 4)

    with torch.inference_mode():
        torch.testing.assert_close(module.projection(module.doubled(x)), module(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("kernel", [3, 5])
def test_padding_of_a_convolution_with_stride_is_a_part_of_it(tmp_path, kernel, has_bias):
    torch.manual_seed(0)
    module = SameConv2d(12, 12, kernel, stride=2, groups=12, bias=has_bias).eval()

    assert_graph_equals_torch(module, maps(2, 12, 16, 8), tmp_path)

    assert session_nodes(tmp_path / "module.onnx", tmp_path).keys().isdisjoint({"Pad", "Slice", "Concat"})


@pytest.mark.parametrize("is_folded", [True, False])
def test_the_finest_map_of_the_lite_neck_has_one_convolution_instead_of_rearranged_pixels(tmp_path, is_folded):
    torch.manual_seed(0)
    neck = varied(LiteNeck((24, 48, 120, 352)))
    if is_folded:
        fold_in_place(neck)

    class Fine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.neck = neck

        def forward(self, x):
            return self.neck.finest(x)

    assert_graph_equals_torch(Fine().eval(), maps(2, 24, 16, 8), tmp_path)

    assert session_nodes(tmp_path / "module.onnx", tmp_path).keys().isdisjoint({"Transpose", "DepthToSpace"})


@pytest.fixture(scope="module")
def lite_graph(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lite")
    export_graph(encoder_graph(seeded_model(0, "edgesam-lite").deploy().eval()), folder / "encoder.onnx")
    return folder / "encoder.onnx"


def test_onnx_runtime_leaves_its_blocked_layout_only_at_the_end_of_the_lite_encoder(lite_graph, tmp_path):
    nodes = session_nodes(lite_graph, tmp_path)

    assert nodes["Pad"] == nodes["ReorderInput"] == 0
    # In front of the layer norm. A processor without the blocked layout has a Transpose there.
    assert nodes["ReorderOutput"] + nodes["Transpose"] <= 1
