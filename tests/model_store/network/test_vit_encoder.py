"""SAM's ViT encoders give what the official ones give, in torch and in ONNX Runtime, with plain attention."""

import itertools
import math
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from support.encoder_reference import open_encoder_reference
from support.official_reference import assert_stats_agree
from support.sam_family_weights import FAMILY_COMMITTED, shapes, state_dict
from support.traced_graph import write_traced
from torch.nn import functional

from model_store.checkpoint_files import CheckpointError, recognise
from model_store.network.architectures import build_encoder
from model_store.network.encoders.image_encoder import UnsupportedByEncoderError
from model_store.network.encoders.vit_encoder import QUERY_ROWS, RelativeAttention, ViTBlock, ViTEncoder
from model_store.network.frames import frame
from model_store.network.model import build_model
from model_store.vit_shape import ViTShape

TOLERANCE = 2e-4  # docs/explanation/sam-family.md: above every rounding effect, below every known mistake
# Of the published checkpoints: number of keys, and of parameters (the Gaussian matrix is none).
PUBLISHED = {"sam-vit-b": (314, 93_735_472), "sam-vit-l": (482, 312_342_832), "sam-vit-h": (594, 641_090_608)}
# Neither windows of 14 nor steps of query rows divide 18 tokens.
SMALL = ViTShape("small", channels=32, depth=3, heads=2, global_blocks=(1,))
SMALL_FRAME = 288


@pytest.mark.parametrize("name", PUBLISHED)
def test_keys_shapes_and_counts_are_those_of_the_published_files(name):
    with torch.device("meta"):
        model = build_model(name)

    ours = {key: tuple(value.shape) for key, value in model.state_dict().items()}

    assert ours == dict(shapes(name))
    assert (len(ours), sum(value.numel() for value in model.parameters())) == PUBLISHED[name]
    assert model.image_encoder.name == model.architecture.encoder


@pytest.mark.large
@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("sam-vit-b", "committed"),
        *(pytest.param(name, "full", marks=pytest.mark.fixtures) for name in PUBLISHED),
    ],
)
def test_every_block_and_the_embedding_agree(name, part):
    expected = open_encoder_reference(name, part)
    encoder = reference_encoder(name)
    image = frame(np.asarray(Image.open(FAMILY_COMMITTED / "image.webp").convert("RGB")))

    taps = tapped(encoder, image)

    step = image.shape[3] // expected["input_slice"].shape[2]
    np.testing.assert_allclose(image[0, :, ::step, ::step].numpy(), expected["input_slice"], rtol=0, atol=1e-6)
    windows = taps.pop("block0_attn_windows")
    compared = [tap for tap in taps if f"tap/{tap}_slice" in expected]
    assert len(compared) >= 10
    for tap in compared:
        assert_slice_agrees(taps[tap], expected[f"tap/{tap}_slice"], expected[f"tap/{tap}_steps"], tap)
        assert_stats_agree(taps[tap], expected[f"tap/{tap}_stats"])
    assert_slice_agrees(taps["embedding"], expected["embedding_slice"], expected.get("embedding_steps", (1, 8, 8)))
    assert_stats_agree(taps["embedding"], expected["embedding_stats"])
    if "tap/block0_attn_windows_slice" in expected:
        windows, reference = windows[::6, ::6, ::6, ::48], expected["tap/block0_attn_windows_slice"]
        inside = ~np.isnan(windows)
        assert inside.mean() > 0.8
        np.testing.assert_allclose(windows[inside], reference[inside], rtol=0, atol=TOLERANCE)
    if "embedding_row63" in expected:
        np.testing.assert_allclose(taps["embedding"][:, 63], expected["embedding_row63"], rtol=0, atol=TOLERANCE)


def test_attention_adds_distances_along_both_axes():
    attention = randomised(RelativeAttention(8, 2, 4, grid=4))
    x = torch.randn(16, 8, generator=torch.Generator().manual_seed(1))

    with torch.no_grad():
        torch.testing.assert_close(attention(x), plain_attention(attention, x), atol=1e-5, rtol=1e-5)


