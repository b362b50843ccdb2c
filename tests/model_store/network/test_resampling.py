"""Enlarging by two matrix products gives what torch's interpolation gives, and is what exported graphs hold."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from support.traced_graph import write_traced
from torch.nn import functional

from model_store.export.onnx_session import open_graph
from model_store.network.encoders.repvit.encoder import ProjectAndDouble
from model_store.network.resampling import enlarge, enlarging_matrix

MODES = ("bicubic", "bilinear")


def maps(height: int, width: int, *, batch: int = 1, channels: int = 3) -> torch.Tensor:
    return torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(height * 100 + width))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("size", "enlarged"), [((32, 32), (64, 64)), ((16, 16), (64, 64)), ((5, 3), (12, 8)), ((1, 2), (4, 2))]
)
def test_the_matrices_enlarge_as_torch_does(mode, size, enlarged):
    x = maps(*size).double()

    rows, columns = (enlarging_matrix(*sides, mode) for sides in zip(size, enlarged, strict=True))
    ours = rows @ x.numpy() @ columns.T

    theirs = functional.interpolate(x, enlarged, mode=mode, align_corners=False)
    assert_allclose(ours, theirs.numpy(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_a_constant_map_stays_constant(mode):
    matrix = enlarging_matrix(16, 64, mode)

    assert_allclose(matrix.sum(1), 1.0, rtol=0, atol=1e-12)


def test_a_map_of_the_right_size_is_returned_as_it_is():
    x = maps(8, 8)

    assert enlarge(x, 8, 8, "bicubic") is x


@pytest.mark.parametrize("mode", MODES)
def test_an_exported_stage_has_products_instead_of_a_resize_and_the_numbers_of_torch(tmp_path, mode):
    torch.manual_seed(0)
    module = ProjectAndDouble(24, 16)
    module.upsample_mode = mode
    example = maps(32, 20, batch=2, channels=24)

    graph = write_traced(module, maps(32, 20, channels=24), tmp_path / "stage.onnx").graph
    (ours,) = open_graph(tmp_path / "stage.onnx").run(["y"], {"x": example.numpy()})

    with torch.inference_mode():
        theirs = module(example).numpy()
    operators = [node.op_type for node in graph.node]
    assert "Resize" not in operators
    assert operators.count("MatMul") == 2
    assert {array.name for array in graph.initializer} == {"op_list.0.weight"}
    assert theirs.shape == (2, 16, 64, 40)
    assert np.abs(ours - theirs).max() <= 1e-6 * np.abs(theirs).max()
