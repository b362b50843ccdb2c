"""`calibrate-everything` chooses the thresholds that find the most objects with few masks, and writes them."""

import shutil

import numpy as np
import pytest
from pycocotools import mask as coco
from support.model_store_cli import invoke

from model_store.evaluation.everything.choosing import chosen_defaults
from model_store.evaluation.everything.grid_masks import GridMasks, grid_masks
from model_store.evaluation.everything.recall import kept_masks, recall_of
from model_store.evaluation.segmenters.onnx_segmenter import OnnxSegmenter
from model_store.evaluation.segmenters.segmenter import PromptBatch
from model_store.export.verify import verify_artifact
from model_store.training.data.annotations import read_annotations
from service.manifest import MANIFEST_NAME, load_manifest
from service.mask_rules import EverythingDefaults
from service.sam.frame import Frame
from service.sam.masks import binary_mask
from service.sam.rle import encode_rle
from service.sam.transforms import points_to_frame

ANY = EverythingDefaults(pred_iou_thresh=0.0, stability_score_thresh=0.0, outputs=(0, 1, 2, 3))


@pytest.fixture
def model(artifact, tmp_path):
    """A copy of the artifact that a test may change."""
    return shutil.copytree(artifact, tmp_path / "model")


def made(predicted_iou, stability, boxes, iou):
    """Return the masks of some points, four outputs each, with figures of the test."""
    count = len(predicted_iou)
    figures = [np.array(values, np.float32) for values in (predicted_iou, stability, stability)]
    return GridMasks(
        np.arange(count) % 4, *figures, np.array(boxes), np.zeros(count, np.bool_), np.array(iou, np.float32)
    )


@pytest.fixture
def two_points():
    """Two points. The best masks of two objects have the highest predicted IoU, and duplicates of one are worse."""
    left, right, small = [0, 0, 9, 9], [20, 0, 29, 9], [50, 50, 55, 55]
    return made(
        predicted_iou=[0.1, 0.9, 0.7, 0.2, 0.1, 0.2, 0.8, 0.3],
        stability=[0.9, 0.8, 0.9, 0.1, 0.9, 0.2, 0.7, 0.1],
        boxes=[small, left, left, small, small, small, right, right],
        iou=[[0, 0], [0.8, 0], [0.6, 0], [0, 0], [0, 0], [0, 0], [0, 0.9], [0, 0.4]],
    )


def test_a_result_has_the_best_mask_of_each_place_above_the_thresholds(two_points):
    assert kept_masks(two_points, ANY).tolist() == [1, 6, 3]
    assert kept_masks(two_points, ANY.model_copy(update={"quality": "stability"})).tolist() == [0, 2, 6]
    assert kept_masks(two_points, ANY.model_copy(update={"pred_iou_thresh": 0.5})).tolist() == [1, 6]
    assert kept_masks(two_points, ANY.model_copy(update={"stability_score_thresh": 0.75})).tolist() == [1, 0]
    assert kept_masks(two_points, ANY.model_copy(update={"outputs": (2, 3)})).tolist() == [6, 2, 3]


def test_recall_counts_objects_masks_and_decoded_points(two_points):
    recall = recall_of([two_points], ANY.model_copy(update={"pred_iou_thresh": 0.85}))

    assert recall.found == 0.5
    assert recall.mean_iou == pytest.approx(0.4)
    assert recall.masks == 1
    assert recall.decoded == 0.5


def test_the_choice_finds_the_most_with_so_many_masks(two_points):
    chosen, found = chosen_defaults([two_points], EverythingDefaults(points_per_side=7), most_masks=2)

    assert found == recall_of([two_points], chosen)
    assert (found.found, found.masks) == (1.0, 2.0)
    assert chosen.points_per_side == 7
    with pytest.raises(ValueError, match="allow more"):
        chosen_defaults([two_points], ANY, most_masks=9, most_decoded=0.1)


def test_masks_of_the_grid_are_those_of_the_graphs_with_their_true_iou(data, artifact):
    photos = read_annotations(data)
    photo = photos[0]
    segmenter = OnnxSegmenter(artifact, threads=1)
    frame = Frame(photo.size)
    height, width = photo.size
    point = points_to_frame(np.array([[0.75 * width, 0.25 * height]]), frame)[np.newaxis]
    answer = segmenter.outputs(segmenter.embed(photo), PromptBatch(None, point, np.ones((1, 1), np.int64)))

    (masks,) = grid_masks(artifact, photos, [0], 2, threads=1)

    second = slice(4, 8)
    assert len(masks.output) == 16
    np.testing.assert_allclose(masks.predicted_iou[second], answer.predicted_iou[0], rtol=1e-5)
    expected = [encode_rle(binary_mask(logits, frame)) for logits in answer.mask_logits[0]]
    objects = [mask.rle for mask in photo.masks]
    assert np.abs(masks.iou[second] - coco.iou(expected, objects, [0] * len(objects))).max() < 0.01


def test_the_chosen_defaults_are_written_and_nothing_else_changes(six_photos, model):
    before = load_manifest(model)
    asked = ["calibrate-everything", model, "--data", six_photos, "--threads", 1, "--points-per-side", 2]

    shown = invoke(*asked, "--max-photos", 2)
    unchanged = load_manifest(model)
    written = invoke(*asked, "--max-photos", 2, "--write")

    assert shown.exit_code == 0, shown.output
    assert unchanged == before
    assert written.exit_code == 0, written.output
    after = verify_artifact(model)
    assert (after.format_version, after.fingerprint) == (7, before.fingerprint)
    assert after.everything is not None
    assert (after.everything.points_per_side, after.everything.min_mask_region_area) == (2, 100)
    assert after.model_copy(update={"everything": None, "format_version": before.format_version}) == before
    assert "chosen" in written.output
    assert str(model / MANIFEST_NAME) in written.output.replace("\n", "")
