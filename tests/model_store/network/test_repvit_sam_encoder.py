"""RepViT-SAM's image encoder gives what the official one gives, in torch and in ONNX Runtime."""

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

from model_store.checkpoint import CheckpointError, model_from_state_dict
from model_store.network.encoders.repvit.blocks import NormedRepDepthwise, SqueezeExcite
from model_store.network.encoders.repvit.repvit_sam_encoder import RepViTSAMEncoder
from model_store.network.frames import frame
from model_store.network.model import PromptableModel, build_model

# Rounding alone gives 2.5e-4 here: docs/explanation/sam-family.md.
TOLERANCE = 5e-4
SIDE = 128  # of small frames
TAPS = (0, 1, 2, 7, 8, 15, 16, 17, 30, 51, 52, 54)  # indices in `features`


@pytest.fixture(scope="module")
def model() -> PromptableModel:
    """A model whose norms are as after training: with fresh ones folding would be hard to get wrong."""
    torch.manual_seed(0)
    model = build_model("repvit-sam")
    encoder = model.image_encoder
    for part in encoder.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = None
        if isinstance(part, nn.BatchNorm2d | nn.LayerNorm):  # the exporter stores equal arrays once
            nn.init.uniform_(part.weight, 0.2, 1.0)
            nn.init.normal_(part.bias, 0, 0.1)
    with torch.no_grad():
        encoder(torch.randn(2, 3, SIDE, SIDE))
    return model.eval()


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    return torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def exported(model: PromptableModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The encoder for small frames as ONNX, traced with its branches and norms, without folding constants."""
    path = tmp_path_factory.mktemp("repvit") / "encoder.onnx"
    write_traced(model.image_encoder, torch.zeros(1, 3, SIDE, SIDE), path)
    return path


@pytest.mark.fixtures
@pytest.mark.slow
def test_every_stage_and_the_embedding_agree():
    expected = open_encoder_reference("repvit-sam", "full")
    arrays = {key: torch.from_numpy(array) for key, array in state_dict("repvit-sam").items()}
    encoder = model_from_state_dict(arrays, architecture_name="repvit-sam").image_encoder
    modules = {f"features{index}": encoder.features[index] for index in TAPS}
    modules |= {f"neck{index}": encoder.neck[index] for index in range(3)}

    taps = taps_of(encoder, modules, frame(family_image()))

    assert_encoder_agrees(taps, expected, TOLERANCE)


def test_one_convolution_equals_the_three_branches_and_their_norm():
    torch.manual_seed(3)
    branches = NormedRepDepthwise(16)
    x = torch.randn(2, 16, 9, 11)
    for norm in (branches.conv.bn, branches.bn):
        nn.init.uniform_(norm.running_mean, -1, 1)
        nn.init.uniform_(norm.running_var, 0.2, 2)
        nn.init.uniform_(norm.weight, 0.2, 2)
        nn.init.normal_(norm.bias)

    with torch.inference_mode():
        expected = branches.eval()(x)
        folded = branches.folded()(x)

    np.testing.assert_allclose(folded.numpy(), expected.numpy(), rtol=0, atol=1e-5)


def test_keys_shapes_and_counts_are_those_of_the_published_file():
    with torch.device("meta"):
        model = build_model("repvit-sam")

    ours = {key: tuple(value.shape) for key, value in model.state_dict().items()}

    assert ours == dict(shapes("repvit-sam"))
    assert sum(value.numel() for value in model.parameters()) == 27_223_480


def test_the_last_stage_keeps_the_resolution_of_the_one_before(model, image):
    modules = {f"features{index}": model.image_encoder.features[index] for index in (7, 15, 51, 54)}

    taps = taps_of(model.image_encoder, modules, image)

    assert {name: tap.shape for name, tap in taps.items()} == {
        "features7": (80, SIDE // 4, SIDE // 4),
        "features15": (160, SIDE // 8, SIDE // 8),
        "features51": (320, SIDE // 16, SIDE // 16),
        "features54": (640, SIDE // 16, SIDE // 16),
        "embedding": (256, SIDE // 16, SIDE // 16),
    }


def test_squeeze_excite_stands_in_every_second_block():
    with torch.device("meta"):
        encoder = RepViTSAMEncoder()

    gated = [index for index, part in enumerate(encoder.features) if hasattr(part, "token_mixer")
             and not isinstance(part.token_mixer[1], nn.Identity)]  # fmt: skip

    assert gated == [1, 3, 5, 9, 11, 13, *range(17, 50, 2), 53]


def test_a_checkpoint_of_edgesam_is_refused_although_its_names_are_alike():
    edgesam = build_model("edgesam").state_dict()

    with pytest.raises(CheckpointError, match="missing"):
        model_from_state_dict(edgesam, architecture_name="repvit-sam")


def test_folding_changes_nothing_but_the_number_of_modules(model, image):
    deployed = model.deploy().image_encoder

    with torch.inference_mode():
        folded, expected = deployed(image), model.image_encoder(image)

    np.testing.assert_allclose(folded.numpy(), expected.numpy(), rtol=0, atol=TOLERANCE)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in deployed.modules())


def test_every_initializer_of_the_graph_is_an_array_of_the_checkpoint(model, exported):
    stored = {array.name for array in onnx.load(str(exported)).graph.initializer}

    used = {key for key in model.image_encoder.state_dict() if not key.endswith("num_batches_tracked")}

    assert stored == used


def test_onnx_runtime_gives_the_embeddings_of_torch_for_a_batch(model, exported, image):
    session = onnxruntime.InferenceSession(str(exported), providers=["CPUExecutionProvider"])

    (ours,) = session.run(["y"], {"x": image.numpy()})

    with torch.inference_mode():
        theirs = model.image_encoder(image).numpy()
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE)


def test_onnx_runtime_has_one_convolution_for_the_branches_and_norms_of_a_block(exported, tmp_path):
    nodes = session_nodes(exported, tmp_path)

    # Stem, 1x1 of the neck, 51 blocks of three and 3 of four convolutions, and two for each of the 24 gates.
    assert nodes["Conv"] + nodes["FusedConv"] == 2 + 1 + 51 * 3 + 3 * 4 + 24 * 2
    assert nodes["Gelu"] == 55
    assert nodes.keys().isdisjoint({"BatchNormalization", "Erf", "Sqrt", "Cast"})
    assert nodes["Pad"] == 1  # around the map that the neck cuts into tiles


def test_the_means_of_large_maps_keep_their_digits_in_onnx_runtime(tmp_path):
    image = torch.randn(1, 8, 256, 256, generator=torch.Generator().manual_seed(2)) * 6.6 + 8.0
    image[:, :, 90:] = 8.37  # padding is constant, so that each addition is rounded in the same direction
    write_traced(SqueezeExcite(8).eval(), image, tmp_path / "gate.onnx")
    model = onnx.load(tmp_path / "gate.onnx")
    means = next(node.input[0] for node in model.graph.node if node.op_type == "Conv")
    model.graph.output.append(onnx.helper.make_tensor_value_info(means, onnx.TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])

    (found,) = session.run([means], {session.get_inputs()[0].name: image.numpy()})

    exact = image.double().mean((2, 3), keepdim=True).numpy()
    np.testing.assert_allclose(found, exact, rtol=1e-6)
