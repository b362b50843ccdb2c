"""The box that is added to a click, and the prompts that get a box."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from service.sam.frame import Frame
from service.sam.granularity import Proposals, box_around, takes_box, with_box
from service.sam.prompts import NEGATIVE, POSITIVE, Prompt

SIZE = (768, 384)  # an image that is enlarged by 4 / 3 in the frame


def proposals(*rows):
    """Return the proposals of rows; each row is a box in the frame and its score."""
    table = np.array(rows, np.float32).reshape(-1, 5)
    return Proposals(table[:, :4], table[:, 4])


def click(x, y, label=POSITIVE, **rest):
    return Prompt(points=np.array([[x, y]], np.float64), labels=np.array([label], np.int64), **rest)


def test_the_nearest_confident_boxes_around_a_click_are_merged_by_score():
    given = proposals(
        [10, 10, 30, 30, 0.8], [4, 4, 24, 24, 0.4], [0, 0, 100, 100, 0.9], [12, 12, 28, 28, 0.05], [40, 40, 60, 60, 0.9]
    )  # fmt: skip

    box = box_around((20.0, 20.0), given, nearest=2)

    assert_allclose(box, [8.0, 8.0, 28.0, 28.0], rtol=1e-6)


def test_the_nearest_five_count():
    given = proposals(*([10 - i, 10 - i, 30, 30, 0.5] for i in range(8)))

    assert_allclose(box_around((20.0, 20.0), given), [8, 8, 30, 30])


@pytest.mark.parametrize(
    "row",
    [[10, 10, 30, 30, 0.1], [20, 10, 30, 30, 0.9], [10, 10, 30, 20, 0.9], [21, 10, 30, 30, 0.9], [10, 2, 30, 19, 0.9]],
)
def test_boxes_with_a_low_score_or_without_the_click_are_ignored(row):
    assert box_around((20.0, 20.0), proposals(row)) is None


def test_without_any_proposal_there_is_no_box():
    assert box_around((20.0, 20.0), proposals()) is None


def test_a_click_gets_its_box_in_pixels_of_the_image():
    prompt = click(150, 75)

    grown = with_box(prompt, proposals([120, 60, 240, 160, 0.9]), Frame(SIZE))

    assert_allclose(grown.box, [90, 45, 180, 120])
    assert grown.points is prompt.points
    assert prompt.box is None


def test_a_box_ends_where_the_image_ends():
    grown = with_box(click(383, 700), proposals([400, 800, 1000, 1024, 0.9]), Frame(SIZE))

    assert_allclose(grown.box, [300, 600, 384, 768])


def test_a_click_outside_all_boxes_is_not_changed():
    prompt = click(10, 10)

    assert with_box(prompt, proposals([120, 60, 240, 160, 0.9]), Frame(SIZE)) is prompt


@pytest.mark.parametrize(
    "prompt",
    [
        click(150, 75, NEGATIVE),
        click(150, 75, box=np.array([0.0, 0, 9, 9])),
        click(150, 75, mask_logits=np.zeros((256, 256), np.float32)),
        Prompt(box=np.array([0.0, 0, 9, 9])),
        Prompt(points=np.full((2, 2), 75.0), labels=np.array([POSITIVE, POSITIVE])),
    ],
)
def test_prompts_other_than_a_single_positive_click_are_not_changed(prompt):
    everywhere = proposals([0, 0, 1024, 1024, 0.9])

    assert not takes_box(prompt)
    assert with_box(prompt, everywhere, Frame(SIZE)) is prompt


def test_boxes_and_scores_that_do_not_fit_are_a_bug_of_the_caller():
    with pytest.raises(ValueError, match="Boxes"):
        Proposals(np.zeros((3, 4), np.float32), np.zeros(2, np.float32))
