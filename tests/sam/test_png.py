"""PNG files of masks have one bit a pixel and decode to the mask."""

import io

import numpy as np
from hypothesis import given, settings
from PIL import Image
from sam.sample_values import margins, masks, placed

from service.sam.png import encode_png


@settings(deadline=None)
@given(masks(), margins)
def test_a_png_has_one_bit_a_pixel_and_is_the_mask(pixels, around):
    full, mask = placed(pixels, around)

    whole = Image.open(io.BytesIO(encode_png(mask, crop=False)))
    cut = Image.open(io.BytesIO(encode_png(mask, crop=True)))

    assert whole.mode == cut.mode == "1"
    assert np.array_equal(np.asarray(whole), full)
    assert np.array_equal(np.asarray(cut), mask.crop if mask.area else [[False]])
