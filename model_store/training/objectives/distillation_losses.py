"""Losses of distillation: cross entropy and Dice loss of masks, and squared error of features.

Source: docs/explanation/model.md, sections 7.2 to 7.4.

Letters: P prompts, n masks a prompt, (h, w) of the grid of logits, B images.
"""

from typing import Literal

from torch import Tensor
from torch.nn import functional

Division = Literal["each", "crossed"]


def bce(logits: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Return the binary cross entropy over valid cells, for each prompt the mean over its masks.

    Args:
        logits: Mask logits, (P, n, h, w).
        target: Targets in [0, 1], (P, n, h, w).
        valid: Weights of the cells, broadcastable to (P, n, h, w); None counts all cells alike.

    Returns:
        (P,).
    """
    loss = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return _mean_of_valid(loss, valid)


def dice(logits: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Return the Dice loss of each mask, with 1 added to numerator and denominator.

    Both factors are multiplied by `valid` before their product, as in EdgeSAM. So `valid` counts squared in the
    numerator and once in the denominator.

    Args:
        logits: Mask logits, (P, n, h, w).
        target: Targets in [0, 1], (P, n, h, w).
        valid: Weights of the cells, broadcastable to (P, n, h, w); None counts all cells alike.

    Returns:
        (P, n).
    """
    probability = logits.sigmoid()
    if valid is not None:
        probability, target = probability * valid, target * valid
    both = (probability * target).sum((-2, -1))
    return 1 - (2 * both + 1) / (probability.sum((-2, -1)) + target.sum((-2, -1)) + 1)


def feature_mse(student: Tensor, teacher: Tensor, valid: Tensor, *, division: Division = "each") -> Tensor:
    """Return the masked mean squared error of image embeddings (docs/explanation/model.md, section 7.2).

    Args:
        student: Embeddings of the student, (B, C, g, g).
        teacher: Embeddings of the teacher, (B, C, g, g).
        valid: Cells inside the image, (B, 1, g, g), 1 or 0.
        division: Divisor of the errors. `each` divides an image's error by its own cells, as intended. `crossed`
            divides the error of every image by the cells of every image, as EdgeSAM's code does. Both agree for images
            of one shape.
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
