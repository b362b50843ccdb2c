"""Losses of the decoder's four outputs against annotated masks.

Letters: P prompts, k output 0 to 3, t target 0 to 2 of a prompt, c one of C cells of the logits; x logits,
p = sigmoid(x), y coverage of a target and v share of the cell in the photo, both 0..1.

    pixel(k, t)  = sum_c v·BCE(x_k, y_t) / min(sum_c v, 5·area + 150),  area = sum_c v·y_0
    dice(k, t)   = 1 - (2·sum_c v·p_k·y_t + 1) / (sum_c v·p_k + sum_c v·y_t + 1)
    cost(k, t)   = pixel(k, t) + dice(k, t)
    mask         = cost(0, 0)
    ambiguous    = min over matches m of mean_t cost(m(t), t),  m gives each target an output 1 to 3 of its own
    iou          = mean_k (predicted_k - true_k)^2
    click        = sum_c g·BCE(x_0, y_0) / sum_c g,  g = v·max_j exp(-d_j^2 / (2·radius^2))
    loss         = mask + ambiguous_weight·ambiguous + iou_weight·iou + click_weight·click

In a mean over all cells, small objects would hardly count. The divisor makes a missed object of 100 cells, in a window
of 4096, cost six times as much. d_j is the distance to correction click j, in cells: cells around a click count more,
since the user has stated there whether the object is present.

Source: SAM (arXiv 2304.02643) for the outputs; Dice with 1 added above and below as in EdgeSAM (arXiv 2312.06660).
"""

import itertools
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from service.sam.prompts import IGNORED

TARGETS = 3
_MATCHES = tuple(itertools.permutations(range(TARGETS)))
_AREA_FACTOR, _AREA_FLOOR = 5.0, 150.0  # cells; see `pixel` above


@dataclass(frozen=True, slots=True)
class LossWeights:
    """Weights of the parts of the loss; the mask itself weighs 1.

    Args:
        ambiguous: Weight of outputs 1 to 3 after a first prompt.
        later_ambiguous: Weight of outputs 1 to 3 after corrections, when only one mask is meant.
        iou: Weight of the predicted IoU.
        click: Weight of the cells around the correction clicks.
        click_radius: Standard deviation of the Gaussian around a click, in cells of the logits.
    """

    ambiguous: float = 0.5
    later_ambiguous: float = 0.25
    iou: float = 1.0
    click: float = 0.1
    click_radius: float = 2.0


@dataclass(frozen=True, slots=True)
class Targets:
    """Targets of P prompts.

    Attributes:
        masks: Coverage by the targets, (P, 3, C) float32, 0..1. The first is the mask that is meant; the others are
            further masks under an ambiguous point.
        exists: Whether each target exists, (P, 3) bool; the first always does.
        valid: Share of each cell in the photo, (P, 1, C) float32, 0..1.
    """

    masks: Tensor
    exists: Tensor
    valid: Tensor

    def meant_only(self) -> "Targets":
        """Return the targets after a correction, when it is clear which mask is meant."""
        only_first = torch.zeros_like(self.exists)
        only_first[:, 0] = True
        return replace(self, exists=only_first)


@dataclass(frozen=True, slots=True)
class MaskLosses:
    """Losses of each prompt, and the true IoU of its outputs.

    Attributes:
        loss: Weighted sum of all parts, (P,).
        mask: Loss of output 0, (P,).
        ambiguous: Loss of outputs 1 to 3, (P,).
        iou: Squared error of the predicted IoU, (P,).
        click: Loss around correction clicks, (P,); 0 without corrections.
        true_iou: True IoU of each output, (P, 4): of output 0 with the mask that is meant, of the others with the best.
    """

    loss: Tensor
    mask: Tensor
    ambiguous: Tensor
    iou: Tensor
    click: Tensor
    true_iou: Tensor


