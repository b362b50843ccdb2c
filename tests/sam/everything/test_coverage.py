"""The points that masks cover, which `fast` leaves out."""

from dataclasses import replace

import numpy as np
from support.whole_masks import full

from service.sam.everything.candidates import SearchedPart, candidates_of
from service.sam.everything.coverage import COVERED_LOGIT, MAX_COVER_SHARE, GridCells
from service.sam.everything.grid import grid_points
from service.sam.everything.options import EverythingOptions
from service.sam.everything.result import EverythingResult
from service.sam.everything.selection import MaskSelection, selected_masks
from service.sam.frame import Frame
from service.sam.masks import binary_mask

FRAME = Frame((300, 400))
PART = SearchedPart.whole(FRAME)
POINTS = PART.pixels(grid_points(8))
OPTIONS = EverythingOptions(fast=True, pred_iou_thresh=0.0, stability_score_thresh=0.0)


def disc(x, y, radius):
    """Return logits of a disc of the image, in cells of 1.5625 pixels; they fall by 1 a cell."""
    rows, columns = np.mgrid[0:256, 0:256]
    return (radius - np.hypot(columns - x / 1.5625, rows - y / 1.5625)).astype(np.float32)


def candidates(*logits):
    four = np.zeros((len(logits), 4, 256, 256), np.float32)
    four[:, 1] = logits
    quality = np.tile(np.linspace(0.5, 0.9, len(logits), dtype=np.float32)[:, np.newaxis], (1, 4))
    selected = selected_masks(MaskSelection((1,)), four, quality, quality)
    return candidates_of(
        selected, list(range(len(logits))), POINTS[: len(logits)], PART, OPTIONS,
        outputs=1, enlarge=binary_mask, place=lambda mask: mask, cells=GridCells(POINTS, FRAME),
    )  # fmt: skip


def test_a_mask_covers_the_points_well_inside_it():
    logits = disc(200, 150, 40)

    covered = GridCells(POINTS, FRAME).covered(logits)

    distance = np.hypot(*(POINTS - (200, 150)).T) / 1.5625
    assert covered[distance < 40 - COVERED_LOGIT - 1].all()
    assert not covered[distance > 40 - COVERED_LOGIT + 1].any()
    assert covered.any()


def test_a_result_covers_what_its_masks_cover_without_backgrounds():
    result = EverythingResult(OPTIONS)
    small, background = candidates(disc(100, 100, 30), disc(200, 150, 400))
    assert background.found.mask.area > MAX_COVER_SHARE * full(background.found.mask).size

    result.add([small, background])
    result.update()

    assert np.array_equal(result.covered(64), small.covered)
    assert small.covered.sum() > 0


def test_a_mask_that_was_dropped_covers_nothing():
    result = EverythingResult(OPTIONS)
    worse, better = candidates(disc(100, 100, 30), disc(104, 100, 30))

    result.add([worse, better])
    result.update()

    assert [mask.id for mask in result.masks] == [1]
    assert np.array_equal(result.covered(64), better.covered)


def test_without_fast_nothing_is_covered():
    result = EverythingResult(OPTIONS)

    result.add([replace(one, covered=None) for one in candidates(disc(100, 100, 30))])
    result.update()

    assert not result.covered(64).any()