def test_attention_in_steps_of_query_rows_is_the_plain_one():
    attention = randomised(RelativeAttention(4, 1, 18, grid=18))
    x = torch.randn(324, 4, generator=torch.Generator().manual_seed(1))
    places = (0, 17, 18 * QUERY_ROWS - 1, 18 * QUERY_ROWS, 323)

    with torch.no_grad():
        found = attention(x)[list(places)]
        expected = plain_attention(attention, x, places)

    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_windows_attend_to_themselves_and_to_zeros_beyond_the_grid():
    block = randomised(ViTBlock(8, 2, 3, grid=5))
    x = torch.randn(2, 5, 5, 8, generator=torch.Generator().manual_seed(1))

    with torch.no_grad():
        found = block(x.reshape(-1, 8)).reshape(x.shape)
        normed = functional.pad(block.norm1(x), (0, 0, 0, 1, 0, 1))
        corner = plain_attention(block.attn, normed[1, 3:6, 3:6].reshape(9, 8)).reshape(3, 3, 8)[:2, :2]
        expected = x[1, 3:, 3:] + corner
        expected = expected + block.mlp(block.norm2(expected))

    torch.testing.assert_close(found[1, 3:, 3:], expected, atol=1e-5, rtol=1e-5)


def test_the_encoder_gives_each_image_of_a_batch_its_own_embedding():
    encoder, images = small_encoder(), small_images(2)

    with torch.no_grad():
        embeddings = encoder(images)
        alone = encoder(images[1:])

    assert embeddings.shape == (2, 256, 18, 18)
    torch.testing.assert_close(embeddings[1:], alone, atol=1e-5, rtol=1e-5)


def test_a_frame_of_another_side_is_refused_with_both_sides():
    with pytest.raises(UnsupportedByEncoderError, match="small takes images of 288 x 288 pixels, not 256 x 320"):
        small_encoder()(torch.zeros(1, 3, 256, 320))
    with pytest.raises(ValueError, match="multiple of 1024, not 512"), torch.device("meta"):
        build_model("sam-vit-b", frame_size=512)


