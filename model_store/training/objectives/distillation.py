"""Distillation from a teacher: its features (stage 1), and its masks with prompts in the loop (stage 2).

Source: docs/explanation/model.md, sections 7.2 and 7.4.

Letters: B images, P prompts, n masks a prompt, g = S/16 side of the embedding, s = S/4 side of the logits.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from model_store.training.objectives.correction_clicks import Draw, correction, random_cells
from model_store.training.objectives.distillation_losses import bce, dice
from model_store.training.objectives.prompt_sets import Promptable, decode, prompt_set

Start = Literal["box", "point"]


@dataclass(frozen=True, slots=True)
class TeacherLoop:
    """Settings of a step with a teacher; the defaults are EdgeSAM's.

    Args:
        passes: Number of decoder passes: the first prompts, then one correction each.
        bce_weight: Weight of the cross entropy.
        dice_weight: Weight of the Dice loss.
    """

    passes: int = 2
    bce_weight: float = 5.0
    dice_weight: float = 5.0


@dataclass(frozen=True, slots=True)
class DecoderPass:
    """Results of one decoder pass, for the log and for comparisons.

    Attributes:
        points: All points so far, (P, N, 2), in the frame; for boxes only their corrections.
        labels: Labels of the points, (P, N).
        student: Logits of the student, (P, n, s, s).
        teacher: Logits of the teacher, (P, n, s, s).
        teacher_iou: IoU that the teacher predicts, (P, n).
        bce: Weighted cross entropy, divided by the number of passes.
        dice: Weighted Dice loss, divided by the number of passes.
    """

    points: Tensor
    labels: Tensor
    student: Tensor
    teacher: Tensor
    teacher_iou: Tensor
    bce: Tensor
    dice: Tensor


def prompt_passes(
    student: Promptable,
    teacher: Promptable,
    embeddings: tuple[Tensor, Tensor],
    *,
    start: Start,
    image_index: Tensor,
    prompts: Tensor,
    valid: Tensor,
    loop: TeacherLoop,
    generator: torch.Generator | None = None,
    draw: Draw = random_cells,
) -> list[DecoderPass]:
    """Return the passes of one step, whose loss is the sum of their losses.

    Args:
        student: Model to train; gradients flow into its decoder and its embedding.
        teacher: Frozen model whose masks are the targets.
        embeddings: Image embeddings of the student and of the teacher, (B, 256, g, g) each.
        start: Kind of the prompts. A box trains one mask, a point all four.
        image_index: Index within the batch of each prompt's image, (P,) int64.
        prompts: Boxes (P, 4) or points (P, 2) in the frame.
        valid: Pixels inside the images, (B, 1, S, S), 1 or 0.
        loop: Weights and number of passes.
        generator: Random generator on the device, for the corrections; None takes torch's global one.
        draw: Function that draws a cell of each set, see `correction_clicks.correction`.
    """
    side = valid.shape[-1] // 4
    masks = 1 if start == "box" else 4
    inside = functional.interpolate(valid, (side, side), mode="bilinear", align_corners=False)[
        image_index
    ]  # (P, 1, s, s)
    prompt_batch = prompt_set(
        image_index,
        prompts if start == "box" else prompts.new_zeros(0, 4),
        prompts if start == "point" else prompts.new_zeros(0, 2),
    )
    passes: list[DecoderPass] = []
    for _ in range(loop.passes):
        if passes:
            last = passes[-1]
            # Student and teacher are compared by the mask with the highest IoU in the teacher's prediction.
            best, rows = last.teacher_iou.argmax(1), torch.arange(len(image_index), device=image_index.device)
            logits, truth = last.student[rows, best].detach(), last.teacher[rows, best]
            prompt_batch = prompt_batch.with_correction(*correction(logits, truth, inside[:, 0], generator, draw=draw))
        student_logits, _ = decode(student, embeddings[0], prompt_batch, masks=masks)
        with torch.no_grad():
            teacher_logits, iou = decode(teacher, embeddings[1], prompt_batch, masks=masks)
        target = (teacher_logits > 0).float()
        weight = inside.expand_as(student_logits)
        passes.append(
            DecoderPass(
                points=prompt_batch.box_points if start == "box" else prompt_batch.points,
                labels=prompt_batch.box_labels if start == "box" else prompt_batch.labels,
                student=student_logits,
                teacher=teacher_logits,
                teacher_iou=iou,
                bce=loop.bce_weight * bce(student_logits, target, weight).mean() / loop.passes,
                dice=loop.dice_weight * dice(student_logits, target, weight).mean() / loop.passes,
            )
        )
    return passes


def valid_cells(valid: Tensor) -> Tensor:
    """Return the cells of the embedding inside the image: (B, 1, S, S) → (B, 1, g, g), 0 or 1.

    Source: docs/explanation/model.md, section 7.2.
    """
    side = valid.shape[-1] // 16
    cells = functional.interpolate(valid, (side, side), mode="bilinear", align_corners=False)
    return (cells > 0.5).float()
