"""The choice of the defaults: the thresholds that find the most objects with a bounded number of masks."""

from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np

from model_store.evaluation.everything.grid_masks import GridMasks
from model_store.evaluation.everything.recall import Recall, recall_of
from service.mask_rules import EverythingDefaults
from service.sam.everything.options import Quality

QUALITIES: tuple[Quality, ...] = ("predicted_iou", "stability")
OUTPUTS = ((1, 2, 3), (0, 1, 2, 3))
_QUANTILES = (0.0, 0.3, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95)
"""Shares of all masks that a threshold drops."""


def candidate_defaults(photos: Sequence[GridMasks], usual: EverythingDefaults) -> Iterator[EverythingDefaults]:
    """Yield the defaults that are compared: both qualities, with and without output 0, and pairs of thresholds.

    Thresholds are quantiles of the masks, so that models of any scale have useful ones.

    Args:
        photos: All masks of the grid of each photo.
        usual: Defaults from which the other members are taken.
    """
    for quality, outputs in product(QUALITIES, OUTPUTS):
        of_quality, of_stability = (_thresholds(photos, name, outputs) for name in (quality, "stability_score"))
        for first, second in product(of_quality, of_stability):
            yield usual.model_copy(
                update={
                    "quality": quality,
                    "outputs": outputs,
                    "pred_iou_thresh": first,
                    "stability_score_thresh": second,
                }
            )


def chosen_defaults(
    photos: Sequence[GridMasks], usual: EverythingDefaults, *, most_masks: float, most_decoded: float = 1.0
) -> tuple[EverythingDefaults, Recall]:
    """Return the defaults that find the most objects with at most so many masks of a photo, and what they find.

    Of equal recall the higher mean IoU decides, then fewer masks.

    Args:
        photos: All masks of the grid of each photo.
        usual: Defaults from which the other members are taken.
        most_masks: Largest mean number of masks of a photo.
        most_decoded: Largest share of points that are decoded in full.

    Raises:
        ValueError: No pair of thresholds has so few masks or points, and any mask.
    """
    measured = [(defaults, recall_of(photos, defaults)) for defaults in candidate_defaults(photos, usual)]
    allowed = [pair for pair in measured if 0 < pair[1].masks <= most_masks and pair[1].decoded <= most_decoded]
    if not allowed:
        raise ValueError("no pair of thresholds leaves so few masks or points; allow more of them")
    return max(allowed, key=lambda pair: (pair[1].found, pair[1].mean_iou, -pair[1].masks))


def _thresholds(photos: Sequence[GridMasks], name: str, outputs: Sequence[int]) -> list[float]:
    """Return the quantiles of a figure of all masks of some outputs, with three digits and without repeats."""
    figures = np.concatenate([getattr(masks, name)[np.isin(masks.output, outputs)] for masks in photos])
    quantiles = np.quantile(figures[np.isfinite(figures)], _QUANTILES[1:])
    return [0.0, *sorted({round(float(value), 3) for value in quantiles.clip(0.0, 1.0)} - {0.0})]
