"""The prompt loop with annotated masks in the teacher's place (SPEC 7.4): what a step asks for, and its loss.

Where masks nest under a click, all of them are right; the three outputs for ambiguous prompts learn them by best match,
and output 0 learns the one that was meant. The predicted IoU learns the true one.

Letters: B pictures, G masks a picture, P prompts (boxes first, then clicks), K = 3 targets a prompt, s = side of the
logits, C = s*s cells.
"""

import itertools
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from model_store.network.model import PromptableModel
from model_store.training.data.augmentation import MASK_STRIDE, Batch
from model_store.training.objectives.clicks import cell_points, correction, middle_cells, random_cells
from model_store.training.objectives.losses import StepLosses
from model_store.training.objectives.prompt_sets import PromptSet, decode, prompt_set

PixelLoss = Literal["bce", "focal"]

TARGETS = 3
_MATCHES = torch.tensor(list(itertools.permutations(range(TARGETS))))  # (6, K): output of each target
# Beyond this ratio of areas two masks under a click are different answers, not two drawings of one.
_DISTINCT = 1.3


@dataclass(frozen=True, slots=True)
class AnnotatedLoop:
    """How a step with annotated masks goes.

    Args:
        prompts: prompts a picture, half of them boxes; an even number.
        passes: decoder passes: the first, then one correction each.
        pixel_loss: bce or focal.
        pixel_weight: of the pixel loss.
        dice_weight: of the overlap.
        iou_weight: of the predicted IoU's squared error.
        ambiguous_weight: of the three outputs for ambiguous prompts, against output 0.
        mask_prompt: probability that a correction comes with the earlier answer as a mask prompt.
        middle: share of clicks in the middle of the mask; the others fall anywhere in it.
        box_noise: largest shift of a box's edge as a share of its side, for half of the boxes.
    """

    prompts: int = 8
    passes: int = 2
    pixel_loss: PixelLoss = "bce"
    pixel_weight: float = 1.0
    dice_weight: float = 1.0
    iou_weight: float = 1.0
    ambiguous_weight: float = 0.5
    mask_prompt: float = 0.5
    middle: float = 0.5
    box_noise: float = 0.08

    def __post_init__(self) -> None:
        if self.prompts < 2 or self.prompts % 2:
            raise ValueError(f"Prompts a picture are an even number from 2, not {self.prompts}.")


@dataclass(frozen=True, slots=True)
class Asked:
    """Prompts and what is right for them.

    Attributes:
        prompts: P of them.
        targets: (P, K, s, s) coverage; the first is the one that was meant.
        has_target: (P, K) bool.
        valid: (P, 1, s, s).
        weights: (P,), 0 for prompts on pictures without a mask.
    """

    prompts: PromptSet
    targets: Tensor
    has_target: Tensor
    valid: Tensor
    weights: Tensor


def annotated_step(
    model: PromptableModel, batch: Batch, loop: AnnotatedLoop, generator: torch.Generator | None = None
) -> StepLosses:
    """One step's losses.

    Args:
        model: the student, all of which learns.
        batch: pictures and masks on the model's device.
        loop: how.
        generator: of that device.
    """
    model.prompt_encoder.frame_size = batch.frames.shape[-1]
    embedding = model.image_encoder(batch.frames)  # (B, 256, S/16, S/16)
    asked = ask(batch, loop, generator)
    prompts, mask_prompt = asked.prompts, None
    boxes = len(prompts.boxes)
    total = torch.zeros((), device=batch.frames.device)
    parts: dict[str, Tensor] = {}
    for index in range(loop.passes):
        logits, iou = decode(model, embedding, prompts, mask_prompt)
        scored = score(logits, iou, asked if index == 0 else _meant_alone(asked), loop)
        weights = asked.weights / asked.weights.sum().clamp(min=1.0)
        total = total + (scored.loss * weights).sum() / loop.passes
        for name, value in {"mask": scored.mask, "ambiguous": scored.ambiguous, "iou": scored.iou_error}.items():
            parts[name] = parts.get(name, 0.0) + (value.detach() * weights).sum() / loop.passes
        for name, rows in {"box": slice(None, boxes), "point": slice(boxes, None)}.items():
            share = asked.weights[rows].sum().clamp(min=1.0)
            parts[f"{name}_iou_{index}"] = (scored.true_iou[rows, 0] * asked.weights[rows]).sum() / share
        if index + 1 < loop.passes:
            answer = logits[:, 0].detach()
            truth = asked.targets[:, 0] > 0.5
            prompts = prompts.with_correction(*correction(answer, truth, asked.valid[:, 0], generator))
            uses_mask = torch.rand((), device=answer.device, generator=generator) < loop.mask_prompt
            mask_prompt = answer[:, None] if uses_mask else None
    return StepLosses(total, parts)


