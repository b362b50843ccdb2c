"""The training step on annotated masks: first prompts, then correction clicks, on windows of the served frame.

Every pass through the decoder has a loss, see `mask_losses`; the loss of a step is their mean. Corrections imitate
users: positive where the mask lacks something and negative where it has too much. Each is added to the earlier ones,
with or without the earlier mask as a mask prompt.

Letters as in `window_inputs`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from model_store.network.model import PromptableModel
from model_store.training.data.windows.dataset import WindowBatch
from model_store.training.data.windows.geometry import MASK_STRIDE, TOKEN_STRIDE
from model_store.training.objectives.correction_clicks import cell_points, correction, inner_cells, random_cells
from model_store.training.objectives.fast_decoder import decode_tokens
from model_store.training.objectives.mask_losses import (
    LossWeights,
    MaskLosses,
    Targets,
    click_weights,
    mask_losses,
)
from model_store.training.objectives.step_losses import StepLosses
from model_store.training.objectives.window_inputs import (
    FramePrompts,
    normalised_frames,
    valid_cells,
    window_code,
)
from service.sam.prompts import IGNORED, POSITIVE

Rounds = Sequence[bool]
"""The corrections of one step: for each of them, whether the earlier mask is a mask prompt."""


@dataclass(frozen=True, slots=True)
class AnnotatedLoop:
    """Settings of a step.

    Args:
        corrections: Shares of the steps with 0, 1, 2, … corrections; they sum to 1.
        mask_prompt: Probability that a correction uses the earlier mask as a mask prompt.
        anywhere: Share of correction clicks that are drawn from all wrong cells alike, as in the evaluation; the others
            prefer the inside of a wrong region.
        weights: Weights of the parts of the loss.

    Raises:
        ValueError: A share or probability is out of its range, or the shares do not sum to 1.
    """

    corrections: tuple[float, ...] = (0.4, 0.2, 0.2, 0.2)
    mask_prompt: float = 0.4
    anywhere: float = 0.25
    weights: LossWeights = field(default_factory=LossWeights)

    def __post_init__(self) -> None:
        if any(share < 0 for share in self.corrections) or not math.isclose(sum(self.corrections), 1.0, abs_tol=1e-3):
            raise ValueError(f"Shares of steps with 0, 1, 2, … corrections sum to 1, which {self.corrections} do not.")
        for name in ("mask_prompt", "anywhere"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a share from 0 to 1, not {getattr(self, name)}.")

    def draw_rounds(self, generator: torch.Generator) -> Rounds:
        """Draw the corrections of one step.

        They determine the computation of a step and the parameters that get gradients. So all processes of a run draw
        them from generators with the same seed.

        Args:
            generator: Random generator on the CPU.
        """
        count = int(torch.multinomial(torch.tensor(self.corrections), 1, generator=generator))
        return (torch.rand(count, generator=generator) < self.mask_prompt).tolist()


def annotated_step(
    model: PromptableModel,
    batch: WindowBatch,
    loop: AnnotatedLoop,
    generator: torch.Generator | None = None,
    *,
    rounds: Rounds,
    backward: bool = False,
) -> StepLosses:
    """Return the losses of one step.

    Args:
        model: Model to train; all parameters that are not frozen get gradients.
        batch: Windows on the model's device.
        loop: Settings of the step.
        generator: Random generator on that device, for clicks; None takes torch's global one.
        rounds: Corrections after the first prompts, from `AnnotatedLoop.draw_rounds`.
        backward: Whether to add the gradients as well, pass by pass. Then only one pass at a time is in memory, and the
            returned losses have no graph.

    Returns:
        The mean loss of all passes. The parts are means over the prompts: ``mask``, ``ambiguous``, ``iou_error`` and,
        with corrections, ``click`` of all passes; ``box_iou_k`` and ``point_iou_k``, IoU of output 0 after k
        corrections; ``obeyed_k``, share of the clicks of correction k that the mask obeys.

    Raises:
        ValueError: A window does not fit into the frame of the model.
    """
    encoded = _EncodedWindows.of(model, batch)
    windows = encoded.detached() if backward else encoded
    prompts = FramePrompts.of(batch)
    valid = valid_cells(batch).repeat_interleave(prompts.count, dim=0)  # (P, s, s)
    truth = batch.targets.flatten(0, 1).float() / 255  # (P, 3, s, s)
    targets = Targets(truth.flatten(2), batch.has_target.flatten(0, 1), valid.flatten(1)[:, None])
    origins = batch.origins.repeat_interleave(prompts.count, dim=0) * TOKEN_STRIDE  # (P, 2)
    draw = partial(_drawn_cells, anywhere=loop.anywhere)

    losses: list[MaskLosses] = []

    def add_losses(one: MaskLosses) -> None:
        losses.append(one)
        if backward:
            torch.autograd.backward(one.loss.mean() / (1 + len(rounds)))

    logits, iou = windows.decode(prompts)
    add_losses(mask_losses(logits, iou, targets, loop.weights))
    obeyed = {}
    for number, uses_mask in enumerate(rounds, start=1):
        mask = logits[:, :1].detach()  # (P, 1, s, s)
        points, labels = correction(mask[:, 0], truth[:, 0] > 0.5, valid, generator, draw=draw)
        clicked = (points[:, 0] / MASK_STRIDE).long()  # (P, 2)
        jitter = torch.rand(clicked.shape, generator=generator, device=clicked.device) * MASK_STRIDE - 0.5
        prompts = prompts.with_correction(cell_points(clicked) + jitter + origins, labels[:, 0])
        logits, iou = windows.decode(prompts, mask if uses_mask else None)
        cells = (
            prompts.clicks.flatten(0, 1) - origins[:, None] - (MASK_STRIDE - 1) / 2
        ) / MASK_STRIDE  # (P, K, 2), all so far
        near = click_weights(
            cells, prompts.labels.flatten(0, 1), logits.shape[-1], loop.weights.click_radius
        )  # (P, s, s)
        add_losses(mask_losses(logits, iou, targets.meant_only(), loop.weights, near))
        obeyed[f"obeyed_{number}"] = _obeyed_share(logits[:, 0].detach(), clicked, labels[:, 0])
    if backward and windows.image.grad is not None:
        torch.autograd.backward(encoded.image, windows.image.grad)
    total = torch.stack([one.loss.detach() if backward else one.loss for one in losses]).mean()
    return StepLosses(total, _parts(losses, prompts) | obeyed)


@dataclass(frozen=True, slots=True)
class _EncodedWindows:
    """Windows, ready for prompts: image tokens and their positional code, (B, M, 256) each."""

    model: PromptableModel
    image: Tensor
    code: Tensor

    @classmethod
    def of(cls, model: PromptableModel, batch: WindowBatch) -> "_EncodedWindows":
        code = window_code(model.prompt_encoder, batch)
        embedding = model.image_encoder(normalised_frames(batch)).float()  # (B, 256, g, g)
        return cls(model, embedding.flatten(2).transpose(1, 2), code)

    def detached(self) -> "_EncodedWindows":
        """Return the same windows with detached image tokens, which collect gradients without passing them on."""
        return replace(self, image=self.image.detach().requires_grad_(self.image.requires_grad))

    def decode(self, prompts: FramePrompts, mask_prompt: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return logits (P, 4, s, s) and predicted IoU (P, 4); ``mask_prompt`` is (P, 1, s, s)."""
        encoder = self.model.prompt_encoder
        decode = partial(
            decode_tokens, self.model.mask_decoder, self.image, self.code, prompts.tokens(encoder), prompts.count
        )
        if mask_prompt is None:
            return decode(no_mask=encoder.no_mask_embed.weight)
        return decode(dense=encoder.dense(mask_prompt, len(mask_prompt)).flatten(2).transpose(1, 2))


