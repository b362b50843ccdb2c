"""Where a correcting click falls: somewhere in what is wrong with an answer (docs/explanation/model.md 7.4a, 8.1).

Letters: P prompts, (h, w) of the grid on which masks lie.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from model_store.training.data.window_geometry import MASK_STRIDE
from service.sam.prompts import IGNORED, NEGATIVE, POSITIVE

Draw = Callable[[Tensor, torch.Generator | None], Tensor]
"""(P, h, w) bool, one cell of each → (P, 2) int64 as (x, y)."""

FEWEST_WRONG_CELLS = 10
"""Below, an answer counts as right and gets no correction."""
_NEIGHBOURHOOD = 5  # cells


def random_cells(candidates: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Return one cell of each set, all equally likely.

    Args:
        candidates: (P, h, w) bool; an empty set gives the cell (0, 0).
        generator: Random numbers, of the device of ``candidates``; None takes torch's global ones.

    Returns:
        (P, 2) int64 as (x, y).
    """
    return _drawn(candidates, candidates.float(), generator)


def inner_cells(candidates: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Return one cell of each set, rather from its middle than from its rim.

    People click into the middle of what is wrong. A cell's random number is multiplied by the square of the share of
    its 5 × 5 neighbours that are in the set, and the largest wins: so all cells deep inside are equally likely, and
    thin rims are drawn only where there is nothing else.

    Args:
        candidates: See `random_cells`.
        generator: See `random_cells`.
    """
    share = functional.avg_pool2d(
        candidates.float()[:, None], _NEIGHBOURHOOD, stride=1, padding=_NEIGHBOURHOOD // 2
    )  # (P, 1, h, w)
    return _drawn(candidates, share[:, 0].square(), generator)


def cell_points(cells: Tensor) -> Tensor:
    """Cells (..., 2) as frame coordinates (..., 2) float32: index times 4, as the refinement loop does.

    Source: docs/explanation/model.md, section 1.3.
    """
    return (cells * MASK_STRIDE).float()


def wrong_cells(answer: Tensor, truth: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cells that the answer has too much and those that it lacks.

    Args:
        answer: (P, h, w) mask logits.
        truth: (P, h, w) bool, or logits of a teacher.
        valid: (P, h, w) in [0, 1]: cells of value 0 are never wrong, and only whole ones can be lacking
            (docs/explanation/model.md, section 7.4a).

    Returns:
        (P, h, w) bool each: false positives, false negatives.
    """
    has = (answer > 0) * valid
    wanted = (truth if truth.dtype == torch.bool else truth > 0) * valid
    differs = has != wanted
    return differs & (wanted == 0), differs & (wanted == 1)


def correction(
    answer: Tensor,
    truth: Tensor,
    valid: Tensor,
    generator: torch.Generator | None = None,
    *,
    draw: Draw = random_cells,
) -> tuple[Tensor, Tensor]:
    """Return one correcting click for each prompt, somewhere in what is wrong.

    Args:
        answer: See `wrong_cells`.
        truth: See `wrong_cells`.
        valid: See `wrong_cells`.
        generator: Random numbers, of their device.
        draw: Choice of a cell of each set.

    Returns:
        Coordinates (P, 1, 2) float32 in the frame and labels (P, 1): positive where something lacks, negative where
        there is too much, ignored (at (0, 0)) where fewer than 10 cells are wrong.
    """
    too_much, lacking = wrong_cells(answer, truth, valid)
    wrong = too_much | lacking
    cells = draw(wrong, generator)
    is_lacking = lacking[torch.arange(len(cells), device=cells.device), cells[:, 1], cells[:, 0]]
    is_right = wrong.flatten(1).sum(1) < FEWEST_WRONG_CELLS
    labels = torch.where(is_lacking, POSITIVE, NEGATIVE)
    labels = torch.where(is_right, IGNORED, labels)
    points = torch.where(is_right[:, None], 0.0, cell_points(cells))
    return points[:, None], labels[:, None]


def _drawn(candidates: Tensor, weights: Tensor, generator: torch.Generator | None) -> Tensor:
    """The candidate with the largest product of weight and random number."""
    flat = candidates.flatten(1)
    # Ranks of random numbers instead of multinomial, which refuses empty sets and more than 2^24 cells.
    keys = torch.rand(flat.shape, generator=generator, device=flat.device) * weights.flatten(1)
    index = torch.where(flat, keys, -1.0).argmax(1)
    index = torch.where(flat.any(1), index, 0)
    width = candidates.shape[2]
    return torch.stack([index % width, index // width], dim=1)
