"""Label Studio can unpack our brush regions: checked with a decoder of its format, and with its own bytes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.brush_regions import unpacked

from service.api.adapters.label_studio_brush import encode_brush
from service.sam.masks import BinaryMask

# The output of mask2rle in Label Studio's converter (label-studio-sdk 2.1.2) for `small_mask`.
RECORDED = [
    0, 0, 4, 176, 57, 27, 253, 191, 253, 174, 1, 31, 254, 207, 0, 206, 255, 251, 108, 3, 27, 255, 240, 22, 112, 8, 255,
    192,
]  # fmt: skip


def assert_is_written(pixels):
    mask = BinaryMask.cut(pixels.shape, 0, 0, pixels)

    values = unpacked(encode_brush(mask).tolist())

    assert np.array_equal(values.reshape(*pixels.shape, 4), np.repeat(pixels[..., None] * np.uint8(255), 4, axis=2))


def small_mask():
    pixels = np.zeros((6, 50), np.bool_)
    pixels[0, :3] = pixels[1, 7] = pixels[2, 10:40] = pixels[3, 45:] = pixels[4, :9] = pixels[5, 49] = True
    return pixels


def test_the_bytes_are_those_that_label_studio_writes():
    mask = BinaryMask.cut((6, 50), 0, 0, small_mask())

    assert encode_brush(mask).tolist() == RECORDED


@pytest.mark.parametrize("value", [False, True])
def test_an_empty_and_a_full_mask_are_written(value):
    assert_is_written(np.full((37, 61), value))


def test_a_run_that_continues_in_the_next_row_is_one_run():
    assert_is_written(small_mask())


def test_runs_longer_than_sixteen_bits_are_split():
    pixels = np.zeros((300, 400), np.bool_)
    pixels[100:200] = True

    assert_is_written(pixels)
    for width in (1 << 14, (1 << 14) + 1, 1 << 15):
        assert_is_written(np.ones((1, width), np.bool_))


def test_a_mask_with_more_runs_than_one_chunk_is_encoded():
    assert_is_written(np.indices((240, 241)).sum(axis=0) % 2 == 0)


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_any_mask_is_decoded_to_itself(height, width, seed):
    assert_is_written(np.random.default_rng(seed).random((height, width)) < 0.5)
