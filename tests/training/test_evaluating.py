"""The protocol: what is asked, how it is corrected, and what is found about each answer."""

import numpy as np
import pytest
from training.told_segmenter import NOTHING, ToldSegmenter, drawn, measured

from model_store.evaluation.baselines import filled_box, flooded, grab_cut
from model_store.evaluation.protocol import Protocol, chosen_masks, chosen_photos
from model_store.training.data.annotations import read_annotations
from service.sam.prompts import IGNORED


def test_each_object_is_asked_for_twice_and_corrected_twice(data):
    photos = read_annotations(data)[:1]
    nothing = ToldSegmenter(NOTHING)

    findings = measured(photos, nothing, Protocol())

    singles = [(one.start, one.step) for one in findings if one.choice == "single"]
    assert singles == [("box", 0), ("box", 1), ("box", 2), ("point", 0), ("point", 1), ("point", 2)]
    assert [one.choice for one in findings if one.choice != "single"] == ["auto", "stability", "oracle"]
    assert all(one.iou == 0.0 for one in findings)
    box, corrected, *_ = nothing.asked
    np.testing.assert_allclose(box.boxes, [[160, 128, 640, 480]])
    assert box.points.shape == (1, 0, 2)
    ((x, y),) = corrected.points[0]
    assert 160 <= x < 640
    assert 128 <= y < 480
    assert corrected.labels.tolist() == [[1]]
    click = nothing.asked[3]
    assert click.boxes is None
    assert click.labels.tolist() == [[1]]


def test_a_right_answer_is_not_corrected(data):
    photos = read_annotations(data)[:1]
    right = ToldSegmenter(drawn(photos[0]))

    findings = measured(photos, right, Protocol(corrections=1, multimask=False))

    assert [one.iou for one in findings] == [1.0] * 4
    assert right.asked[1].labels.tolist() == [[IGNORED]]
    assert [one.is_obeyed for one in findings] == [None] * 4


def test_of_four_masks_the_first_the_most_stable_and_the_best_are_found(data):
    """The object has 30 columns: the first mask has a third of them, the most stable half, the best all."""
    photos = read_annotations(data)[:1]
    four = [drawn(photos[0], share=1 / 3), drawn(photos[0]), NOTHING, drawn(photos[0], share=1 / 2)]
    segmenter = ToldSegmenter(NOTHING, four, stability=(0.3, 0.2, 0.1, 0.4))

    findings = {one.choice: one for one in measured(photos, segmenter, Protocol()) if one.choice != "single"}

    assert {choice: round(one.iou, 3) for choice, one in findings.items()} == {
        "auto": 0.333, "stability": 0.5, "oracle": 1.0
    }  # fmt: skip
    assert {choice: one.score for choice, one in findings.items()} == {
        "auto": 0.9, "stability": 0.6, "oracle": 0.8
    }  # fmt: skip
    assert {one.start for one in findings.values()} == {"point"}


@pytest.mark.parametrize("logits", [NOTHING, -NOTHING], ids=["nothing", "everything"])
def test_a_mask_that_stays_as_it_was_disobeys_each_correction(data, logits):
    photos = read_annotations(data)[:1]

    findings = measured(photos, ToldSegmenter(logits), Protocol())

    assert {one.is_obeyed for one in findings if one.step} == {False}
    assert {one.is_obeyed for one in findings if not one.step} == {None}


def test_a_finding_counts_the_pieces_of_its_mask_and_names_the_source(data):
    (photo,) = read_annotations(data)[:1]
    photo = type(photo)(photo.path, photo.size, "discs", masks=photo.masks)
    two = drawn(photo)
    two[:, 60:90] = -4.0  # a gap through the middle of the object

    findings = measured([photo], ToldSegmenter(two), Protocol(corrections=0, multimask=False))

    assert [one.pieces for one in findings] == [2, 2]
    assert {one.source for one in findings} == {"discs"}


def test_baselines_find_plain_objects(data):
    photos = read_annotations(data)[:1]
    image, (record,) = photos[0].image(), photos[0].masks
    truth = record.decode() > 0
    box = np.array(record.box, np.float32)
    loose = box + np.array([-6, -4, 6, 4], np.float32)

    np.testing.assert_array_equal(filled_box(image, box), truth)
    np.testing.assert_array_equal(grab_cut(image, loose), truth)
    np.testing.assert_array_equal(flooded(image, np.array([20.0, 20.0])), truth)
    assert grab_cut(image, np.array([0, 0, 64, 48], np.float32)).all(), "no background to learn from: the box itself"


def test_photos_and_masks_are_chosen_the_same_way_each_time(data):
    photos = read_annotations(data)
    many = type(photos[0])(photos[0].path, photos[0].size, "x", masks=photos[0].masks * 9)

    assert chosen_photos(photos, Protocol()) == [0, 1, 2, 3]
    assert chosen_photos(photos, Protocol(max_photos=2)) == [0, 3]
    assert chosen_masks(many, 0, Protocol()) == list(range(9))
    drawn_masks = chosen_masks(many, 5, Protocol(max_instances=4))
    assert len(drawn_masks) == 4
    assert drawn_masks == chosen_masks(many, 5, Protocol(max_instances=4))
