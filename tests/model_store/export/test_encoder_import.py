"""Somebody's ONNX encoder with the decoder of a checkpoint becomes an artifact, or is refused by what is different."""

import os

import onnx
import pytest
import torch
from numpy.testing import assert_allclose
from onnx import TensorProto, helper
from support.foreign_encoders import FREE, convert, encoder, images, kernel, write_sam_decoder
from support.random_model import random_model

from model_store.checkpoint_files import CheckpointError
from model_store.export import encoder_wrapping
from model_store.export.foreign_outputs import EncoderError
from model_store.export.onnx_session import open_graph
from model_store.export.verify import verify_artifact
from service.inference.backends.image_encoder import ImageEncoder
from service.inference.backends.onnx_graph import Resources
from service.inference.backends.providers import Backend


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    """The prompt encoder and mask decoder of a checkpoint, alone."""
    return write_sam_decoder(tmp_path_factory.mktemp("decoder") / "sam.pth")


def normalising(*steps):
    """Nodes that normalise pixel values, after nodes that bring them to (1, 3, S, S) under the name `pixels`."""
    return [
        *steps,
        helper.make_node("Sub", ["pixels", "mean"], ["centred"]),
        helper.make_node("Div", ["centred", "std"], ["frame"]),
    ]


CHANNELS_LAST = [
    helper.make_node("Unsqueeze", ["x", "axis"], ["four"]),
    helper.make_node("Transpose", ["four"], ["pixels"], perm=[0, 3, 1, 2]),
]


def expected_tokens(images, side=1024, spread=0.1):
    cell = side // 64
    with torch.no_grad():
        made = torch.nn.functional.conv2d(torch.from_numpy(images), torch.from_numpy(kernel(side, spread)), stride=cell)
    return made.flatten(2).transpose(1, 2).numpy()


@pytest.mark.parametrize(
    ("shape", "layout", "before"),
    [
        ((1, 3, 1024, 1024), "frame", ()),
        ((FREE, 3, 1024, 1024), "frame", ()),
        ((FREE, 3, "height", "width"), "frame", ()),
        ((1, 3, 1024, 1024), "image", normalising(helper.make_node("Identity", ["x"], ["pixels"]))),
        ((1, 1024, 1024, 3), "image", normalising(helper.make_node("Transpose", ["x"], ["pixels"], perm=[0, 3, 1, 2]))),
        (("height", "width", 3), "image", normalising(*CHANNELS_LAST)),
    ],
)
def test_an_encoder_of_every_layout_gives_its_tokens(tmp_path, decoder, shape, layout, before):
    path = encoder(tmp_path / "encoder.onnx", shape, before=before, output=("n", 256, 64, 64))

    manifest, _ = convert(path, decoder, tmp_path / "mine", image_size=1024, input_layout=layout)

    verify_artifact(tmp_path / "mine")
    assert (manifest.encoder, manifest.image_size, manifest.ranking.predicted_iou) == ("encoder", 1024, 1.0)
    (tokens,) = open_graph(tmp_path / "mine" / "encoder.onnx").run(["tokens"], {"image": images(1)})
    assert_allclose(tokens, expected_tokens(images(1)), atol=2e-4)


@pytest.mark.parametrize(("batch", "is_batched"), [(1, False), (FREE, True)])
def test_images_that_arrive_together_are_encoded_whatever_the_graph_takes(tmp_path, decoder, batch, is_batched):
    path = encoder(tmp_path / "encoder.onnx", (batch, 3, 512, 512), side=512, output=("n", 256, 64, 64))

    manifest, warnings = convert(path, decoder, tmp_path / "mine")

    assert manifest.image_size == 512
    assert any("one image at a time" in warning for warning in warnings) is not is_batched
    backend, resources = Backend("cpu", "float32"), Resources(1, image_size=512)
    served = ImageEncoder(
        tmp_path / "mine" / "encoder.onnx", backend, resources, has_granularity=False, has_high_res=False
    )
    encoded = served.encode(images(3, 512))
    assert_allclose(encoded.tokens, expected_tokens(images(3, 512), 512), atol=2e-4)
    assert encoded.proposals == [None] * 3


@pytest.mark.parametrize(("spread", "warns"), [(1e-4, True), (0.15, False), (100.0, True)])
def test_an_unusual_spread_is_a_warning(tmp_path, decoder, spread, warns):
    path = encoder(tmp_path / "encoder.onnx", (1, 3, 512, 512), side=512, spread=spread)

    _, warnings = convert(path, decoder, tmp_path / "mine")

    assert any("--input-layout" in warning for warning in warnings) is warns


