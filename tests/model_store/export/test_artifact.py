"""The exporter: what it writes agrees with torch, and what does not agree is never written.

An export takes many seconds, so three of them serve all tests here, beside the two artifacts of the session.
"""

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.testing import assert_allclose
from support.random_model import random_granularity, random_model
from support.torch_threads import one_thread  # noqa: F401 - a fixture of all tests here

from model_store.errors import UsageError
from model_store.export.artifact import MAX_PARITY_ERROR, ParityError, export_model
from model_store.export.graphs.decoder import DecoderGraph
from model_store.export.graphs.encoder import PROPOSALS
from model_store.export.graphs.official import OfficialDecoder
from model_store.export.graphs.prepare import PrepareGraph
from model_store.export.model_info import ModelInfo
from model_store.export.parity import decode, random_prompts, served_parity, torch_outputs
from model_store.export.verify import verify_artifact
from model_store.network.encoders.image_encoder import EncodedImage
from model_store.network.mask_decoder import stability_score
from service.manifest import GRAPH_NAMES, GranularityInfo, Manifest, ManifestError, load_manifest
from service.sam.frame import Frame
from service.sam.prompts import BOX_BOTTOM_RIGHT, BOX_TOP_LEFT, decoder_inputs

INFO = ModelInfo(
    licence="none", trained=False, source_sha256="ab" * 32, training_data="none: random weights",
    measured={"mIoU": 0.5}, notes="for tests",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Exported:
    directory: Path
    manifest: Manifest
    steps: list[str]


@pytest.fixture(scope="module")
def model():
    return random_model()


@pytest.fixture(scope="module")
def box_reference(model):
    """Torch's outputs for the weights of `proposing_artifact`."""
    return torch_outputs(model.deploy().eval(), random_granularity(model))


@pytest.fixture(scope="module")
def reference(box_reference):
    """Torch's outputs for the weights of `artifact`."""
    return dataclasses.replace(box_reference, anchors=None)


@pytest.fixture(scope="module")
def float16_artifact(tmp_path_factory, model):
    """Served layout, weights in float16."""
    directory, steps = tmp_path_factory.mktemp("float16") / "deep" / "float16", []
    manifest = export_model(model, directory, name="float16", info=INFO, on_progress=steps.append)
    return Exported(directory, manifest, steps)


@pytest.fixture(scope="module")
def official(tmp_path_factory, model, artifact):
    """Official layout, weights in float32, written over an artifact of the served layout."""
    directory = shutil.copytree(artifact, tmp_path_factory.mktemp("official") / "pair")
    manifest = export_model(model, directory, name="pair", info=INFO, layout="official", weights="float32")
    return Exported(directory, manifest, [])


@pytest.fixture(scope="module")
def refused(tmp_path_factory, artifact):
    """A failed export of a model whose mask decoder, and nothing before it, is broken; over a good artifact."""
    broken = random_model()
    with torch.no_grad():
        broken.mask_decoder.mask_tokens.weight[0, 0] = float("nan")
    directory = shutil.copytree(artifact, tmp_path_factory.mktemp("refused") / "good")
    with pytest.raises(ParityError) as error:
        export_model(broken, directory, name="broken", info=INFO, layout="official", weights="float32")
    return directory, str(error.value)


def files_of(directory):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.iterdir()}


def session(path):
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def random_points(count, seed=0):
    """points (1, N, 2) in the frame and labels (1, N) float32, of every kind that the official decoder knows."""
    random = np.random.default_rng(seed)
    labels = np.array([[1, BOX_TOP_LEFT, BOX_BOTTOM_RIGHT, 0, -1]], np.float32)[:, :count]
    return random.uniform(0, 1024, (1, count, 2)).astype(np.float32), labels


def test_the_manifest_states_what_was_exported(float16_artifact):
    manifest = load_manifest(float16_artifact.directory)

    assert manifest == float16_artifact.manifest
    assert (manifest.name, manifest.layout, manifest.weights) == ("float16", "served", "float16")
    assert (manifest.licence, manifest.source_sha256, manifest.notes) == ("none", "ab" * 32, "for tests")
    assert manifest.measured == {"mIoU": 0.5}
    assert manifest.upsample_mode == "bicubic"
    assert set(manifest.tools) == {"torch", "onnx", "onnxruntime"}
    files = {"encoder.onnx", "prepare.onnx", "decoder.onnx", "decoder.npz"}
    assert (
        set(files_of(float16_artifact.directory))
        == {"manifest.json", *files}
        == {"manifest.json", *(f.file for f in manifest.files)}
    )


