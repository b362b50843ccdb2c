"""The artifact of a SAM 2 checkpoint answers as the official code: its graphs, its archive in C, and the runtime."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.testing import assert_allclose
from support.family_checkpoints import seeded_network, write_checkpoint
from support.official_reference import BOTH, assert_masks_agree
from support.sam2_encoder_reference import assert_maps_agree
from support.sam2_reference import (
    CASES,
    COMMITTED_CASES,
    COMMITTED_NAMES,
    DECODER_NAMES,
    Case,
    decoder_maps,
    open_sam2,
)  # fmt: skip
from support.sam2_weights import NAMES
from support.sam_family_reference import family_image, mask_prompt
from support.torch_threads import one_thread  # noqa: F401 - a fixture of all tests here

from model_store.architectures import ARCHITECTURES
from model_store.checkpoint_files import CheckpointError
from model_store.checkpoint_files.checked import checked_checkpoint
from model_store.errors import UsageError
from model_store.export.answers import point_inputs
from model_store.export.artifact import MAX_PARITY_ERROR, export_model
from model_store.export.convert import convert_checkpoint, write_click_graphs
from model_store.export.graph_names import decoder_outputs
from model_store.export.graphs.encoder import high_res_rows
from model_store.export.graphs.sam2_decoder import narrow_stability
from model_store.export.model_info import ModelInfo
from model_store.export.onnx_session import open_graph
from model_store.export.parity import torch_outputs
from model_store.network import single_mask
from model_store.network.encoders.image_encoder import HighResTensors
from model_store.network.frames import frame
from service.inference.backends.runtime import Runtime
from service.manifest import ENCODER_OUTPUTS, STATE_NAMES
from service.native import best_level
from service.native.decoder import NativeDecoder
from service.sam.embedding import ImageEmbedding
from service.sam.prompts import ABSENT

INFO = ModelInfo(licence="none", trained=False, training_data="none: random weights")
# Hiera's own rounding is smaller, see docs/explanation/sam2.md.
MAPS_TOLERANCE = {"edgetam": 5e-4} | dict.fromkeys(NAMES[1:], 2e-5)
LOGITS_TOLERANCE = 5e-5
SCORE_TOLERANCE = 1e-5

Outputs = Mapping[str, np.ndarray]
Decode = Callable[[Mapping[str, np.ndarray], np.ndarray, np.ndarray, np.ndarray | None], Outputs]


@pytest.fixture(scope="module")
def edgetam(tmp_path_factory):
    """EdgeTAM with float32 weights."""
    return convert("edgetam", tmp_path_factory.mktemp("edgetam"))


def convert(name: str, folder: Path) -> Path:
    checkpoint = write_checkpoint(name, folder / "checkpoint.pt")
    convert_checkpoint(checkpoint, folder / "model", name="model", info=INFO, weights="float32")
    checkpoint.unlink()
    return folder / "model"


def rows_of(maps: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return tokens and maps of a reference in the layout of the graphs, with a batch axis."""
    s1, s0 = high_res_rows(HighResTensors(*(torch.from_numpy(maps[name]) for name in ("high_res_s1", "high_res_s0"))))
    tokens = np.ascontiguousarray(maps["embedding"].reshape(1, 256, 4096).transpose(0, 2, 1))
    return {"tokens": tokens, "high_res_s1": s1.numpy(), "high_res_s0": s0.numpy()}


