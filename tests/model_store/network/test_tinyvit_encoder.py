"""The image encoder of MobileSAM and TinySAM gives what the official one gives, in torch and in ONNX Runtime."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from support.encoder_reference import assert_encoder_agrees, open_encoder_reference, taps_of
from support.sam_family_reference import family_image
from support.sam_family_weights import shapes, state_dict
from support.traced_graph import session_nodes, write_traced
from torch import nn
from torch.nn import functional

from model_store.checkpoint import CheckpointError, model_from_state_dict
from model_store.network.encoders.tiny_vit.blocks import WindowAttention
from model_store.network.encoders.tiny_vit.encoder import TinyViTEncoder
from model_store.network.frames import frame
from model_store.network.model import build_model

TOLERANCE = 2e-4  # docs/explanation/sam-family.md: above every rounding effect, below every known mistake
FOLDED = 1e-4
UNUSED = ("image_encoder.norm_head.", "image_encoder.head.")
SIDE = 256  # of small frames; all three windows are padded there
REFERENCES = [
    pytest.param("mobile-sam", "committed"),
    pytest.param("tiny-sam", "committed", marks=pytest.mark.slow),
    pytest.param("mobile-sam", "full", marks=[pytest.mark.fixtures, pytest.mark.slow]),
    pytest.param("tiny-sam", "full", marks=[pytest.mark.fixtures, pytest.mark.slow]),
]


@pytest.fixture(scope="module")
def arrays() -> dict[str, torch.Tensor]:
    """All arrays of MobileSAM's file, those of the unused classifier included."""
    return weights("mobile-sam")


