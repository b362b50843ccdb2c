"""The box and point prompts of a batch of letterboxed photos, and their decoding.

Letters: P = Q + R prompts, Q that began with a box and R that began with a point, n corrections so far, S side of the
frame in pixels, s = S/4.
"""

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from model_store.network.mask_decoder import MaskDecoder
from model_store.network.prompt_encoder import PromptEncoder


class Promptable(Protocol):
    """A model with SAM's prompt encoder and mask decoder: EdgeSAM, or a teacher with another image encoder."""

    prompt_encoder: PromptEncoder
    mask_decoder: MaskDecoder


@dataclass(frozen=True, slots=True)
class PromptSet:
    """Prompts with boxes come first.

    A box has two tokens. A point has one and a padding token. So all prompts of a pass are equally long and are decoded
    together.

    Attributes:
        image_index: Index within the batch of each prompt's image, (P,) int64.
        boxes: Boxes in the frame, (Q, 4) float32.
        box_points: Corrections of box prompts, in the frame, (Q, n, 2) float32.
        box_labels: Labels of these corrections, (Q, n).
        points: First points and corrections of point prompts, in the frame, (R, 1 + n, 2) float32.
        labels: Labels of these points, (R, 1 + n).
    """

    image_index: Tensor
    boxes: Tensor
    box_points: Tensor
    box_labels: Tensor
    points: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.image_index)

    def with_correction(self, points: Tensor, labels: Tensor) -> "PromptSet":
        """Return the prompts with one more point each: points (P, 1, 2) in the frame, labels (P, 1)."""
        boxes = len(self.boxes)
        return replace(
            self,
            box_points=torch.cat([self.box_points, points[:boxes]], dim=1),
            box_labels=torch.cat([self.box_labels, labels[:boxes].to(self.box_labels.dtype)], dim=1),
            points=torch.cat([self.points, points[boxes:]], dim=1),
            labels=torch.cat([self.labels, labels[boxes:].to(self.labels.dtype)], dim=1),
        )


def prompt_set(image_index: Tensor, boxes: Tensor, points: Tensor) -> PromptSet:
    """Return first prompts.

    Args:
        image_index: Index within the batch of each prompt's image, boxes first, (Q + R,).
        boxes: Boxes in the frame, (Q, 4).
        points: Positive points in the frame, (R, 2).
    """
    count, device = len(boxes), image_index.device
    return PromptSet(
        image_index=image_index,
        boxes=boxes,
        box_points=torch.zeros(count, 0, 2, device=device),
        box_labels=torch.zeros(count, 0, device=device),
        points=points[:, None],
        labels=torch.ones(len(points), 1, device=device),
    )


def decode(
    model: Promptable, embedding: Tensor, prompts: PromptSet, mask_logits: Tensor | None = None, masks: int = 4
) -> tuple[Tensor, Tensor]:
    """Return the masks of all prompts.

    Args:
        model: Model whose prompt encoder and mask decoder are used.
        embedding: Image embeddings of the batch, (B, 256, S/16, S/16).
        prompts: P prompts.
        mask_logits: Logits of earlier masks as mask prompts, (P, 1, s, s); None for none.
        masks: Number of masks of a prompt, 1, 3 or 4, see `MaskDecoder.forward`.

    Returns:
        Mask logits (P, n, s, s) and predicted IoU (P, n), both float32 even where autocast computes in less.
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
    logits, iou = model.mask_decoder(
        embedding[prompts.image_index], encoder.dense_positional_code(), sparse, dense, masks
    )
    return logits.float(), iou.float()


def _rows(mask_logits: Tensor | None, rows: slice) -> Tensor | None:
    return None if mask_logits is None else mask_logits[rows]
