"""An ONNX encoder with three maps and a decoder of SAM 2 become an artifact, or are refused by what is different."""

import numpy as np
import onnx
import pytest
import torch
from numpy.testing import assert_allclose
from onnx import TensorProto, helper, numpy_helper
from support.foreign_encoders import FREE, convert, encoder, images, write_sam_decoder
from support.sam2_weights import published_state_dict

from model_store.architectures import ARCHITECTURES
from model_store.checkpoint_files import CheckpointError
from model_store.export.foreign_outputs import EncoderError
from model_store.export.graphs.encoder import high_res_rows
from model_store.export.onnx_session import open_graph
from model_store.export.verify import verify_artifact
from model_store.network.encoders.image_encoder import HighResTensors
from service.manifest import ENCODER_OUTPUTS


def three_map_encoder(path, names=("feats_0", "feats_1", "embed"), *, shapes=(), batch=FREE, left_out=()):
    """Write an encoder with the outputs of SAM 2's, in the order finest map first.

    Args:
        path: File to write.
        names: Names of the outputs.
        shapes: Declared shapes by index, in place of the true ones.
        batch: Batch axis of input and outputs.
        left_out: Names of outputs that the graph lacks.
    """
    nodes, outputs, weights = [], [], []
    for index, (name, (channels, side)) in enumerate(zip(names, ((32, 256), (64, 128), (256, 64)), strict=True)):
        cell = 1024 // side
        nodes.append(helper.make_node("Conv", ["x", f"w{index}"], [name], strides=[cell, cell]))
        weights.append(numpy_helper.from_array(small_kernel(channels, cell), f"w{index}"))
        shape = dict(shapes).get(index, (batch, channels, side, side))
        outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, (batch, 3, 1024, 1024))
    kept = [output for output in outputs if output.name not in left_out]
    graph = helper.make_graph(nodes, "encoder", [given], kept, weights)
    onnx.save(helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


def small_kernel(channels, cell):
    values = np.random.default_rng(channels).normal(0, 0.1, (channels, 3, cell, cell))
    return values.astype(np.float32)


def convolved(images, channels, cell):
    with torch.no_grad():
        kernel = torch.from_numpy(small_kernel(channels, cell))
        return torch.nn.functional.conv2d(torch.from_numpy(images), kernel, stride=cell)


@pytest.fixture(scope="module")
def sam2_decoder(tmp_path_factory):
    """A checkpoint of EdgeTAM as published."""
    path = tmp_path_factory.mktemp("sam2") / "edgetam.pt"
    arrays = {key: torch.from_numpy(array) for key, array in published_state_dict("edgetam").items()}
    torch.save({"model": arrays}, path)
    return path


@pytest.mark.parametrize("batch", [1, FREE])
def test_the_three_maps_of_an_encoder_get_the_layout_of_the_service(tmp_path, sam2_decoder, batch):
    path = three_map_encoder(tmp_path / "encoder.onnx", batch=batch)

    manifest, warnings = convert(path, sam2_decoder, tmp_path / "mine")

    verify_artifact(tmp_path / "mine")
    assert (manifest.mask_decoder, manifest.resize, manifest.auto_masks.fallback) == ("sam2", "stretch", (1, 2, 3))
    assert manifest.architecture == "the encoder encoder.onnx with the decoder of " + ARCHITECTURES["edgetam"].title
    assert not any("spread" in warning for warning in warnings), "nothing normalises these maps"
    given = images(1)
    tokens, s1, s0 = open_graph(tmp_path / "mine" / "encoder.onnx").run(list(ENCODER_OUTPUTS), {"image": given})
    maps = HighResTensors(convolved(given, 64, 8), convolved(given, 32, 4))
    assert_allclose(tokens, convolved(given, 256, 16).flatten(2).transpose(1, 2), atol=2e-4)
    assert_allclose(s1, high_res_rows(maps)[0], atol=2e-4)
    assert_allclose(s0, high_res_rows(maps)[1], atol=2e-4)


def test_a_decoder_of_sam2_alone_is_recognised(tmp_path, sam2_decoder):
    state = torch.load(sam2_decoder)["model"]
    alone = {
        key: value for key, value in state.items() if key.startswith(("sam_prompt", "sam_mask")) if "conv_s" not in key
    }
    torch.save(alone, tmp_path / "decoder.pt")
    path = three_map_encoder(tmp_path / "encoder.onnx")

    manifest, _ = convert(path, tmp_path / "decoder.pt", tmp_path / "mine")

    assert (manifest.mask_decoder, manifest.ranking.predicted_iou) == ("sam2", 1.0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"left_out": ("feats_0",)}, r"outputs feats_1 \(free, 64, 128, 128\), embed .*; the decoder of SAM 2's"),
        ({"shapes": {0: (1, 256, 256, 256)}}, r"feats_0 \(1, 256, 256, 256\)"),
        ({"shapes": {0: ("n", "c", "h", "w")}}, r"feats_0 \(free, free, free, free\)"),
        ({"shapes": {0: ()}}, r"feats_0 \(\)"),
        ({"shapes": {2: (1, 4096, 256)}}, r"embed \(1, 4096, 256\)"),
        ({"shapes": {2: ("n", 64, "h", "w")}}, r"embed \(free, 64, free, free\)"),
    ],
    ids=str,
)  # fmt: skip
def test_maps_that_do_not_fit_are_refused_by_name(tmp_path, sam2_decoder, options, words):
    path = three_map_encoder(tmp_path / "encoder.onnx", **options)

    with pytest.raises(EncoderError, match=words):
        convert(path, sam2_decoder, tmp_path / "mine")

    assert not (tmp_path / "mine").exists()


def test_encoder_and_decoder_of_different_families_are_refused(tmp_path, sam2_decoder):
    decoder = write_sam_decoder(tmp_path / "sam.pth")
    three = three_map_encoder(tmp_path / "three.onnx")
    one = encoder(tmp_path / "one.onnx", (1, 3, 1024, 1024))

    with pytest.raises(EncoderError, match=r"3 outputs \(feats_0, .* give --decoder a checkpoint of that family"):
        convert(three, decoder, tmp_path / "mine")
    with pytest.raises(
        EncoderError, match=r"outputs y \(1, 256, 64, 64\); the decoder of SAM 2's family reads one of each"
    ):
        convert(one, sam2_decoder, tmp_path / "mine")


def test_a_decoder_of_sam2_with_missing_arrays_is_refused_by_its_official_keys(tmp_path, sam2_decoder):
    state = torch.load(sam2_decoder)["model"]
    del state["sam_mask_decoder.transformer.layers.0.mlp.layers.0.weight"]
    torch.save(state, tmp_path / "part.pt")
    path = three_map_encoder(tmp_path / "encoder.onnx")

    with pytest.raises(
        CheckpointError, match=r"1 missing: sam_mask_decoder\.transformer\.layers\.0\.mlp\.layers\.0\.weight"
    ):
        convert(path, tmp_path / "part.pt", tmp_path / "mine")
