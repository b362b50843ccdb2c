"""Image tokens in int8: a scale per channel, the same numbers on every processor, and limits of what int8 holds."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from service.sam.embedding import HighResMaps
from service.sam.int8_tokens import (
    LARGEST_ERROR,
    LARGEST_SCALE,
    SMALLEST_SCALE,
    are_usable,
    from_int8,
    int8_scales,
    to_int8,
)
from service.sam.logits import LARGEST_FLOAT16
from service.sam.number_format import rounded

CHANNELS = 256


def tokens(seed=0, dtype=np.float32):
    """Return tokens whose channels have sizes from 0.001 to 1000."""
    random = np.random.default_rng(seed)
    sizes = 10.0 ** random.uniform(-3, 3, CHANNELS)
    return (random.normal(size=(4096, CHANNELS)) * sizes).astype(dtype)


def maps(dtype=np.float32):
    random = np.random.default_rng(1)
    return HighResMaps(*(random.normal(size=(4096, columns)).astype(dtype) for columns in (256, 512)))


def in_int8(exact):
    """Return numbers and scales of tokens."""
    scales = int8_scales(exact)
    return to_int8(exact, scales), scales


def relative_error(found, exact):
    return np.linalg.norm(found.astype(np.float64) - exact) / np.linalg.norm(exact.astype(np.float64))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_each_number_is_rounded_to_the_nearest_step_of_its_channel(dtype):
    exact = tokens(dtype=dtype)

    numbers, scales = in_int8(exact)

    peaks = np.abs(exact.astype(np.float64)).max(axis=0)
    found = from_int8(numbers, scales).astype(np.float64)
    assert (numbers.dtype, scales.dtype, numbers.nbytes + scales.nbytes) == (np.int8, np.float32, (1 << 20) + 1024)
    assert_array_equal(np.abs(numbers.astype(int)).max(axis=0), 127)
    # Half a step, and the rounding of the number to float16.
    assert (np.abs(found - exact) <= peaks / 254 * (1 + 1e-5) + np.abs(found) * 2.0**-11).all()


def test_the_tokens_are_float32_products_rounded_to_float16():
    numbers, scales = in_int8(tokens())

    found = from_int8(numbers, scales)

    exact_products = numbers.astype(np.float64) * scales  # float64 holds them exactly
    assert_array_equal(found.view(np.uint16), exact_products.astype(np.float32).astype(np.float16).view(np.uint16))
    assert np.isfinite(found).all()


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.floats(SMALLEST_SCALE, LARGEST_SCALE, width=32), st.floats(SMALLEST_SCALE, 2.0**-13, width=32)))
@example(SMALLEST_SCALE)
@example(LARGEST_SCALE)
def test_the_tokens_give_all_whole_numbers_again(scale):
    numbers = np.arange(-127, 128, dtype=np.int8)[:, None]
    scales = np.array([scale], np.float32)

    assert_array_equal(to_int8(from_int8(numbers, scales), scales), numbers)


def test_a_channel_with_large_numbers_does_not_coarsen_the_others():
    exact = np.random.default_rng(0).normal(size=(4096, CHANNELS)).astype(np.float32)
    alone, alone_scales = in_int8(exact)
    exact[:, 7] *= 10_000.0

    beside, beside_scales = in_int8(exact)

    others = np.arange(CHANNELS) != 7
    assert_array_equal(beside[:, others], alone[:, others])
    assert_array_equal(beside_scales[others], alone_scales[others])


@pytest.mark.parametrize("size", [0.0, 1e-45, 1e-38, 2.0**-26, 120 * SMALLEST_SCALE])
def test_channels_that_are_nearly_zero_are_zero(size):
    exact = tokens()
    exact[:, :3] = size

    numbers, scales = in_int8(exact)

    assert not numbers[:, :3].any()
    assert not scales[:3].any()
    assert not from_int8(numbers, scales)[:, :3].any()
    assert are_usable(numbers, scales)


def test_tokens_of_zeros_are_zeros():
    numbers, scales = in_int8(np.zeros((4096, CHANNELS), np.float32))

    assert are_usable(numbers, scales)
    assert not from_int8(numbers, scales).any()


def test_tokens_that_are_all_too_small_are_not_rounded_to_zeros():
    assert int8_scales(tokens() * np.float32(1e-9)) is None


def test_the_largest_numbers_of_float16_stay_finite():
    exact = np.random.default_rng(0).uniform(-1, 1, (4096, CHANNELS)).astype(np.float32)
    exact[:2] = [[1.0], [-1.0]]

    numbers, scales = in_int8(exact * np.float32(LARGEST_FLOAT16))

    assert are_usable(numbers, scales)
    assert_array_equal(from_int8(numbers, scales)[0], np.float16(LARGEST_FLOAT16))


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf, 70_000.0, -70_000.0])
def test_tokens_with_a_number_that_is_not_a_float16_have_no_scales(number):
    exact = tokens()
    exact[1234, 5] = number

    assert int8_scales(exact) is None


def test_tokens_that_int8_would_change_too_much_have_no_scales():
    exact = np.random.default_rng(0).normal(size=(4096, CHANNELS)).astype(np.float32)
    exact[3] *= 30.0  # one token: its size is the step of all others

    assert int8_scales(exact) is None
    exact[3] /= 10.0
    assert 0.005 < relative_error(from_int8(*in_int8(exact)), exact) < LARGEST_ERROR


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(1.0, 60.0))
def test_the_error_of_int8_tokens_is_never_larger_than_the_limit(seed, outlier):
    exact = np.random.default_rng(seed).normal(size=(4096, 16)).astype(np.float32)
    exact[seed % 4096] *= outlier

    scales = int8_scales(exact)

    if scales is not None:
        # The limit is that of the expected error.
        assert relative_error(from_int8(to_int8(exact, scales), scales), exact) <= 1.05 * LARGEST_ERROR


@pytest.mark.parametrize(
    ("number", "scale"),
    [
        (-128, 1.0), (1, -1.0), (1, np.nan), (1, np.inf), (1, 1.001 * LARGEST_SCALE), (1, 0.999 * SMALLEST_SCALE),
        (1, -SMALLEST_SCALE),
    ],
)  # fmt: skip
def test_numbers_and_scales_out_of_their_range_are_not_usable(number, scale):
    numbers, scales = np.full((8, 2), 1, np.int8), np.array([0.0, 1.0], np.float32)
    assert are_usable(numbers, scales)

    numbers[5, 1], scales[1] = number, scale

    assert not are_usable(numbers, scales)


@pytest.mark.parametrize("dtype", ["float16", "float32", "int8"])
def test_maps_are_float16_beside_int8_tokens_and_otherwise_of_the_type_of_the_tokens(dtype):
    exact, exact_maps = tokens(), maps()

    kept = rounded(exact, exact_maps, dtype)

    array_dtype = np.float32 if dtype == "float32" else np.float16
    assert_array_equal(kept.high_res.s1, exact_maps.s1.astype(array_dtype), strict=True)
    assert_array_equal(kept.high_res.s0, exact_maps.s0.astype(array_dtype), strict=True)
    if dtype == "int8":
        numbers, scales = in_int8(exact)
        assert_array_equal(kept.scales, scales, strict=True)
        assert_array_equal(kept.tokens, from_int8(numbers, scales), strict=True)
    else:
        assert kept.scales is None
        assert_array_equal(kept.tokens, exact.astype(dtype), strict=True)


def test_tokens_for_which_int8_is_too_coarse_become_float16():
    exact = tokens()
    exact[3] *= 1000.0 / np.abs(exact).max(axis=0)  # one token with numbers far beyond those of the others
    exact[np.arange(4096) != 3] /= 100.0

    kept = rounded(exact, maps(), "int8")

    assert kept.scales is None
    assert_array_equal(kept.tokens, exact.astype(np.float16), strict=True)
    assert kept.high_res.s1.dtype == np.float16


@pytest.mark.parametrize("dtype", ["float16", "int8"])
@pytest.mark.parametrize("part", ["tokens", "s1", "s0"])
def test_an_image_with_a_number_beyond_float16_stays_float32(part, dtype):
    arrays = {"tokens": tokens(), "s1": maps().s1, "s0": maps().s0}
    arrays[part][700, 3] = -65_600.0

    kept = rounded(arrays["tokens"], HighResMaps(arrays["s1"], arrays["s0"]), dtype)

    assert kept.scales is None
    for found, expected in zip((kept.tokens, kept.high_res.s1, kept.high_res.s0), arrays.values(), strict=True):
        assert_array_equal(found, expected, strict=True)
        assert not np.shares_memory(found, expected)
