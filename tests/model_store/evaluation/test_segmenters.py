"""Torch, graphs and a running service give the same measurements."""

import json

import httpx
import numpy as np
import pytest
import torch
from support.model_store_cli import invoke
from support.random_model import random_model
from support.ranked_model import with_ranking
from support.sam2_model import sam2_model
from support.sam2_weights import write_sam2_checkpoint
from support.service_process import ServiceProcess

from model_store.checkpoint import save_checkpoint, seeded_model
from model_store.errors import UsageError
from model_store.evaluation.instances import make_instance
from model_store.evaluation.protocol import Protocol, first_prompts, selected_masks
from model_store.evaluation.segmenters.onnx_segmenter import OnnxSegmenter
from model_store.evaluation.segmenters.segmenter import Predictions, PromptBatch
from model_store.evaluation.segmenters.service_segmenter import ServiceSegmenter
from model_store.evaluation.segmenters.torch_segmenter import TorchSegmenter
from model_store.export.convert import convert_checkpoint
from model_store.export.model_info import ModelInfo
from model_store.network.encoders.image_encoder import EncodedImage
from model_store.network.predictor import TorchPredictor
from model_store.training.data.annotations import read_annotations
from service.manifest import MANIFEST_NAME
from service.mask_rules import AutoMasks, Ranking
from service.sam.frame import Frame
from service.sam.prompts import IGNORED
from service.sam.transforms import points_from_frame

# Output 1 comes first, then 0, 2 and 3. By stability 3 is the first one.
BY_INDEX = Ranking(bias=(0.5, 0.9, 0.4, 0.1), stability=0.0)


def point_prompts(photo):
    """Prompts of one point for all objects of a photo."""
    objects = [make_instance(photo.masks[mask], Frame(photo.size)) for mask in selected_masks(photo, 0, Protocol())]
    return first_prompts(objects, "point")


def test_ignored_points_and_boxes_go_through_torch_as_through_the_plain_modules():
    model = seeded_model(0).eval()
    segmenter = TorchSegmenter(model)
    embedding = torch.randn(1, 256, 64, 64, generator=torch.Generator().manual_seed(0))
    boxes = np.array([[100, 100, 400, 500]], np.float32)
    points = np.array([[[300, 200], [0, 0]]], np.float32)
    labels = np.array([[1, IGNORED]])

    predictions = segmenter.outputs(EncodedImage(embedding), PromptBatch(boxes, points, labels))

    with torch.no_grad():
        sparse, dense = model.prompt_encoder(
            (torch.from_numpy(points), torch.from_numpy(labels)), torch.from_numpy(boxes)
        )
        expected, iou = model.mask_decoder(embedding, model.prompt_encoder.dense_positional_code(), sparse, dense)
    np.testing.assert_allclose(predictions.mask_logits, expected.numpy(), atol=1e-5)
    np.testing.assert_allclose(predictions.predicted_iou, iou.numpy(), atol=1e-5)


def test_masks_are_ordered_by_score_then_by_index_and_without_a_score_last():
    score = np.array([[0.5, np.nan, 0.9, 0.5]])
    marks = np.array([[0, 1, 2, 3]], np.float32)
    logits = np.broadcast_to(marks[..., None, None], (1, 4, 256, 256))

    ordered = Predictions(logits, marks, marks, score).by_score()

    assert ordered.mask_logits[0, :, 0, 0].tolist() == [2, 0, 3, 1]
    assert ordered.predicted_iou.tolist() == [[2, 0, 3, 1]]
    np.testing.assert_array_equal(ordered.score, [[0.9, 0.5, 0.5, np.nan]])


def test_only_the_outputs_that_a_model_uses_are_ordered():
    score = np.array([[0.9, 0.1, 0.3, 0.2]])
    marks = np.array([[0, 1, 2, 3]], np.float32)
    logits = np.broadcast_to(marks[..., None, None], (1, 4, 256, 256))
    predictions = Predictions(logits, marks, marks, score)

    assert predictions.by_score((1, 2, 3)).mask_logits[0, :, 0, 0].tolist() == [2, 3, 1]
    assert predictions.best((1, 2, 3)).predicted_iou.tolist() == [[2]]
    assert predictions.best((0,)).predicted_iou.tolist() == [[0]]


def test_a_checkpoint_of_the_sam_family_is_measured_by_its_own_rules(data):
    photo = read_annotations(data)[0]
    model = seeded_model(0, "mobile-sam").eval()
    segmenter = TorchSegmenter(model)
    embedded = EncodedImage(torch.randn(1, 256, 64, 64, generator=torch.Generator().manual_seed(0)))
    prompts = point_prompts(photo)

    single, offered = segmenter.predict_point(embedded, prompts)

    outputs = segmenter.outputs(embedded, prompts)
    np.testing.assert_array_equal(single.mask_logits, outputs.mask_logits[:, :1])
    np.testing.assert_array_equal(outputs.score, outputs.predicted_iou)
    assert sorted(offered.predicted_iou[0].tolist()) == sorted(outputs.predicted_iou[0, 1:].tolist())