@pytest.mark.parametrize(
    ("options", "arguments", "words"),
    [
        ({"shape": (1, 3, 1024, 1024)}, {"image_size": 512}, "takes 1024 pixels, not 512"),
        ({"shape": (1, 3, "h", "w")}, {}, "state the side.*--image-size"),
        ({"shape": (1, 3, 256, 256), "side": 256}, {}, "takes 256 pixels; this service"),
        ({"shape": (1, 3, 684, 1024)}, {}, r"not square: \(1, 3, 684, 1024\)"),
        ({"shape": (4, 3, 1024, 1024)}, {}, "takes 4 images at a time"),
        ({"shape": (1, 1024, 1024, 3)}, {}, r"shape \(1, 1024, 1024, 3\); frame is \(B, 3, S, S\)"),
        ({"shape": (1024, 1024, 3)}, {}, "frame is"),
        ({"shape": (1, 4, 1024, 1024)}, {"input_layout": "image"}, "image is"),
        ({"shape": (1, 3, 1024, 1024)}, {"input_layout": "video"}, "frame or image, not 'video'"),
        ({"shape": (1, 3, 1024, 1024), "kind": TensorProto.UINT8}, {}, "of UINT8, not of float32"),
        ({"shape": (1, 3, 1024, 1024), "output": (1, 256, 32, 32)}, {}, r"output 'y' has the shape \(1, 256, 32, 32\)"),
        ({"shape": (1, 3, 1024, 1024), "output": (1, 4096, 256)}, {}, r"output 'y' has the shape \(1, 4096, 256\)"),
        ({"shape": (1, 3, 1024, 1024), "more": ("interm",)}, {}, r"2 outputs \(y, interm\)"),
        ({"shape": (1, 3, 1024, 1024), "side": 2048, "output": ("n", "c", "h", "w")}, {}, "does not run"),
        ({"shape": (1, 3, 1024, 1024), "spread": float("inf")}, {}, "not finite"),
    ],
    ids=str,
)  # fmt: skip
def test_an_encoder_that_does_not_fit_is_refused_by_name(tmp_path, decoder, options, arguments, words):
    path = encoder(tmp_path / "encoder.onnx", **options)

    with pytest.raises(EncoderError, match=words):
        convert(path, decoder, tmp_path / "mine", **arguments)

    assert not (tmp_path / "mine").exists()


def test_a_file_that_is_no_graph_is_refused(tmp_path, decoder):
    for content in (b"", b"<html>", b"\x08\x08" + bytes(100)):
        (tmp_path / "encoder.onnx").write_bytes(content)
        with pytest.raises(EncoderError, match="not a readable ONNX file"):
            convert(tmp_path / "encoder.onnx", decoder, tmp_path / "mine")


def test_operators_of_others_are_refused(tmp_path, decoder):
    path = encoder(
        tmp_path / "encoder.onnx", (1, 3, 1024, 1024), before=[helper.make_node("Run", ["x"], ["frame"], domain="evil")]
    )

    with pytest.raises(EncoderError, match="operators of 'evil'"):
        convert(path, decoder, tmp_path / "mine")


def altered(path, alter):
    model = onnx.load(path)
    alter(model)
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("number", [999, -1, 0])
def test_an_input_of_an_unknown_type_is_refused(tmp_path, decoder, number):
    def alter(model):
        model.graph.input[0].type.tensor_type.elem_type = number

    with pytest.raises(EncoderError, match="not of float32"):
        convert(altered(encoder(tmp_path / "e.onnx", (1, 3, 512, 512), side=512), alter), decoder, tmp_path / "mine")


def test_a_graph_without_the_version_of_its_operators_is_refused(tmp_path, decoder):
    def alter(model):
        model.opset_import[0].domain = "com.microsoft"

    with pytest.raises(EncoderError, match="does not state the version"):
        convert(altered(encoder(tmp_path / "e.onnx", (1, 3, 512, 512), side=512), alter), decoder, tmp_path / "mine")


def test_the_name_of_a_file_may_be_no_text(tmp_path, decoder):
    path = encoder(tmp_path / os.fsdecode(b"\xff.onnx"), (1, 3, 512, 512), side=512)

    manifest, _ = convert(path, decoder, tmp_path / "mine")

    assert manifest.encoder == "\\udcff"


def test_an_encoder_that_does_not_end_is_stopped(tmp_path, decoder, monkeypatch):
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["going"], ["still"]),
            helper.make_node("Add", ["value", "value"], ["doubled"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("step", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("value", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("doubled", TensorProto.FLOAT, None),
        ],
    )
    loop = helper.make_node("Loop", ["", "", "x"], ["frame"], body=body)
    path = encoder(tmp_path / "encoder.onnx", (1, 3, 512, 512), side=512, before=[loop])
    monkeypatch.setattr(encoder_wrapping, "MAX_RUN_S", 2.0)

    with pytest.raises(EncoderError, match="does not run"):
        convert(path, decoder, tmp_path / "mine")


def test_a_file_without_a_decoder_is_refused(tmp_path):
    path = encoder(tmp_path / "encoder.onnx", (1, 3, 512, 512), side=512)
    torch.save({"mask_decoder.iou_token.weight": torch.zeros(1, 256)}, tmp_path / "part.pth")

    with pytest.raises(CheckpointError, match=r"part\.pth: not a decoder of the SAM family: 136 missing"):
        convert(path, tmp_path / "part.pth", tmp_path / "mine")


def test_a_decoder_with_a_number_that_is_none_is_refused_by_its_key(tmp_path, decoder):
    state = torch.load(decoder)
    state["mask_decoder.iou_token.weight"][0, 3] = float("nan")
    torch.save(state, tmp_path / "bad.pth")
    path = encoder(tmp_path / "encoder.onnx", (1, 3, 1024, 1024))

    with pytest.raises(CheckpointError, match=r"bad\.pth: .* 1 not finite: mask_decoder\.iou_token\.weight"):
        convert(path, tmp_path / "bad.pth", tmp_path / "mine")


def test_a_whole_checkpoint_gives_the_rules_of_its_architecture(tmp_path):
    torch.save(random_model().state_dict(), tmp_path / "edge_sam.pth")
    path = encoder(tmp_path / "encoder.onnx", (1, 3, 1024, 1024))

    manifest, _ = convert(path, tmp_path / "edge_sam.pth", tmp_path / "mine")

    assert manifest.ranking.stability == 1.0
    assert manifest.architecture.startswith("the encoder encoder.onnx with the decoder of EdgeSAM")