def ask(batch: Batch, loop: AnnotatedLoop, generator: torch.Generator | None = None) -> Asked:
    """Draws the prompts of a step."""
    pictures_count, _, side, _ = batch.masks.shape
    half, device = loop.prompts // 2, batch.masks.device
    has_any = batch.weights.sum(1) > 0
    # A picture without a mask is asked about nothing at all and counts 0; multinomial needs something to draw from.
    drawable = torch.where(has_any[:, None], batch.weights, 1.0)
    chosen = torch.multinomial(drawable, loop.prompts, replacement=True, generator=generator)  # (B, prompts)
    order = torch.arange(pictures_count, device=device)
    pictures = torch.cat([order.repeat_interleave(half), order.repeat_interleave(half)])  # (P,)
    meant = torch.cat([chosen[:, :half].flatten(), chosen[:, half:].flatten()])  # (P,)
    boxes_count = pictures_count * half
    target = batch.masks[pictures, meant]  # (P, s, s)
    weights = has_any[pictures].float()

    boxes = mask_boxes(target[:boxes_count])
    boxes = _noisy(boxes, loop.box_noise, side * MASK_STRIDE, generator)
    covered = target[boxes_count:] > 0.5
    in_middle = torch.rand(len(covered), 1, device=device, generator=generator) < loop.middle
    cells = torch.where(in_middle, middle_cells(covered), random_cells(covered, generator))  # (R, 2)
    jitter = torch.randint(0, MASK_STRIDE, cells.shape, device=device, generator=generator)
    clicks = cell_points(cells) + torch.where(in_middle, 0, jitter)

    others, has_others = _nested(batch, pictures[boxes_count:], meant[boxes_count:], cells)
    none = torch.zeros(boxes_count, TARGETS - 1, side, side, device=device)
    targets = torch.cat([target[:, None], torch.cat([none, others])], dim=1)
    has_target = torch.cat(
        [
            torch.ones(len(target), 1, dtype=torch.bool, device=device),
            torch.cat([torch.zeros(boxes_count, TARGETS - 1, dtype=torch.bool, device=device), has_others]),
        ],
        dim=1,
    )
    prompts = prompt_set(pictures, boxes, clicks)
    return Asked(prompts, targets, has_target, batch.valid[pictures], weights)


def mask_boxes(masks: Tensor) -> Tensor:
    """Boxes of coverages (P, s, s), (P, 4) in the frame; an edge lies within its cell where the coverage says."""
    edges = []
    for axis in (1, 2):  # over rows: extent in x; over columns: in y
        profile = masks.amax(axis)  # (P, s)
        covered = profile > 0.5
        length = profile.shape[1]
        first = covered.float().argmax(1)
        last = length - 1 - covered.flip(1).float().argmax(1)
        rows = torch.arange(len(masks), device=masks.device)
        low = first + 1 - profile[rows, first] - profile[rows, (first - 1).clamp(min=0)] * (first > 0)
        high = last + profile[rows, last] + profile[rows, (last + 1).clamp(max=length - 1)] * (last < length - 1)
        edges.append((low * MASK_STRIDE, high * MASK_STRIDE))
    (x0, x1), (y0, y1) = edges
    return torch.stack([x0, y0, x1, y1], dim=1)


@dataclass(frozen=True, slots=True)
class Scored:
    """Of P prompts: losses (P,), and the true IoU of the four outputs (P, 4)."""

    loss: Tensor
    mask: Tensor
    ambiguous: Tensor
    iou_error: Tensor
    true_iou: Tensor


