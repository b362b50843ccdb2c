"""The fast masks equal those of the full path, and `candidates` returns the right outputs."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sam.reference import upsampled
from sam.sample_values import frames, logits, masks
from support.whole_masks import full

from service.native.masks import native_masks
from service.sam.frame import Frame
from service.sam.masks import BinaryMask, MaskChoice, binary_mask, candidates, mask_count, prefer_agreeing, rank
from service.sam.prompts import Prompt

EDGESAM = MaskChoice()
SAM = MaskChoice(ambiguous=(1, 2, 3))
TINY_SAM = MaskChoice(ambiguous=(1, 2, 3), other=(1, 2, 3))

# Both functions have to pass. tests/native checks that the library was built where there is a compiler.
NATIVE = native_masks()
needs_library = pytest.mark.skipif(NATIVE is None, reason="the native library was not built")
both_ways = pytest.mark.parametrize(
    "mask_of",
    [binary_mask, pytest.param(NATIVE and NATIVE.binary_mask, marks=needs_library)],
    ids=["numpy", "native"],
)


def assert_equal_to_the_full_path(values, frame, mask_of):
    found = mask_of(values, frame)

    expected = upsampled(values, frame)
    # A logit within float32 rounding of 0 may be on either side.
    is_clear = np.abs(expected) >= 1e-4 * max(1.0, np.abs(values).max())
    pixels = full(found)
    assert pixels.shape == frame.size
    assert np.array_equal(pixels[is_clear], (expected > 0.0)[is_clear])
    assert_tight(found)


def assert_tight(mask):
    x0, y0, x1, y1 = mask.box
    assert mask.crop.dtype == np.bool_
    assert mask.crop.shape == (y1 - y0, x1 - x0)
    assert mask.area == full(mask).sum()
    if mask.area == 0:
        assert mask.box == (0, 0, 0, 0)
        return
    assert 0 <= x0 < x1 <= mask.size[1]
    assert 0 <= y0 < y1 <= mask.size[0]
    for border in (mask.crop[0], mask.crop[-1], mask.crop[:, 0], mask.crop[:, -1]):
        assert border.any()


@both_ways
@settings(max_examples=120, deadline=None)
@given(logits(), frames())
@example(np.ones((256, 256), np.float32), Frame((1, 1)))
@example(np.ones((256, 256), np.float32), Frame((1, 2048)))
@example(np.ones((256, 256), np.float32), Frame((2048, 1)))
@example(np.ones((256, 256), np.float32), Frame((1, 1), "stretch"))
@example(np.ones((256, 256), np.float32), Frame((1, 5000), "stretch"))
@example(np.ones((256, 256), np.float32), Frame((5000, 1), "stretch"))
def test_a_mask_equals_the_full_path_at_any_size(mask_of, values, frame):
    assert_equal_to_the_full_path(values, frame, mask_of)


@both_ways
@settings(max_examples=8, deadline=None)
@given(
    logits(),
    st.sampled_from([(3000, 4000), (4000, 1100), (1, 2048), (3, 4000), (2160, 1440)]),
    st.sampled_from(["letterbox", "stretch"]),
)
@example(np.random.default_rng(1).normal(size=(256, 256)).astype(np.float32), (7, 60_000), "stretch")
@example(np.random.default_rng(1).normal(size=(256, 256)).astype(np.float32), (60_000, 7), "stretch")
def test_a_mask_equals_the_full_path_at_large_sizes(mask_of, values, size, resize):
    assert_equal_to_the_full_path(values, Frame(size, resize), mask_of)


@needs_library
@settings(max_examples=120, deadline=None)
@given(logits(), frames())
def test_both_functions_return_the_same_mask_but_for_logits_beside_zero(values, frame):
    found, expected = NATIVE.binary_mask(values, frame), binary_mask(values, frame)

    # They add the same products in another order.
    is_clear = np.abs(upsampled(values, frame)) >= 1e-5 * max(1.0, np.abs(values).max())
    assert np.array_equal(full(found)[is_clear], full(expected)[is_clear])


@both_ways
def test_noise_at_twelve_megapixels_equals_the_full_path(mask_of):
    values = np.random.default_rng(0).normal(size=(256, 256)).astype(np.float32)

    assert_equal_to_the_full_path(values, Frame((3000, 4000)), mask_of)


@pytest.mark.parametrize("frame", [Frame((156, 319_488)), Frame((760, 1 << 16), "stretch")], ids=str)
def test_a_flat_image_takes_little_memory_without_the_native_library(frame):
    values = np.random.default_rng(0).normal(size=(256, 256)).astype(np.float32)

    tracemalloc.start()
    try:
        mask = binary_mask(values, frame)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert mask.area > 0
    # The pixels take 48 MiB. All 256 rows of logits would take 312 MiB at the first width, and thrice 64 at the second.
    assert peak < 128 << 20


@both_ways
def test_logits_in_the_padding_have_no_effect_and_a_stretched_image_has_none(mask_of):
    values = np.full((256, 256), -1.0, np.float32)
    values[200:] = 1.0

    letterboxed = mask_of(values, Frame((1000, 2000)))
    stretched = mask_of(values, Frame((1000, 2000), "stretch"))

    assert letterboxed.area == 0
    assert stretched.box == (0, 781, 2000, 1000)  # the middle of rows 199 and 200 is 200 of 256


@both_ways
def test_a_logit_of_exactly_zero_is_not_in_the_mask(mask_of):
    mask = mask_of(np.zeros((256, 256), np.float32), Frame((300, 400)))

    assert mask.area == 0
    assert mask.box == (0, 0, 0, 0)
    assert mask.crop.shape == (0, 0)
    assert not full(mask).any()


@both_ways
def test_pixels_of_exactly_zero_beside_an_object_are_not_in_the_mask(mask_of):
    values = np.zeros((256, 256), np.float32)
    values[100:150, 60:90] = 1.0

    mask = mask_of(values, Frame((1024, 1024)))

    assert np.array_equal(full(mask), upsampled(values, Frame((1024, 1024))) > 0.0)


@both_ways
def test_the_largest_float16_logits_do_not_overflow(mask_of):
    values = np.where(np.arange(256 * 256).reshape(256, 256) % 2, 65504.0, -65504.0).astype(np.float32)

    assert_equal_to_the_full_path(values, Frame((500, 500)), mask_of)


@settings(max_examples=60, deadline=None)
@given(logits(), frames())
@example(np.ones((256, 256), np.float32), Frame((3, 4)))
@example(-np.ones((256, 256), np.float32), Frame((3, 4)))
@example(np.ones((256, 256), np.float32), Frame((1, 5), "stretch"))
@needs_library
def test_transitions_area_and_box_agree_with_the_pixels(values, frame):
    mask = NATIVE.binary_mask(values, frame)

    drawn = BinaryMask.cut(frame.size, 0, 0, full(mask))
    assert np.array_equal(mask.transitions, drawn.transitions)
    assert (mask.area, mask.box) == (drawn.area, drawn.box)


@needs_library
def test_logits_of_another_shape_are_an_error():
    with pytest.raises(ValueError, match="256"):
        NATIVE.binary_mask(np.zeros((255, 256), np.float32), Frame((10, 10)))


@settings(deadline=None)
@given(masks(), st.integers(0, 9), st.integers(0, 9))
def test_a_cut_mask_is_the_smallest_rectangle_in_its_place(pixels, x0, y0):
    size = (pixels.shape[0] + y0 + 3, pixels.shape[1] + x0 + 2)
    expected = np.zeros(size, bool)
    expected[y0 : y0 + pixels.shape[0], x0 : x0 + pixels.shape[1]] = pixels

    mask = BinaryMask.cut(size, x0, y0, pixels)

    assert np.array_equal(full(mask), expected)
    assert_tight(mask)


@pytest.mark.parametrize(("multimask", "expected"), [(1, (0,)), (3, (1, 2, 3)), (4, (0, 1, 2, 3))])
def test_a_number_selects_that_number_of_masks(multimask, expected):
    choice = MaskChoice(compares_all=True)

    assert candidates(multimask, Prompt(), choice) == expected
    assert mask_count(multimask, Prompt(), choice) == multimask


def test_auto_offers_all_masks_for_a_single_click_alone():
    click = Prompt(np.array([[5.0, 6.0]]), np.array([1]))
    two_clicks = Prompt(np.zeros((2, 2)), np.array([1, 0]))
    click_in_box = Prompt(click.points, click.labels, box=np.array([0.0, 0.0, 9.0, 9.0]))
    click_on_mask = Prompt(click.points, click.labels, mask_logits=np.zeros((256, 256), np.float32))

    prompts = (click, two_clicks, click_in_box, click_on_mask)
    assert [candidates("auto", prompt, EDGESAM) for prompt in prompts] == [(0, 1, 2, 3), (0,), (0,), (0,)]
    assert [mask_count("auto", prompt, EDGESAM) for prompt in prompts] == [4, 1, 1, 1]
    # As the predictors of SAM and of TinySAM do it: mask 0 is no candidate for a point, and for TinySAM never is.
    assert [candidates("auto", prompt, SAM) for prompt in prompts] == [(1, 2, 3), (0,), (0,), (0,)]
    assert [mask_count("auto", prompt, SAM) for prompt in prompts] == [3, 1, 1, 1]
    assert [candidates("auto", prompt, TINY_SAM) for prompt in prompts] == [(1, 2, 3)] * 4
    assert [mask_count("auto", prompt, TINY_SAM) for prompt in prompts] == [3, 1, 1, 1]


def test_a_single_mask_is_the_best_of_those_for_prompts_that_mean_one_object():
    click = Prompt(np.array([[5.0, 6.0]]), np.array([1]))

    assert [candidates(1, click, choice) for choice in (EDGESAM, SAM, TINY_SAM)] == [(0,), (0,), (1, 2, 3)]
    assert [mask_count(1, click, choice) for choice in (EDGESAM, SAM, TINY_SAM)] == [1, 1, 1]


def test_auto_takes_the_best_mask_for_several_points_if_the_rule_compares_all_masks():
    two_clicks = Prompt(np.zeros((2, 2)), np.array([1, 0]))
    clicks_in_box = Prompt(two_clicks.points, two_clicks.labels, box=np.array([0.0, 0.0, 9.0, 9.0]))
    clicks_on_mask = Prompt(two_clicks.points, two_clicks.labels, mask_logits=np.zeros((256, 256), np.float32))

    prompts = (two_clicks, clicks_in_box, clicks_on_mask)
    found = {
        choice: [candidates("auto", prompt, replace(choice, compares_all=True)) for prompt in prompts]
        for choice in (EDGESAM, SAM, TINY_SAM)
    }

    assert found[EDGESAM] == found[SAM] == [(0, 1, 2, 3), (0,), (0, 1, 2, 3)]
    assert found[TINY_SAM] == [(1, 2, 3)] * 3
    assert [mask_count("auto", prompt, EDGESAM) for prompt in prompts] == [1, 1, 1]


def test_agreement_outweighs_a_small_difference_of_scores_only():
    assert rank(prefer_agreeing((0.9, 0.85, 0.5, 0.4), (False, True, True, False)), range(4)) == (1, 0, 2, 3)
    assert rank(prefer_agreeing((0.9, 0.7, 0.5, 0.4), (False, True, True, True)), range(4)) == (0, 1, 2, 3)
