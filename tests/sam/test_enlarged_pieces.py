"""Small pieces and holes of an enlarged mask go, as a reference on scikit-image removes them."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sam.sample_values import logits, masks, placed, sizes
from skimage.measure import label
from support.whole_masks import full

from service.native.masks import native_masks
from service.sam.cleanup import MaskCleaner
from service.sam.enlarged_pieces import MarkedPixels, filter_enlarged, marked_pixels
from service.sam.frame import Frame
from service.sam.mask_pieces import SMALL_SHARE, filter_pieces
from service.sam.masks import BinaryMask, binary_mask
from service.sam.prompts import Prompt

NATIVE = native_masks()
both_ways = pytest.mark.parametrize(
    "filter_of",
    [
        filter_enlarged,
        pytest.param(
            NATIVE and NATIVE.filter_enlarged,
            marks=pytest.mark.skipif(NATIVE is None, reason="the native library was not built"),
        ),
    ],
    ids=["numpy", "native"],
)
NO_PIXELS = np.zeros(0, np.int64)
NOTHING_MARKED = MarkedPixels(NO_PIXELS, NO_PIXELS)
pixel_lists = st.lists(st.integers(0, 2**31), max_size=6).map(lambda pixels: np.array(pixels, np.int64))


def components(pixels):
    """Return the number of the component of each pixel, 0 outside, and the area of each component."""
    labels = label(pixels, connectivity=1)
    return labels, np.bincount(labels.ravel())


def filtered_slowly(pixels, marked):
    """Return the mask, (H, W) bool, by the components that scikit-image finds."""
    height, width = pixels.shape
    result = pixels.copy()
    labels, areas = components(pixels)
    least = SMALL_SHARE * areas[1:].max(initial=0)
    held = set(labels.T.ravel()[marked.positive].tolist())
    for piece in range(1, len(areas)):
        if areas[piece] < least and piece not in held:
            result[labels == piece] = False

    labels, areas = components(~result)
    inner = np.zeros((height, width), bool)
    inner[1:-1, 1:-1] = True
    stay = set(labels.T.ravel()[marked.negative].tolist()) | set(labels[~inner].tolist())
    for hole in range(1, len(areas)):
        if areas[hole] < least and hole not in stay:
            result[labels == hole] = True
    return result


def assert_filtered(filter_of, pixels, marked):
    found = filter_of(BinaryMask.cut(pixels.shape, 0, 0, pixels), marked)

    expected = filtered_slowly(pixels, marked)
    assert np.array_equal(full(found), expected)
    cut = BinaryMask.cut(pixels.shape, 0, 0, expected)
    assert (found.size, found.area, found.box) == (cut.size, cut.area, cut.box)
    assert np.array_equal(found.transitions, cut.transitions)


@both_ways
@settings(max_examples=300, deadline=None)
@given(masks(), st.tuples(*[st.sampled_from([0, 0, 1, 7])] * 4), pixel_lists, pixel_lists)
@example(np.ones((3, 4), bool), (0, 0, 0, 0), NO_PIXELS, NO_PIXELS)
@example(np.zeros((3, 4), bool), (0, 0, 0, 0), NO_PIXELS, NO_PIXELS)
@example(np.ones((1, 40), bool), (0, 0, 0, 0), NO_PIXELS, NO_PIXELS)
def test_pieces_and_holes_equal_the_reference(filter_of, pixels, margins, positive, negative):
    pixels, _ = placed(pixels, margins)

    assert_filtered(filter_of, pixels, MarkedPixels(positive % pixels.size, negative % pixels.size))


@both_ways
@settings(max_examples=40, deadline=None)
@given(logits(), sizes(largest=300), pixel_lists, pixel_lists)
def test_enlarged_logits_equal_the_reference(filter_of, values, size, positive, negative):
    pixels = full(binary_mask(values, Frame(size)))

    assert_filtered(filter_of, pixels, MarkedPixels(positive % pixels.size, negative % pixels.size))


@both_ways
def test_pieces_that_meet_only_from_one_column_to_the_next_are_two(filter_of):
    pixels = np.zeros((50, 60), bool)
    pixels[10:, 20] = True  # to the last row: the run goes on at the top of the next column
    pixels[:3, 21] = True

    found = filter_of(BinaryMask.cut(pixels.shape, 0, 0, pixels), NOTHING_MARKED)

    assert found.box == (20, 10, 21, 50)
    assert found.area == 40


@both_ways
def test_a_small_piece_and_a_hole_go_unless_a_point_holds_them(filter_of):
    pixels = np.zeros((200, 300), bool)
    pixels[20:120, 20:120] = True
    pixels[60:63, 60:63] = False  # a hole
    pixels[150:155, 250:256] = True  # a small piece
    small, hole = 252 * 200 + 152, 61 * 200 + 61
    mask = BinaryMask.cut(pixels.shape, 0, 0, pixels)

    plain = filter_of(mask, NOTHING_MARKED)
    held = filter_of(mask, MarkedPixels(np.array([small]), np.array([hole])))
    contrary = filter_of(mask, MarkedPixels(np.array([hole]), np.array([small])))

    assert (plain.box, plain.area) == ((20, 20, 120, 120), 10_000)
    assert np.array_equal(full(held), pixels)
    assert np.array_equal(full(contrary), full(plain))


@pytest.mark.parametrize("size", [(1500, 2000), (700, 900)])
@both_ways
def test_what_enlarging_cuts_off_is_dropped(filter_of, size):
    values = np.full((256, 256), -4.0, np.float32)
    values[40:120, 40:120] = 3.0
    values[80, 120:140] = 0.5  # a neck of one cell
    values[75:86, 140:151] = 3.0
    cleaner = MaskCleaner(Prompt(), Frame(size), filter_pieces)

    enlarged = binary_mask(cleaner.clean(values), Frame(size))
    found = filter_of(enlarged, NOTHING_MARKED)

    assert components(full(enlarged))[0].max() == 2
    assert components(full(found))[0].max() == 1
    assert found.box[2] < 0.51 * size[1]


@both_ways
def test_a_point_on_the_last_corner_holds_its_pixel(filter_of):
    pixels = np.zeros((200, 300), bool)
    pixels[20:120, 20:120] = True
    pixels[-2:, -2:] = True
    prompt = Prompt(np.array([[300.0, 200.0]]), np.array([1]))

    found = filter_of(BinaryMask.cut(pixels.shape, 0, 0, pixels), marked_pixels(prompt, pixels.shape))

    assert np.array_equal(full(found), pixels)
