"""Small Hiera encoders equal a plain form that cuts windows one by one, in torch and in ONNX Runtime."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.plain_hiera import PlainBlock, plain_trunk
from support.sam2_encoder_reference import MAPS, Maps
from support.traced_graph import session_nodes, write_traced
from torch.nn import functional

from model_store.hiera_shape import HieraShape
from model_store.network.encoders.hiera.blocks import QUERIES
from model_store.network.encoders.hiera.encoder import HieraEncoder
from model_store.network.encoders.hiera.order import TokenOrder
from model_store.network.encoders.image_encoder import UnsupportedByEncoderError

TOLERANCE = 2e-5
SIDE = 512  # of small frames: grids of 128, 64, 32 and 16 tokens
GLOBAL_QUERIES = 32 * 32
# Hiera-L's windows fit the grids, and those of the other sizes have to be padded. Each shape has the blocks of the
# plain form beside it.
SHAPES = {
    "padded": (
        HieraShape("padded", 8, 1, (1, 2, 3, 2), (8, 4, 14, 7), (4,), 7),
        [
            PlainBlock(1, 8, is_last=True),
            PlainBlock(2, 8, is_first=True),
            PlainBlock(2, 4, is_last=True),
            PlainBlock(4, 4, is_first=True),
            PlainBlock(4, None),
            PlainBlock(4, 14, is_last=True),
            PlainBlock(8, 14, is_first=True),
            PlainBlock(8, 7, is_last=True),
        ],
    ),
    "aligned": (
        HieraShape("aligned", 8, 2, (2, 1, 3, 2), (8, 4, 16, 8), (5,), 14),
        [
            PlainBlock(2, 8),
            PlainBlock(2, 8, is_last=True),
            PlainBlock(4, 8, is_first=True, is_last=True),
            PlainBlock(8, 4, is_first=True),
            PlainBlock(8, 16),
            PlainBlock(8, None, is_last=True),
            PlainBlock(16, 16, is_first=True),
            PlainBlock(16, 8, is_last=True),
        ],
    ),
}


@pytest.fixture(scope="module", params=SHAPES)
def name(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def encoder(name: str) -> HieraEncoder:
    """A small encoder with random weights."""
    encoder = HieraEncoder(SHAPES[name][0], frame_size=SIDE)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in encoder.parameters():
            deviation = 0.3 if parameter.ndim == 1 else parameter[0].numel() ** -0.5
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * deviation)
    return encoder.eval()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def exported(encoder: HieraEncoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The encoder as ONNX, traced without folding constants."""
    path = tmp_path_factory.mktemp("hiera") / "encoder.onnx"
    write_traced(Maps(encoder), torch.zeros(1, 3, SIDE, SIDE), path, outputs=MAPS)
    return path


def test_each_stage_equals_the_plain_form(name, encoder, images):
    with torch.inference_mode():
        found = encoder.trunk(images)
        expected = [plain_trunk(encoder.trunk.state_dict(), SHAPES[name][1], image) for image in images]

    assert QUERIES < GLOBAL_QUERIES, "global blocks take several parts"
    for stage, of_stage in enumerate(found):
        for image, plain in zip(of_stage, expected, strict=True):
            assert plain[stage].abs().mean() > 0.1
            np.testing.assert_allclose(image.numpy(), plain[stage].numpy(), rtol=0, atol=TOLERANCE)


def test_onnx_runtime_gives_the_maps_of_torch_for_a_batch(encoder, exported, images):
    session = onnxruntime.InferenceSession(str(exported), providers=["CPUExecutionProvider"])

    ours = session.run(list(MAPS), {"x": images.numpy()})

    with torch.inference_mode():
        theirs = Maps(encoder)(images)
    for output, found, expected in zip(MAPS, ours, theirs, strict=True):
        np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=TOLERANCE, err_msg=output)


