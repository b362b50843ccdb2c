"""Small pieces of a mask are dropped and small holes filled, as a reference on scikit-image does it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sam.sample_values import logits
from skimage.measure import label

from service.native.masks import native_masks
from service.sam.mask_pieces import LEAST_LOGIT, REJECTED_SHARE, SMALL_SHARE, MarkedCells, filter_pieces

NATIVE = native_masks()
both_ways = pytest.mark.parametrize(
    "filter_of",
    [
        filter_pieces,
        pytest.param(
            NATIVE and NATIVE.filter_pieces,
            marks=pytest.mark.skipif(NATIVE is None, reason="the native library was not built"),
        ),
    ],
    ids=["numpy", "native"],
)
NO_CELLS = np.zeros(0, np.int32)
NOTHING_MARKED = MarkedCells(NO_CELLS, NO_CELLS)

cell_lists = st.lists(st.integers(0, 256 * 256 - 1), max_size=12).map(lambda cells: np.array(cells, np.int32))
parts = st.one_of(st.just((256, 256)), st.tuples(st.integers(1, 256), st.integers(1, 256)))


def components(mask):
    """Return the number of the component of each cell, 0 outside, and the area of each component."""
    labels = label(mask, connectivity=1)
    return labels, np.bincount(labels.ravel())


def filtered_slowly(values, cells, marked):
    """Return the mask, (256, 256) bool, by the components that scikit-image finds."""
    part, inner = np.zeros((256, 256), bool), np.zeros((256, 256), bool)
    part[: cells[0], : cells[1]] = True
    inner[1 : cells[0] - 1, 1 : cells[1] - 1] = True
    mask = (values > 0) & part

    labels, areas = components(mask)
    largest = areas[1:].max(initial=0)
    held, rejected = (set(labels.ravel()[flat].tolist()) for flat in (marked.held, marked.rejected))
    for piece in range(1, len(areas)):
        share = REJECTED_SHARE if piece in rejected else SMALL_SHARE
        areas[piece] = 1 if piece in held or areas[piece] >= share * largest else 0
    mask &= areas[labels] > 0

    labels, areas = components(part & ~mask)
    held = set(labels.ravel()[marked.held].tolist())
    open_holes = set(labels[part & ~inner].tolist())
    for hole in range(1, len(areas)):
        areas[hole] = hole not in held and hole not in open_holes and areas[hole] < SMALL_SHARE * largest
    areas[0] = 0
    mask |= areas[labels] > 0
    return np.where(part, mask, values > 0)


@both_ways
@settings(max_examples=40, deadline=None)
@given(logits(), parts, cell_lists, cell_lists)
def test_pieces_and_holes_equal_the_reference(filter_of, values, cells, held, rejected):
    marked = MarkedCells(held, rejected)
    found = values.copy()

    filter_of(found, cells, marked)

    assert np.array_equal(found > 0, filtered_slowly(values, cells, marked))
    # An island inside a hole changes sides twice.
    is_changed = found != values
    assert is_changed[(found > 0) != (values > 0)].all()
    assert (np.abs(found[is_changed]) == np.maximum(np.abs(values[is_changed]), np.float32(LEAST_LOGIT))).all()


@both_ways
def test_an_island_and_a_hole_go_unless_a_point_holds_them(filter_of):
    values = np.full((256, 256), -2.0, np.float32)
    values[50:100, 50:100] = 3.0
    values[60:64, 60:64] = -1.0  # a hole
    values[150:155, 150:155] = 1.0  # an island
    island, hole = 152 * 256 + 152, 62 * 256 + 62

    plain, held = values.copy(), values.copy()
    filter_of(plain, (256, 256), NOTHING_MARKED)
    filter_of(held, (256, 256), MarkedCells(np.array([island, hole], np.int32), NO_CELLS))

    assert (plain > 0).sum() == 50 * 50
    assert plain[62, 62] == 1.0
    assert plain[152, 152] == -1.0
    assert np.array_equal(held, values)


@both_ways
def test_a_rejected_piece_goes_up_to_a_larger_share(filter_of):
    values = np.full((256, 256), -2.0, np.float32)
    values[50:100, 50:100] = 3.0
    values[150:170, 150:170] = 1.0  # 16 per cent of the largest piece
    rejected = np.array([160 * 256 + 160], np.int32)

    kept, dropped, held = values.copy(), values.copy(), values.copy()
    filter_of(kept, (256, 256), NOTHING_MARKED)
    filter_of(dropped, (256, 256), MarkedCells(NO_CELLS, rejected))
    filter_of(held, (256, 256), MarkedCells(rejected, rejected))

    assert np.array_equal(kept, values)
    assert (dropped > 0).sum() == 50 * 50
    assert np.array_equal(held, values)


@both_ways
def test_an_open_bay_at_the_border_of_the_image_is_no_hole(filter_of):
    values = np.full((256, 256), 3.0, np.float32)
    values[189:192, 100:103] = -1.0

    inside, at_border = values.copy(), values.copy()
    filter_of(inside, (193, 256), NOTHING_MARKED)
    filter_of(at_border, (192, 256), NOTHING_MARKED)

    assert (inside[:193] > 0).all()
    assert np.array_equal(at_border, values)


@pytest.mark.skipif(NATIVE is None, reason="the native library was not built")
@pytest.mark.parametrize(
    ("values", "cells"),
    [
        (np.zeros((255, 256), np.float32), (255, 256)),
        (np.zeros((256, 256), np.float64), (256, 256)),
        (np.zeros((256, 512), np.float32)[:, ::2], (256, 256)),
        (np.zeros((256, 256), np.float32), (256, 257)),
    ],
)
def test_logits_that_c_cannot_change_are_refused(values, cells):
    with pytest.raises(ValueError, match="cannot be changed"):
        NATIVE.filter_pieces(values, cells, NOTHING_MARKED)
