"""Correction clicks, drawn from the wrong cells of a predicted mask (docs/explanation/model.md 7.4a, 8.1).

Letters: P prompts, (h, w) of the grid on which masks lie.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from model_store.training.data.windows.geometry import MASK_STRIDE
from service.sam.prompts import IGNORED, NEGATIVE, POSITIVE

Draw = Callable[[Tensor, torch.Generator | None], Tensor]
"""Function that draws one cell of each set: (P, h, w) bool → (P, 2) int64 as (x, y)."""

FEWEST_WRONG_CELLS = 10
"""Smallest number of wrong cells that get a correction; with fewer, a mask counts as right."""
_NEIGHBOURHOOD = 5  # cells


def random_cells(candidates: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Return one cell of each set, all equally likely.

    Args:
        candidates: Sets of cells, (P, h, w) bool; an empty set gives the cell (0, 0).
        generator: Random generator on the device of ``candidates``; None takes torch's global one.

    Returns:
        (P, 2) int64 as (x, y).
    """
    return _drawn(candidates, candidates.float(), generator)


def inner_cells(candidates: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Return one cell of each set, preferably from its inside.

    Users click into the inside of a wrong region. A cell's random number is multiplied by the square of the share of
    its 5 × 5 neighbours that are in the set, and the largest wins: so all cells deep inside are equally likely, and
    thin rims are drawn only where there is nothing else.

    Args:
        candidates: Sets of cells, (P, h, w) bool; an empty set gives the cell (0, 0).
        generator: Random generator on the device of ``candidates``; None takes torch's global one.
    """
    share = functional.avg_pool2d(
        candidates.float()[:, None], _NEIGHBOURHOOD, stride=1, padding=_NEIGHBOURHOOD // 2
    )  # (P, 1, h, w)
    return _drawn(candidates, share[:, 0].square(), generator)


def cell_points(cells: Tensor) -> Tensor:
    """Return cells (..., 2) as frame coordinates (..., 2) float32: index times 4, as the refinement loop does.

    Source: docs/explanation/model.md, section 1.3.
    """
    return (cells * MASK_STRIDE).float()


def wrong_cells(logits: Tensor, truth: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cells that the mask has too much and those that it lacks.

    Args:
        logits: Logits of the predicted mask, (P, h, w).
        truth: Ground truth, (P, h, w) bool, or logits of a teacher.
        valid: Share of each cell in the photo, (P, h, w), 0..1. Cells of value 0 are never wrong, and only
            whole cells can be lacking (docs/explanation/model.md, section 7.4a).

    Returns:
        (P, h, w) bool each: false positives, false negatives.
    """
    has = (logits > 0) * valid
    wanted = (truth if truth.dtype == torch.bool else truth > 0) * valid
    differs = has != wanted
    return differs & (wanted == 0), differs & (wanted == 1)


def correction(
    logits: Tensor,
    truth: Tensor,
    valid: Tensor,
    generator: torch.Generator | None = None,
    *,
    draw: Draw = random_cells,
) -> tuple[Tensor, Tensor]:
    """Return one correction click for each prompt, drawn from its wrong cells.

    Args:
        logits: Logits of the predicted mask, (P, h, w).
        truth: Ground truth, (P, h, w) bool, or logits of a teacher.
        valid: Share of each cell in the photo, (P, h, w), 0..1.
        generator: Random generator on their device; None takes torch's global one.
        draw: Function that draws a cell of each set.

    Returns:
        Coordinates (P, 1, 2) float32 in the frame and labels (P, 1): positive where the mask lacks something, negative
        where it has too much, ignored (at (0, 0)) where fewer than 10 cells are wrong.
    """
    too_much, lacking = wrong_cells(logits, truth, valid)
    wrong = too_much | lacking
    cells = draw(wrong, generator)
    is_lacking = lacking[torch.arange(len(cells), device=cells.device), cells[:, 1], cells[:, 0]]
    is_right = wrong.flatten(1).sum(1) < FEWEST_WRONG_CELLS
    labels = torch.where(is_lacking, POSITIVE, NEGATIVE)
    labels = torch.where(is_right, IGNORED, labels)
    points = torch.where(is_right[:, None], 0.0, cell_points(cells))
    return points[:, None], labels[:, None]


def _drawn(candidates: Tensor, weights: Tensor, generator: torch.Generator | None) -> Tensor:
    """Return the candidate with the largest product of weight and random number."""
    flat = candidates.flatten(1)
    # Ranks of random numbers instead of multinomial, which refuses empty sets and more than 2^24 cells.
    keys = torch.rand(flat.shape, generator=generator, device=flat.device) * weights.flatten(1)
    index = torch.where(flat, keys, -1.0).argmax(1)
    index = torch.where(flat.any(1), index, 0)
    width = candidates.shape[2]
    return torch.stack([index % width, index // width], dim=1)
