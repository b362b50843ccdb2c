"""Boxes of masks, and the suppression of masks whose boxes overlap."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from service.sam.mask_runs import Box


def inclusive_boxes(boxes: Sequence[Box]) -> NDArray[np.int64]:
    """Return boxes as SAM's generator compares them: the last column and row instead of the one behind, (n, 4).

    Args:
        boxes: Boxes of n masks as (x0, y0, x1, y1), pixels, exclusive at the end; four zeros for an empty mask.
    """
    inclusive = np.array(boxes, np.int64).reshape(-1, 4)
    has_pixels = inclusive[:, 2] > inclusive[:, 0]
    inclusive[has_pixels, 2:] -= 1
    return inclusive


def without_duplicates(
    boxes: NDArray[np.number], scores: NDArray[np.floating], threshold: float, *, most: int | None = None
) -> NDArray[np.int64]:
    """Return the boxes that greedy suppression keeps, as indices in the order of their scores, best first.

    Of equal scores the earlier comes first. A box goes when its IoU with a better one that stays is above the
    threshold. Areas lack the last column and row of inclusive boxes, so a box one pixel wide suppresses nothing.

    Args:
        boxes: n boxes as x0, y0, x1, y1, (n, 4), compared in float32.
        scores: Scores of the boxes, (n,).
        threshold: IoU above which the worse of two boxes is dropped. The IoU is float32, and the threshold is not.
        most: Number of boxes to return, the best ones; None for all. Each costs a comparison with all that wait: 12 288
            boxes without duplicates take a second.

    Source: docs/explanation/everything.md, section "Duplicates".
    """
    order = np.argsort(-scores, kind="stable")
    x0, y0, x1, y1 = boxes[order].astype(np.float32).T
    areas = (x1 - x0) * (y1 - y0)
    waiting = np.arange(len(order))
    kept: list[np.int64] = []
    while len(waiting) and (most is None or len(kept) < most):
        best, others = waiting[0], waiting[1:]
        kept.append(best)
        width = np.minimum(x1[best], x1[others]) - np.maximum(x0[best], x0[others])
        height = np.minimum(y1[best], y1[others]) - np.maximum(y0[best], y0[others])
        shared = np.maximum(width, np.float32(0.0)) * np.maximum(height, np.float32(0.0))
        with np.errstate(invalid="ignore", divide="ignore"):  # two boxes without area have no IoU, and both stay
            iou = shared / (areas[best] + areas[others] - shared)
        waiting = others[~(iou.astype(np.float64) > threshold)]
    return order[np.array(kept, np.int64)]
