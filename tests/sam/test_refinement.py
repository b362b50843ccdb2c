"""Negative points alone on an earlier mask get the box of that mask."""

import numpy as np
import pytest
from support.whole_masks import full

from service.sam.frame import Frame
from service.sam.mask_pieces import filter_pieces
from service.sam.masks import binary_mask
from service.sam.prompts import Prompt
from service.sam.refinement import needs_box_of_mask, with_box_of_mask

SIZE = (600, 900)
MASK = np.full((256, 256), -3.0, np.float16)
MASK[40:90, 60:200] = 5.0
POINTS = np.array([[450.0, 200.0], [300.0, 250.0]])
BOX = np.array([0.0, 0.0, 9.0, 9.0])


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        (Prompt(POINTS, np.array([0, 0]), mask_logits=MASK), True),
        (Prompt(POINTS, np.array([0, 1]), mask_logits=MASK), False),
        (Prompt(POINTS, np.array([0, 0]), box=BOX, mask_logits=MASK), False),
        (Prompt(POINTS, np.array([0, 0])), False),
        (Prompt(mask_logits=MASK), False),
    ],
)
def test_only_negative_points_alone_on_a_mask_need_a_box(prompt, expected):
    assert needs_box_of_mask(prompt) is expected


@pytest.mark.parametrize("resize", ["letterbox", "stretch"])
@pytest.mark.parametrize("size", [SIZE, (3, 800), (40, 31), (2000, 3000), (5000, 900)])
def test_the_box_is_that_of_the_mask_without_its_islands(size, resize):
    frame = Frame(size, resize)
    logits = MASK.copy()
    logits[85:87, 3:5] = 5.0
    prompt = Prompt(POINTS, np.array([0, 0]), mask_logits=logits)

    found = with_box_of_mask(prompt, frame, filter_pieces)

    rows, columns = np.nonzero(full(binary_mask(MASK.astype(np.float32), frame)))
    if len(rows):
        cell = np.array(size[::-1] if resize == "stretch" else (max(size), max(size))) / 256
        expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert (np.abs(found.box - expected) <= np.tile(cell, 2) + 1).all()
    assert found.points is prompt.points
    assert found.mask_logits is logits


def test_an_empty_mask_gives_no_box():
    prompt = Prompt(POINTS, np.array([0, 0]), mask_logits=np.full((256, 256), -1.0, np.float32))

    assert with_box_of_mask(prompt, Frame(SIZE), filter_pieces) is prompt
