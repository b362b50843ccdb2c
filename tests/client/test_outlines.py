"""Polygons without holes: valid, and exactly the mask where tools fill them."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pycocotools import mask as coco
from skimage.measure import label
from support.mask_cases import mask_cases
from support.polygon_rules import doubled_area, touching_sides

from service.client.outlines import polygons_of

CASES = mask_cases()
MASKS = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9), elements=st.booleans())


def filled(polygons, size):
    """The pixels that pycocotools fills, (H, W) bool."""
    rles = coco.frPyObjects([line.ravel().tolist() for line in polygons], *size)
    return coco.decode(coco.merge(rles)).astype(bool)


@pytest.mark.parametrize("name", CASES)
def test_polygons_are_valid_and_fill_the_mask_exactly(name):
    mask = CASES[name]

    polygons = polygons_of(mask)

    assert len(polygons) == label(mask, connectivity=1).max()  # one for each connected part
    assert touching_sides(polygons) == 0
    assert all(doubled_area(line) > 0 for line in polygons)
    assert np.array_equal(filled(polygons, mask.shape), mask)


@given(MASKS)
def test_polygons_of_any_mask_are_valid_and_fill_it_exactly(mask):
    polygons = polygons_of(mask)

    if not mask.any():
        assert polygons == []
        return
    assert touching_sides(polygons) == 0
    assert np.array_equal(filled(polygons, mask.shape), mask)


def test_the_area_of_a_polygon_lacks_only_its_cuts():
    mask = CASES["rings"]

    areas = sum(doubled_area(line) / 2 for line in polygons_of(mask))

    assert mask.sum() - 2 < areas < mask.sum()  # cuts are 1/50 pixel wide


@pytest.mark.parametrize("name", ["rings", "frames", "blob"])
def test_holes_stay_open_where_opencv_fills_polygons(name):
    mask = CASES[name].repeat(8, 0).repeat(8, 1)

    drawn = np.zeros(mask.shape, np.uint8)
    cv2.fillPoly(drawn, [np.rint(line).astype(np.int32) for line in polygons_of(mask)], 1)

    # fillPoly also fills the pixels on the line, which are one row and one column more.
    assert np.array_equal(drawn.astype(bool) & mask, mask)
    assert drawn.sum() <= cv2.dilate(mask.astype(np.uint8), np.ones((3, 3))).sum()


def test_a_rectangle_has_its_four_corners_wherever_it_is():
    mask = np.zeros((40, 50), bool)
    mask[7:12, 30:43] = True

    (polygon,) = polygons_of(mask)

    assert polygon.tolist() == [[43, 7], [43, 12], [30, 12], [30, 7]]


@pytest.mark.parametrize(
    "polygons",
    [
        [[(0, 0), (4, 4), (4, 0), (0, 4)]],  # sides cross
        [[(0, 0), (4, 0), (4, 4), (2, 0), (0, 4)]],  # a corner lies on a side
        [[(0, 0), (6, 0), (3, 0), (3, 4)]],  # a side runs back along its neighbour
        [[(0, 0), (2, 0), (2, 2), (0, 2)], [(2, 2), (4, 2), (4, 4), (2, 4)]],  # two polygons share a corner
    ],
)
def test_the_rule_of_these_tests_finds_sides_that_touch(polygons):
    assert touching_sides(polygons) > 0
