"""Where a click falls: the middle of a mask, anywhere in it, or where an answer is wrong (SPEC 7.4a, 8.1).

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


def random_cells(candidates: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """One cell of each set, all equally likely.

    Args:
        candidates: (P, h, w) bool; an empty set gives the cell (0, 0).
        generator: of the device of `candidates`; None takes torch's global one.

    Returns:
        (P, 2) int64 as (x, y).
    """
    flat = candidates.flatten(1)
    # Ranks of random numbers instead of multinomial, which refuses empty sets and more than 2^24 cells.
    keys = torch.rand(flat.shape, generator=generator, device=flat.device)
    index = torch.where(flat, keys, -1.0).argmax(1)
    index = torch.where(flat.any(1), index, 0)
    width = candidates.shape[2]
    return torch.stack([index % width, index // width], dim=1)


def middle_cells(masks: Tensor) -> Tensor:
    """The cell of each mask that is farthest from its border.

    Args:
        masks: (P, h, w) bool.

    Returns:
        (P, 2) int64 as (x, y).
    """
    depth = depths(masks).flatten(1)
    index = depth.argmax(1)
    width = masks.shape[2]
    return torch.stack([index % width, index // width], dim=1)


def depths(masks: Tensor) -> Tensor:
    """How deep each cell lies in its mask: octagonal distance to the outside, (P, h, w) float32.

    Layers are peeled off with a cross and a square in turn; unlike the exact transform this stays on the device.
    """
    left = masks[:, None].float()
    depth = left.clone()
    for layer in range(max(masks.shape[1:])):
        # Outside the grid is outside the mask.
        padded = functional.pad(left, (1, 1, 1, 1))
        if layer % 2:
            left = -functional.max_pool2d(-padded, 3, stride=1)
        else:
            rows, columns = padded[..., 1:-1], padded[..., 1:-1, :]
            left = torch.minimum(
                -functional.max_pool2d(-rows, (3, 1), stride=1), -functional.max_pool2d(-columns, (1, 3), stride=1)
            )
        if not left.any():
            break
        depth += left
    return depth[:, 0]


def cell_points(cells: Tensor) -> Tensor:
    """Cells (..., 2) as frame coordinates (..., 2) float32: index times 4, as the refinement loop does (SPEC 1.3)."""
    return (cells * MASK_STRIDE).float()


def wrong_cells(answer: Tensor, truth: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Cells that the answer has too much and those that it lacks.

    Args:
        answer: (P, h, w) mask logits.
        truth: (P, h, w) bool, or logits of a teacher.
        valid: (P, h, w) in [0, 1]: cells of value 0 are never wrong, and only whole ones can be lacking (SPEC 7.4a).

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
    """One corrective click a prompt, drawn uniformly from all that is wrong.

    Args:
        answer: as in `wrong_cells`, like the next two.
        truth: see there.
        valid: see there.
        generator: of their device.
        draw: chooses a cell of each set.

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