def _drawn_cells(wrong: Tensor, generator: torch.Generator | None, *, anywhere: float) -> Tensor:
    """Draw one wrong cell of each prompt, (P, 2): from all of them in some prompts, rather inside in the others."""
    is_anywhere = torch.rand(len(wrong), 1, generator=generator, device=wrong.device) < anywhere
    return torch.where(is_anywhere, random_cells(wrong, generator), inner_cells(wrong, generator))


def _parts(losses: Sequence[MaskLosses], prompts: FramePrompts) -> dict[str, Tensor]:
    """Return the parts of the losses of all passes, for the log."""
    parts = {
        "mask": torch.stack([one.mask for one in losses]).mean().detach(),
        "ambiguous": torch.stack([one.ambiguous for one in losses]).mean().detach(),
        "iou_error": torch.stack([one.iou for one in losses]).mean().detach(),
    }
    if len(losses) > 1:
        parts["click"] = torch.stack([one.click for one in losses[1:]]).mean().detach()
    boxes = prompts.boxes.shape[1]
    for number, one in enumerate(losses):
        by_window = one.true_iou[:, 0].reshape(-1, prompts.count)  # (B, n)
        if boxes:
            parts[f"box_iou_{number}"] = by_window[:, :boxes].mean()
        if boxes < prompts.count:
            parts[f"point_iou_{number}"] = by_window[:, boxes:].mean()
    return parts


def _obeyed_share(logits: Tensor, cells: Tensor, labels: Tensor) -> Tensor:
    """Return the share of the newest clicks that logits (P, s, s) obey; 1 without clicks.

    Args:
        logits: Logits of the masks, (P, s, s).
        cells: Cells (x, y) of the clicks, (P, 2).
        labels: Labels of the clicks, (P,).
    """
    at_click = logits[torch.arange(len(cells), device=cells.device), cells[:, 1], cells[:, 0]] > 0
    counts = labels != IGNORED
    disobeyed = ((at_click != (labels == POSITIVE)) & counts).sum()
    return 1 - disobeyed / counts.sum().clamp(min=1)
