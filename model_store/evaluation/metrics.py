"""Quality of a mask, and calibration of a model's own scores."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]

SMALL_AREA, LARGE_AREA = 32**2, 96**2
"""COCO's limits of small and large objects, in pixels of the photo."""
BOUNDARY_SHARE = 0.02
"""Width of the boundary band as a share of the photo's diagonal."""


def iou(mask: Bools, truth: Bools) -> float:
    """Return intersection over union, 0..1; NaN where both are empty."""
    either = np.count_nonzero(mask | truth)
    return np.count_nonzero(mask & truth) / either if either else math.nan


def boundary_iou(mask: Bools, truth: Bools) -> float:
    """Return the IoU of the bands inside the two outlines. Source: Cheng et al. 2021 (arXiv 2103.16562)."""
    width = max(1, round(BOUNDARY_SHARE * math.hypot(*truth.shape)))
    return iou(_band(mask, width), _band(truth, width))


def pieces(mask: Bools) -> int:
    """Return the number of 8-connected components of a mask; 0 where it is empty.

    Pixels that touch at a corner belong to one piece. With four neighbours each step of a thin diagonal line would be a
    piece of its own. The service's polygons separate such pixels, so there may be more polygons than pieces.
    """
    labels, _ = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    return labels - 1  # the background has a label, too


def size_class(area: int) -> str:
    """Return small, medium or large, by COCO's limits, for an area in pixels."""
    if area < SMALL_AREA:
        return "small"
    return "medium" if area < LARGE_AREA else "large"


@dataclass(frozen=True, slots=True)
class Calibration:
    """Agreement of a model's own scores with the true IoU.

    Attributes:
        error: Expected calibration error: mean distance of score and IoU over bins of score, weighted by their counts.
        correlation: Pearson's correlation of score and IoU; NaN where one of them does not vary.
        bins: Middle, mean IoU and count of each tenth of score that has masks.
    """

    error: float
    correlation: float
    bins: tuple[tuple[float, float, int], ...]


def calibration(scores: Sequence[float], ious: Sequence[float]) -> Calibration:
    """Return the calibration of scores, which are clipped to [0, 1]; pairs with a NaN are left out."""
    clipped = np.clip(np.asarray(scores, np.float64), 0, 1)
    true = np.asarray(ious, np.float64)
    known = np.isfinite(clipped) & np.isfinite(true)
    clipped, true = clipped[known], true[known]
    if not len(clipped):
        return Calibration(math.nan, math.nan, ())
    tenth = np.minimum((clipped * 10).astype(int), 9)
    bins, error = [], 0.0
    for index in range(10):
        inside = tenth == index
        if inside.any():
            bins.append(((index + 0.5) / 10, float(true[inside].mean()), int(inside.sum())))
            error += abs(float(clipped[inside].mean() - true[inside].mean())) * float(inside.mean())
    varies = clipped.std() > 0 and true.std() > 0
    correlation = float(np.corrcoef(clipped, true)[0, 1]) if varies else math.nan
    return Calibration(error, correlation, tuple(bins))


def _band(mask: Bools, width: int) -> Bools:
    """Return the pixels of the mask that are at most `width` from its outside; the outside of the photo counts."""
    padded = np.pad(mask.astype(np.uint8), 1)
    inner = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=width)[1:-1, 1:-1]
    band: Bools = mask & (inner == 0)
    return band
