"""Filling the polygons gives the mask, and the polygons are well formed."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from sam.reference import rasterised
from sam.sample_values import margins, masks, pixels_of, placed
from scipy import ndimage

from service.sam.masks import BinaryMask
from service.sam.polygons import encode_outlines, encode_polygons

# A C whose ends touch at a corner, and a ring with an island. A chain of diagonal pixels, a hole that touches the
# outside at a corner, and two holes that touch each other.
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


@settings(max_examples=300, deadline=None)
@given(masks(), margins)
def test_filling_the_polygons_gives_the_mask(pixels, around):
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
            # Horizontal and vertical edges alternate: no corner is doubled, none lies on a straight line.
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


def test_a_tolerance_removes_corners_and_keeps_the_outline_near_the_mask():
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
