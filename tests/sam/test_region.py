"""Regions: masks of a part of an image, placed into the whole image."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from service.sam.masks import BinaryMask
from service.sam.png import encode_png
from service.sam.polygons import encode_polygons
from service.sam.region import LEAST_SIDE, PlacedMask, Region, parse_region
from service.sam.rle import encode_rle


@st.composite
def placements(draw):
    """Draw a region, the size of its image, and pixels of the region: noise, blocks, all or none."""
    height, width = draw(st.integers(LEAST_SIDE, 40)), draw(st.integers(LEAST_SIDE, 40))
    x0, y0, right, below = (draw(st.sampled_from((0, 0, 1, 7))) for _ in range(4))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    pixels = random.random((height, width)) < draw(st.sampled_from((0.0, 0.02, 0.5, 0.98, 1.0)))
    if draw(st.booleans()):  # whole columns and rows: runs that go from one column into the next
        pixels = np.repeat(pixels[:, ::8], 8, axis=1)[:, :width]
        pixels[:, : width // 2] = pixels[0, : width // 2]
    region = Region(x0, y0, x0 + width, y0 + height)
    return region, (y0 + height + below, x0 + width + right), pixels


@given(placements())
@settings(max_examples=300, deadline=None)
def test_a_placed_mask_is_the_mask_of_the_whole_image(placement):
    region, size, pixels = placement
    whole = np.zeros(size, np.bool_)
    whole[region.y0 : region.y1, region.x0 : region.x1] = pixels
    expected = BinaryMask.cut(size, 0, 0, whole)

    placed = PlacedMask(BinaryMask.cut(region.size, 0, 0, pixels), region, size)

    assert (placed.box, placed.area) == (expected.box, expected.area)
    assert np.array_equal(placed.transitions, expected.transitions)
    assert np.array_equal(placed.crop, expected.crop)
    assert np.array_equal(coco.decode(encode_rle(placed)), whole)
    assert encode_png(placed, crop=False) == encode_png(expected, crop=False)
    assert encode_png(placed, crop=True) == encode_png(expected, crop=True)
    assert encode_polygons(placed) == encode_polygons(expected)


def test_placing_a_mask_does_not_follow_the_pixels_of_the_image():
    pixels = np.ones((40, 40), np.bool_)
    size = (1 << 16, 1 << 15)  # two gigabytes of pixels, which no machine of the tests should touch
    region = Region(1 << 14, 1 << 15, (1 << 14) + 40, (1 << 15) + 40)

    placed = PlacedMask(BinaryMask.cut(region.size, 0, 0, pixels), region, size)

    assert len(placed.transitions) == 80
    assert coco.area({**encode_rle(placed), "counts": encode_rle(placed)["counts"].encode()}) == 1600


def test_a_mask_of_another_size_is_not_placed():
    mask = BinaryMask.cut((40, 40), 0, 0, np.ones((40, 40), np.bool_))

    with pytest.raises(ValueError, match="does not fit"):
        PlacedMask(mask, Region(0, 0, 40, 41), (100, 100))
    with pytest.raises(ValueError, match="does not fit"):
        PlacedMask(mask, Region(61, 0, 101, 40), (100, 100))


@pytest.mark.parametrize("text", ["", "0,0,31,32", "0,0,32,31", "32,0,0,32", "0,0,32,32 ", "+0,0,32,32", "nan,0,32,32"])
def test_other_texts_are_no_regions(text):
    with pytest.raises(ValueError, match="region is"):
        parse_region(text)


def test_a_region_is_read_back():
    assert str(parse_region("5,6,45,66")) == "5,6,45,66"
    assert parse_region("5,6,45,66").size == (60, 40)
