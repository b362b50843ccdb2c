"""Image tokens in int8: a scale per channel, the same numbers on every processor, and limits of what int8 holds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from service.sam.embedding import HighResMaps
from service.sam.int8_tokens import LARGEST_ERROR, LARGEST_SCALE, Int8Tokens, int8_tokens
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


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_each_number_is_rounded_to_the_nearest_step_of_its_channel(dtype):
    exact = tokens(dtype=dtype)

    kept = int8_tokens(exact)

    peaks = np.abs(exact.astype(np.float64)).max(axis=0)
    found = kept.as_float16().astype(np.float64)
    assert (kept.numbers.dtype, kept.scales.dtype, kept.nbytes) == (np.int8, np.float32, (1 << 20) + 1024)
    assert_array_equal(np.abs(kept.numbers.astype(int)).max(axis=0), 127)
    # Half a step, and the rounding of the number to float16.
    assert (np.abs(found - exact) <= peaks / 254 * (1 + 1e-5) + np.abs(found) * 2.0**-11).all()


def test_the_numbers_are_those_of_a_float32_product_rounded_to_float16():
    kept = int8_tokens(tokens())

    found = kept.as_float16()

    exact_products = kept.numbers.astype(np.float64) * kept.scales  # float64 holds them exactly
    assert_array_equal(found.view(np.uint16), exact_products.astype(np.float32).astype(np.float16).view(np.uint16))
    assert np.isfinite(found).all()


def test_rounding_again_changes_nothing():
    once = int8_tokens(tokens())

    twice = int8_tokens(once.as_float16())

    assert_array_equal(twice.numbers, once.numbers)


def test_a_channel_with_large_numbers_does_not_coarsen_the_others():
    exact = np.random.default_rng(0).normal(size=(4096, CHANNELS)).astype(np.float32)
    alone = int8_tokens(exact)
    exact[:, 7] *= 10_000.0

    beside = int8_tokens(exact)

    others = np.arange(CHANNELS) != 7
    assert_array_equal(beside.numbers[:, others], alone.numbers[:, others])
    assert_array_equal(beside.scales[others], alone.scales[others])


@pytest.mark.parametrize("size", [0.0, 1e-45, 1e-38, 2.0**-26])
def test_channels_that_are_zero_in_float16_are_zero(size):
    exact = tokens()
    exact[:, :3] = size

    kept = int8_tokens(exact)

    assert not kept.numbers[:, :3].any()
    assert not kept.scales[:3].any()
    assert not kept.as_float16()[:, :3].any()
    assert kept.is_usable()


def test_tokens_of_zeros_are_zeros():
    kept = int8_tokens(np.zeros((4096, CHANNELS), np.float32))

    assert kept.is_usable()
    assert not kept.as_float16().any()


def test_the_largest_numbers_of_float16_stay_finite():
    exact = np.random.default_rng(0).uniform(-1, 1, (4096, CHANNELS)).astype(np.float32)
    exact[:2] = [[1.0], [-1.0]]

    kept = int8_tokens(exact * np.float32(LARGEST_FLOAT16))

    assert kept.is_usable()
    assert_array_equal(kept.as_float16()[0], np.float16(LARGEST_FLOAT16))


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf, 70_000.0, -70_000.0])
def test_tokens_with_a_number_that_is_not_a_float16_are_not_rounded_to_int8(number):
    exact = tokens()
    exact[1234, 5] = number

    assert int8_tokens(exact) is None


def test_tokens_that_int8_would_change_too_much_are_not_rounded_to_int8():
    exact = np.random.default_rng(0).normal(size=(4096, CHANNELS)).astype(np.float32)
    exact[3] *= 30.0  # one token: its size is the step of all others

    assert int8_tokens(exact) is None
    exact[3] /= 10.0
    kept = int8_tokens(exact)
    error = np.linalg.norm(kept.as_float16() - exact) / np.linalg.norm(exact)
    assert 0.005 < error < LARGEST_ERROR


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(1.0, 60.0))
def test_the_error_of_int8_tokens_is_never_larger_than_the_limit(seed, outlier):
    exact = np.random.default_rng(seed).normal(size=(4096, 16)).astype(np.float32)
    exact[seed % 4096] *= outlier

    kept = int8_tokens(exact)

    if kept is not None:
        error = np.linalg.norm(kept.as_float16() - exact) / np.linalg.norm(exact)
        assert error <= 1.05 * LARGEST_ERROR  # the limit is that of the expected error


JUST_TOO_LARGE = np.nextafter(np.float32(LARGEST_SCALE), np.float32(np.inf))


@pytest.mark.parametrize(("number", "scale"), [(-128, 1.0), (1, -1.0), (1, np.nan), (1, np.inf), (1, JUST_TOO_LARGE)])
def test_numbers_and_scales_out_of_their_range_are_not_usable(number, scale):
    kept = Int8Tokens(np.full((8, 2), 1, np.int8), np.ones(2, np.float32))
    assert kept.is_usable()

    kept.numbers[5, 1], kept.scales[1] = number, scale

    assert not kept.is_usable()


@pytest.mark.parametrize(
    ("numbers", "scales"),
    [
        (np.zeros((8, 2), np.uint8), np.zeros(2, np.float32)), (np.zeros((8, 2), np.int8), np.zeros(2, np.float64)),
        (np.zeros((8, 2), np.int8), np.zeros(8, np.float32)), (np.zeros(8, np.int8), np.zeros((), np.float32)),
    ],
)  # fmt: skip
def test_tokens_of_another_type_or_shape_are_a_bug_of_the_caller(numbers, scales):
    with pytest.raises(ValueError, match="int8"):
        Int8Tokens(numbers, scales)


@pytest.mark.parametrize("dtype", ["float16", "float32", "int8"])
def test_maps_are_float16_beside_int8_tokens_and_otherwise_of_the_type_of_the_tokens(dtype):
    exact, exact_maps = tokens(), maps()

    kept, kept_maps = rounded(exact, exact_maps, dtype)

    assert isinstance(kept, Int8Tokens) is (dtype == "int8")
    map_dtype = np.float32 if dtype == "float32" else np.float16
    assert_array_equal(kept_maps.s1, exact_maps.s1.astype(map_dtype), strict=True)
    assert_array_equal(kept_maps.s0, exact_maps.s0.astype(map_dtype), strict=True)
    if dtype != "int8":
        assert_array_equal(kept, exact.astype(dtype), strict=True)


def test_tokens_for_which_int8_is_too_coarse_become_float16():
    exact = tokens()
    exact[3] *= 1000.0 / np.abs(exact).max(axis=0)  # one token with numbers far beyond those of the others
    exact[np.arange(4096) != 3] /= 100.0

    kept, kept_maps = rounded(exact, maps(), "int8")

    assert_array_equal(kept, exact.astype(np.float16), strict=True)
    assert kept_maps.s1.dtype == np.float16


@pytest.mark.parametrize("dtype", ["float16", "int8"])
@pytest.mark.parametrize("part", ["tokens", "s1", "s0"])
def test_an_image_with_a_number_beyond_float16_stays_float32(part, dtype):
    arrays = {"tokens": tokens(), "s1": maps().s1, "s0": maps().s0}
    arrays[part][700, 3] = -65_600.0

    kept, kept_maps = rounded(arrays["tokens"], HighResMaps(arrays["s1"], arrays["s0"]), dtype)

    for found, expected in zip((kept, kept_maps.s1, kept_maps.s0), arrays.values(), strict=True):
        assert_array_equal(found, expected, strict=True)
        assert not np.shares_memory(found, expected)
