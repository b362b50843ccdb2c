"""Prompts are converted to the decoder's tokens, and prompts outside the image are refused.

Source: docs/explanation/model.md, section 1.6.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sam.sample_values import sizes

from service.errors import PromptOutsideImage
from service.sam.frame import Frame
from service.sam.prompts import (
    ABSENT,
    BOX_BOTTOM_RIGHT,
    BOX_TOP_LEFT,
    NEGATIVE,
    PADDING,
    POSITIVE,
    Prompt,
    check_prompt,
    decoder_inputs,
    is_ambiguous,
)
from service.sam.transforms import points_to_frame

SIZE = (600, 900)


def clicks(*points, **rest):
    """Return a prompt of (x, y, label) points."""
    table = np.array(points, np.float64).reshape(-1, 3)
    return Prompt(table[:, :2], table[:, 2].astype(np.int64), **rest)


def test_points_without_a_box_are_followed_by_one_padding_point():
    prompt = clicks((450, 300, POSITIVE), (90, 60, NEGATIVE))

    points, labels = decoder_inputs([prompt], Frame(SIZE))

    assert points.dtype == np.float32
    assert labels.dtype == np.int64
    assert np.array_equal(points[0], np.array([[512, 341.5], [102.4, 68.3], [0, 0]], np.float32))
    assert labels.tolist() == [[POSITIVE, NEGATIVE, PADDING]]


def test_the_corners_of_a_box_follow_the_points_clipped_to_the_image_without_padding():
    prompt = clicks((450, 300, POSITIVE), box=np.array([-90.0, 0.0, 900.0, 600.0]))

    points, labels = decoder_inputs([prompt], Frame(SIZE))

    assert np.array_equal(points[0], np.array([[512, 341.5], [0, 0], [1024, 683]], np.float32))
    assert labels.tolist() == [[POSITIVE, BOX_TOP_LEFT, BOX_BOTTOM_RIGHT]]


def test_a_prompt_with_only_a_mask_has_no_token_but_the_table_has_a_column():
    prompt = Prompt(mask_logits=np.zeros((256, 256), np.float32))

    points, labels = decoder_inputs([prompt], Frame(SIZE))

    assert points.tolist() == [[[0, 0]]]
    assert labels.tolist() == [[ABSENT]]


def test_shorter_prompts_of_a_call_are_filled_with_absent_tokens():
    box = np.array([0.0, 0.0, 9.0, 9.0])
    prompts = [clicks((1, 2, 1), (3, 4, 0), (5, 6, 1)), Prompt(box=box), Prompt(), clicks((7, 8, 1))]

    points, labels = decoder_inputs(prompts, Frame(SIZE))

    assert points.shape == (4, 4, 2)
    assert labels.tolist() == [
        [POSITIVE, NEGATIVE, POSITIVE, PADDING],
        [BOX_TOP_LEFT, BOX_BOTTOM_RIGHT, ABSENT, ABSENT],
        [ABSENT, ABSENT, ABSENT, ABSENT],
        [POSITIVE, PADDING, ABSENT, ABSENT],
    ]
    assert (points[labels == ABSENT] == 0).all()


def test_a_padding_point_follows_a_box_where_the_model_is_trained_so():
    box = np.array([90.0, 60.0, 450.0, 300.0])
    prompts = [
        clicks((450, 300, POSITIVE)),
        Prompt(box=box),
        clicks((450, 300, NEGATIVE), (9, 6, POSITIVE), box=box),
        Prompt(mask_logits=np.zeros((256, 256), np.float32)),
        Prompt(box=box, mask_logits=np.zeros((256, 256), np.float32)),
    ]

    points, labels = decoder_inputs(prompts, Frame(SIZE, "stretch"), pads_boxes=True)

    assert labels.tolist() == [
        [POSITIVE, PADDING, ABSENT, ABSENT, ABSENT],
        [BOX_TOP_LEFT, BOX_BOTTOM_RIGHT, PADDING, ABSENT, ABSENT],
        [NEGATIVE, POSITIVE, BOX_TOP_LEFT, BOX_BOTTOM_RIGHT, PADDING],
        [ABSENT] * 5,
        [BOX_TOP_LEFT, BOX_BOTTOM_RIGHT, PADDING, ABSENT, ABSENT],
    ]
    assert (points[(labels == PADDING) | (labels == ABSENT)] == 0).all()
    assert np.array_equal(points[2, :4], np.float32([[512, 512], [10.24, 10.24], [102.4, 102.4], [512, 512]]))


@settings(deadline=None)
@given(sizes(), st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.booleans()), max_size=4), st.booleans())
def test_a_row_does_not_depend_on_the_other_prompts_of_its_call(size, shares, has_box):
    points = np.array([(x * size[1], y * size[0]) for x, y, _ in shares]).reshape(-1, 2)
    labels = np.array([int(label) for *_, label in shares], np.int64)
    prompt = Prompt(points, labels, box=np.array([0.0, 0.0, size[1], size[0]]) if has_box else None)

    alone_points, alone_labels = decoder_inputs([prompt], Frame(size))
    points, labels = decoder_inputs([clicks(*[(0, 0, 1)] * 9), prompt], Frame(size))

    count = alone_labels.shape[1]
    assert np.array_equal(points[1, :count], alone_points[0])
    assert np.array_equal(labels[1, :count], alone_labels[0])
    assert (labels[1, count:] == ABSENT).all()
    assert np.array_equal(alone_points[0, : len(shares)], points_to_frame(prompt.points, Frame(size)))


@pytest.mark.parametrize("point", [(0, 0), (900, 600), (0, 600), (450.5, 1.25)])
def test_a_point_on_the_border_is_inside(point):
    check_prompt(clicks((*point, 1)), SIZE)


@pytest.mark.parametrize("point", [(-0.1, 5), (900.1, 5), (5, -1), (5, 600.5), (float("nan"), 5), (5, float("inf"))])
def test_a_point_outside_is_refused_with_the_image_s_size(point):
    prompt = clicks((10, 10, 1), (*point, 1))

    with pytest.raises(PromptOutsideImage, match="900 x 600"):
        check_prompt(prompt, SIZE)


@pytest.mark.parametrize("box", [(-50, -50, 10, 10), (890, 590, 2000, 2000), (0, 0, 900, 600), (-1e6, -1e6, 1e6, 1e6)])
def test_a_box_may_extend_beyond_the_border(box):
    check_prompt(Prompt(box=np.array(box, np.float64)), SIZE)


@pytest.mark.parametrize(
    "box", [(-50, 0, 0, 9), (900, 0, 999, 9), (0, -9, 9, 0), (0, 600, 9, 700), (float("nan"),) * 4]
)
def test_a_box_without_a_part_inside_is_refused(box):
    with pytest.raises(PromptOutsideImage, match="900 x 600"):
        check_prompt(Prompt(box=np.array(box, np.float64)), SIZE)


def test_only_a_single_click_is_ambiguous():
    click = clicks((1, 1, 1))

    assert is_ambiguous(click)
    assert not is_ambiguous(Prompt())
    assert not is_ambiguous(clicks((1, 1, 1), (2, 2, 0)))
    assert not is_ambiguous(clicks((1, 1, 1), box=np.array([0.0, 0.0, 2.0, 2.0])))
    assert not is_ambiguous(clicks((1, 1, 1), mask_logits=np.zeros((256, 256), np.float32)))


@pytest.mark.parametrize(
    "parts",
    [
        {"points": np.zeros((2, 3)), "labels": np.zeros(2, np.int64)},
        {"points": np.zeros((2, 2)), "labels": np.zeros(1, np.int64)},
        {"points": np.zeros((1, 2)), "labels": np.array([2])},
        {"box": np.zeros((2, 2))},
        {"mask_logits": np.zeros((1, 256, 256), np.float32)},
    ],
)
def test_a_prompt_of_the_wrong_shape_is_a_bug_of_the_caller(parts):
    with pytest.raises(ValueError, match=r"not|must"):
        Prompt(**parts)