def test_each_step_is_reported(float16_artifact):
    assert float16_artifact.steps[0] == "merging branches"
    assert float16_artifact.steps[-1] == "writing"


def test_an_export_leaves_the_model_as_it_was(model, float16_artifact, official):
    fresh = random_model().state_dict()

    assert not model.is_deployed
    assert all(torch.equal(value, fresh[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("layout", ["float16_artifact", "official", "artifact"])
def test_a_written_artifact_verifies(layout, request):
    exported = request.getfixturevalue(layout)
    directory = exported if layout == "artifact" else exported.directory

    manifest = verify_artifact(directory)

    assert all(error <= MAX_PARITY_ERROR for error in manifest.parity.values())


def test_an_artifact_that_was_changed_does_not_verify(float16_artifact, tmp_path):
    copy = shutil.copytree(float16_artifact.directory, tmp_path / "copy")
    with (copy / "prepare.onnx").open("ab") as file:
        file.write(b"\0")

    with pytest.raises(ManifestError, match=r"prepare\.onnx"):
        verify_artifact(copy)


def test_the_parity_in_the_manifest_was_measured(artifact):
    parity = load_manifest(artifact).parity

    assert parity.keys() == {"tokens", "mask_logits", "iou_predictions", "stability"}
    assert all(0 < parity[name] < MAX_PARITY_ERROR for name in ("tokens", "mask_logits", "iou_predictions"))
    assert 0 <= parity["stability"] <= 1e-6  # two float32 divisions of the same counts


def test_parity_names_the_output_that_differs_from_torch(artifact, reference):
    files = {name: artifact / f"{name}.onnx" for name in GRAPH_NAMES}
    other = dataclasses.replace(reference, iou_predictions=reference.iou_predictions + 0.1)

    parity = served_parity(other, files)

    assert parity["tokens"] < MAX_PARITY_ERROR
    assert parity["mask_logits"] < MAX_PARITY_ERROR
    assert parity["iou_predictions"] > 10 * MAX_PARITY_ERROR


def test_parity_detects_a_stability_that_is_not_that_of_the_masks(artifact, reference, tmp_path):
    decoder = onnx.load(artifact / "decoder.onnx")
    (last,) = (node for node in decoder.graph.node if "stability" in node.output)
    last.output[:] = ["of_the_masks"]
    decoder.graph.node.append(onnx.helper.make_node("Sqrt", ["of_the_masks"], ["stability"]))
    onnx.save(decoder, tmp_path / "decoder.onnx")
    files = {name: artifact / f"{name}.onnx" for name in GRAPH_NAMES} | {"decoder": tmp_path / "decoder.onnx"}

    parity = served_parity(reference, files)

    assert parity["stability"] > 10 * MAX_PARITY_ERROR
    assert max(parity["tokens"], parity["mask_logits"], parity["iou_predictions"]) < MAX_PARITY_ERROR


def test_the_graphs_are_the_networks_mathematics(model):
    deployed = model.deploy().eval()
    random = np.random.default_rng(0)
    embedding = torch.from_numpy(random.normal(0, 0.3, (1, 256, 64, 64)).astype(np.float32))
    tokens = embedding.flatten(2).transpose(1, 2)[0]

    for prompt in random_prompts(random):
        mask = np.zeros((256, 256), np.float32) if prompt.mask_logits is None else prompt.mask_logits
        points, labels = (torch.from_numpy(array) for array in decoder_inputs([prompt], Frame((1024, 1024))))
        with torch.inference_mode():
            has_mask = torch.tensor([prompt.mask_logits is not None])
            state = PrepareGraph(deployed)(tokens, torch.from_numpy(mask)[None], has_mask)
            logits, iou, stability = DecoderGraph(deployed)(points, labels, *state)
        expected_logits, expected_iou = decode(deployed, EncodedImage(embedding), prompt)

        assert_allclose(logits, expected_logits, rtol=0, atol=1e-4)
        assert_allclose(iou, expected_iou, rtol=0, atol=1e-4)
        assert_allclose(stability, stability_score(logits), rtol=0, atol=1e-6)


def test_float16_files_have_half_the_size(float16_artifact, artifact):
    whole = load_manifest(artifact)

    for file, large in zip(float16_artifact.manifest.files, whole.files, strict=True):
        assert file.size_bytes == (float16_artifact.directory / file.file).stat().st_size
        if file.file != "decoder.onnx":  # see below
            assert 0.45 < file.size_bytes / large.size_bytes < 0.6


def test_the_decoders_weights_are_stored_once(float16_artifact):
    """The graph reads those of float16 from the archive that the native decoder reads."""
    graph = onnx.load(str(float16_artifact.directory / "decoder.onnx"), load_external_data=False).graph
    external = [tensor for tensor in graph.initializer if tensor.data_location == onnx.TensorProto.EXTERNAL]

    assert {entry.value for tensor in external for entry in tensor.external_data if entry.key == "location"} == {
        "decoder.npz"
    }
    assert float16_artifact.manifest.graphs["decoder"].size_bytes < 1 << 20
    with np.load(float16_artifact.directory / "decoder.npz") as parameters:
        assert len(external) > 40
        assert parameters["mask_decoder.transformer.layers.0.mlp.lin1.weight"].dtype == np.float16
        assert parameters["mask_decoder.iou_token.weight"].dtype == np.float32


def test_float16_weights_agree_with_the_rounded_model_and_nearly_with_the_exact_one(float16_artifact, artifact):
    rounding = float16_artifact.manifest.rounding

    assert float16_artifact.manifest.parity.keys() == {"tokens", "mask_logits", "iou_predictions", "stability"}
    assert all(error < MAX_PARITY_ERROR for error in float16_artifact.manifest.parity.values())
    assert max(float16_artifact.manifest.parity.values()) < rounding["mask_logits_max"] < 0.1
    assert 0 < rounding["mask_logits_mean"] < rounding["mask_logits_max"]
    assert 0.98 < rounding["mask_iou_mean"] <= 1
    assert load_manifest(artifact).rounding == {}


def test_float16_graphs_compute_in_float32(float16_artifact):
    for name, graph in float16_artifact.manifest.graphs.items():
        made = session(float16_artifact.directory / graph.file)

        types = {spec.name: spec.type for spec in [*made.get_inputs(), *made.get_outputs()]}
        assert "tensor(float16)" not in types.values(), name


def test_the_proposals_of_the_graph_are_those_of_torch(proposing_artifact, box_reference):
    graph = session(proposing_artifact / "encoder.onnx")

    tokens, boxes, scores = graph.run(["tokens", "boxes", "scores"], {"image": box_reference.image})

    best = box_reference.anchors[:, 4].topk(PROPOSALS)
    near = box_reference.anchors[best.indices, :4]
    # Rounding exchanges neighbours in the order of scores, so each box is looked for among all; the last may be others.
    distances = torch.cdist(torch.from_numpy(boxes[0]), near, p=torch.inf).amin(1)
    assert (boxes.shape, scores.shape) == ((1, PROPOSALS, 4), (1, PROPOSALS))
    assert_allclose(tokens[0].T, box_reference.embedding[0].flatten(1), rtol=0, atol=1e-4)
    assert_allclose(scores[0], best.values, rtol=0, atol=1e-3)
    assert (distances < 0.5).sum() >= PROPOSALS - 3
    assert len(set(map(tuple, near.round().tolist()))) > PROPOSALS // 4, "or they would all be alike"


def test_a_model_with_the_module_states_it_and_has_another_fingerprint(proposing_artifact, artifact):
    sha256 = hashlib.sha256((proposing_artifact.parent / "boxes.pth").read_bytes()).hexdigest()

    with_module, without = load_manifest(proposing_artifact), load_manifest(artifact)

    assert with_module.granularity == GranularityInfo(proposals=PROPOSALS, source_sha256=sha256)
    assert (with_module.format_version, without.format_version) == (3, 2)
    assert with_module.fingerprint != without.fingerprint
    assert with_module.parity.keys() == {*without.parity, "boxes", "scores"}
    assert 0 < with_module.parity["boxes"] < MAX_PARITY_ERROR
    assert 0 < with_module.parity["scores"] < MAX_PARITY_ERROR
    assert "granularity" not in json.loads((artifact / "manifest.json").read_text()), "older releases refuse it"
    assert verify_artifact(proposing_artifact) == with_module


def test_parity_detects_other_boxes(proposing_artifact, box_reference):
    moved = box_reference.anchors + torch.tensor([0.0, 0, 5, 0, 0])
    files = {name: proposing_artifact / f"{name}.onnx" for name in GRAPH_NAMES}

    parity = served_parity(dataclasses.replace(box_reference, anchors=moved), files)

    assert 2e-3 < parity["boxes"] < 6e-3
    assert parity["scores"] < MAX_PARITY_ERROR


def test_the_official_pair_has_the_official_names(official):
    assert set(files_of(official.directory)) == {"manifest.json", "pair_encoder.onnx", "pair_decoder.onnx"}
    encoder, decoder = (session(official.directory / f"pair_{part}.onnx") for part in ("encoder", "decoder"))

    assert [(spec.name, spec.shape) for spec in encoder.get_inputs()] == [("image", [1, 3, 1024, 1024])]
    assert [(spec.name, spec.shape) for spec in encoder.get_outputs()] == [("image_embeddings", [1, 256, 64, 64])]
    assert [(spec.name, spec.shape, spec.type) for spec in decoder.get_inputs()] == [
        ("image_embeddings", [1, 256, 64, 64], "tensor(float)"),
        ("point_coords", [1, "num_points", 2], "tensor(float)"),
        ("point_labels", [1, "num_points"], "tensor(float)"),
    ]
    assert [spec.name for spec in decoder.get_outputs()] == ["scores", "masks"]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_official_decoder_agrees_with_torch_for_any_number_of_points(official, model, count):
    embeddings = np.random.default_rng(count).normal(0, 0.3, (1, 256, 64, 64)).astype(np.float32)
    points, labels = random_points(count)

    scores, masks = session(official.directory / "pair_decoder.onnx").run(
        ["scores", "masks"], {"image_embeddings": embeddings, "point_coords": points, "point_labels": labels}
    )

    with torch.inference_mode():
        reference = OfficialDecoder(model.deploy().eval())
        expected = reference(*(torch.from_numpy(array) for array in (embeddings, points, labels)))
    assert (scores.shape, masks.shape) == ((1, 4), (1, 4, 256, 256))
    assert_allclose(masks, expected[1], rtol=0, atol=1e-4)
    assert_allclose(scores, expected[0], rtol=0, atol=1e-3)  # pixels at the edge of a threshold


def test_the_official_encoder_agrees_with_torch(official, model):
    image = np.random.default_rng(0).normal(0, 1, (1, 3, 1024, 1024)).astype(np.float32)

    (embeddings,) = session(official.directory / "pair_encoder.onnx").run(["image_embeddings"], {"image": image})

    with torch.inference_mode():
        expected = model.eval().image_encoder(torch.from_numpy(image))
    assert_allclose(embeddings, expected, rtol=0, atol=1e-3)


def test_a_new_export_replaces_the_old_one_completely(official):
    manifest = load_manifest(official.directory)

    assert manifest == official.manifest
    assert manifest.layout == "official"
    assert not (official.directory / "prepare.onnx").exists()
    assert [path.name for path in official.directory.parent.iterdir()] == ["pair"]


def test_a_model_that_torch_and_the_graphs_do_not_agree_on_is_refused(refused):
    _, message = refused

    assert "'masks': nan" in message
    assert "'image_embeddings': nan" not in message  # one broken number among good ones is enough


def test_a_folder_of_something_else_is_refused_before_any_work(tmp_path, model):
    (tmp_path / "thesis.txt").write_text("years of work")
    steps = []

    with pytest.raises(UsageError, match="is not a model"):
        export_model(model, tmp_path, name="model", info=INFO, on_progress=steps.append)

    assert steps == []
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_failed_export_leaves_the_old_artifact_as_it_was(refused, artifact):
    directory, _ = refused

    assert files_of(directory) == files_of(artifact)
    assert [path.name for path in directory.parent.iterdir()] == ["good"]


def test_the_fingerprint_is_that_of_the_encoder_and_its_geometry(float16_artifact):
    manifest = float16_artifact.manifest
    other_encoder = manifest.graphs["encoder"].model_copy(update={"sha256": "0" * 64})
    other_decoder = manifest.graphs["decoder"].model_copy(update={"sha256": "0" * 64})

    def fingerprint(**changes):
        return manifest.model_copy(update=changes).fingerprint

    assert fingerprint(graphs={**manifest.graphs, "encoder": other_encoder}) != manifest.fingerprint
    assert fingerprint(upsample_mode="bilinear") != manifest.fingerprint
    assert fingerprint(mean=(0.0, 0.0, 0.0)) != manifest.fingerprint
    assert fingerprint(graphs={**manifest.graphs, "decoder": other_decoder}) == manifest.fingerprint
    assert fingerprint(name="other", notes="other", trained=True) == manifest.fingerprint


def test_rounded_weights_have_a_fingerprint_of_their_own(float16_artifact, artifact):
    assert float16_artifact.manifest.fingerprint != load_manifest(artifact).fingerprint
