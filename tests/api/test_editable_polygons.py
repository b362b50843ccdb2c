"""Polygons for labelling tools: which parts of a mask they leave out."""

import numpy as np
import pytest

from service.api.adapters.editable_polygons import editable_polygons
from service.sam.masks import BinaryMask
from service.sam.prompts import Prompt

LARGE = [[5, 5], [45, 5], [45, 35], [5, 35]]
MEDIUM = [[5, 45], [25, 45], [25, 55], [5, 55]]
SMALL = [[50, 50], [54, 50], [54, 54], [50, 54]]


def mask():
    pixels = np.zeros((60, 60), np.bool_)
    for (x0, y0), _, (x1, y1), _ in (LARGE, MEDIUM, SMALL):
        pixels[y0:y1, x0:x1] = True
    return BinaryMask.cut(pixels.shape, 0, 0, pixels)


def prompt(x, y, label):
    return Prompt(np.array([[20.0, 20.0], [x, y]]), np.array([1, label]))


@pytest.mark.parametrize("tolerance", [0.0, 0.001])
@pytest.mark.parametrize(("x", "y"), [(52.0, 52.0), (50.0, 50.0), (53.9, 53.9)])
def test_a_small_part_stays_where_a_positive_point_lies(x, y, tolerance):
    assert editable_polygons(mask(), prompt(x, y, 1), tolerance=tolerance) == [LARGE, MEDIUM, SMALL]


@pytest.mark.parametrize("second", [(52.0, 52.0, 0), (30.0, 52.0, 1)])
def test_another_small_part_is_left_out(second):
    assert editable_polygons(mask(), prompt(*second), tolerance=0.001) == [LARGE, MEDIUM]
