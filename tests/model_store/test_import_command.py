"""`import` of an ONNX encoder with the decoder of a checkpoint, and of a file that its keys do not tell apart."""

import hashlib

import numpy as np
import onnx
import pytest
import torch
from support.model_store_cli import invoke
from support.sam_family_weights import decoder_state_dict

from service.manifest import load_manifest


def error_of(result):
    """The last line of stderr, which is the error and has no traceback before it."""
    assert "Traceback" not in result.output
    return result.stderr.rstrip().splitlines()[-1]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """An ONNX encoder of one convolution, (1, 3, 512, 512) to (1, 256, 64, 64)."""
    path = tmp_path_factory.mktemp("encoder") / "encoder.onnx"
    weights = np.random.default_rng(0).normal(0, 0.1, (256, 3, 8, 8)).astype(np.float32)
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[8, 8], strides=[8, 8])],
        "encoder",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 3, 512, 512])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 256, 64, 64])],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    """A checkpoint with the arrays of SAM's prompt encoder and mask decoder alone."""
    path = tmp_path_factory.mktemp("decoder") / "decoder.pth"
    arrays = decoder_state_dict("sam-vit-b")
    torch.save({key: torch.from_numpy(np.array(value)) for key, value in arrays.items()}, path)
    return path


def test_an_onnx_encoder_and_a_decoder_become_a_model_that_runs(encoder, decoder, tmp_path):
    parts = ("--encoder", encoder, "--decoder", decoder)
    made = invoke("import", *parts, "--name", "mine", "--licence", "our own", "--models-dir", tmp_path)
    verified = invoke("verify", "mine", "--models-dir", tmp_path)

    assert made.exit_code == verified.exit_code == 0, made.output
    manifest = load_manifest(tmp_path / "mine")
    assert (manifest.image_size, manifest.licence) == (512, "our own")
    assert manifest.source_sha256 == hashlib.sha256(encoder.read_bytes()).hexdigest()
    assert "on this machine: " in made.stdout


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "give a checkpoint, or --encoder and --decoder"),
        (("--encoder", "ENCODER"), "give a checkpoint, or --encoder and --decoder"),
        (("DECODER", "--decoder", "DECODER"), "give a checkpoint, or --encoder and --decoder"),
        (("DECODER", "--encoder", "ENCODER", "--decoder", "DECODER"), "give a checkpoint, or --encoder and --decoder"),
        (("--encoder", "ENCODER", "--decoder", "DECODER"), "state the licence of"),
        (("--encoder", "absent.onnx", "--decoder", "DECODER", "--licence", "own"), "absent.onnx: no such file"),
        (("--encoder", "ENCODER", "--decoder", "ENCODER", "--licence", "own"), "encoder.onnx"),
        (("--encoder", "DECODER", "--decoder", "DECODER", "--licence", "own"), "decoder.pth"),
        (
            ("--encoder", "ENCODER", "--decoder", "DECODER", "--licence", "own", "--image-size", "640"),
            "--image-size takes 512 or 1024",
        ),
        (("DECODER", "--licence", "\udcff"), "is not UTF-8 text"),
        (("DECODER", "--licence", "own", "--measured", "miou_box=nan"), "--measured takes finite numbers"),
    ],
)
def test_a_wrong_combination_is_one_line(options, words, encoder, decoder, tmp_path):
    files = {"ENCODER": encoder, "DECODER": decoder}

    result = invoke(
        "import", *(files.get(word, word) for word in options), "--name", "mine", "--models-dir", tmp_path / "models"
    )

    assert result.exit_code in {1, 2}
    assert words in error_of(result)
    assert not (tmp_path / "models" / "mine").exists()
