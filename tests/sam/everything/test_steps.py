"""The steps of everything mode agree with a plain version of them, on drawn values and on cases made by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as stn
from support import everything_reference as plain
from support.whole_masks import full

from service.sam.everything.crops import is_cut_off
from service.sam.everything.duplicates import inclusive_boxes, without_duplicates
from service.sam.everything.filters import exceeds, is_stable, stability_scores
from service.sam.everything.grid import coarse_to_fine, grid_points
from service.sam.everything.small_regions import without_small_regions
from service.sam.mask_runs import as_runs
from service.sam.masks import BinaryMask


def mask_of(pixels):
    return BinaryMask.cut(pixels.shape, 0, 0, np.asarray(pixels, np.bool_))


# Few coordinates and scores, so that boxes and scores are often equal and IoUs lie at the threshold.
corners = st.integers(0, 10)
boxes = st.lists(
    st.tuples(corners, corners, corners, corners).map(
        lambda c: (min(c[0], c[2]), min(c[1], c[3]), max(c[0], c[2]), max(c[1], c[3]))
    ),
    max_size=30,
)
thresholds = st.sampled_from([0.0, 0.3, 0.5, 0.7, 1.0])
small_masks = stn.arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12)))


def test_grid_points_lie_in_the_middle_of_equal_parts_x_first():
    assert grid_points(2).tolist() == [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]
    assert grid_points(1).tolist() == [[0.5, 0.5]]


@pytest.mark.parametrize("side", range(1, 34))
def test_levels_of_a_grid_hold_each_point_once_and_begin_coarse(side):
    levels = coarse_to_fine(side)

    assert sorted(np.concatenate(levels).tolist()) == list(range(side**2))
    assert all(np.all(np.diff(level) > 0) for level in levels)
    if side >= 8:
        rows, columns = np.divmod(levels[0], side)
        assert set(np.diff(np.unique(rows))) == set(np.diff(np.unique(columns))) == {4}


def test_a_mask_is_cut_off_where_it_ends_at_an_edge_of_its_crop_inside_the_image():
    crop_box, size = (100, 0, 200, 100), (300, 400)
    whole = [[121, 0, 179, 79], [140, 21, 150, 30]]
    cut = [[120, 0, 179, 79], [121, 0, 180, 79], [121, 0, 179, 80]]

    assert is_cut_off(np.array(whole + cut), crop_box, size).tolist() == [False, False, True, True, True]


def test_nothing_is_cut_off_in_the_whole_image():
    boxes_at_edges = np.array([[0, 0, 399, 299], [390, 0, 399, 5]])

    assert not is_cut_off(boxes_at_edges, (0, 0, 400, 300), (300, 400)).any()


def test_a_quality_has_to_exceed_its_threshold_and_a_stability_has_to_reach_it():
    values = np.array([0.5, np.nextafter(np.float32(0.5), np.float32(1)), np.nan], np.float32)

    assert exceeds(values, 0.5).tolist() == [False, True, False]
    assert is_stable(values, 0.5).tolist() == [True, True, False]
    assert exceeds(values, 0.0).all()
    assert is_stable(values, 0.0).all()


@given(stn.arrays(np.float32, (3, 5, 4), elements=st.sampled_from([-2, -1, -0.5, 0, 0.5, 1, 2])), thresholds)
def test_stability_equals_the_plain_one(logits, offset):
    expected = [plain.stability(one, offset) for one in logits]

    assert np.array_equal(stability_scores(logits, offset), np.array(expected, np.float32), equal_nan=True)


def test_a_mask_without_any_pixel_has_no_stability():
    assert np.isnan(stability_scores(np.full((1, 2, 2), -9, np.float32), 1.0)).all()


@given(small_masks)
def test_boxes_equal_the_plain_ones(pixels):
    assert inclusive_boxes([mask_of(pixels).box]).tolist() == [list(plain.inclusive_box(pixels))]


@given(boxes, st.data(), thresholds)
def test_suppression_equals_the_plain_one(drawn, data, threshold):
    scores = data.draw(stn.arrays(np.float32, len(drawn), elements=st.sampled_from([0, 0.25, 0.5, 1])))

    kept = without_duplicates(np.array(drawn, np.int64).reshape(-1, 4), scores, threshold)

    assert kept.tolist() == plain.suppressed(drawn, scores, threshold)


@given(boxes, st.data(), thresholds, st.integers(1, 5))
def test_suppression_that_ends_early_returns_the_best_boxes(drawn, data, threshold, most):
    scores = data.draw(stn.arrays(np.float32, len(drawn), elements=st.sampled_from([0, 0.25, 0.5, 1])))
    every = np.array(drawn, np.int64).reshape(-1, 4)

    best = without_duplicates(every, scores, threshold, most=most)

    assert best.tolist() == without_duplicates(every, scores, threshold)[:most].tolist()


def test_an_iou_at_the_threshold_in_float32_suppresses_nothing():
    # The IoU is 0.7 in float32, which is below 0.7.
    assert without_duplicates(np.array([[0, 0, 10, 10], [0, 0, 10, 7]]), np.array([1.0, 0.5]), 0.7).tolist() == [0, 1]


def test_boxes_one_pixel_wide_suppress_nothing():
    twice = np.array([[3, 0, 3, 9], [3, 0, 3, 9], [0, 0, 0, 0], [0, 0, 0, 0]])

    assert without_duplicates(twice, np.ones(4), 0.0).tolist() == [0, 1, 2, 3]


# The size of the image around the mask, and where the mask lies in it.
surroundings = st.tuples(*[st.integers(0, 9)] * 4)


@given(small_masks, surroundings, st.integers(1, 40))
def test_removing_small_regions_equals_the_plain_way(drawn, around, area):
    pixels = np.pad(drawn, ((around[0], around[1]), (around[2], around[3])))
    mask = mask_of(pixels)

    cleaned = without_small_regions(mask, area)

    expected, is_changed = plain.without_small_regions(pixels, area)
    assert (cleaned is not mask) == is_changed
    if expected.sum() < area and is_changed:
        # Of equal islands one stays: which one depends on blocks of two by two pixels.
        assert cleaned.area == expected.sum()
        assert len(plain.regions(full(cleaned))) == 1
    else:
        assert np.array_equal(full(cleaned), expected)


@pytest.mark.parametrize("margin", [0, 2])
@pytest.mark.parametrize("area", [100, 200, 350, 380, 420, 421, 500, 900])
def test_what_lies_beyond_the_window_of_a_mask_counts_for_its_holes(margin, area):
    """A band across the image parts the rest in two holes of 420 pixels. With a margin they are one."""
    pixels = np.zeros((30, 30), np.bool_)
    pixels[14:16, margin : 30 - margin] = True

    for band in (pixels, pixels.T):
        assert np.array_equal(
            full(without_small_regions(mask_of(band), area)), plain.without_small_regions(band, area)[0]
        )


def test_a_mask_that_does_not_change_is_the_same_object():
    square, empty = mask_of(np.ones((5, 5))), mask_of(np.zeros((5, 5)))

    assert without_small_regions(square, 25) is square
    assert without_small_regions(empty, 5) is empty


def test_the_largest_island_of_small_ones_stays_and_the_mask_counts_as_changed():
    pixels = np.zeros((5, 9), np.bool_)
    pixels[0, :3] = pixels[4, 4:8] = True
    mask = mask_of(pixels)

    cleaned = without_small_regions(mask, 10)

    assert cleaned.box == (4, 4, 8, 5)
    assert without_small_regions(cleaned, 10) is not cleaned


@given(small_masks)
def test_a_mask_as_runs_has_the_same_pixels(pixels):
    mask = mask_of(pixels)

    runs = as_runs(mask)

    assert (runs.size, runs.box, runs.area) == (mask.size, mask.box, mask.area)
    assert runs.transitions.tolist() == mask.transitions.tolist()
    assert np.array_equal(full(runs), pixels)
    assert as_runs(runs) is runs
