"""Ground truth, prompts and measures of evaluation, against EdgeSAM's numbers and plain torch."""

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from support.official_reference import COMMITTED
from torch.nn import functional

from model_store.evaluation.instances import (
    centre_pixel,
    correction,
    image_mask,
    make_instance,
    obeys,
    round_trip,
    to_cells,
    to_frame,
    valid_cells,
)
from model_store.evaluation.metrics import boundary_iou, calibration, iou, pieces, size_class
from model_store.network.predictor import upsample_logits
from model_store.training.data.annotations import MaskRecord
from service.sam.frame import Frame
from service.sam.prompts import IGNORED, NEGATIVE, POSITIVE
from service.sam.transforms import input_size

SIZES = [(300, 451), (77, 40), (1333, 751)]


def random_mask(height, width, seed=0):
    coarse = np.random.default_rng(seed).normal(size=(1, 1, 6, 6)).astype(np.float32)
    smooth = functional.interpolate(torch.from_numpy(coarse), (height, width), mode="bicubic", align_corners=False)
    return (smooth[0, 0] > 0.3).numpy()


def test_the_centre_of_a_mask_is_edgesam_s():
    with np.load(COMMITTED / "distill.npz") as arrays:
        masks, points = arrays["centre_masks"][:, 0], arrays["centre_points_xy"][:, 0]

    found = [centre_pixel(mask) for mask in masks]

    assert found == [tuple(point) for point in points.tolist()]


@pytest.mark.parametrize("size", SIZES)
def test_the_truth_is_resized_to_the_frame_and_back_as_in_torch(size):
    mask = random_mask(*size)
    height, width = input_size(size)
    as_tensor = torch.from_numpy(mask.astype(np.float32))[None, None]
    expected_frame = torch.zeros(1, 1, 1024, 1024)
    expected_frame[..., :height, :width] = functional.interpolate(as_tensor, (height, width), mode="nearest")
    content = expected_frame[..., :height, :width]
    expected_back = functional.interpolate(content, size, mode="bilinear", align_corners=False)[0, 0] > 0
    expected_cells = functional.interpolate(expected_frame, (256, 256), mode="bilinear", align_corners=False)[0, 0] > 0

    frame = to_frame(mask)

    np.testing.assert_array_equal(frame, expected_frame[0, 0].numpy() > 0)
    np.testing.assert_array_equal(to_cells(frame), expected_cells.numpy())
    np.testing.assert_array_equal(round_trip(frame, size), expected_back.numpy())


@pytest.mark.parametrize("resize", ["letterbox", "stretch"])
@pytest.mark.parametrize("size", SIZES)
def test_logits_are_resized_to_the_photo_as_in_torch(size, resize):
    logits = np.random.default_rng(0).normal(size=(256, 256)).astype(np.float32)
    expected = upsample_logits(torch.from_numpy(logits)[None, None], Frame(size, resize))[0, 0].numpy()

    mask = image_mask(logits, Frame(size, resize))

    differs = mask != (expected > 0)
    assert np.abs(expected[differs]).max(initial=0.0) < 1e-3


def test_an_instance_has_the_box_of_its_annotation_in_the_frame():
    mask = np.zeros((512, 256), np.uint8)
    mask[100:200, 40:90] = 1
    rle = coco_mask.encode(np.asfortranarray(mask))

    one = make_instance(MaskRecord(rle), Frame((512, 256)))

    assert one.box.tolist() == [80.0, 200.0, 180.0, 400.0]
    assert one.area == 5000
    x, y = one.centre
    assert abs(x - 130) <= 2
    assert 200 + 45 <= y <= 400 - 45
    assert iou(one.truth, mask > 0) > 0.93
    assert not (mask.astype(bool) & ~one.truth).any(), "the truth is widened, never cut"


def test_a_stretched_photo_has_the_same_objects_at_other_places_of_the_frame():
    mask = np.zeros((512, 256), np.uint8)
    mask[100:200, 40:90] = 1
    record = MaskRecord(coco_mask.encode(np.asfortranarray(mask)))

    one, letterboxed = make_instance(record, Frame((512, 256), "stretch")), make_instance(record, Frame((512, 256)))

    assert one.box.tolist() == [160.0, 200.0, 360.0, 400.0]
    assert one.centre.tolist() == [2 * letterboxed.centre[0], letterboxed.centre[1]]
    np.testing.assert_array_equal(one.truth, letterboxed.truth)
    rows, columns = np.nonzero(one.cells)
    assert [rows.min(), rows.max() + 1, columns.min(), columns.max() + 1] == [50, 100, 40, 90]
    assert valid_cells(Frame((512, 256), "stretch")).all()
    assert obeys(mask > 0, one.centre, POSITIVE, "stretch") is True
    assert obeys(mask > 0, one.centre, POSITIVE) is False


