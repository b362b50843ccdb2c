"""Which objects an everything result finds."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model_store.evaluation.everything.grid_masks import GridMasks
from service.mask_rules import EverythingDefaults
from service.sam.everything.duplicates import without_duplicates
from service.sam.everything.filters import exceeds, is_stable
from service.sam.everything.options import DEFAULT_MAX_MASKS

FOUND_IOU = 0.5
"""True IoU from which an object counts as found."""


@dataclass(frozen=True, slots=True)
class Recall:
    """The objects that the results of several photos find.

    Attributes:
        found: Share of the objects that a mask has an IoU of at least `FOUND_IOU` with, 0..1.
        mean_iou: Mean over the objects of the highest IoU of any mask, 0..1.
        masks: Mean number of masks of a photo.
        decoded: Share of the points with a mask above the threshold of the quality, 0..1. Only these are decoded in
            full where the quality is the predicted IoU.
    """

    found: float
    mean_iou: float
    masks: float
    decoded: float


def kept_masks(masks: GridMasks, defaults: EverythingDefaults) -> NDArray[np.int64]:
    """Return the masks of a result as indices, best first. Small regions are not removed.

    Args:
        masks: All masks of the grid of a photo.
        defaults: Options to measure; the grid is that of the masks.
    """
    passing = np.flatnonzero(
        _above(masks, defaults) & is_stable(masks.stability_score, defaults.stability_score_thresh) & ~masks.is_empty
    )
    quality = getattr(masks, defaults.quality)[passing]
    kept = without_duplicates(masks.boxes[passing], quality, defaults.box_nms_thresh)
    return passing[kept[:DEFAULT_MAX_MASKS]]


def recall_of(photos: Sequence[GridMasks], defaults: EverythingDefaults) -> Recall:
    """Return what results with these options find.

    Args:
        photos: All masks of the grid of each photo, at least one object in all.
        defaults: Options to measure.
    """
    best, counts, decoded = [], [], []
    for masks in photos:
        kept = kept_masks(masks, defaults)
        best.append(masks.iou[kept].max(axis=0, initial=0.0))
        counts.append(len(kept))
        decoded.append(_above(masks, defaults).reshape(-1, 4).any(axis=1).mean())
    iou = np.concatenate(best)
    return Recall(float((iou >= FOUND_IOU).mean()), float(iou.mean()), float(np.mean(counts)), float(np.mean(decoded)))


def _above(masks: GridMasks, defaults: EverythingDefaults) -> NDArray[np.bool_]:
    is_used = np.isin(masks.output, defaults.outputs)
    above: NDArray[np.bool_] = is_used & exceeds(getattr(masks, defaults.quality), defaults.pred_iou_thresh)
    return above