def test_every_initializer_of_the_graph_is_an_array_of_the_checkpoint(encoder, exported):
    graph = onnx.load(str(exported)).graph

    assert {array.name for array in graph.initializer} == set(Maps(encoder).state_dict())
    constants = [node.attribute[0].t for node in graph.node if node.op_type == "Constant"]
    assert sum(len(constant.raw_data) for constant in constants) < 300_000
    assert "If" not in {node.op_type for node in graph.node}


def test_onnx_runtime_computes_each_norm_activation_and_linear_layer_in_one_node(name, encoder, exported, tmp_path):
    shape, blocks = SHAPES[name]

    nodes = session_nodes(exported, tmp_path)

    parts = GLOBAL_QUERIES // QUERIES
    assert nodes["LayerNormalization"] == 2 * shape.depth
    assert nodes["Gelu"] == shape.depth
    assert nodes["Softmax"] == shape.depth - 1 + parts, "the queries of the global block are cut into parts"
    products = Counter(node for node in nodes.elements() if node in {"Gemm", "MatMul", "FusedMatMul"})
    # Query, key, value, proj and two layers of the MLP; the shortcut where the channels change; two of each attention.
    assert products.total() == 6 * shape.depth + 3 + 2 * (shape.depth - 1 + parts)
    # Nothing to move for one head. Query, key, value and result for more; the map into tokens and the stages into maps.
    assert nodes["Transpose"] == 4 * sum(block.heads > 1 for block in blocks) + 1 + 4
    assert nodes.keys().isdisjoint({"Erf", "Pow", "ReduceMean", "Mul", "Cast", "Shape", "Loop", "Where", "Expand"})


def test_a_frame_of_another_side_is_refused_with_both_sides(name, encoder):
    with pytest.raises(UnsupportedByEncoderError, match=f"{name} takes images of 512 x 512 pixels, not 256 x 320"):
        encoder(torch.zeros(1, 3, 256, 320))


@st.composite
def orders(draw) -> TokenOrder:
    """Orders with up to three sides of squares, the outermost of which fits the grid."""
    factors = draw(st.lists(st.integers(2, 3), max_size=3))
    sides = [int(np.prod(factors[index:])) for index in range(len(factors))]
    outermost = sides[0] if sides else 1
    return TokenOrder(outermost * draw(st.integers(1, 24 // outermost if outermost <= 24 else 1)), tuple(sides))


@given(orders(), st.integers(1, 16), st.integers(1, 2))
def test_windows_are_cut_from_any_order_and_joined_again(order, window, batch):
    grid = order.grid
    maps = torch.arange(1.0, batch * 3 * grid * grid + 1).reshape(batch, 3, grid, grid)

    tokens = order.tokens_of_map(maps)
    windows = order.cut(tokens, window)

    assert torch.equal(order.map_of_tokens(tokens), maps)
    assert torch.equal(order.join(windows, window), tokens)
    across = -(-grid // window)
    padded = functional.pad(maps, (0, across * window - grid) * 2)
    plain = [
        padded[image, :, row : row + window, column : column + window].reshape(3, -1)
        for image in range(batch)
        for row in range(0, across * window, window)
        for column in range(0, across * window, window)
    ]
    # Which window has which place, and the order inside a window, are free. Attention depends on neither.
    assert _sorted(windows.transpose(1, 2)) == _sorted(torch.stack(plain))


@given(orders())
def test_four_consecutive_tokens_are_a_square_where_the_order_has_squares_of_two(order):
    order = TokenOrder(2 * order.grid, (*(2 * side for side in order.sides), 2))
    maps = torch.rand(2, 3, order.grid, order.grid)

    fours = order.tokens_of_map(maps).reshape(-1, 4, 3).amax(1)

    assert torch.equal(order.pooled().map_of_tokens(fours), functional.max_pool2d(maps, 2))


def _sorted(windows: torch.Tensor) -> list[list[float]]:
    """Return windows (n, 3, w*w), each as a sorted list, in a fixed order."""
    return sorted(sorted(window.flatten().tolist()) for window in windows)
