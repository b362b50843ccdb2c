"""Cleaned masks agree with their points, keep to the box, and have no islands."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sam.sample_values import frames, logits
from skimage.measure import label
from support.whole_masks import full

from service.native.masks import native_masks
from service.sam.cleanup import BOX_MARGIN, MaskCleaner
from service.sam.enlarged_pieces import filter_enlarged, marked_pixels
from service.sam.frame import Frame
from service.sam.mask_pieces import filter_pieces
from service.sam.masks import binary_mask
from service.sam.prompts import Prompt
from service.sam.transforms import to_cells

NATIVE = native_masks()
FRAME = Frame((768, 1024))
shares = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.integers(0, 1)), min_size=1, max_size=4)


def disc(x, y, radius, inside=4.0):
    """Logits of a disc, (256, 256), in cells."""
    rows, columns = np.mgrid[:256, :256]
    return np.clip(radius - np.hypot(columns - x, rows - y), -inside, inside).astype(np.float32)


def cleaned(values, frame=FRAME, points=(), **rest):
    """Return the pixels of the cleaned mask for points (x, y, label)."""
    table = np.array(points, np.float64).reshape(-1, 3)
    prompt = Prompt(table[:, :2], table[:, 2].astype(np.int64), **rest)
    enlarged = binary_mask(MaskCleaner(prompt, frame, filter_pieces).clean(values), frame)
    return full(filter_enlarged(enlarged, marked_pixels(prompt, frame.size)))


@settings(max_examples=80, deadline=None)
@given(logits(), frames(), shares)
def test_the_mask_agrees_with_all_points_that_do_not_touch(values, frame, shares):
    size = frame.size
    points = [(x * size[1], y * size[0], kind) for x, y, kind in shares]
    pixels = [(min(int(x), size[1] - 1), min(int(y), size[0] - 1)) for x, y, _ in points]
    cells = to_cells(pixels, frame)
    for i, one in enumerate(cells):
        for j in range(i):
            assume(shares[i][2] == shares[j][2] or np.hypot(*np.subtract(one, cells[j])) > 6)

    mask = cleaned(values, frame, points)

    for (x, y), (*_, kind) in zip(pixels, shares, strict=True):
        assert mask[y, x] == bool(kind)


@pytest.mark.skipif(NATIVE is None, reason="the native library was not built")
@settings(max_examples=40, deadline=None)
@given(logits(), frames(), shares, st.booleans())
def test_both_filters_give_the_same_logits(values, frame, shares, has_box):
    size = frame.size
    points = np.array([(x * size[1], y * size[0]) for x, y, _ in shares])
    labels = np.array([kind for *_, kind in shares], np.int64)
    box = np.array([0.2 * size[1], 0.1 * size[0], 0.7 * size[1], 0.6 * size[0]]) if has_box else None
    prompt = Prompt(points, labels, box)

    found = [MaskCleaner(prompt, frame, way).clean(values) for way in (filter_pieces, NATIVE.filter_pieces)]

    assert np.array_equal(*found)


def test_a_clean_mask_stays_as_it_is():
    values = disc(100, 80, 40)

    found = MaskCleaner(Prompt(np.array([[400.0, 320.0]]), np.array([1])), FRAME, filter_pieces).clean(values)

    assert np.array_equal(found, values)
    assert found is not values


def test_islands_go_and_those_with_a_positive_point_stay():
    values = np.maximum(disc(100, 80, 40), disc(200, 150, 4))

    alone, pointed = cleaned(values, points=[(400, 320, 1)]), cleaned(values, points=[(400, 320, 1), (802, 602, 1)])

    assert label(alone, connectivity=2).max() == 1
    assert not alone[602, 802]
    assert label(pointed, connectivity=2).max() == 2


def test_holes_are_filled_and_those_with_a_negative_point_stay():
    values = np.minimum(disc(100, 80, 40), -disc(110, 80, 5))

    alone, pointed = cleaned(values), cleaned(values, points=[(442, 322, 0)])

    assert alone[322, 442]
    assert not pointed[322, 442]
    assert pointed[322, 480]


def test_a_negative_point_on_a_small_piece_removes_all_of_it():
    values = np.maximum(disc(70, 80, 40), disc(200, 150, 18))  # 20 per cent of the larger one

    kept, removed = cleaned(values), cleaned(values, points=[(830, 602, 0)])

    assert kept[602, 770]
    assert not removed[500:, 700:].any()
    assert np.array_equal(removed[:, :600], kept[:, :600])


def test_a_negative_point_in_the_object_cuts_out_a_small_part():
    values = disc(100, 80, 40)

    found = cleaned(values, points=[(402, 322, 0), (460, 400, 1)])

    assert not found[322, 402]
    assert 0.97 < found.sum() / cleaned(values).sum() < 1.0


def test_a_positive_point_beside_the_object_adds_a_small_part():
    values = disc(100, 80, 40)

    found = cleaned(values, points=[(900, 600, 1)])

    assert found[600, 900]
    assert 1.0 < found.sum() / cleaned(values).sum() < 1.03


def test_where_the_model_is_unsure_a_larger_part_changes_sides():
    sure, unsure = disc(100, 80, 40), disc(100, 80, 40)
    unsure[70:90, 90:110] = 0.2

    lost = [(cleaned(values) & ~cleaned(values, points=[(402, 322, 0)])).sum() for values in (sure, unsure)]

    assert lost[1] > 1.5 * lost[0]


def test_points_of_both_kinds_two_cells_apart_are_both_obeyed():
    found = cleaned(disc(100, 80, 40), points=[(402, 322, 0), (410, 322, 1)])

    assert not found[322, 402]
    assert found[322, 410]


@pytest.mark.parametrize("overhang", [0, 5000])
def test_a_box_bounds_the_mask_with_a_margin(overhang):
    box = np.array([100.0, 200.0, 500.0, 600.0])
    box[0] -= overhang

    found = cleaned(np.ones((256, 256), np.float32), box=box)

    rows, columns = np.nonzero(found)
    margin = BOX_MARGIN * 400 + 8  # a cell, and the half of one
    assert 600 <= rows.max() + 1 <= 600 + margin
    assert 200 - margin <= rows.min() <= 200
    assert 500 <= columns.max() + 1 <= 500 + BOX_MARGIN * (400 + overhang) + 8
    assert (columns.min() == 0) if overhang else (100 - margin <= columns.min() <= 100)


def test_a_positive_point_beyond_the_box_widens_it():
    box = np.array([100.0, 200.0, 500.0, 600.0])

    found = cleaned(np.ones((256, 256), np.float32), box=box, points=[(800, 300, 1)])

    assert found[300, 800]
    assert not found[300, 840:].any()


def test_a_box_that_is_a_guess_bounds_nothing():
    prompt = Prompt(box=np.array([100.0, 200.0, 500.0, 600.0]))
    values = np.ones((256, 256), np.float32)

    assert np.array_equal(MaskCleaner(prompt, FRAME, filter_pieces, clips_to_box=False).clean(values), values)


def test_an_empty_mask_stays_empty():
    assert not cleaned(np.full((256, 256), -1.0, np.float32)).any()
    assert not cleaned(np.full((256, 256), -1.0, np.float32), points=[(10, 10, 0)]).any()
