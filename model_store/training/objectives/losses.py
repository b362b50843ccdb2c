"""Losses of distillation: pixels and overlap of masks, and features of a teacher.

Source: docs/explanation/model.md, sections 7.2 to 7.4.

Letters: P prompts, n masks a prompt, (h, w) of the grid of logits, B images.
"""

from dataclasses import dataclass
from typing import Literal

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
    """Masked mean squared error of image embeddings (docs/explanation/model.md, section 7.2).

    Args:
        student: (B, C, g, g).
        teacher: the same.
        valid: (B, 1, g, g), 1 inside the image.
        division: `each` divides an image's error by its own cells, as intended; `crossed` divides every image's by
            every other's, as EdgeSAM's code does. They agree for images of one shape.
    """
    errors = ((student - teacher).square().mean(1, keepdim=True) * valid).flatten(1).sum(1)  # (B,)
    cells = valid.flatten(1).sum(1)  # (B,)
    if division == "crossed":
        return errors.mean() * (1 / cells).mean()
    return (errors / cells).mean()


def _mean_of_valid(loss: Tensor, valid: Tensor | None) -> Tensor:
    if valid is None:
        return loss.flatten(1).mean(1)
    weights = valid.expand_as(loss).flatten(1)
    return (loss.flatten(1) * weights).sum(1) / weights.sum(1).clamp(min=1e-6)