def mask_losses(
    logits: Tensor, predicted_iou: Tensor, targets: Targets, weights: LossWeights, near: Tensor | None = None
) -> MaskLosses:
    """Return the losses of four outputs for each of P prompts, by the formulas above.

    Args:
        logits: Mask logits, (P, 4, s, s) float32.
        predicted_iou: Predicted IoUs, (P, 4) float32.
        targets: Targets of the prompts, C = s·s.
        weights: Weights of the parts.
        near: Weights of the cells around clicks, (P, s, s), from `click_weights`; None after first prompts.
    """
    with torch.autocast(logits.device.type, enabled=False):  # sums over many cells
        flat_logits = logits.flatten(2)  # (P, 4, C)
        costs = _costs(flat_logits, targets)  # (P, 4, 3)
        mask = costs[:, 0, 0]
        ambiguous = _best_match(costs[:, 1:], targets.exists)
        true_iou = _true_iou(flat_logits, targets)
        iou = (predicted_iou - true_iou).square().mean(1)
        click = mask.new_zeros(len(mask))
        ambiguous_weight = weights.ambiguous
        if near is not None:
            click = _click_loss(flat_logits[:, 0], targets, near.flatten(1))
            ambiguous_weight = weights.later_ambiguous
        loss = mask + ambiguous_weight * ambiguous + weights.iou * iou + weights.click * click
    return MaskLosses(loss, mask, ambiguous, iou, click, true_iou)


def click_weights(cells: Tensor, labels: Tensor, side: int, radius: float) -> Tensor:
    """Return the weight of each cell by its distance to correction clicks: 1 at a click, 0 far away or without clicks.

    Args:
        cells: Positions (x, y) of the clicks on the grid of the logits, (P, K, 2) float32.
        labels: Labels of the clicks, (P, K); IGNORED clicks have no weight.
        side: Side of the grid, s.
        radius: Standard deviation of the Gaussian, in cells.

    Returns:
        (P, s, s).
    """
    positions = torch.arange(side, device=cells.device, dtype=cells.dtype)
    columns, rows = (-(positions - cells[..., axis, None]).square() / (2 * radius**2) for axis in (0, 1))  # (P, K, s)
    near = (rows[..., :, None] + columns[..., None, :]).exp()  # (P, K, s, s)
    return (near * (labels != IGNORED)[..., None, None]).amax(1)


def _costs(flat_logits: Tensor, targets: Targets) -> Tensor:
    """Return the sum of pixel and Dice loss for all pairs of outputs and targets, (P, 4, 3).

    Both are linear in the target, so all pairs are two matrix products.
    """
    valid = targets.valid
    wanted = (targets.masks * valid).transpose(1, 2)  # (P, C, 3)
    area = wanted[..., 0].sum(1)[:, None, None]
    divisor = torch.minimum(valid.sum(2, keepdim=True), _AREA_FACTOR * area + _AREA_FLOOR).clamp(min=1.0)  # (P, 1, 1)
    # BCE(x, y) = softplus(x) - x·y
    pixel = ((functional.softplus(flat_logits) * valid).sum(2, keepdim=True) - flat_logits @ wanted) / divisor
    probability = flat_logits.sigmoid()
    sizes = (probability * valid).sum(2)[:, :, None] + wanted.sum(1)[:, None]
    return pixel + 1 - (2 * probability @ wanted + 1) / (sizes + 1)


def _best_match(costs: Tensor, exists: Tensor) -> Tensor:
    """Return the mean cost of the targets for the best assignment of outputs: (P, 3, 3) and (P, 3) → (P,)."""
    outputs = torch.tensor(_MATCHES, device=costs.device)  # (6, 3): the output of each target
    of_match = costs[:, outputs, torch.arange(TARGETS, device=costs.device)]  # (P, 6, 3)
    return (of_match * exists[:, None]).sum(2).amin(1) / exists.sum(1)


@torch.no_grad()
def _true_iou(flat_logits: Tensor, targets: Targets) -> Tensor:
    """Return the true IoUs, (P, 4), see `MaskLosses`; 1 where both masks are empty."""
    found = (flat_logits > 0).float()
    wanted = (targets.masks > 0.5).float() * targets.valid
    both = found @ wanted.transpose(1, 2)  # (P, 4, 3)
    either = (found * targets.valid).sum(2)[:, :, None] + wanted.sum(2)[:, None] - both
    pairs = torch.where(either > 0, both / either.clamp(min=1e-6), 1.0)
    pairs = torch.where(targets.exists[:, None], pairs, -1.0)
    return torch.cat([pairs[:, :1, 0], pairs[:, 1:].amax(2)], dim=1)


def _click_loss(flat_logits: Tensor, targets: Targets, near: Tensor) -> Tensor:
    """Return the cross entropy around clicks: (P, C) and (P, C) → (P,), 0 for prompts without a click."""
    near = near * targets.valid[:, 0]
    entropy = functional.binary_cross_entropy_with_logits(flat_logits, targets.masks[:, 0], reduction="none")
    return (near * entropy).sum(1) / near.sum(1).clamp(min=1e-6)
