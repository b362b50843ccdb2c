"""Crops of everything mode and their merge, against values of SAM's generator and of torchvision."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.client import Crops, Everything, EverythingMask, Timing
from service.client.crops import crop_boxes, merge_crops, non_maximum_suppression, points_per_side

CASES = json.loads((Path(__file__).parent / "cases" / "crops.json").read_text())


def mask_of(number, box, crop):
    """A mask whose inclusive box is given."""
    x0, y0, x1, y1 = box
    left, top, right, bottom = crop
    return EverythingMask(
        id=number,
        area=1,
        bbox=(x0, y0, x1 - x0 + 1, y1 - y0 + 1),
        predicted_iou=0.9,
        stability_score=0.9,
        point_coords=((x0 + 0.5, y0 + 0.5),),
        crop_box=(left, top, right - left, bottom - top),
        size=(97, 131),
        counts="",
    )


def result_of(masks, timing=None, cached=None):
    return Everything(
        image_hash="0" * 64,
        image_id="0" * 64,
        width=131,
        height=97,
        orientation=1,
        model="m",
        parameters={"points_per_side": 5},
        masks=tuple(masks),
        cached=cached,
        timing=timing or Timing(10.0, {"decode": 4.0}),
        request_id="r",
    )


@pytest.mark.parametrize("case", CASES["crop_boxes"], ids=lambda case: f"{case['width']}x{case['height']}")
def test_crops_are_those_of_sams_generator(case):
    found = crop_boxes(case["width"], case["height"], Crops(case["layers"]))

    assert [[*crop.box, crop.layer] for crop in found] == case["boxes"]


@given(st.integers(300, 3000), st.integers(300, 3000), st.integers(1, 3), st.floats(0.0, 1.0))
def test_crops_of_a_layer_cover_the_image_and_lie_in_it(width, height, layers, ratio):
    for layer in range(1, layers + 1):
        boxes = [crop.box for crop in crop_boxes(width, height, Crops(layers, ratio)) if crop.layer == layer]

        for start, end, side in ((0, 2, width), (1, 3, height)):
            spans = sorted({(box[start], box[end]) for box in boxes})
            assert (spans[0][0], spans[-1][1]) == (0, side)
            assert all(first[1] >= second[0] for first, second in pairwise(spans))
            assert all(0 <= low < high <= side for low, high in spans)
        assert len(boxes) == 4**layer


def test_an_image_that_is_too_small_for_its_crops_is_refused():
    with pytest.raises(ValueError, match="60 x 400 pixels is too small for 2 layers"):
        crop_boxes(60, 400, Crops(2))


@pytest.mark.parametrize(
    "settings",
    [{"layers": 5}, {"layers": -1}, {"overlap_ratio": 1.5}, {"nms_thresh": -0.1}, {"points_downscale": 0}],
)
def test_settings_outside_their_range_are_refused(settings):
    with pytest.raises(ValueError, match=r"from 0 to 1|0 to 4"):
        Crops(**settings)


def test_suppression_is_that_of_torchvision():
    case = CASES["nms"]

    kept = non_maximum_suppression(np.array(case["boxes"], np.float32), np.array(case["scores"]), 0.7)

    assert kept.tolist() == case["kept"]


def test_masks_of_crops_are_merged_as_by_sams_generator():
    case = CASES["merge"]
    results = [
        result_of(
            mask_of(1000 * number + mask["id"], mask["box"], crop) for mask in case["masks"] if mask["crop"] == number
        )
        for number, crop in enumerate(case["crops"])
    ]

    merged = merge_crops(results, Crops(2, nms_thresh=case["thresh"]))

    assert [divmod(mask.id, 1000) for mask in merged.masks] == [tuple(one) for one in case["kept"]]
    assert (merged.timing.round_trip_ms, merged.timing.stages_ms) == (210.0, {"decode": 84.0})


def test_a_result_without_masks_is_merged_to_one_without_masks():
    assert merge_crops([result_of([]), result_of([])], Crops()).masks == ()


def test_the_grid_of_a_layer_is_coarser_by_the_divisor():
    crops = Crops(2, points_downscale=2)

    assert points_per_side({"points_per_side": 16}, crops, 0) == {}
    assert points_per_side({"points_per_side": 16}, crops, 2) == {"points_per_side": 4}
    assert points_per_side({"points_per_side": 16}, Crops(2), 2) == {}
    with pytest.raises(ValueError, match="no point"):
        points_per_side({"points_per_side": 3}, crops, 2)
