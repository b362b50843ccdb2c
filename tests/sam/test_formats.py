"""Every form of a mask gives the mask back, and the run lengths are those of pycocotools."""

import io
import itertools

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco
from sam.reference import rasterised
from sam.sample_values import logits, masks
from scipy import ndimage
from support.whole_masks import full

from service.errors import InvalidRequest
from service.sam.logits import decode_logits, encode_logits
from service.sam.masks import BinaryMask, binary_mask
from service.sam.png import encode_png
from service.sam.polygons import encode_outlines, encode_polygons
from service.sam.rle import encode_rle

# A C whose ends touch at a corner, a ring with an island, a chain of diagonal pixels, a hole that touches the outside
# at a corner, two holes that touch each other.
PUZZLES = [
    ["####", "#..#", "#.#.", "####"],
    ["#####", "#...#", "#.#.#", "#...#", "#####"],
    ["#...", ".#..", "..#.", ".#.#"],
    ["#####", "#.###", "##.##", "#####"],
    ["###.", "#.##", "####"],
    ["#.#", ".#.", "#.#"],
    ["#######", "#.....#", "#.###.#", "#.#.#.#", "#.###.#", "#.....#", "#######"],
    [".###.", "#...#", "#.#.#", "#...#", ".###."],
]


def pixels_of(rows):
    return np.array([[cell == "#" for cell in row] for row in rows])


def placed(pixels, margins):
    """The pixels inside a larger image, with (left, top, right, bottom) empty columns and rows."""
    left, top, right, bottom = margins
    full = np.pad(pixels, ((top, bottom), (left, right)))
    return full, BinaryMask.cut(full.shape, 0, 0, full)


margins = st.tuples(*[st.sampled_from([0, 0, 1, 7, 8, 13])] * 4)


@settings(deadline=None)
@given(masks(), margins)
@example(np.ones((5, 4), bool), (0, 0, 0, 0))
@example(np.ones((5, 1), bool), (3, 0, 2, 0))
@example(np.zeros((5, 4), bool), (0, 0, 0, 0))
@example(np.ones((1, 1), bool), (0, 0, 0, 0))
def test_run_lengths_are_those_of_pycocotools_on_the_full_image(pixels, around):
    full, mask = placed(pixels, around)

    rle = encode_rle(mask)

    expected = coco.encode(np.asfortranarray(full.view(np.uint8)))
    assert rle == {"size": list(expected["size"]), "counts": expected["counts"].decode()}


def test_runs_that_go_on_from_the_foot_of_a_column_to_the_next_are_one():
    pixels = np.array([[0, 1, 1, 0], [0, 1, 1, 1], [1, 1, 0, 1]], bool)

    rle = encode_rle(BinaryMask.cut((3, 4), 0, 0, pixels))

    raw = coco.frPyObjects({"size": [3, 4], "counts": [2, 6, 2, 2]}, 3, 4)
    assert rle["counts"].encode() == raw["counts"]


@settings(max_examples=15, deadline=None)
@given(logits(), st.sampled_from([(150, 200), (400, 12), (1, 2048), (2048, 1)]))
def test_all_forms_of_a_decoded_mask_agree(values, size):
    mask = binary_mask(values, size)

    whole = full(mask)
    assert encode_rle(mask)["counts"].encode() == coco.encode(np.asfortranarray(whole.view(np.uint8)))["counts"]
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(encode_png(mask, crop=False)))), whole)
    assert np.array_equal(rasterised(encode_polygons(mask), size), whole)


@settings(deadline=None)
@given(masks(), margins)
def test_a_png_has_one_bit_a_pixel_and_is_the_mask(pixels, around):
    full, mask = placed(pixels, around)

    whole = Image.open(io.BytesIO(encode_png(mask, crop=False)))
    cut = Image.open(io.BytesIO(encode_png(mask, crop=True)))

    assert whole.mode == cut.mode == "1"
    assert np.array_equal(np.asarray(whole), full)
    assert np.array_equal(np.asarray(cut), mask.crop if mask.area else [[False]])


@settings(max_examples=300, deadline=None)
@given(masks(), margins)
def test_polygons_fill_to_the_mask(pixels, around):
    full, mask = placed(pixels, around)

    polygons = encode_polygons(mask)

    assert np.array_equal(rasterised(polygons, full.shape), full)
    assert_well_formed(polygons, full)


@pytest.mark.parametrize("rows", PUZZLES)
def test_polygons_of_holes_islands_and_touching_corners_are_well_formed(rows):
    full, mask = placed(pixels_of(rows), (2, 1, 0, 3))

    polygons = encode_polygons(mask)

    assert np.array_equal(rasterised(polygons, full.shape), full)
    assert_well_formed(polygons, full)


