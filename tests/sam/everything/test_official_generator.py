"""Every step of everything mode gives what SAM's official generator gives."""

import json

import numpy as np
import pytest
from support.generator_reference import SCENES, GeneratorReference
from support.whole_masks import full

from service.client.crops import Crops, crop_boxes, points_per_side
from service.sam.everything.candidates import Candidate
from service.sam.everything.crops import is_cut_off
from service.sam.everything.duplicates import inclusive_boxes, without_duplicates
from service.sam.everything.filters import exceeds, is_stable, stability_scores
from service.sam.everything.found_mask import EverythingMask
from service.sam.everything.grid import grid_points
from service.sam.everything.options import EverythingOptions
from service.sam.everything.result import EverythingResult
from service.sam.everything.small_regions import without_small_regions
from service.sam.masks import BinaryMask

pytestmark = pytest.mark.fixtures

REFERENCE = GeneratorReference()


@pytest.fixture(params=SCENES)
def scene(request):
    """A scene of the official generator."""
    return REFERENCE.scene(request.param)


def placed(pixels, box, size):
    """Return the mask of a crop's pixels in the whole image."""
    whole = np.zeros(size, np.bool_)
    x0, y0, x1, y1 = box
    whole[y0:y1, x0:x1] = pixels
    return BinaryMask.cut(size, 0, 0, whole)


def run_lengths(pixels):
    """Return the run lengths of a mask column by column, beginning with those outside."""
    mask = BinaryMask.cut(pixels.shape, 0, 0, pixels)
    return np.diff(mask.transitions, prepend=0, append=pixels.size).tolist()


@pytest.mark.parametrize("name", ["1", "2", "3", "8", "32"])
def test_the_grid_has_the_same_points_in_the_same_order(name):
    assert np.array_equal(grid_points(int(name)), REFERENCE.tables("grid")[name])


@pytest.mark.parametrize("name", ["16_2_3", "32_0_1", "32_2_2"])
def test_layers_of_the_client_have_the_same_numbers_of_points(name):
    points, layers, downscale = map(int, name.split("_"))

    crops = Crops(layers, points_downscale=downscale)
    layer_sides = [points_per_side({"points_per_side": points}, crops, layer) for layer in range(layers + 1)]
    found = [side.get("points_per_side", points) ** 2 for side in layer_sides]

    assert found == REFERENCE.tables("grid_sizes")[name].tolist()


@pytest.mark.parametrize(
    ("name", "ratio"),
    [
        ("600x900_1_0.3413", 512 / 1500),
        ("600x900_2_0.3413", 512 / 1500),
        ("1333x751_3_0.3413", 512 / 1500),
    ],
)
def test_crops_of_the_client_are_the_same_in_the_same_order(name, ratio):
    size, layers, _ = name.split("_")
    height, width = map(int, size.split("x"))

    found = [[*crop.box, crop.layer] for crop in crop_boxes(width, height, Crops(int(layers), ratio))]

    assert found == REFERENCE.tables("crop_boxes")[name].tolist()[1:]  # the first one is the whole image


def test_masks_near_an_edge_of_their_crop_are_the_same():
    table = REFERENCE.tables("edge")
    left, top, _, _ = table["crop_box"]
    _, _, width, height = table["image_box"]

    found = is_cut_off(table["boxes"] + [left, top, left, top], tuple(table["crop_box"]), (height, width))

    assert found.tolist() == table["near"].tolist()


def test_boxes_and_run_lengths_are_the_same():
    table = REFERENCE.tables("box")
    masks = [BinaryMask.cut(pixels.shape, 0, 0, pixels.astype(bool)) for pixels in table["masks"]]

    assert inclusive_boxes([mask.box for mask in masks]).tolist() == table["boxes"].tolist()
    assert [run_lengths(full(mask)) for mask in masks] == json.loads(str(table["rle_counts"]))


def test_suppression_keeps_the_same_boxes():
    table = REFERENCE.tables("nms")

    assert without_duplicates(table["boxes"], table["scores"], 0.7).tolist() == table["kept_0.7"].tolist()


def test_small_regions_are_removed_alike():
    table = REFERENCE.tables("small")
    area = int(table["area"])
    for pixels, holes, islands in zip(table["masks"], table["holes"], table["islands"], strict=True):
        mask = BinaryMask.cut(pixels.shape, 0, 0, pixels.astype(bool))

        cleaned = without_small_regions(mask, area)

        # The official function does one of the two at a time.
        both = without_small_regions(BinaryMask.cut(pixels.shape, 0, 0, holes.astype(bool)), area)
        assert np.array_equal(full(cleaned), full(both))
        if np.array_equal(holes, pixels):
            assert np.array_equal(full(cleaned), islands)


def test_the_filters_keep_the_same_masks(scene):
    for index, (logits, scores, _) in enumerate(scene.crops):
        after_iou = np.flatnonzero(exceeds(scores, scene.pred_iou_thresh))
        stability = stability_scores(logits[after_iou], scene.stability_score_offset)
        after_stability = after_iou[is_stable(stability, scene.stability_score_thresh)]

        assert after_iou.tolist() == scene.of_crop(index, "after_iou").tolist()
        assert np.array_equal(stability, scene.of_crop(index, "stability"), equal_nan=True)
        assert after_stability.tolist() == scene.of_crop(index, "after_stability").tolist()