def maps_of(rows: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the maps (C, H, W) of one image in the layout of the graphs: the inverse, by other means."""
    tokens, s1, s0 = (rows[name].reshape(64, 64, -1) for name in ENCODER_OUTPUTS)
    s1, s0 = s1.reshape(64, 64, 2, 2, 64), s0.reshape(64, 64, 2, 2, 32, 2, 2)
    return {
        "embedding": tokens.transpose(2, 0, 1),
        "high_res_s1": np.einsum("yxijc->cyixj", s1).reshape(64, 128, 128),
        "high_res_s0": np.einsum("yxijcmn->cyimxjn", s0).reshape(32, 256, 256),
    }


def by_graphs(directory: Path) -> Decode:
    prepare, decoder = (open_graph(directory / f"{name}.onnx", threads=1) for name in ("prepare", "decoder"))

    def run(rows, points, labels, masks):
        state = prepare.run(list(STATE_NAMES), prepare_inputs(rows, masks))
        given = {"points": points, "labels": labels, **dict(zip(STATE_NAMES, state, strict=True))}
        given |= {name: rows[name] for name in ENCODER_OUTPUTS[1:]}
        return dict(zip(decoder_outputs("sam2"), decoder.run(decoder_outputs("sam2"), given), strict=True))

    return run


def by_native(directory: Path) -> Decode:
    with np.load(directory / "decoder.npz") as archive:
        native = NativeDecoder(dict(archive), norm_epsilon=1e-5, threads=1)
    prepare = open_graph(directory / "prepare.onnx", threads=1)

    def run(rows, points, labels, masks):
        state = prepare.run(list(STATE_NAMES), prepare_inputs(rows, masks))
        maps = (rows["high_res_s1"][0], rows["high_res_s0"][0])
        outputs = native.decode(*state, points, labels, threads=1, high_res=maps)
        return dict(zip(decoder_outputs("sam2"), outputs, strict=True))

    return run


def prepare_inputs(rows, masks):
    has_mask = np.array([masks is not None])
    return {
        "tokens": rows["tokens"][0],
        "mask_logits": np.zeros((1, 256, 256), np.float32) if masks is None else masks,
        "has_mask": has_mask,
    }


IMPLEMENTATIONS = [
    by_graphs,
    pytest.param(by_native, marks=pytest.mark.skipif(best_level() is None, reason="no build runs here")),
]


def table_of(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Return points (P, N, 2) and labels (P, N) of a case, as the official predictor makes them."""
    expected = case.expected
    count = max((len(expected[key]) for key in ("points", "boxes") if key in expected), default=1)
    points, labels = [np.zeros((count, 0, 2), np.float32)], [np.zeros((count, 0), np.int64)]
    if "boxes" in expected:
        points.append(expected["boxes"].reshape(count, 2, 2).astype(np.float32))
        labels.append(np.tile(np.array([2, 3]), (count, 1)))
    if "points" in expected:
        points.append(expected["points"].astype(np.float32))
        labels.append(expected["labels"].astype(np.int64))
    if len(points) > 1:
        points.append(np.zeros((count, 1, 2), np.float32))
        labels.append(np.full((count, 1), -1))
    table = np.concatenate(points, axis=1), np.concatenate(labels, axis=1)
    if table[1].shape[1] == 0:  # the service has at least one token, which takes no part
        return np.zeros((count, 1, 2), np.float32), np.full((count, 1), ABSENT)
    return table


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(
    ("part", "name"),
    [("committed", name) for name in COMMITTED_NAMES]
    + [pytest.param("full", name, marks=pytest.mark.fixtures) for name in DECODER_NAMES],
)
def test_all_masks_and_scores_are_the_official_ones(tmp_path, implementation, part, name):
    reference = open_sam2(name, part)
    checkpoint = checked_checkpoint(write_checkpoint(name, tmp_path / "checkpoint.pt"))
    write_click_graphs(checkpoint.arrays, checkpoint.architecture, tmp_path, "float32")
    decode, rows, compared = implementation(tmp_path), rows_of(reference.maps), set()

    for case in reference.cases():
        masks = mask_prompt()[None] if case.expected["has_mask"] else None
        found = decode(rows, *table_of(case), masks)

        logits, expected = found["mask_logits"], case.expected
        assert_allclose(logits[:, :, ::8, ::8], expected["mask_logits_slice"], rtol=0, atol=LOGITS_TOLERANCE)
        assert_allclose(found["iou_predictions"], expected["iou_pred"], rtol=0, atol=SCORE_TOLERANCE)
        near = (np.abs(np.abs(logits[:, 0]) - 0.05) < 1e-4).sum((1, 2)) / (logits[:, 0] > -0.05).sum((1, 2)).clip(1)
        narrow = single_mask.narrow_stability(torch.from_numpy(logits[:, 0])).numpy()
        assert np.abs(found["narrow_stability"] - narrow).max() < 1e-6
        if part == "full":
            assert_masks_agree(logits.reshape(1, -1, 256), expected["mask_bits"][None])
            assert (np.abs(found["narrow_stability"] - expected["stability_005"][:, 0]) <= 1e-6 + near).all()
        compared.add(case.name)
    assert compared == set(CASES if part == "full" else COMMITTED_CASES)


@pytest.mark.parametrize("part", BOTH)
def test_the_encoder_graph_gives_the_official_maps(edgetam, part):
    image = frame(family_image(), resize="stretch").numpy()

    outputs = open_graph(edgetam / "encoder.onnx", threads=1).run(list(ENCODER_OUTPUTS), {"image": image})

    maps = maps_of(dict(zip(ENCODER_OUTPUTS, outputs, strict=True)))
    assert_maps_agree(maps, open_sam2("edgetam", part).arrays, MAPS_TOLERANCE["edgetam"])


@pytest.mark.large
@pytest.mark.fixtures
@pytest.mark.parametrize("name", NAMES[1:])
def test_hieras_encoder_graphs_give_the_official_maps(tmp_path, name):
    reference = open_sam2(name, "full").arrays
    directory = convert(name, tmp_path)

    image = frame(family_image(), resize="stretch").numpy()
    outputs = open_graph(directory / "encoder.onnx", threads=1).run(list(ENCODER_OUTPUTS), {"image": image})

    assert_maps_agree(maps_of(dict(zip(ENCODER_OUTPUTS, outputs, strict=True))), reference, MAPS_TOLERANCE[name])


def test_images_in_one_batch_get_the_maps_that_each_gets_alone(edgetam):
    session = open_graph(edgetam / "encoder.onnx", threads=1)
    images = np.random.default_rng(0).normal(0, 1, (2, 3, 1024, 1024)).astype(np.float32)

    together = session.run(list(ENCODER_OUTPUTS), {"image": images})
    second = session.run(list(ENCODER_OUTPUTS), {"image": images[1:]})

    assert [output.shape for output in together] == [(2, 4096, 256), (2, 4096, 256), (2, 4096, 512)]
    for both, alone in zip(together, second, strict=True):
        assert_allclose(both[1:], alone, rtol=0, atol=1e-4)


def test_states_of_several_masks_share_the_maps_of_their_image(edgetam):
    rows = rows_of(decoder_maps(7))
    prepare, decode = open_graph(edgetam / "prepare.onnx", threads=1), by_graphs(edgetam)
    masks = np.stack([mask_prompt(), -mask_prompt()])
    points = np.array([[[300.0, 400.0]], [[600.0, 500.0]]], np.float32)
    labels = np.array([[1], [1]])
    given = {"tokens": rows["tokens"][0], "mask_logits": masks, "has_mask": np.array([True, True])}
    state = dict(zip(STATE_NAMES, prepare.run(list(STATE_NAMES), given), strict=True))

    decoder = open_graph(edgetam / "decoder.onnx", threads=1)
    maps = {name: rows[name] for name in ENCODER_OUTPUTS[1:]}
    (together,) = decoder.run(["mask_logits"], {"points": points, "labels": labels, **state, **maps})

    for row in range(2):
        alone = decode(rows, points[row : row + 1], labels[row : row + 1], masks[row : row + 1])
        assert_allclose(together[row], alone["mask_logits"][0], rtol=0, atol=1e-4)


@pytest.mark.parametrize("graph", ["encoder", "prepare", "decoder"])
def test_onnx_runtime_folds_the_projections_and_all_else_with_weights_alone(edgetam, tmp_path, graph):
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    onnxruntime.InferenceSession(str(edgetam / f"{graph}.onnx"), options, providers=["CPUExecutionProvider"])

    proto = onnx.load(tmp_path / "optimised.onnx", load_external_data=False)
    weights = {tensor.name for tensor in proto.graph.initializer}
    folded = [
        node.name
        for node in proto.graph.node
        if node.input and all(name in weights for name in node.input) and node.op_type != "ConstantOfShape"
    ]
    assert folded == []
    if graph == "encoder":
        convolutions = [node for node in proto.graph.node if node.op_type in {"Conv", "FusedConv"}]
        shapes = {tensor.name: tuple(tensor.dims) for tensor in proto.graph.initializer}
        assert len(convolutions) == 107
        assert {(64, 96, 1, 1), (32, 48, 1, 1)} <= {shapes[node.input[1]] for node in convolutions}
        assert not any(shape[:2] in {(256, 96), (256, 48), (64, 256), (32, 256)} for shape in shapes.values())


def test_the_archive_of_the_decoder_in_c_has_the_sixth_token_and_no_object_score(edgetam):
    with np.load(edgetam / "decoder.npz") as archive:
        names = set(archive.files)
    graph = onnx.load(edgetam / "decoder.onnx", load_external_data=False)

    assert "mask_decoder.obj_score_token.weight" in names
    assert not any("pred_obj_score_head" in name or "conv_s" in name for name in names)
    assert not any("pred_obj_score_head" in tensor.name for tensor in graph.graph.initializer)


@pytest.mark.parametrize(
    ("logits", "expected"),
    [([-1.0] * 8, 1.0), ([0.0] * 8, 0.0), ([1.0] * 8, 1.0), ([0.05, 0.06, 0.0, -0.05, 1.0, 1.0, 1.0, -1.0], 2 / 3)],
)
def test_the_narrow_stability_is_that_of_output_0_and_1_for_an_empty_mask(logits, expected):
    mask_logits = torch.zeros(1, 4, 2, 4)
    mask_logits[0, 0] = torch.tensor(logits).reshape(2, 4)

    assert narrow_stability(mask_logits).item() == pytest.approx(expected)


@pytest.mark.parametrize(
    "decoder",
    ["onnx", pytest.param("native", marks=pytest.mark.skipif(best_level() is None, reason="no build runs here"))],
)
def test_the_runtime_equals_torch(edgetam, decoder):
    expected = torch_outputs(seeded_network("edgetam"))
    runtime = Runtime(edgetam, provider="cpu", threads=1, decoder=decoder)

    encoded = runtime.encode(expected.image)
    embedding = ImageEmbedding(encoded.tokens[0], (1024, 1024), high_res=encoded.high_res[0])
    state = runtime.prepare(embedding)

    for name, maps in (("high_res_s1", embedding.high_res.s1), ("high_res_s0", embedding.high_res.s0)):
        assert_allclose(maps, expected.maps[name][0], rtol=0, atol=1e-4)
    for row, prompt in enumerate(expected.prompts):
        arrays = state.arrays if prompt.mask_logits is None else runtime.prepare_masks(state, prompt.mask_logits[None])
        given = point_inputs([prompt], ARCHITECTURES["edgetam"])
        found = runtime.decode(arrays, given["points"], given["labels"])
        logits = expected.mask_logits[row : row + 1]
        assert_allclose(found.mask_logits, logits, rtol=0, atol=5e-4)
        assert_allclose(found.iou_predictions, expected.iou_predictions[row : row + 1], rtol=0, atol=1e-5)
        assert ((found.mask_logits > 0) == (logits.numpy() > 0)).mean() > 0.9999
        assert found.narrow_stability.shape == (1,)


def test_an_export_by_torch_agrees_with_torch_and_states_its_parity(tmp_path):
    manifest = export_model(seeded_network("edgetam"), tmp_path / "model", name="model", info=INFO)

    assert (manifest.format_version, manifest.mask_decoder, manifest.resize) == (6, "sam2", "stretch")
    assert manifest.parity.keys() == {*ENCODER_OUTPUTS, *decoder_outputs("sam2")}
    assert max(manifest.parity.values()) < MAX_PARITY_ERROR
    assert {"high_res_s1_max", "high_res_s0_max"} < manifest.rounding.keys()
    assert manifest.rounding["mask_iou_mean"] > 0.99


def test_the_official_layout_is_refused_by_name(tmp_path):
    steps = []

    with pytest.raises(UsageError, match=r"^EdgeTAM .* has no official layout, because its decoder reads three maps"):
        export_model(
            seeded_network("edgetam"), tmp_path / "m", name="m", info=INFO, layout="official", on_progress=steps.append
        )

    assert steps == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("written", "stated", "words"),
    [("edgetam", "sam2.1-tiny", "not a sam2.1-tiny checkpoint"), ("edgetam", "edgesam", "not an EdgeSAM checkpoint")],
)
def test_a_stated_architecture_with_keys_of_another_is_refused(tmp_path, written, stated, words):
    path = write_checkpoint(written, tmp_path / "checkpoint.pt")

    with pytest.raises(CheckpointError, match=words):
        convert_checkpoint(path, tmp_path / "m", name="m", info=INFO, architecture=stated)

    assert [each.name for each in tmp_path.iterdir()] == ["checkpoint.pt"]