def test_corrections_are_drawn_from_wrong_cells_inside_the_photo():
    cells = np.zeros((256, 256), bool)
    cells[10:20, 10:20] = True
    valid = valid_cells(Frame((512, 1024)))
    random = np.random.default_rng(0)
    nothing, everything = np.full((256, 256), -1, np.float32), np.full((256, 256), 1, np.float32)

    point, label = correction(nothing, cells, valid, random)
    too_much, other_label = correction(everything, cells, valid, random)
    _, no_label = correction(np.where(cells, 1, -1).astype(np.float32), cells, valid, random)

    assert (label, other_label, no_label) == (1, 0, -2)
    assert cells[int(point[1]) // 4, int(point[0]) // 4]
    assert not cells[int(too_much[1]) // 4, int(too_much[0]) // 4]
    assert valid.sum() == 128 * 256
    assert too_much[1] < 512


def test_a_correction_is_obeyed_where_its_pixel_changes_sides():
    """A photo of 512 by 256 pixels is doubled in the frame: (100, 41) of the frame is pixel (50, 20)."""
    mask = np.zeros((256, 512), bool)
    mask[20, 50] = True
    inside, beside = np.array([100, 41], np.float32), np.array([102, 41], np.float32)

    assert obeys(mask, inside, POSITIVE) is True
    assert obeys(mask, beside, POSITIVE) is False
    assert obeys(mask, inside, NEGATIVE) is False
    assert obeys(mask, beside, NEGATIVE) is True
    assert obeys(mask, inside, IGNORED) is None


def test_a_correction_in_the_last_cell_points_at_the_last_pixel():
    """511 rows of 1021 columns have 513 rows in the frame; the last cell begins at 512, which is row 510.6."""
    mask = np.zeros((511, 1021), bool)
    mask[-1, -1] = True

    assert obeys(mask, np.array([1024, 513], np.float32), POSITIVE) is True
    assert obeys(mask, np.array([1020, 512], np.float32), POSITIVE) is False


def test_pieces_touch_at_corners():
    line = np.eye(5, dtype=bool)
    apart = np.zeros((5, 5), bool)
    apart[0, 0] = apart[0, 2] = apart[4, 4] = True

    assert pieces(line) == 1
    assert pieces(apart) == 3
    assert pieces(np.zeros((5, 5), bool)) == 0
    assert pieces(np.ones((5, 5), bool)) == 1


def test_iou_is_undefined_where_both_are_empty():
    empty, half = np.zeros((4, 4), bool), np.tri(4, dtype=bool)

    assert np.isnan(iou(empty, empty))
    assert iou(empty, half) == 0.0
    assert iou(half, half) == 1.0
    assert iou(half, np.ones((4, 4), bool)) == pytest.approx(10 / 16)


def test_boundary_iou_sees_an_outline_that_iou_hardly_sees():
    truth = np.zeros((200, 200), bool)
    truth[20:180, 20:180] = True
    ragged = truth.copy()
    ragged[20:23] = ragged[177:180] = False

    assert iou(ragged, truth) > 0.95
    assert boundary_iou(ragged, truth) < 0.65
    assert boundary_iou(truth, truth) == 1.0


def test_sizes_are_coco_s():
    assert [size_class(area) for area in (1023, 1024, 9215, 9216)] == ["small", "medium", "medium", "large"]


def test_calibration_is_the_distance_of_score_and_truth():
    right = calibration([0.05, 0.55, 0.95], [0.05, 0.55, 0.95])
    overconfident = calibration([0.9, 0.9, 1.4], [0.5, 0.5, 0.6])

    assert right.error == pytest.approx(0.0)
    assert right.correlation == pytest.approx(1.0)
    assert overconfident.error == pytest.approx((0.9 - 0.5) * 2 / 3 + (1.0 - 0.6) / 3)
    assert [count for _, _, count in overconfident.bins] == [3]
