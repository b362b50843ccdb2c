"""What is minimised: pixels and overlap of masks, the score's error, and features of a teacher (SPEC 7.2 to 7.4).

Letters: P prompts, n masks a prompt, (h, w) of the grid of logits, B pictures.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Division = Literal["each", "crossed"]


@dataclass(frozen=True, slots=True)
class StepLosses:
    """What a step gives: the total with its gradient, and its parts for the log."""

    total: Tensor
    parts: dict[str, Tensor]


def bce(logits: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Binary cross entropy of valid cells, a mean a prompt over its masks.

    Args:
        logits: (P, n, h, w).
        target: the same, in [0, 1].
        valid: the same or broadcastable, weights of cells; None counts all.

    Returns:
        (P,).
    """
    loss = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return _mean_of_valid(loss, valid)


def focal(
    logits: Tensor, target: Tensor, valid: Tensor | None = None, *, alpha: float = 0.25, gamma: float = 2.0
) -> Tensor:
    """Focal loss, as `bce`. Source: Lin et al. 2017 (arXiv 1708.02002)."""
    loss = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    probability = logits.sigmoid()
    missed = probability * (1 - target) + (1 - probability) * target
    weight = alpha * target + (1 - alpha) * (1 - target)
    return _mean_of_valid(weight * missed**gamma * loss, valid)


def dice(logits: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Dice loss of each mask, 1 added above and below.

    Both factors are multiplied by `valid` before their product, as in EdgeSAM: it stands squared above, once below.

    Returns:
        (P, n).
    """
    probability = logits.sigmoid()
    if valid is not None:
        probability, target = probability * valid, target * valid
    both = (probability * target).sum((-2, -1))
    return 1 - (2 * both + 1) / (probability.sum((-2, -1)) + target.sum((-2, -1)) + 1)


def feature_mse(student: Tensor, teacher: Tensor, valid: Tensor, *, division: Division = "each") -> Tensor:
    """Masked mean squared error of image embeddings (SPEC 7.2).

    Args:
        student: (B, C, g, g).
        teacher: the same.
        valid: (B, 1, g, g), 1 inside the picture.
        division: `each` divides a picture's error by its own cells, as intended; `crossed` divides every picture's by
            every other's, as EdgeSAM's code does. They agree for pictures of one shape.
    """
    errors = ((student - teacher).square().mean(1, keepdim=True) * valid).flatten(1).sum(1)  # (B,)
    cells = valid.flatten(1).sum(1)  # (B,)
    if division == "crossed":
        return errors.mean() * (1 / cells).mean()
    return (errors / cells).mean()


def mask_iou(logits: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """IoU of the mask `logits > 0` with the mask `target > 0.5`, (...) for (..., h, w); 1 when both are empty."""
    answer, truth = logits > 0, target > 0.5
    if valid is not None:
        answer, truth = answer & (valid > 0), truth & (valid > 0)
    both, either = (answer & truth).sum((-2, -1)), (answer | truth).sum((-2, -1))
    return torch.where(either > 0, both / either.clamp(min=1), 1.0)


def _mean_of_valid(loss: Tensor, valid: Tensor | None) -> Tensor:
    if valid is None:
        return loss.flatten(1).mean(1)
    weights = valid.expand_as(loss).flatten(1)
    return (loss.flatten(1) * weights).sum(1) / weights.sum(1).clamp(min=1e-6)
