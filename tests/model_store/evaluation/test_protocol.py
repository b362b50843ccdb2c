"""The evaluation protocol: prompts, corrections, and measurements of each mask."""

import numpy as np
import pytest
from support.fixed_segmenter import EMPTY, FixedSegmenter, mask_logits_of, measured

from model_store.evaluation.baselines import filled_box, flood_fill, grab_cut
from model_store.evaluation.protocol import Protocol, selected_masks, selected_photos
from model_store.training.data.annotations import read_annotations
from service.sam.prompts import IGNORED


def test_each_object_gets_a_box_and_a_point_and_two_corrections(data):
    photos = read_annotations(data)[:1]
    segmenter = FixedSegmenter(EMPTY)

    measurements = measured(photos, segmenter, Protocol())

    singles = [(one.start, one.step) for one in measurements if one.choice == "single"]
    assert singles == [("box", 0), ("box", 1), ("box", 2), ("point", 0), ("point", 1), ("point", 2)]
    assert [one.choice for one in measurements if one.choice != "single"] == ["auto", "stability", "oracle"]
    assert all(one.iou == 0.0 for one in measurements)
    box, corrected, *_ = segmenter.prompts
    np.testing.assert_allclose(box.boxes, [[160, 128, 640, 480]])
    assert box.points.shape == (1, 0, 2)
    ((x, y),) = corrected.points[0]
    assert 160 <= x < 640
    assert 128 <= y < 480
    assert corrected.labels.tolist() == [[1]]
    point = segmenter.prompts[3]
    assert point.boxes is None
    assert point.labels.tolist() == [[1]]


def test_a_right_mask_is_not_corrected(data):
    photos = read_annotations(data)[:1]
    right = FixedSegmenter(mask_logits_of(photos[0]))

    measurements = measured(photos, right, Protocol(corrections=1, multimask=False))

    assert [one.iou for one in measurements] == [1.0] * 4
    assert right.prompts[1].labels.tolist() == [[IGNORED]]
    assert [one.is_obeyed for one in measurements] == [None] * 4


def test_of_four_masks_the_first_the_most_stable_and_the_best_are_measured(data):
    """The object has 30 columns: the first mask has a third of them, the most stable half, the best all."""
    photos = read_annotations(data)[:1]
    four = [
        mask_logits_of(photos[0], share=1 / 3),
        mask_logits_of(photos[0]),
        EMPTY,
        mask_logits_of(photos[0], share=1 / 2),
    ]
    segmenter = FixedSegmenter(EMPTY, four, stability=(0.3, 0.2, 0.1, 0.4))

    measurements = {one.choice: one for one in measured(photos, segmenter, Protocol()) if one.choice != "single"}

    assert {choice: round(one.iou, 3) for choice, one in measurements.items()} == {
        "auto": 0.333, "stability": 0.5, "oracle": 1.0
    }  # fmt: skip
    assert {choice: one.score for choice, one in measurements.items()} == {
        "auto": 0.9, "stability": 0.6, "oracle": 0.8
    }  # fmt: skip
    assert {one.start for one in measurements.values()} == {"point"}


@pytest.mark.parametrize("logits", [EMPTY, -EMPTY], ids=["nothing", "everything"])
def test_a_mask_that_stays_as_it_was_disobeys_each_correction(data, logits):
    photos = read_annotations(data)[:1]

    measurements = measured(photos, FixedSegmenter(logits), Protocol())

    assert {one.is_obeyed for one in measurements if one.step} == {False}
    assert {one.is_obeyed for one in measurements if not one.step} == {None}


def test_a_measurement_counts_the_pieces_of_its_mask_and_names_the_source(data):
    (photo,) = read_annotations(data)[:1]
    photo = type(photo)(photo.path, photo.size, "discs", masks=photo.masks)
    two = mask_logits_of(photo)
    two[:, 60:90] = -4.0  # a gap through the middle of the object

    measurements = measured([photo], FixedSegmenter(two), Protocol(corrections=0, multimask=False))

    assert [one.pieces for one in measurements] == [2, 2]
    assert {one.source for one in measurements} == {"discs"}


def test_baselines_find_plain_objects(data):
    photos = read_annotations(data)[:1]
    image, (record,) = photos[0].image(), photos[0].masks
    truth = record.decode() > 0
    box = np.array(record.box, np.float32)
    loose = box + np.array([-6, -4, 6, 4], np.float32)

    np.testing.assert_array_equal(filled_box(image, box), truth)
    np.testing.assert_array_equal(grab_cut(image, loose), truth)
    np.testing.assert_array_equal(flood_fill(image, np.array([20.0, 20.0])), truth)
    assert grab_cut(image, np.array([0, 0, 64, 48], np.float32)).all(), "no background to learn from: the box itself"


def test_photos_and_masks_are_chosen_the_same_way_each_time(data):
    photos = read_annotations(data)
    many = type(photos[0])(photos[0].path, photos[0].size, "x", masks=photos[0].masks * 9)

    assert selected_photos(photos, Protocol()) == [0, 1, 2, 3]
    assert selected_photos(photos, Protocol(max_photos=2)) == [0, 3]
    assert selected_masks(many, 0, Protocol()) == list(range(9))
    drawn_masks = selected_masks(many, 5, Protocol(max_instances=4))
    assert len(drawn_masks) == 4
    assert drawn_masks == selected_masks(many, 5, Protocol(max_instances=4))
