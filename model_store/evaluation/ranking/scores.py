"""Scores of a ranking rule, and the order of masks, for many prompts at once."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from service.mask_rules import Ranking

Doubles = NDArray[np.float64]


def scores_of(ranking: "Ranking", stability: NDArray[np.floating], predicted_iou: NDArray[np.floating]) -> Doubles:
    """Return the scores of the outputs of P prompts, by which they are ordered.

    Args:
        ranking: Ranking rule of the model.
        stability: Stability scores, (P, 4), 0..1.
        predicted_iou: Predicted IoUs, (P, 4).

    Returns:
        (P, 4), not bounded; NaN where a term that counts is NaN.
    """
    rows = zip(stability.tolist(), predicted_iou.tolist(), strict=True)
    return np.array([ranking.scores(*row) for row in rows], np.float64).reshape(stability.shape)


def order_of(scores: NDArray[np.floating]) -> NDArray[np.int64]:
    """Return the outputs in the order in which the service shows them.

    Args:
        scores: Scores of `scores_of`, (P, 4).

    Returns:
        (P, 4) indices of outputs, highest score first; equal scores by index, and NaN last.
    """
    order: NDArray[np.int64] = np.argsort(-scores, axis=1, kind="stable")
    return order