def test_a_checkpoint_of_sam_2_is_measured_as_its_predictor_answers(data):
    photo = read_annotations(data)[0]
    model = sam2_model("edgetam")
    segmenter, predictor = TorchSegmenter(model), TorchPredictor(model)
    frame = Frame(photo.size, segmenter.resize)
    objects = [make_instance(photo.masks[mask], frame) for mask in selected_masks(photo, 0, Protocol())]
    embedded, embedded_image = segmenter.embed(photo), predictor.embed(photo.image())

    by_box = segmenter.predict(embedded, first_prompts(objects, "box"))
    single, offered = segmenter.predict_point(embedded, first_prompts(objects, "point"))

    assert segmenter.resize == "stretch"
    for row, one in enumerate(objects):
        box = points_from_frame(one.box.reshape(2, 2), frame).reshape(4)
        expected = predictor.predict(embedded_image, box=box, num_multimask_outputs=1)
        np.testing.assert_allclose(by_box.mask_logits[row], expected.mask_logits, rtol=0, atol=2e-3)
        point = {"points": points_from_frame(one.centre[None], frame), "labels": [1]}
        expected = predictor.predict(embedded_image, **point, num_multimask_outputs=1)
        np.testing.assert_allclose(single.predicted_iou[row], expected.iou_predictions, rtol=0, atol=1e-4)
        expected = predictor.predict(embedded_image, **point, num_multimask_outputs=3)
        order = np.argsort(-expected.iou_predictions)
        np.testing.assert_allclose(offered.score[row], expected.iou_predictions[order], rtol=0, atol=1e-4)


def test_an_output_0_that_is_not_stable_is_replaced_by_the_best_of_the_fallback():
    logits = np.full((3, 4, 256, 256), -3.0, np.float32)
    logits[:2, 0, :100] = 3.0
    logits[1, 0, 100:110] = 0.0  # 100 of 110 rows stay when the threshold rises; an empty mask is stable
    score = np.array([[0.1, 0.2, 0.9, 0.3]], np.float32).repeat(3, axis=0)
    predictions = Predictions(logits, score, score, score)

    chosen = predictions.only(AutoMasks(ambiguous=(1, 2, 3), fallback=(1, 2, 3)))

    np.testing.assert_allclose(chosen.score, [[0.1], [0.9], [0.1]])
    assert (chosen.mask_logits[1] == -3.0).all()
    np.testing.assert_allclose(predictions.only(AutoMasks()).score, [[0.1]] * 3)


def test_the_first_mask_of_a_point_is_that_of_the_manifest_s_rule(data, artifact, tmp_path):
    photo = read_annotations(data)[0]
    segmenter = OnnxSegmenter(with_ranking(artifact, tmp_path / "ranked", BY_INDEX), threads=1)
    embedded, prompts = segmenter.embed(photo), point_prompts(photo)

    single, four = segmenter.predict_point(embedded, prompts)

    outputs = segmenter.outputs(embedded, prompts)
    np.testing.assert_array_equal(four.mask_logits, outputs.mask_logits[:, [1, 0, 2, 3]])
    np.testing.assert_allclose(four.score, [[0.9, 0.5, 0.4, 0.1]])
    np.testing.assert_array_equal(single.mask_logits, outputs.mask_logits[:, :1])


def test_a_checkpoint_has_edgesam_s_rule_or_the_one_that_is_given(data):
    photo = read_annotations(data)[0]
    model = random_model()
    plain, ranked = TorchSegmenter(model), TorchSegmenter(model, ranking=BY_INDEX)
    embedded, prompts = plain.embed(photo), point_prompts(photo)

    outputs = plain.outputs(embedded, prompts)

    assert len(np.unique(outputs.stability[0])) == 4, "the order by stability is a definite one"
    _, by_stability = plain.predict_point(embedded, prompts)
    _, by_index = ranked.predict_point(embedded, prompts)
    np.testing.assert_array_equal(by_stability.stability[0], np.sort(outputs.stability[0])[::-1])
    np.testing.assert_array_equal(by_index.mask_logits, outputs.mask_logits[:, [1, 0, 2, 3]])


def test_an_artifact_that_the_service_cannot_run_is_refused(artifact, tmp_path):
    members = json.loads((artifact / MANIFEST_NAME).read_text()) | {"layout": "official"}
    (tmp_path / MANIFEST_NAME).write_text(json.dumps(members))

    with pytest.raises(UsageError, match="export the checkpoint with --layout served"):
        OnnxSegmenter(tmp_path)