def test_boxes_edges_and_suppression_are_the_same(scene):
    for index, (logits, scores, _) in enumerate(scene.crops):
        crop_box = scene.arrays["crop_boxes"][index].tolist()
        shift = np.array(crop_box[:2] * 2)
        after_stability = scene.of_crop(index, "after_stability")
        cut_out = [BinaryMask.cut(logits.shape[1:], 0, 0, each > 0) for each in logits[after_stability]]
        boxes = inclusive_boxes([mask.box for mask in cut_out])
        after_edge = after_stability[~is_cut_off(boxes + shift, tuple(crop_box), scene.size)]
        kept = without_duplicates(boxes[np.isin(after_stability, after_edge)], scores[after_edge], scene.box_nms_thresh)

        assert boxes.tolist() == scene.of_crop(index, "boxes").tolist()
        assert after_edge.tolist() == scene.of_crop(index, "after_edge").tolist()
        assert after_edge[kept].tolist() == scene.of_crop(index, "after_nms").tolist()


def masks_after_nms(scene):
    """Return crop, index and mask of what the suppression in the crops kept, in its order."""
    rows = []
    for index, (logits, _, _) in enumerate(scene.crops):
        box = scene.arrays["crop_boxes"][index].tolist()
        rows += [(index, i, placed(logits[i] > 0, box, scene.size)) for i in scene.of_crop(index, "after_nms").tolist()]
    return rows


def masks_after_crop_nms(scene):
    """Return crop, index and mask of what the suppression between the crops kept, in its order."""
    rows = masks_after_nms(scene)
    if scene.layers == 0:
        return rows
    corners = scene.arrays["crop_boxes"].astype(np.float64)
    areas = (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])
    scores = np.array([1 / areas[crop] for crop, _, _ in rows], np.float32)
    boxes = inclusive_boxes([mask.box for _, _, mask in rows])
    return [rows[i] for i in without_duplicates(boxes, scores, scene.crop_nms_thresh)]


def test_suppression_between_crops_is_the_same(scene):
    found = [[crop, index] for crop, index, _ in masks_after_crop_nms(scene)]

    assert found == scene.arrays["after_crop_nms"].tolist()


@pytest.mark.parametrize("name", ["regions", "loose"])
def test_cleaned_masks_and_the_last_suppression_are_the_same(name):
    scene = REFERENCE.scene(name)
    rows = masks_after_crop_nms(scene)

    cleaned = [without_small_regions(mask, scene.min_mask_region_area) for _, _, mask in rows]

    is_changed = [after is not mask for after, (_, _, mask) in zip(cleaned, rows, strict=True)]
    boxes = inclusive_boxes([mask.box for mask in cleaned])
    threshold = max(scene.box_nms_thresh, scene.crop_nms_thresh)
    kept = without_duplicates(boxes, 1.0 - np.array(is_changed, np.float32), threshold)
    assert is_changed == scene.arrays["changed"].tolist()
    assert np.array_equal(np.packbits([full(mask).ravel() for mask in cleaned], axis=1), scene.arrays["cleaned_bits"])
    assert boxes.tolist() == scene.arrays["cleaned_boxes"].tolist()
    assert [[rows[i][0], rows[i][1]] for i in kept] == scene.arrays["final"].tolist()


@pytest.mark.parametrize("name", ["plain", "regions"])
def test_a_result_has_the_masks_and_figures_of_the_official_records(name):
    """Its order is by predicted IoU alone, and its boxes have their real width and height."""
    scene = REFERENCE.scene(name)
    ((logits, scores, points),) = scene.crops
    options = EverythingOptions(
        points_per_side=scene.points_per_side,
        box_nms_thresh=scene.box_nms_thresh,
        min_mask_region_area=scene.min_mask_region_area,
    )
    stability = dict(zip(scene.of_crop(0, "after_iou").tolist(), scene.of_crop(0, "stability").tolist(), strict=True))
    candidates = []
    for i in scene.of_crop(0, "after_edge").tolist():
        mask = BinaryMask.cut(scene.size, 0, 0, logits[i] > 0)
        crop_box = (0, 0, scene.size[1], scene.size[0])
        found = EverythingMask(i, mask, float(scores[i]), stability[i], tuple(points[i // 3].tolist()), crop_box)
        candidates.append(Candidate(found, float(scores[i]), tuple(inclusive_boxes([mask.box])[0].tolist())))
    result = EverythingResult(options)

    result.add(candidates[::2])
    result.update()
    result.add(candidates[1::2])
    result.update()

    by_id = {mask.id: mask for mask in result.masks}
    ids = scene.arrays["final"][:, 1].tolist()
    assert sorted(by_id) == sorted(ids)
    assert [mask.id for mask in result.masks] == sorted(by_id, key=lambda i: -scores[i])
    masks = [by_id[i] for i in ids]
    assert [mask.mask.area for mask in masks] == scene.records("area").tolist()
    one_more = np.array([0, 0, 1, 1])
    assert [list(mask.bbox) for mask in masks] == (scene.records("bbox") + one_more).tolist()
    assert [list(mask.crop_box) for mask in masks] == scene.records("crop_box").tolist()
    assert [[list(mask.point)] for mask in masks] == scene.records("point_coords").tolist()
    assert [mask.predicted_iou for mask in masks] == scene.records("predicted_iou").tolist()
    assert [mask.stability_score for mask in masks] == scene.records("stability_score").tolist()
    assert [run_lengths(full(mask.mask)) for mask in masks] == scene.run_lengths()
