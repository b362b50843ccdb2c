"""The filters of everything mode: predicted IoU and stability."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def exceeds(quality: NDArray[np.float32], threshold: float) -> NDArray[np.bool_]:
    """Return which masks are above the threshold of the quality, of the shape of `quality`. 0 keeps all.

    Args:
        quality: Quality of each mask, float32.
        threshold: Number that the quality has to exceed, compared in float32.
    """
    return np.ones(quality.shape, np.bool_) if threshold <= 0.0 else quality > threshold


def is_stable(stability: NDArray[np.float32], threshold: float) -> NDArray[np.bool_]:
    """Return which masks reach the threshold of the stability, (n,) bool. 0 keeps all; NaN reaches no other.

    Args:
        stability: Stability of n masks, (n,) float32.
        threshold: Least stability, compared in float32.
    """
    return np.ones(stability.shape, np.bool_) if threshold <= 0.0 else stability >= threshold


def stability_scores(logits: Sequence[NDArray[np.float32]], offset: float) -> NDArray[np.float32]:
    """Return the number of logits above `offset` as a share of those above `-offset`, (n,); NaN where there are none.

    Args:
        logits: Logits of n masks, (h, w) each.
        offset: Distance of both thresholds from 0, in logits.
    """
    inner, outer = (
        np.array([np.count_nonzero(each > threshold) for each in logits], np.float64) for threshold in (offset, -offset)
    )
    shares: NDArray[np.float32] = np.divide(inner, outer, out=np.full(len(logits), np.nan), where=outer > 0).astype(
        np.float32
    )
    return shares
