"""The alpha of a mask: which pixels are inside, how wide the soft edge is, and what it holds after cleanup."""

import io

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from PIL import Image
from sam.sample_values import frames, logits

from service.sam.alpha import INSIDE, soft_alpha
from service.sam.cleanup import MaskCleaner
from service.sam.enlarged_pieces import filter_enlarged, marked_pixels
from service.sam.frame import Frame
from service.sam.mask_pieces import filter_pieces
from service.sam.masks import binary_mask
from service.sam.png import encode_alpha_png
from service.sam.prompts import Prompt

Y, X = np.mgrid[:256, :256].astype(np.float32)


def disc(x, y, radius, slope=1.0):
    """Logits (256, 256) of a disc; they fall off by `slope` per cell."""
    return (slope * (radius - np.hypot(X - x, Y - y))).astype(np.float32)


def whole(alpha):
    """Alpha of all pixels of the image, (H, W)."""
    full = np.zeros(alpha.size, np.uint8)
    x0, y0, x1, y1 = alpha.box
    full[y0:y1, x0:x1] = alpha.values
    return full


def pixels_of(mask):
    """Pixels of a mask in the whole image, (H, W) bool."""
    full = np.zeros(mask.size, np.bool_)
    x0, y0, x1, y1 = mask.box
    full[y0:y1, x0:x1] = mask.crop
    return full


def cell_of(frame):
    """Sides of a logit in the image: height, width."""
    height, width = frame.size
    longest = max(frame.size)
    return (height / 256, width / 256) if frame.resize == "stretch" else (longest / 256, longest / 256)


@settings(deadline=None, max_examples=60)
@given(logits(), frames())
def test_a_pixel_is_inside_exactly_where_alpha_is_at_least_128(mask_logits, frame):
    mask = binary_mask(mask_logits, frame)

    alpha = soft_alpha(mask_logits, frame, mask)

    assert np.array_equal(whole(alpha) >= INSIDE, pixels_of(mask))


@settings(deadline=None, max_examples=30)
@given(logits(), frames())
def test_this_holds_for_a_cleaned_mask_and_what_was_removed_is_hard(mask_logits, frame):
    height, width = frame.size
    prompt = Prompt(np.array([[width / 2, height / 2]]), np.array([1]))
    cleaned = MaskCleaner(prompt, frame, filter_pieces).clean(mask_logits)
    enlarged = binary_mask(cleaned, frame)
    mask = filter_enlarged(enlarged, marked_pixels(prompt, frame.size))

    full = whole(soft_alpha(cleaned, frame, mask))

    inside, before = pixels_of(mask), pixels_of(enlarged)
    assert np.array_equal(full >= INSIDE, inside)
    # Rounding moves pixels of plateaus; there the alpha is one of the two levels around the border.
    assert set(full[before & ~inside].tolist()) <= {0, INSIDE - 1}
    assert set(full[~before & inside].tolist()) <= {255, INSIDE}


@pytest.mark.parametrize("slope", [0.01, 1.0, 40.0])
@pytest.mark.parametrize("resize", ["letterbox", "stretch"])
def test_the_edge_is_one_cell_wide_however_steep_the_logits_are(slope, resize):
    frame = Frame((2000, 3000), resize)
    mask_logits = disc(120, 60, 40, slope)

    full = whole(soft_alpha(mask_logits, frame, binary_mask(mask_logits, frame)))

    row = full[round(60.5 * (3000 if resize == "letterbox" else 2000) / 256)]
    soft = np.count_nonzero((row > 2) & (row < 253))
    assert soft / 2 == pytest.approx(3000 / 256, rel=0.2)  # the row meets the edge twice


@settings(deadline=None, max_examples=30)
@given(logits(), frames())
def test_nothing_is_soft_beyond_a_cell_from_the_border(mask_logits, frame):
    mask = binary_mask(mask_logits, frame)
    inside = pixels_of(mask)

    full = whole(soft_alpha(mask_logits, frame, mask))

    reach = 2 * int(np.ceil(max(cell_of(frame))) + 1) + 1
    kernel = np.ones((reach, reach), np.uint8)
    grown = cv2.dilate(inside.view(np.uint8), kernel)
    shrunk = cv2.erode(inside.view(np.uint8), kernel)
    assert not full[grown == 0].any()
    assert (full[shrunk == 1] == 255).all()


def test_tiles_do_not_show():
    # The same disc at two places of a large image. The distance is a whole number of cells, but not of tiles.
    frame = Frame((2048, 2048), "stretch")
    one, other = (
        soft_alpha(each, frame, binary_mask(each, frame)) for each in (disc(70, 70, 41), disc(70 + 13, 70 + 29, 41))
    )

    assert np.array_equal(one.values, other.values)
    assert (other.x0 - one.x0, other.y0 - one.y0) == (13 * 8, 29 * 8)


def test_an_empty_mask_is_transparent():
    frame = Frame((30, 40), "letterbox")
    mask_logits = np.full((256, 256), -1.0, np.float32)

    alpha = soft_alpha(mask_logits, frame, binary_mask(mask_logits, frame))

    assert alpha.box == (0, 0, 0, 0)
    for crop, size in ((True, (1, 1)), (False, (40, 30))):
        image = Image.open(io.BytesIO(encode_alpha_png(alpha, crop=crop)))
        assert (image.mode, image.size) == ("L", size)
        assert not np.asarray(image).any()


@settings(deadline=None, max_examples=30)
@given(logits(), frames())
def test_the_png_has_the_values(mask_logits, frame):
    alpha = soft_alpha(mask_logits, frame, binary_mask(mask_logits, frame))

    full = Image.open(io.BytesIO(encode_alpha_png(alpha, crop=False)))
    cut = Image.open(io.BytesIO(encode_alpha_png(alpha, crop=True)))

    assert full.mode == cut.mode == "L"
    assert np.array_equal(np.asarray(full), whole(alpha))
    assert np.array_equal(np.asarray(cut), alpha.values if alpha.values.size else [[0]])
