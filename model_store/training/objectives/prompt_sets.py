"""The prompts of a batch, some of them boxes and some clicks, and their way through prompt encoder and decoder.

Letters: P = Q + R prompts, Q that began with a box and R that began with a click, n corrections so far, S side of the
frame in pixels, s = S/4.
"""

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from model_store.network.mask_decoder import MaskDecoder
from model_store.network.prompt_encoder import PromptEncoder


class Promptable(Protocol):
    """EdgeSAM, or a teacher with another image encoder before the same parts."""

    prompt_encoder: PromptEncoder
    mask_decoder: MaskDecoder


@dataclass(frozen=True, slots=True)
class PromptSet:
    """Prompts with boxes come first.

    A box is two tokens and a click is one, with a padding token beside it: so all prompts of a pass are equally long
    and go through the decoder together.

    Attributes:
        pictures: (P,) int64, the picture of the batch that each prompt is on.
        boxes: (Q, 4) float32 in the frame.
        box_points: (Q, n, 2) float32 in the frame, corrections of prompts with a box.
        box_labels: (Q, n), their labels.
        points: (R, 1 + n, 2) float32 in the frame, first clicks and corrections of the others.
        labels: (R, 1 + n), their labels.
    """

    pictures: Tensor
    boxes: Tensor
    box_points: Tensor
    box_labels: Tensor
    points: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.pictures)

    def with_correction(self, points: Tensor, labels: Tensor) -> "PromptSet":
        """The prompts with one more click each: points (P, 1, 2), labels (P, 1)."""
        boxes = len(self.boxes)
        return replace(
            self,
            box_points=torch.cat([self.box_points, points[:boxes]], dim=1),
            box_labels=torch.cat([self.box_labels, labels[:boxes].to(self.box_labels.dtype)], dim=1),
            points=torch.cat([self.points, points[boxes:]], dim=1),
            labels=torch.cat([self.labels, labels[boxes:].to(self.labels.dtype)], dim=1),
        )


def prompt_set(pictures: Tensor, boxes: Tensor, clicks: Tensor) -> PromptSet:
    """Fresh prompts: boxes (Q, 4) first, then one positive click each (R, 2), both in the frame; pictures (Q + R,)."""
    count, device = len(boxes), pictures.device
    return PromptSet(
        pictures=pictures,
        boxes=boxes,
        box_points=torch.zeros(count, 0, 2, device=device),
        box_labels=torch.zeros(count, 0, device=device),
        points=clicks[:, None],
        labels=torch.ones(len(clicks), 1, device=device),
    )


def decode(
    model: Promptable, embedding: Tensor, prompts: PromptSet, mask_logits: Tensor | None = None, masks: int = 4
) -> tuple[Tensor, Tensor]:
    """Masks of all prompts.

    Args:
        model: whose prompt encoder and mask decoder are used.
        embedding: of the batch's pictures, (B, 256, S/16, S/16).
        prompts: P of them.
        mask_logits: (P, 1, s, s), earlier answers as mask prompts.
        masks: 1, 3 or 4, see `MaskDecoder.forward`.

    Returns:
        Mask logits (P, n, s, s) and predicted IoU (P, n), both float32 whatever autocast computes in.
    """
    encoder = model.prompt_encoder
    count = len(prompts.boxes)
    parts = []
    if count:
        points = (prompts.box_points, prompts.box_labels) if prompts.box_points.shape[1] else None
        parts.append(encoder(points, prompts.boxes, _rows(mask_logits, slice(None, count))))
    if count < len(prompts):
        parts.append(encoder((prompts.points, prompts.labels), None, _rows(mask_logits, slice(count, None))))
    sparse, dense = (torch.cat([part[index] for part in parts]) for index in (0, 1))
    logits, iou = model.mask_decoder(embedding[prompts.pictures], encoder.dense_positional_code(), sparse, dense, masks)
    return logits.float(), iou.float()


def _rows(mask_logits: Tensor | None, rows: slice) -> Tensor | None:
    return None if mask_logits is None else mask_logits[rows]
