"""Windows show the pixels that the service encodes, and masks lie where their photo shows them."""

import numpy as np
import pytest
from PIL import Image

from model_store.training.data.windows.augmentation import PLAIN, Augmentation
from model_store.training.data.windows.geometry import (
    place_window,
    render_inside,
    render_mask,
    render_photo,
    visible_shares,
)
from service.sam.transforms import input_size, preprocess

WHOLE = Augmentation(whole=1.0, whole_frame=1.0, rotated=0.0)
ROTATED = Augmentation(rotated=1.0)
PARTS = Augmentation(whole=0.0, whole_frame=0.0, rotated=0.3)


def a_photo(height, width, seed=0):
    small = np.random.default_rng(seed).integers(0, 255, (height // 8, width // 8, 3), np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def a_disc(height, width, x, y, radius):
    rows, columns = np.mgrid[:height, :width] + 0.5
    return ((columns - x) ** 2 + (rows - y) ** 2 <= radius**2).astype(np.uint8)


def served(photo):
    """The service's frame before normalising, (1024, 1024, 3)."""
    return preprocess(photo, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)).transpose(1, 2, 0).astype(np.uint8)


def everything(side):
    return np.full((side // 4, side // 4), 255, np.uint8)


@pytest.mark.parametrize("size", [(333, 480), (481, 300), (700, 512), (1200, 1400)])
def test_a_plain_window_of_the_whole_frame_has_the_served_pixels(size):
    photo = a_photo(*size)

    placement = place_window(size, (30, 40, 90, 80), 1024, PLAIN, np.random.default_rng(0))

    height, width = input_size(size)
    assert placement.origin == (0, 0)
    np.testing.assert_array_equal(render_photo(photo, placement)[:height, :width], served(photo)[:height, :width])
    inside = render_inside(placement) / 255
    assert inside.sum() * 4 == pytest.approx(height * width, rel=1e-3)
    assert inside[: height // 2, : width // 2].min() == 1.0


@pytest.mark.parametrize("side", [256, 512])
@pytest.mark.parametrize("size", [(333, 480), (481, 300), (1200, 1400)])
def test_a_plain_smaller_window_is_a_piece_of_the_served_frame(side, size):
    photo, random = a_photo(*size), np.random.default_rng(0)
    frame = served(photo)

    for target_box in ((0, 0, 30, 40), (100, 90, 200, 260), (size[1] - 40, size[0] - 9, size[1], size[0])):
        placement = place_window(size, target_box, side, PLAIN, random)
        x, y = (16 * token for token in placement.origin)
        height, width = (min(side, edge - start) for edge, start in zip(input_size(size), (y, x), strict=True))
        piece = frame[y : y + height, x : x + width].astype(int)
        # Pillow keeps the corners of a piece in float32, which may decide how a level is rounded.
        assert np.abs(render_photo(photo, placement)[:height, :width] - piece).max() <= 1
        assert render_inside(placement)[: height // 2, : width // 2].min() == 255


@pytest.mark.parametrize("side", [256, 512, 1024])
@pytest.mark.parametrize("augmentation", [PLAIN, WHOLE, ROTATED, PARTS], ids=["plain", "whole", "rotated", "parts"])
@pytest.mark.parametrize("size", [(300, 400), (900, 700)])
def test_a_mask_lies_within_half_a_pixel_of_what_the_photo_shows(side, augmentation, size):
    random = np.random.default_rng(side)
    for _ in range(8):
        x, y, radius = random.uniform(60, 240), random.uniform(60, 240), random.uniform(15, 50)
        disc = a_disc(*size, x, y, radius)
        target_box = (x - radius, y - radius, x + radius, y + radius)

        placement = place_window(size, target_box, side, augmentation, random)
        pixels = render_photo(disc[..., None].repeat(3, 2) * np.uint8(255), placement)[..., 0]
        coverage = render_mask(disc, placement, everything(side))

        assert float(coverage.sum() * 16) == pytest.approx(float(pixels.sum()), rel=0.05)
        assert np.abs(centre(coverage) * 4 - centre(pixels)).max() < 0.5


def centre(weights):
    """Centre of gravity (x, y), the middle of the first element at 0.5."""
    rows, columns = np.mgrid[: weights.shape[0], : weights.shape[1]] + 0.5
    return np.array([(columns * weights).sum(), (rows * weights).sum()]) / weights.sum()


@pytest.mark.parametrize("side", [256, 1024])
def test_coverage_by_the_photo_is_what_dense_samples_say(side):
    random = np.random.default_rng(1)
    for _ in range(4):
        placement = place_window((300, 400), (50, 60, 120, 200), side, ROTATED, random)

        inside = render_inside(placement) / 255

        steps = (np.arange(side * 2) + 0.5) / 2  # four samples along each side of a cell
        x, y = np.meshgrid(steps, steps)
        there = np.linalg.inv(placement.matrix) @ np.stack([x.ravel(), y.ravel(), np.ones(x.size)])
        is_inside = (there[0] >= 0) & (there[0] <= 400) & (there[1] >= 0) & (there[1] <= 300)
        expected = is_inside.reshape(side // 2, 4, side // 2, 4).mean((1, 3))
        assert np.abs(inside - expected).mean() < 0.004
        assert np.abs(inside - expected).max() < 0.5


def test_a_mask_covers_nothing_outside_the_photo_and_all_of_its_edge_inside():
    placement = place_window((300, 400), (0, 0, 400, 300), 1024, PLAIN, np.random.default_rng(0))
    valid = np.zeros((256, 256), np.uint8)
    valid[:192] = 255

    coverage = render_mask(np.ones((300, 400), np.uint8), placement, valid)

    assert coverage[:192].min() == 255
    assert coverage[192:].max() == 0


def test_an_object_fits_into_the_window_that_shows_it():
    random = np.random.default_rng(0)
    for _ in range(50):
        x, y, width, height = random.uniform(0, 200), random.uniform(0, 100), *random.uniform(20, 190, 2)
        target_box = np.array([x, y, x + width, y + height])
        placement = place_window((300, 400), tuple(target_box), 512, Augmentation(whole=0.0, rotated=0.0), random)
        # Windows begin at whole tokens, which may cut off half a token.
        assert visible_shares(target_box[None], placement)[0] > 0.9


def test_visible_shares_count_what_is_cut_off():
    placement = place_window((1024, 1024), (0, 0, 100, 100), 256, PLAIN, np.random.default_rng(0))
    assert placement.offset == (0, 0)

    shares = visible_shares(np.array([[0, 0, 100, 100], [206, 0, 306, 100], [300, 300, 400, 400.0]]), placement)

    assert shares.tolist() == [1.0, 0.5, 0.0]


def test_windows_are_at_their_own_position_or_anywhere():
    random = np.random.default_rng(0)
    own, anywhere = Augmentation(own_position=1.0, zoom=(1.0, 1.0), whole=0.0), Augmentation(own_position=0.0)

    for _ in range(20):
        placement = place_window((768, 1024), (600, 500, 700, 600), 256, own, random)
        assert placement.origin == (placement.offset[0] // 16, placement.offset[1] // 16)
        assert placement.offset[0] % 16 == placement.offset[1] % 16 == 0
    origins = [place_window((768, 1024), (0, 0, 9, 9), 256, anywhere, random).origin for _ in range(300)]
    assert {min(axis) for axis in zip(*origins, strict=True)} == {0}
    assert {max(axis) for axis in zip(*origins, strict=True)} == {48}


@pytest.mark.parametrize("values", [{"whole": 1.5}, {"pasted": -0.1}, {"zoom": (2.0, 1.0)}, {"zoom": (0.0, 1.0)}])
def test_shares_and_ranges_of_the_augmentation_are_checked(values):
    with pytest.raises(ValueError, match=next(iter(values))):
        Augmentation(**values)
