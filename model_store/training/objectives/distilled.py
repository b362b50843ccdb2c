"""Distillation from a teacher: its features (stage 1), and its masks with prompts in the loop (stage 2).

Source: docs/explanation/model.md, sections 7.2 and 7.4.

Letters: B pictures, P prompts, n masks a prompt, g = S/16 side of the embedding, s = S/4 side of the logits.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from model_store.training.objectives.clicks import Draw, correction, random_cells
from model_store.training.objectives.losses import bce, dice
from model_store.training.objectives.prompt_sets import Promptable, decode, prompt_set

Start = Literal["box", "point"]


@dataclass(frozen=True, slots=True)
class TeacherLoop:
    """How a step with a teacher goes; the defaults are EdgeSAM's.

    Args:
        passes: decoder passes: the first, then one correction each.
        bce_weight: of the pixels.
        dice_weight: of the overlap.
    """

    passes: int = 2
    bce_weight: float = 5.0
    dice_weight: float = 5.0


@dataclass(frozen=True, slots=True)
class Pass:
    """What one decoder pass gave, for the log and for comparisons.

    Attributes:
        points: (P, N, 2), all clicks so far in the frame; of a box its corrections.
        labels: (P, N).
        student: (P, n, s, s) logits.
        teacher: the same.
        teacher_iou: (P, n), as the teacher predicts it.
        bce: weighted, and divided by the number of passes, like the next.
        dice: see there.
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
    pictures: Tensor,
    prompts: Tensor,
    valid: Tensor,
    loop: TeacherLoop,
    generator: torch.Generator | None = None,
    draw: Draw = random_cells,
) -> list[Pass]:
    """The passes of one step. Its loss is the sum of their losses.

    Args:
        student: learns; gradients flow into its decoder and its embedding.
        teacher: frozen.
        embeddings: of the student and of the teacher, (B, 256, g, g).
        start: what the prompts are; of a box one mask is learned, of a click all four.
        pictures: (P,) int64.
        prompts: boxes (P, 4) or clicks (P, 2) in the frame.
        valid: (B, 1, S, S), 1 inside the pictures.
        loop: weights and number of passes.
        generator: of the device, for the corrections.
        draw: see `clicks.correction`.
    """
    side = valid.shape[-1] // 4
    masks = 1 if start == "box" else 4
    inside = functional.interpolate(valid, (side, side), mode="bilinear", align_corners=False)[pictures]  # (P, 1, s, s)
    asked = prompt_set(
        pictures,
        prompts if start == "box" else prompts.new_zeros(0, 4),
        prompts if start == "point" else prompts.new_zeros(0, 2),
    )
    passes: list[Pass] = []
    for _ in range(loop.passes):
        if passes:
            last = passes[-1]
            # Student and teacher are compared on the mask that the teacher is most sure of.
            best, rows = last.teacher_iou.argmax(1), torch.arange(len(pictures), device=pictures.device)
            answer, truth = last.student[rows, best].detach(), last.teacher[rows, best]
            asked = asked.with_correction(*correction(answer, truth, inside[:, 0], generator, draw=draw))
        answers, _ = decode(student, embeddings[0], asked, masks=masks)
        with torch.no_grad():
            taught, iou = decode(teacher, embeddings[1], asked, masks=masks)
        target = (taught > 0).float()
        weight = inside.expand_as(answers)
        passes.append(
            Pass(
                points=asked.box_points if start == "box" else asked.points,
                labels=asked.box_labels if start == "box" else asked.labels,
                student=answers,
                teacher=taught,
                teacher_iou=iou,
                bce=loop.bce_weight * bce(answers, target, weight).mean() / loop.passes,
                dice=loop.dice_weight * dice(answers, target, weight).mean() / loop.passes,
            )
        )
    return passes


def valid_cells(valid: Tensor) -> Tensor:
    """Cells of the embedding that lie inside the picture: (B, 1, S, S) → (B, 1, g, g), 0 or 1.

    Source: docs/explanation/model.md, section 7.2.
    """
    side = valid.shape[-1] // 16
    cells = functional.interpolate(valid, (side, side), mode="bilinear", align_corners=False)
    return (cells > 0.5).float()