@pytest.mark.parametrize("name", PUBLISHED)
def test_tables_of_relative_positions_for_another_image_side_are_refused_by_name(name):
    tables = {key: shape for key, shape in shapes(name).items() if ".rel_pos_" in key}
    key = next(key for key, (entries, _) in tables.items() if entries == 127)
    resized = shapes(name) | {key: (63, tables[key][1])}

    with pytest.raises(CheckpointError, match=rf"{key} has the shape \[63, .*not 127 entries; only 1024x1024"):
        recognise(resized)
    with pytest.raises(CheckpointError, match=r"blocks\.0\.attn\.rel_pos_w has the shape \[7, 64\], not 27 entries"):
        recognise(shapes(name) | {"image_encoder.blocks.0.attn.rel_pos_w": (7, 64)})


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small encoder with windows, padding and global attention as ONNX, traced without folding constants."""
    path = tmp_path_factory.mktemp("vit") / "encoder.onnx"
    write_traced(small_encoder(), torch.zeros(1, 3, SMALL_FRAME, SMALL_FRAME), path)
    return path


def test_every_initializer_of_the_graph_is_an_array_of_the_checkpoint(exported):
    stored = {array.name for array in onnx.load(str(exported)).graph.initializer}

    assert stored == set(small_encoder().state_dict())


def test_onnx_runtime_gives_the_embeddings_of_torch_for_a_batch(exported):
    images = small_images(3)

    session = onnxruntime.InferenceSession(str(exported), providers=["CPUExecutionProvider"])
    (ours,) = session.run(["y"], {"x": images.numpy()})

    with torch.inference_mode():
        theirs = small_encoder()(images).numpy()
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


def test_onnx_runtime_computes_each_norm_activation_and_linear_layer_in_one_node(exported, tmp_path):
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(exported), options, providers=["CPUExecutionProvider"])

    nodes = Counter(node.op_type for node in onnx.load(str(tmp_path / "optimised.onnx")).graph.node)

    assert nodes["LayerNormalization"] == 2 * SMALL.depth + 2
    assert nodes["Gelu"] == SMALL.depth
    assert nodes["Gemm"] == 4 * SMALL.depth
    assert nodes["Softmax"] == 2 + math.ceil(18 / QUERY_ROWS), "one for all windows, one for each step of query rows"
    assert nodes.keys().isdisjoint({"Erf", "Pow", "ReduceMean", "Loop", "Cast"})


def small_encoder() -> ViTEncoder:
    return randomised(ViTEncoder(SMALL, frame_size=SMALL_FRAME))


def small_images(count: int) -> torch.Tensor:
    return torch.randn(count, 3, SMALL_FRAME, SMALL_FRAME, generator=torch.Generator().manual_seed(2))


def randomised(module, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in module.parameters():
            value.copy_(torch.randn(value.shape, generator=generator) * 0.3)
    return module.eval()


def plain_attention(attention, tokens, places=None):
    """Pair by pair: the product of query and key, and the query's with the distances down and to the right."""
    side, width = attention.side, attention.channels // attention.heads
    q, k, v = (part.reshape(-1, attention.heads, width) for part in attention.qkv(tokens).chunk(3, dim=1))
    places = range(side * side) if places is None else places
    attended = torch.zeros(len(places), attention.heads, width)
    for head, (row, place) in itertools.product(range(attention.heads), enumerate(places)):
        query, scores = q[place, head], torch.zeros(side * side)
        for other in range(side * side):
            down = attention.rel_pos_h[place // side - other // side + side - 1]
            right = attention.rel_pos_w[place % side - other % side + side - 1]
            scores[other] = query @ k[other, head] / math.sqrt(width) + query @ down + query @ right
        attended[row, head] = scores.softmax(0) @ v[:, head]
    return attention.proj(attended.flatten(1))


def reference_encoder(name: str) -> ViTEncoder:
    """Return the encoder with the weights of the reference, without a second copy of its arrays."""
    prefix = "image_encoder."
    with torch.device("meta"):
        encoder = build_encoder(name)
    arrays = {
        key.removeprefix(prefix): torch.from_numpy(array)
        for key, array in state_dict(name).items()
        if key.startswith(prefix)
    }
    encoder.load_state_dict(arrays, strict=True, assign=True)
    assert isinstance(encoder, ViTEncoder)
    return encoder.eval()


def tapped(encoder: ViTEncoder, image: torch.Tensor) -> dict[str, np.ndarray]:
    """Return the intermediate results that the references have as (C, H, W), by their names there.

    The outputs of the first window attention are (25, 14, 14, C), with NaN at padded places: we do not compute those.
    """
    taken: dict[str, torch.Tensor] = {}

    def take(name, form):
        return lambda _module, _inputs, output: taken.update({name: form(output)})

    def of_tokens(tokens):
        return tokens.reshape(64, 64, -1).permute(2, 0, 1)

    def of_windows(tokens):
        padded = functional.pad(tokens.reshape(64, 64, -1), (0, 0, 0, 6, 0, 6), value=math.nan)
        return padded.reshape(5, 14, 5, 14, -1).transpose(1, 2).reshape(25, 14, 14, -1)

    hooks = [
        encoder.patch_embed.register_forward_hook(take("patch_embed", lambda patches: patches[0].permute(2, 0, 1))),
        encoder.blocks[0].attn.register_forward_hook(take("block0_attn_windows", of_windows)),
        *(block.register_forward_hook(take(f"block{i}", of_tokens)) for i, block in enumerate(encoder.blocks)),
        *(part.register_forward_hook(take(f"neck{i}", lambda x: x[0])) for i, part in enumerate(encoder.neck)),
    ]
    with torch.inference_mode():
        taken["embedding"] = encoder(image)[0]
    for hook in hooks:
        hook.remove()
    return {name: value.numpy() for name, value in taken.items()}


def assert_slice_agrees(tap: np.ndarray, expected: np.ndarray, steps: np.ndarray, name: str = "embedding") -> None:
    part = tap[tuple(slice(None, None, int(step)) for step in steps)]
    np.testing.assert_allclose(part, expected, rtol=0, atol=TOLERANCE, err_msg=name)