def test_torch_graphs_and_service_agree(data, artifact, tmp_path):
    """The three ways see the same model; photos are resized a little differently, tokens are rounded.

    Source: docs/explanation/model.md, section 1.2.
    """
    save_checkpoint(random_model(), tmp_path / "model.pth")
    ranked = with_ranking(artifact, tmp_path / "ranked", BY_INDEX)

    with ServiceProcess({"EDGESAM_MODEL_DIR": str(ranked)}) as service:
        ways = ["--checkpoint", tmp_path / "model.pth", "--ranking-of", ranked, "--model", ranked, "--url", service.url]
        result = invoke("evaluate", "--data", data, "--max-photos", 1, "--out", tmp_path / "out", "--threads", 1, *ways)

    assert result.exit_code == 0, result.output
    figures = json.loads((tmp_path / "out" / "figures.json").read_text())
    models = [figure for figure in figures.values() if figure["calibration"]]
    assert len(models) == 3
    assert set(figures) >= {"box filled", "GrabCut", "flood fill"}
    for figure in models[1:]:
        # Corrections are drawn from what differs already.
        for prompt in ("box", "point", "auto", "point (stability of 4)", "point (oracle of 4)"):
            assert figure["miou"][prompt] == pytest.approx(models[0]["miou"][prompt], abs=0.05)
    assert models[0]["miou"]["auto"] != pytest.approx(models[0]["miou"]["point (stability of 4)"], abs=0.05)
    table = (tmp_path / "out" / "table.md").read_text()
    assert table.startswith("## Mean IoU, %\n\n| method | objects | box | box+1 | box+2 | point |")
    assert "Mean IoU, %" in result.output
    assert sorted(path.name for path in (tmp_path / "out").glob("*.jpg")) == [f"sheet-{n}.jpg" for n in range(3)]


def test_graphs_round_embeddings_as_the_service_does(data, artifact):
    photo = read_annotations(data)[0]
    prompts = point_prompts(photo)

    with (
        ServiceProcess({"EDGESAM_MODEL_DIR": str(artifact), "EDGESAM_EMBEDDING_DTYPE": "int8"}) as process,
        httpx.Client(base_url=process.url, timeout=60.0) as client,
    ):
        service = ServiceSegmenter(process.url, client)
        served = service.predict(service.embed(photo), prompts).mask_logits

    names, distances = [], []
    for dtype in ("int8", "float16", "float32"):
        segmenter = OnnxSegmenter(artifact, threads=1, dtype=dtype)
        names.append(segmenter.name)
        logits = segmenter.predict(segmenter.embed(photo), prompts).mask_logits
        distances.append(np.abs(logits - served).max() / np.abs(served).max())
    assert names[0] == f"{names[2]}, int8 embeddings"
    assert distances[0] < 1e-3 < min(distances[1:])


@pytest.mark.slow
def test_torch_graphs_and_service_agree_for_a_model_that_stretches(data, tmp_path):
    """All resize photos in floats. These are wider than high, so that a wrong frame shows."""
    checkpoint, artifact = write_sam2_checkpoint("edgetam", tmp_path / "edgetam.pt"), tmp_path / "edgetam"
    info = ModelInfo(licence="Apache-2.0", trained=False, training_data="none: generated weights")
    convert_checkpoint(checkpoint, artifact, name="edgetam", info=info, weights="float32")

    with ServiceProcess({"EDGESAM_MODEL_DIR": str(artifact), "EDGESAM_EMBEDDING_DTYPE": "float32"}) as service:
        ways = ["--checkpoint", checkpoint, "--model", artifact, "--url", service.url, "--corrections", 1]
        result = invoke(
            "evaluate",
            "--data",
            data,
            "--max-photos",
            1,
            "--out",
            tmp_path / "out",
            "--threads",
            1,
            "--no-sheet",
            *ways,
        )

    assert result.exit_code == 0, result.output
    figures = json.loads((tmp_path / "out" / "figures.json").read_text())
    torch_figures, *others = [figure for figure in figures.values() if figure["calibration"]]
    assert len(others) == 2
    for figure in others:
        for prompt in ("box", "box+1", "point", "auto", "point (stability of 4)", "point (oracle of 4)"):
            assert figure["miou"][prompt] == pytest.approx(torch_figures["miou"][prompt], abs=2e-3)


def test_exactly_the_listed_photos_are_measured(data, artifact, tmp_path):
    (tmp_path / "only.txt").write_text("# two of four\n3.png\n1.png\n")

    result = invoke(
        "evaluate", "--data", data, "--only", tmp_path / "only.txt", "--out", tmp_path / "out", "--no-sheet"
    )

    assert result.exit_code == 0, result.output
    figures = json.loads((tmp_path / "out" / "figures.json").read_text())
    assert figures["box filled"]["instances"] == 2


def test_a_service_that_does_not_respond_is_named(data):
    result = invoke("evaluate", "--data", data, "--url", "http://127.0.0.1:9", "--no-baselines")

    assert result.exit_code == 1
    assert "http://127.0.0.1:9 does not respond to /models" in result.output


def test_a_file_that_is_no_checkpoint_is_refused(data, tmp_path):
    torch.save({}, tmp_path / "x.pth")

    result = invoke("evaluate", "--data", data, "--checkpoint", tmp_path / "x.pth", "--no-baselines")

    assert result.exit_code == 1
    assert "checkpoint" in result.output