def assert_well_formed(polygons, full):
    labels, count = ndimage.label(full)
    holes = ndimage.label(~np.pad(full, 1), np.ones((3, 3)))[1] - 1
    assert len(polygons) == count
    assert sum(len(polygon["holes"]) for polygon in polygons) >= holes
    for polygon in polygons:
        part = rasterised([polygon], full.shape)
        assert len(np.unique(labels[part])) == 1
        assert part.sum() == (labels == labels[part][0]).sum()
        assert doubled_area(polygon["exterior"]) > 0
        assert all(doubled_area(hole) < 0 for hole in polygon["holes"])
        for ring in [polygon["exterior"], *polygon["holes"]]:
            assert len(set(map(tuple, ring))) == len(ring) >= 4
            assert all(isinstance(value, int) for corner in ring for value in corner)
            # Edges are horizontal and vertical in turn: no corner is doubled, none lies on a straight line.
            sides = [(a[0] == b[0], a[1] == b[1]) for a, b in itertools.pairwise([*ring, ring[0]])]
            assert set(sides) == {(True, False), (False, True)}
            assert all(a != b for a, b in itertools.pairwise([*sides, sides[0]]))


def doubled_area(ring):
    return sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in itertools.pairwise([*ring, ring[0]]))


def test_a_single_pixel_is_the_square_between_its_corners_clockwise():
    mask = BinaryMask.cut((10, 10), 3, 5, np.ones((1, 1), bool))

    assert encode_polygons(mask) == [{"exterior": [[3, 5], [4, 5], [4, 6], [3, 6]], "holes": []}]


def test_an_empty_mask_has_no_polygon():
    mask = BinaryMask.cut((10, 10), 0, 0, np.zeros((4, 4), bool))

    assert encode_polygons(mask) == []


def test_a_tolerance_takes_corners_away_and_stays_near_the_mask():
    y, x = np.mgrid[:400, :400]
    distance = np.hypot(y - 200, x - 200)
    full = (distance < 150) & (distance > 60)
    mask = BinaryMask.cut(full.shape, 0, 0, full)

    exact, simple = encode_polygons(mask), encode_polygons(mask, tolerance_pixels=2.0)

    differs = rasterised(simple, full.shape) != full
    assert len(simple[0]["exterior"]) * 10 < len(exact[0]["exterior"])
    assert len(simple[0]["holes"]) == 1
    assert np.abs(distance[differs] - np.where(distance[differs] > 105, 150, 60)).max() < 4.0


def test_a_tolerance_drops_small_holes_but_no_part():
    pixels = np.ones((60, 60), bool)
    pixels[30, 30] = False
    full, mask = placed(pixels, (5, 5, 5, 5))
    full[0, 0] = True
    mask = BinaryMask.cut(full.shape, 0, 0, full)

    polygons = encode_polygons(mask, tolerance_pixels=3.0)

    assert [len(polygon["holes"]) for polygon in polygons] == [0, 0]
    assert rasterised(polygons, full.shape)[0, 0]


@given(st.integers(0, 2**32 - 1))
def test_logits_come_back_as_float16_keeps_them(seed):
    values = np.random.default_rng(seed).normal(scale=20, size=(256, 256)).astype(np.float32)

    data = encode_logits(values)

    assert len(data) == 131072
    assert np.array_equal(np.frombuffer(data, "<f2").reshape(256, 256), values.astype(np.float16))
    assert np.array_equal(decode_logits(data), values.astype(np.float16).astype(np.float32))


def test_logits_beyond_float16_become_its_largest_number():
    values = np.full((256, 256), 1e6, np.float32)
    values[0] = -1e6

    found = decode_logits(encode_logits(values))

    assert found[0, 0] == -65504
    assert found[1, 0] == 65504


@pytest.mark.parametrize("data", [b"", b"\0" * 131071, b"\0" * 131074, b"\0" * 262144])
def test_logits_of_another_length_are_refused(data):
    with pytest.raises(InvalidRequest, match="131072"):
        decode_logits(data)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_refused(value):
    values = np.zeros((256, 256), "<f2")
    values[7, 9] = value

    with pytest.raises(InvalidRequest, match="finite"):
        decode_logits(values.tobytes())


def test_outlines_are_the_exteriors_largest_first():
    pixels = np.zeros((20, 30), np.bool_)
    pixels[1:3, 1:3] = True
    pixels[5:15, 10:25] = True
    pixels[8:10, 12:14] = False
    mask = BinaryMask.cut(pixels.shape, 0, 0, pixels)

    outlines = encode_outlines(mask)

    assert [outline.area for outline in outlines] == [150, 4]
    assert outlines[0].ring == [[10, 5], [25, 5], [25, 15], [10, 15]]
    assert encode_outlines(BinaryMask.cut((4, 4), 0, 0, np.zeros((4, 4), np.bool_))) == []
