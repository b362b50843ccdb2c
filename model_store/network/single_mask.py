"""SAM 2's choice of the mask of a prompt that means one object: output 0, or the best of three where it is not stable.

Source: docs/explanation/sam2.md, section "Choice of the mask".
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from service.sam.masks import LEAST_NARROW_STABILITY, NARROW_OFFSET


def narrow_stability(mask_logits: Tensor) -> Tensor:
    """Return the stability of masks when their threshold moves from +0.05 to -0.05, 0..1.

    Args:
        mask_logits: Logits of masks, (..., H, W), not limited.

    Returns:
        (...) float32. 1 where no logit is above -0.05: an empty mask counts as stable.
    """
    inner = (mask_logits > NARROW_OFFSET).float().sum((-2, -1))
    outer = (mask_logits > -NARROW_OFFSET).float().sum((-2, -1))
    return torch.where(outer > 0, inner / outer.clamp(min=1.0), 1.0)


def single_mask(mask_logits: Tensor, iou_predictions: Tensor, fallback: Sequence[int]) -> Tensor:
    """Return which output is the only mask of each prompt, (P,) int64.

    Args:
        mask_logits: Logits of all four masks of P prompts, (P, 4, H, W), not limited.
        iou_predictions: Predicted IoUs, (P, 4).
        fallback: Outputs of which the one with the highest predicted IoU, the first of equals, stands for an output 0
            that is not stable; empty for architectures that answer with output 0 always.
    """
    first = torch.zeros(len(mask_logits), dtype=torch.int64, device=mask_logits.device)
    if not fallback:
        return first
    outputs = torch.tensor(fallback, device=mask_logits.device)
    best = outputs[iou_predictions[:, outputs].argmax(dim=1)]
    return torch.where(narrow_stability(mask_logits[:, 0]) >= LEAST_NARROW_STABILITY, first, best)