@pytest.fixture(scope="module")
def encoder(arrays: dict[str, torch.Tensor]) -> TinyViTEncoder:
    return model_from_state_dict(arrays, architecture_name="mobile-sam").image_encoder


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    return torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def exported(encoder: TinyViTEncoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The encoder for small frames as ONNX, traced in training form without folding constants."""
    path = tmp_path_factory.mktemp("tinyvit") / "encoder.onnx"
    write_traced(encoder, torch.zeros(1, 3, SIDE, SIDE), path)
    return path


@pytest.mark.parametrize(("name", "part"), REFERENCES)
def test_every_stage_and_the_embedding_agree(name, part):
    expected = open_encoder_reference(name, part)
    encoder = model_from_state_dict(weights(name), architecture_name=name).image_encoder

    taps = taps_of(encoder, modules_of(encoder), frame(family_image()))

    assert_encoder_agrees(taps, expected, TOLERANCE)


def test_attention_equals_its_formula_with_padded_tokens_in_it():
    torch.manual_seed(2)
    attention = WindowAttention(64, 2, 7).eval()
    for parameter in attention.parameters():
        nn.init.normal_(parameter, 0, 0.3)
    x = torch.randn(2, 10, 16, 64)

    with torch.inference_mode():
        ours = attention(x)

    np.testing.assert_allclose(ours.numpy(), plain_attention(attention, x).detach().numpy(), rtol=0, atol=2e-5)


def test_keys_shapes_and_counts_are_those_of_the_published_files_without_the_classifier():
    with torch.device("meta"):
        model = build_model("mobile-sam")
    published = {key: shape for key, shape in shapes("mobile-sam").items() if not key.startswith(UNUSED)}

    ours = {key: tuple(value.shape) for key, value in model.state_dict().items()}

    assert ours == published
    assert len(shapes("mobile-sam")) - len(ours) == 4
    assert sum(value.numel() for value in model.parameters()) == 9_808_452


def test_a_file_without_the_unused_classifier_gives_the_same_model(arrays, encoder):
    lean = {key: value for key, value in arrays.items() if not key.startswith(UNUSED)}

    loaded = model_from_state_dict(lean, architecture_name="mobile-sam").image_encoder.state_dict()

    assert loaded.keys() == encoder.state_dict().keys()
    assert all(torch.equal(value, loaded[key]) for key, value in encoder.state_dict().items())


@pytest.mark.parametrize("key", ["layers.1.blocks.0.attn.attention_biases", "layers.0.blocks.1.conv3.bn.running_var"])
def test_a_missing_array_is_named(arrays, key):
    lacking = {name: value for name, value in arrays.items() if name != f"image_encoder.{key}"}

    with pytest.raises(CheckpointError, match=key.replace(".", r"\.")):
        model_from_state_dict(lacking, architecture_name="mobile-sam")


def test_weights_loaded_in_eval_mode_bring_their_attention_biases(encoder, image):
    late = TinyViTEncoder().eval()
    with torch.inference_mode():
        late(image)  # whatever a network keeps, it keeps from now on

        late.load_state_dict(encoder.state_dict())

        assert torch.equal(late(image), encoder(image))


def test_attention_biases_change_the_embedding(encoder, image):
    without = TinyViTEncoder().eval()
    without.load_state_dict(
        {key: value * ("attention_biases" not in key) for key, value in encoder.state_dict().items()}
    )

    with torch.inference_mode():
        difference = (without(image) - encoder(image)).abs().max()

    assert difference > 0.1


def test_folding_changes_nothing_but_the_number_of_modules(arrays, encoder, image):
    deployed = model_from_state_dict(arrays, architecture_name="mobile-sam").deploy().image_encoder

    with torch.inference_mode():
        folded, expected = deployed(image), encoder(image)

    np.testing.assert_allclose(folded.numpy(), expected.numpy(), rtol=0, atol=FOLDED)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in deployed.modules())


def test_every_initializer_of_the_graph_is_an_array_of_the_checkpoint(encoder, exported):
    stored = {array.name for array in onnx.load(str(exported)).graph.initializer}

    used = {key for key in encoder.state_dict() if not key.endswith("num_batches_tracked")}

    assert stored == used


def test_onnx_runtime_gives_the_embeddings_of_torch_for_a_batch(encoder, exported, image):
    session = onnxruntime.InferenceSession(str(exported), providers=["CPUExecutionProvider"])

    (ours,) = session.run(["y"], {"x": image.numpy()})

    with torch.inference_mode():
        theirs = encoder(image).numpy()
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=FOLDED)


def test_onnx_runtime_folds_all_norms_and_tables_and_computes_each_activation_in_one_node(exported, tmp_path):
    nodes = session_nodes(exported, tmp_path)

    assert nodes["Conv"] + nodes["FusedConv"] == 28  # without that of the neck, which is products
    assert nodes["Gelu"] + nodes["BiasGelu"] == 23
    assert nodes["Softmax"] == 10
    assert nodes["Gather"] == 1  # of the tiles of the neck; the tables of attention are folded
    assert nodes.keys().isdisjoint({"BatchNormalization", "Erf", "Loop", "Cast", "Resize"})


def plain_attention(attention: WindowAttention, x: torch.Tensor) -> torch.Tensor:
    """The attention window by window and head by head, each step in the order of the official description."""
    (batch, height, width, channels), side, heads = x.shape, attention.window, attention.heads
    padded = functional.pad(x, (0, 0, 0, -width % side, 0, -height % side))
    out = torch.zeros_like(padded)
    places = [(i, j) for i in range(side) for j in range(side)]
    bias = torch.stack(
        [attention.attention_biases[:, [abs(i - k) * side + abs(j - m) for k, m in places]] for i, j in places], 1
    )
    for image in range(batch):
        for top in range(0, padded.shape[1], side):
            for left in range(0, padded.shape[2], side):
                window = padded[image, top : top + side, left : left + side].reshape(-1, channels)
                parts = attention.qkv(attention.norm(window)).reshape(len(places), heads, 3, -1)
                joined = []
                for head in range(heads):
                    q, k, v = parts[:, head].unbind(1)
                    joined.append((q @ k.T / q.shape[1] ** 0.5 + bias[head]).softmax(1) @ v)
                answer = attention.proj(torch.cat(joined, 1)).reshape(side, side, channels)
                out[image, top : top + side, left : left + side] = answer
    return out[:, :height, :width]


def modules_of(encoder: TinyViTEncoder) -> dict[str, nn.Module]:
    """The modules of the taps by the taps' names."""
    modules: dict[str, nn.Module] = {"patch_embed": encoder.patch_embed}
    for stage, layers in enumerate(encoder.layers):
        modules |= {f"layer{stage}_block{index}": block for index, block in enumerate(layers.blocks)}
        if layers.downsample is not None:
            modules[f"layer{stage}_down"] = layers.downsample
    return modules | {f"neck{index}": encoder.neck[index] for index in range(3)}


def weights(name: str) -> dict[str, torch.Tensor]:
    return {key: torch.from_numpy(array) for key, array in state_dict(name).items()}