def score(logits: Tensor, iou_predictions: Tensor, asked: Asked, loop: AnnotatedLoop) -> Scored:
    """Losses of four outputs (P, 4, s, s) with their predicted IoU (P, 4).

    Both losses are linear in the target, so all pairs of outputs and targets are two matrix products.
    """
    valid = asked.valid.flatten(2)  # (P, 1, C)
    answers, targets = logits.flatten(2), asked.targets.flatten(2)  # (P, 4, C), (P, K, C)
    cells = valid.sum(2, keepdim=True).clamp(min=1.0)
    if_in, if_out = _pixel_costs(answers, loop.pixel_loss)
    wanted = (targets * valid).transpose(1, 2)  # (P, C, K)
    pixel = ((if_in - if_out) @ wanted + (if_out * valid).sum(2, keepdim=True)) / cells  # (P, 4, K)
    probability = answers.sigmoid() * valid
    overlap = probability @ wanted
    sizes = probability.sum(2)[:, :, None] + wanted.sum(1)[:, None, :]
    costs = loop.pixel_weight * pixel + loop.dice_weight * (1 - (2 * overlap + 1) / (sizes + 1))  # (P, 4, K)

    matched = _MATCHES.to(costs.device)
    exists = asked.has_target.float()
    by_match = torch.stack(
        [(costs[:, 1:].gather(1, row.expand(len(costs), 1, TARGETS))[:, 0] * exists).sum(1) for row in matched], dim=1
    )  # (P, 6): each target at the output that a match gives it
    best = by_match.argmin(1)
    ambiguous = by_match.gather(1, best[:, None])[:, 0] / exists.sum(1)
    mask = costs[:, 0, 0]

    with torch.no_grad():
        pairs = _pair_ious(answers > 0, targets > 0.5, valid > 0)
        pairs = torch.where(asked.has_target[:, None], pairs, -1.0)
        true_iou = pairs.amax(2)  # an output that learned no target is as good as its best
        own = pairs[:, 1:].gather(1, matched[best][:, None])[:, 0]  # (P, K)
        for target in range(TARGETS):
            place = matched[best][:, target : target + 1] + 1
            kept = torch.where(asked.has_target[:, target], own[:, target], true_iou.gather(1, place)[:, 0])
            true_iou = true_iou.scatter(1, place, kept[:, None])
        true_iou[:, 0] = pairs[:, 0, 0]
    iou_error = (iou_predictions - true_iou).square().mean(1)
    loss = mask + loop.ambiguous_weight * ambiguous + loop.iou_weight * iou_error
    return Scored(loss, mask, ambiguous, iou_error, true_iou)


def _pixel_costs(logits: Tensor, kind: PixelLoss) -> tuple[Tensor, Tensor]:
    """Cost of each cell if it is in the target, and if it is not."""
    if_in, if_out = functional.softplus(-logits), functional.softplus(logits)
    if kind == "bce":
        return if_in, if_out
    probability = logits.sigmoid()
    # alpha 0.25, gamma 2 as in Lin et al. 2017.
    return 0.25 * (1 - probability) ** 2 * if_in, 0.75 * probability**2 * if_out


def _pair_ious(answers: Tensor, targets: Tensor, valid: Tensor) -> Tensor:
    """(P, 4, C) and (P, K, C) bool → IoU (P, 4, K)."""
    inside = (answers & valid).float()
    wanted = (targets & valid).float()
    both = inside @ wanted.transpose(1, 2)
    either = inside.sum(2)[:, :, None] + wanted.sum(2)[:, None] - both
    return torch.where(either > 0, both / either.clamp(min=1.0), 1.0)


def _nested(batch: Batch, pictures: Tensor, meant: Tensor, cells: Tensor) -> tuple[Tensor, Tensor]:
    """The largest and the smallest other mask under each click, where they differ clearly from the one meant.

    Returns:
        (R, 2, s, s) coverage and (R, 2) bool.
    """
    under = batch.masks[pictures, :, cells[:, 1], cells[:, 0]] > 0.5
    areas = batch.masks.sum((2, 3))[pictures]  # (R, G)
    rows = torch.arange(len(pictures), device=pictures.device)
    own = areas[rows, meant][:, None]
    is_candidate = under & (batch.weights[pictures] > 0)
    largest = torch.where(is_candidate & (areas > own * _DISTINCT), areas, -torch.inf)
    smallest = torch.where(is_candidate & (areas < own / _DISTINCT), -areas, -torch.inf)
    found = [ranking.max(1) for ranking in (largest, smallest)]
    others = torch.stack([batch.masks[pictures, at] for _, at in found], dim=1)
    return others, torch.stack([torch.isfinite(value) for value, _ in found], dim=1)


def _meant_alone(asked: Asked) -> Asked:
    """After a correction it is clear which mask was meant."""
    only_first = torch.zeros_like(asked.has_target)
    only_first[:, 0] = True
    return Asked(asked.prompts, asked.targets, only_first, asked.valid, asked.weights)


def _noisy(boxes: Tensor, noise: float, frame_size: int, generator: torch.Generator | None) -> Tensor:
    sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    shift = (torch.rand(boxes.shape, device=boxes.device, generator=generator) * 2 - 1) * noise * sides
    moves = torch.rand(len(boxes), 1, device=boxes.device, generator=generator) < 0.5
    return torch.where(moves, boxes + shift, boxes).clamp(0, frame_size)
