"""Losses of the granularity module, and the assignment of boxes to anchors.

Letters as in `model_store.network.granularity_module`; n boxes of an image.
Source: EfficientDet (arXiv 1911.09070); focal loss (arXiv 1708.02002); docs/explanation/model.md 6.2.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from model_store.network.anchors import anchor_boxes
from model_store.training.objectives.step_losses import StepLosses


@dataclass(frozen=True, slots=True)
class BoxLoss:
    """Focal loss of scores and Huber loss of boxes; the defaults are those of EfficientDet.

    Args:
        gamma: Exponent of the focal loss.
        alpha: Weight of positive anchors in the focal loss, 0..1.
        beta: Distance from which on the Huber loss is linear.
        box_weight: Weight of the Huber loss.
        positive_iou: Smallest IoU of an anchor and a box that assigns the box to the anchor.
    """

    gamma: float = 1.5
    alpha: float = 0.25
    beta: float = 0.1
    box_weight: float = 50.0
    positive_iou: float = 0.5


def box_losses(
    logits: Tensor, deltas: Tensor, boxes: Sequence[Tensor], frame_size: int, loss: BoxLoss | None = None
) -> StepLosses:
    """Return the losses of all anchors.

    Args:
        logits: Logits of the anchors' scores, (B, N).
        deltas: Predicted deltas of the anchors, (B, N, 4).
        boxes: Boxes of each image, (n, 4) in the frame; n may be 0.
        frame_size: Side of the frame, in pixels.
        loss: Weights and thresholds; None for the defaults.
    """
    loss = loss or BoxLoss()
    anchors = anchor_boxes(frame_size, logits.device)
    sizes = anchors[:, 2:] - anchors[:, :2]
    centres = (anchors[:, 2:] + anchors[:, :2]) / 2
    wanted = torch.zeros_like(logits)
    distances = []
    for row, own in enumerate(boxes):
        if not len(own):
            continue
        match = assign(anchors, own, loss.positive_iou)
        positive = match >= 0
        wanted[row] = positive.float()
        target = own[match[positive]]
        centre, size = (target[:, :2] + target[:, 2:]) / 2, (target[:, 2:] - target[:, :2]).clamp(min=1.0)
        expected = torch.cat([(centre - centres[positive]) / sizes[positive], (size / sizes[positive]).log()], dim=1)
        distances.append(functional.huber_loss(deltas[row, positive], expected, reduction="none", delta=loss.beta))
    count = wanted.sum().clamp(min=1.0)
    probability = logits.sigmoid()
    missed = probability * (1 - wanted) + (1 - probability) * wanted
    weight = (loss.alpha * wanted + (1 - loss.alpha) * (1 - wanted)) * missed**loss.gamma
    entropy = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    focal = (weight * entropy).sum() / count
    huber = torch.cat(distances).sum() / (4 * count) if distances else deltas.sum() * 0
    huber = loss.box_weight * huber
    return StepLosses(focal + huber, {"focal": focal.detach(), "huber": huber.detach()})


def assign(anchors: Tensor, boxes: Tensor, positive_iou: float) -> Tensor:
    """Return the box assigned to each anchor, (N,) int64, -1 for none; every box gets at least its best anchor."""
    ious = box_iou(anchors, boxes)  # (N, n)
    best, match = ious.max(1)
    match = torch.where(best >= positive_iou, match, -1)
    best_anchor = ious.argmax(0)
    found = ious[best_anchor, torch.arange(len(boxes), device=boxes.device)] > 0
    match[best_anchor[found]] = torch.arange(len(boxes), device=boxes.device)[found]
    return match


def box_iou(first: Tensor, second: Tensor) -> Tensor:
    """Return the IoU of all pairs of boxes: (N, 4) and (n, 4) → (N, n)."""
    low = torch.maximum(first[:, None, :2], second[None, :, :2])
    high = torch.minimum(first[:, None, 2:], second[None, :, 2:])
    both = (high - low).clamp(min=0).prod(2)
    areas = [(box[:, 2:] - box[:, :2]).prod(1) for box in (first, second)]
    return both / (areas[0][:, None] + areas[1][None] - both).clamp(min=1e-6)
