"""How good a mask is, and how well a model knows it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]

SMALL_AREA, LARGE_AREA = 32**2, 96**2
"""COCO's limits, pixels of the photo."""
BOUNDARY_SHARE = 0.02
"""Width of the boundary band as a share of the photo's diagonal."""


def iou(answer: Bools, truth: Bools) -> float:
    """Intersection over union; NaN where both are empty."""
    either = np.count_nonzero(answer | truth)
    return np.count_nonzero(answer & truth) / either if either else math.nan


def boundary_iou(answer: Bools, truth: Bools) -> float:
    """IoU of the bands inside the two outlines. Source: Cheng et al. 2021 (arXiv 2103.16562)."""
    width = max(1, round(BOUNDARY_SHARE * math.hypot(*truth.shape)))
    return iou(_band(answer, width), _band(truth, width))


def pieces(mask: Bools) -> int:
    """Number of 8-connected components of a mask; 0 where it is empty.

    Pixels that touch at a corner belong to one piece, because people see one: with four neighbours each step of a thin
    diagonal line would be a piece of its own. The service's polygons part such pixels, so there may be more of them.
    """
    labels, _ = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    return labels - 1  # the background has a label, too


def size_class(area: int) -> str:
    """small, medium or large, by COCO's limits."""
    if area < SMALL_AREA:
        return "small"
    return "medium" if area < LARGE_AREA else "large"


@dataclass(frozen=True, slots=True)
class Calibration:
    """How a model's own score agrees with the truth.

    Attributes:
        error: mean distance of score and IoU over bins of score, weighted by their number (ECE).
        correlation: of score and IoU, Pearson's; NaN where one does not vary.
        bins: of each tenth of score: its middle, mean IoU and number.
    """

    error: float
    correlation: float
    bins: tuple[tuple[float, float, int], ...]


def calibration(scores: Sequence[float], ious: Sequence[float]) -> Calibration:
    """Calibration of scores, which are clipped to [0, 1]."""
    given = np.clip(np.asarray(scores, np.float64), 0, 1)
    found = np.asarray(ious, np.float64)
    known = np.isfinite(given) & np.isfinite(found)
    given, found = given[known], found[known]
    if not len(given):
        return Calibration(math.nan, math.nan, ())
    tenth = np.minimum((given * 10).astype(int), 9)
    bins, error = [], 0.0
    for index in range(10):
        inside = tenth == index
        if inside.any():
            bins.append(((index + 0.5) / 10, float(found[inside].mean()), int(inside.sum())))
            error += abs(float(given[inside].mean() - found[inside].mean())) * float(inside.mean())
    varies = given.std() > 0 and found.std() > 0
    correlation = float(np.corrcoef(given, found)[0, 1]) if varies else math.nan
    return Calibration(error, correlation, tuple(bins))


def _band(mask: Bools, width: int) -> Bools:
    """Pixels of the mask that are at most `width` from its outside; the outside of the photo counts."""
    padded = np.pad(mask.astype(np.uint8), 1)
    inner = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=width)[1:-1, 1:-1]
    band: Bools = mask & (inner == 0)
    return band
