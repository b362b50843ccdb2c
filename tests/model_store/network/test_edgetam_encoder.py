"""EdgeTAM's image encoder gives what the official one gives, in torch and in ONNX Runtime."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from support.official_reference import BOTH
from support.sam2_encoder_reference import MAPS, Maps, assert_maps_agree, assert_sam2_taps_agree, sam2_taps
from support.sam2_model import sam2_model
from support.sam2_reference import open_sam2
from support.sam2_weights import shapes
from support.sam_family_reference import family_image
from support.traced_graph import session_nodes, write_traced
from torch import nn

from model_store.checkpoint_files.sam2_names import official_name
from model_store.network.encoders.sam2_neck import SAM2Encoder
from model_store.network.frames import frame
from model_store.network.model import PromptableModel, build_model

# Rounding alone gives 3e-5 to 6e-5 here, and a wrong part 0.1 and more: docs/explanation/sam2.md.
TOLERANCE = 2e-4
FOLDED_TOLERANCE = 5e-4
SIDE = 128  # of small frames
BATCH_NORMS = 106


@pytest.fixture(scope="module")
def model() -> PromptableModel:
    return sam2_model("edgetam")


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    """Two small frames like the one for which the batch norms were measured."""
    small = frame(family_image(), SIDE, "stretch")
    return torch.cat([small, small.flip(3)])


@pytest.fixture(scope="module")
def exported(model: PromptableModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The encoder for small frames as ONNX, traced with its branches and norms, without folding constants."""
    path = tmp_path_factory.mktemp("edgetam") / "encoder.onnx"
    write_traced(Maps(model.image_encoder), torch.zeros(1, 3, SIDE, SIDE), path, outputs=MAPS)
    return path


def tapped_modules(encoder: SAM2Encoder) -> dict[str, nn.Module]:
    """The modules whose outputs are in the reference arrays, by the names there."""
    body = encoder.trunk.body
    stages = [body[f"stages_{index}"] for index in range(4)]
    modules = {"stem": body["stem"], "stages_0_block0_se": stages[0].blocks[0].token_mixer[1]}
    modules |= {f"stages_2_block{index}": stages[2].blocks[index] for index in range(2)}
    modules |= {f"stages_{index}": stage for index, stage in enumerate(stages)}
    for index, stage in enumerate(stages[1:], 1):
        modules |= {
            f"stages_{index}_pre_block": stage.downsample.pre_block,
            f"stages_{index}_downsample": stage.downsample,
        }
    return modules


@pytest.mark.parametrize("part", BOTH)
def test_every_stage_the_neck_and_the_maps_agree(part, model):
    expected = open_sam2("edgetam", part).arrays

    taps = sam2_taps(model.image_encoder, tapped_modules(model.image_encoder), frame(family_image(), resize="stretch"))

    assert_sam2_taps_agree(taps, expected, TOLERANCE)


@pytest.mark.parametrize("part", BOTH)
def test_the_maps_of_the_folded_encoder_agree(part, model):
    expected = open_sam2("edgetam", part).arrays
    encoder = model.deploy().image_encoder

    maps = sam2_taps(encoder, {}, frame(family_image(), resize="stretch"))

    assert_maps_agree(maps, expected, FOLDED_TOLERANCE)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in encoder.modules())


@pytest.mark.parametrize("part", BOTH)
def test_the_stretched_frame_is_that_of_the_official_code(part):
    expected = open_sam2("edgetam", part).arrays

    (stretched,) = frame(family_image(), resize="stretch").numpy()

    np.testing.assert_allclose(stretched[:, ::16, ::16], expected["input_slice"], rtol=0, atol=2e-6)
    np.testing.assert_allclose(stretched[:, 512], expected["input_row512"], rtol=0, atol=2e-6)


def test_keys_shapes_and_counts_are_those_of_the_published_file():
    with torch.device("meta"):
        model = build_model("edgetam")

    ours = {official_name(key): tuple(value.shape) for key, value in model.state_dict().items()}

    assert ours == dict(shapes("edgetam"))
    assert sum(value.numel() for value in model.parameters()) == 9_120_641
    assert sum(value.numel() for value in model.image_encoder.trunk.parameters()) == 4_713_712
    assert sum(isinstance(module, nn.BatchNorm2d) for module in model.modules()) == BATCH_NORMS


def test_weights_of_any_seed_load_and_give_finite_maps(image):
    encoder = sam2_model("edgetam", seed=7).image_encoder

    maps = sam2_taps(encoder, {}, image)

    assert {name: maps[name].shape for name in MAPS} == {
        "embedding": (256, SIDE // 16, SIDE // 16),
        "high_res_s1": (64, SIDE // 8, SIDE // 8),
        "high_res_s0": (32, SIDE // 4, SIDE // 4),
    }
    assert all(np.isfinite(maps[name]).all() for name in MAPS)


def test_the_embedding_alone_is_that_among_the_maps(model, image):
    with torch.inference_mode():
        alone, encoded = model.image_encoder(image), model.image_encoder.encode(image)

    assert torch.equal(alone, encoded.embedding)


def test_every_initializer_of_the_graph_is_an_array_of_the_checkpoint(model, exported):
    stored = {array.name for array in onnx.load(str(exported)).graph.initializer}

    used = {key for key in Maps(model.image_encoder).state_dict() if not key.endswith("num_batches_tracked")}

    assert stored == used


def test_onnx_runtime_gives_the_maps_of_torch_for_a_batch(model, exported, image):
    session = onnxruntime.InferenceSession(str(exported), providers=["CPUExecutionProvider"])

    ours = session.run(list(MAPS), {"x": image.numpy()})

    with torch.inference_mode():
        theirs = Maps(model.image_encoder)(image)
    for name, found, expected in zip(MAPS, ours, theirs, strict=True):
        np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=TOLERANCE, err_msg=name)


def test_onnx_runtime_has_one_convolution_for_the_branches_and_norms_of_a_block(exported, tmp_path):
    nodes = session_nodes(exported, tmp_path)

    # Stem, 23 blocks of three convolutions, 3 of four, two for each of the 10 gates, and the neck's four.
    assert nodes["Conv"] + nodes["FusedConv"] == 2 + 23 * 3 + 3 * 4 + 10 * 2 + 4
    assert nodes["Gelu"] == 27
    assert nodes.keys().isdisjoint({"BatchNormalization", "Erf", "Sqrt", "Pad", "Cast", "MatMul"})
