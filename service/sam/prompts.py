"""What a user points at, and the token table it becomes for the decoder."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from service.errors import PromptOutsideImage
from service.sam.transforms import MASK_SIZE, Size, points_to_frame

ABSENT = -3
"""No token at all: fills the table where another prompt of the call has more tokens."""
IGNORED = -2
"""A token of zeros, which still takes part in attention (EdgeSAM's addition, for training)."""
PADDING = -1
"""Not a point: stands where a prompt has points and no box."""
NEGATIVE = 0
POSITIVE = 1
BOX_TOP_LEFT = 2
BOX_BOTTOM_RIGHT = 3


def _no_points() -> NDArray[np.float64]:
    return np.zeros((0, 2), np.float64)


def _no_labels() -> NDArray[np.int64]:
    return np.zeros(0, np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """One object pointed at, in any mix of clicks, a box and an earlier mask.

    Args:
        points: (N, 2) float64 as (x, y), pixels of the upright original.
        labels: (N,) int64, POSITIVE or NEGATIVE.
        box: (4,) float64 as (x0, y0, x1, y1), pixels, or None.
        mask_logits: (256, 256) float16 or float32, raw logits of an earlier answer, or None.
    """

    points: NDArray[np.float64] = field(default_factory=_no_points)
    labels: NDArray[np.int64] = field(default_factory=_no_labels)
    box: NDArray[np.float64] | None = None
    mask_logits: NDArray[np.floating] | None = None

    def __post_init__(self) -> None:
        if self.points.ndim != 2 or self.points.shape[1] != 2 or self.labels.shape != (len(self.points),):
            raise ValueError(f"Points {self.points.shape} and labels {self.labels.shape} must be (N, 2) and (N,).")
        if not {NEGATIVE, POSITIVE}.issuperset(self.labels.tolist()):
            raise ValueError(f"Labels of points are {NEGATIVE} and {POSITIVE}, not {self.labels.tolist()}.")
        if self.box is not None and self.box.shape != (4,):
            raise ValueError(f"A box has the shape (4,), not {self.box.shape}.")
        if self.mask_logits is not None and self.mask_logits.shape != (MASK_SIZE, MASK_SIZE):
            raise ValueError(f"Mask logits have the shape (256, 256), not {self.mask_logits.shape}.")


def decoder_inputs(prompts: Sequence[Prompt], original_size: Size) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The token table of P prompts on one picture.

    A prompt's points come first, then the corners of its box; points without a box are followed by one PADDING point; a
    prompt of a mask alone has no token. Shorter rows are filled with ABSENT, which the decoder leaves out of attention.

    Args:
        prompts: P prompts, at least one.
        original_size: (H, W) of the picture.

    Returns:
        points (P, N, 2) float32, coordinates of the frame without the half pixel, and labels (P, N) int64; N >= 1.

    Source: docs/explanation/model.md, section 1.6.
    """
    rows = [_tokens(prompt, original_size) for prompt in prompts]
    length = max(1, *(len(labels) for _, labels in rows))
    points = np.zeros((len(rows), length, 2), np.float32)
    labels = np.full((len(rows), length), ABSENT, np.int64)
    for row, (row_points, row_labels) in enumerate(rows):
        points[row, : len(row_labels)] = row_points
        labels[row, : len(row_labels)] = row_labels
    return points, labels


def check_prompt(prompt: Prompt, original_size: Size) -> None:
    """Refuses a prompt that misses the picture.

    A point may lie on the border, [0, W] x [0, H]; a box may hang over the border but must have a part inside.

    Raises:
        PromptOutsideImage: a point lies outside, or a box does not meet the picture.
    """
    height, width = original_size
    for x, y in prompt.points.tolist():
        if not (0 <= x <= width and 0 <= y <= height):
            raise PromptOutsideImage(
                f"The point ({x:g}, {y:g}) lies outside the picture of {width} x {height} pixels; "
                f"x must be from 0 to {width} and y from 0 to {height}."
            )
    if prompt.box is not None:
        x0, y0, x1, y1 = prompt.box.tolist()
        if not (x0 < width and x1 > 0 and y0 < height and y1 > 0):
            raise PromptOutsideImage(
                f"The box ({x0:g}, {y0:g}, {x1:g}, {y1:g}) has no part inside the picture of "
                f"{width} x {height} pixels; a box is x0, y0, x1, y1 in pixels."
            )


def is_ambiguous(prompt: Prompt) -> bool:
    """A single click: it may mean the whole, a part, or a part of that."""
    return len(prompt.points) == 1 and prompt.box is None and prompt.mask_logits is None


def _tokens(prompt: Prompt, original_size: Size) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    points = points_to_frame(prompt.points, original_size)
    if prompt.box is not None:
        corners = points_to_frame(prompt.box.reshape(2, 2), original_size)
        return np.concatenate((points, corners)), np.append(prompt.labels, (BOX_TOP_LEFT, BOX_BOTTOM_RIGHT))
    if len(points) == 0:
        return points, prompt.labels
    return np.concatenate((points, np.zeros((1, 2), np.float32))), np.append(prompt.labels, PADDING)
