"""Prompts point at the masks that are right for them."""

import numpy as np
import pytest

from model_store.training.data.windows.augmentation import PLAIN, Augmentation
from model_store.training.data.windows.geometry import place_window, render_mask
from model_store.training.data.windows.prompts import VisibleMasks, draw_prompts, other_masks, tight_box

SIDE = 64


def a_square(x0, y0, x1, y1):
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[y0:y1, x0:x1] = 255
    return mask


def visible(*masks, weights=None, whole_areas=None):
    coverage = np.stack(masks)
    areas = np.count_nonzero(coverage > 127, axis=(1, 2)).astype(float)
    return VisibleMasks(
        coverage,
        np.ones(len(masks)) if weights is None else np.array(weights, float),
        areas if whole_areas is None else np.array(whole_areas, float),
    )


def test_a_box_is_tight_around_the_mask_on_the_photo():
    random = np.random.default_rng(0)
    for _ in range(30):
        x0, y0 = random.integers(0, 150, 2)
        x1, y1 = x0 + random.integers(20, 90), y0 + random.integers(20, 90)
        mask = np.zeros((300, 400), np.uint8)
        mask[y0:y1, x0:x1] = 1
        placement = place_window(mask.shape, (x0, y0, x1, y1), 1024, PLAIN, random)

        box = tight_box(render_mask(mask, placement, np.full((256, 256), 255, np.uint8)))

        np.testing.assert_allclose(box, np.array([x0, y0, x1, y1]) * 1024 / 400, atol=0.3)


def test_boxes_are_exact_or_moved_by_a_share_of_their_side():
    masks = visible(a_square(8, 16, 40, 32))
    exact = np.array([32, 64, 160, 128])
    largest = 0.1 * np.array([128, 64, 128, 64])

    plain = draw_prompts(masks, 5, 0, PLAIN, np.random.default_rng(0))
    noisy = draw_prompts(masks, 400, 0, Augmentation(noisy_boxes=0.5, box_noise=0.1), np.random.default_rng(0))

    assert (plain.boxes == exact).all()
    shift = np.abs(noisy.boxes - exact)
    assert (shift <= largest).all()
    assert shift.max(0) == pytest.approx(largest, rel=0.1)
    assert 0.4 < (shift == 0).all(1).mean() < 0.6


def test_noisy_boxes_stay_in_the_window():
    masks = visible(a_square(0, 0, SIDE, SIDE))

    prompts = draw_prompts(masks, 50, 0, Augmentation(noisy_boxes=1.0, box_noise=0.3), np.random.default_rng(0))

    assert prompts.boxes.min() == 0
    assert prompts.boxes.max() == 4 * SIDE


def test_points_are_in_the_centre_or_anywhere_in_the_mask():
    masks = visible(a_square(8, 16, 19, 27), a_square(40, 8, 62, 60))
    centres = {(13 * 4 + 1.5, 21 * 4 + 1.5)}

    middles = draw_prompts(visible(a_square(8, 16, 19, 27)), 0, 9, PLAIN, np.random.default_rng(0))
    anywhere = draw_prompts(masks, 0, 300, Augmentation(centre_points=0.0), np.random.default_rng(0))

    assert {tuple(point) for point in middles.points.tolist()} == centres
    cells = np.floor((anywhere.points + 0.5) / 4).astype(int)
    covered = anywhere.targets[np.arange(300), 0, cells[:, 1], cells[:, 0]]
    assert covered.min() == 255
    assert len(np.unique(cells, axis=0)) > 200


def test_the_largest_and_the_smallest_other_mask_under_a_point_are_targets():
    whole, part, detail, elsewhere = (
        a_square(4, 4, 60, 60), a_square(10, 10, 30, 30), a_square(18, 18, 23, 23), a_square(40, 40, 50, 50),
    )  # fmt: skip
    nearly_whole = a_square(4, 4, 60, 56)
    masks = visible(whole, part, detail, elsewhere, nearly_whole)

    assert other_masks(masks, 1, (20, 20)) == (0, 2)
    assert other_masks(masks, 2, (20, 20)) == (0, 1)
    assert other_masks(masks, 0, (20, 20)) == (1, 2), "a mask of nearly the same area is no other target"
    assert other_masks(masks, 1, (12, 28)) == (0, None), "two others of nearly the same area are one target"
    assert other_masks(masks, 3, (45, 45)) == (0, None)
    assert other_masks(masks, 0, (6, 6)) == (None, None)


def test_targets_are_the_meant_mask_and_for_points_the_others():
    whole, part = a_square(4, 4, 60, 60), a_square(20, 20, 40, 40)
    masks = visible(whole, part, weights=[0.0, 1.0])

    prompts = draw_prompts(masks, 2, 2, PLAIN, np.random.default_rng(0))

    np.testing.assert_array_equal(prompts.targets[:, 0], np.stack([part] * 4))
    np.testing.assert_array_equal(prompts.targets[2:, 1], np.stack([whole] * 2))
    assert prompts.has_target.tolist() == [[True, False, False]] * 2 + [[True, True, False]] * 2
    assert prompts.targets[:2, 1:].max() == prompts.targets[:, 2].max() == 0


def test_cut_off_and_small_masks_are_less_likely_targets_and_specks_never():
    large, detached, small, speck = (
        a_square(0, 0, 30, 30), a_square(34, 0, 64, 30), a_square(0, 40, 4, 44), a_square(40, 40, 42, 43),
    )  # fmt: skip
    masks = visible(large, detached, small, speck, whole_areas=[900, 1800, 16, 6])

    mask_probabilities = masks.probabilities()

    assert mask_probabilities.sum() == pytest.approx(1.0)
    assert mask_probabilities[1] == pytest.approx(0.15 * mask_probabilities[0])
    assert mask_probabilities[2] == pytest.approx(0.65 * mask_probabilities[0])
    assert mask_probabilities[3] == 0


def test_a_window_without_a_mask_has_no_prompts():
    assert draw_prompts(visible(a_square(5, 5, 7, 7)), 2, 2, PLAIN, np.random.default_rng(0)) is None
