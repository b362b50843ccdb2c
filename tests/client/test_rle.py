"""The client's own reading of COCO's run lengths is pycocotools' reading."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pycocotools import mask as coco
from support.noise_images import noise_image

from service.client.rle import decode_rle


def encoded(mask: np.ndarray) -> str:
    return coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()


@given(arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=40)))
def test_every_mask_comes_back(mask):
    pixels = decode_rle(encoded(mask), *mask.shape)

    assert np.array_equal(pixels, mask)


@pytest.mark.parametrize("size", [(1, 1), (1200, 1600), (1, 5000), (5000, 1)])
@pytest.mark.parametrize("fill", ["empty", "full", "noise"])
def test_masks_of_images_come_back(size, fill):
    mask = {"empty": np.zeros(size, bool), "full": np.ones(size, bool)}.get(fill)
    if mask is None:
        mask = noise_image(size)[:, :, 0] > 127

    pixels = decode_rle(encoded(mask), *size)

    assert np.array_equal(pixels, mask)
    assert pixels.flags.c_contiguous
    assert not pixels.flags.writeable


@given(st.text(max_size=40) | st.binary(max_size=40).map(lambda data: data.decode("latin-1")), st.integers(-1, 9))
def test_any_other_text_is_refused_or_is_a_mask_of_this_size(text, side):
    try:
        pixels = decode_rle(text, side, side)
    except ValueError:
        return
    assert pixels.shape == (side, side)


@pytest.mark.parametrize("text", ["", "P", "0" * 3 + "P", "OOOO", "o" * 60 + "0", "\x00", "é"])
def test_text_that_is_no_run_lengths_is_refused(text):
    with pytest.raises(ValueError, match="run length"):
        decode_rle(text, 4, 4)
