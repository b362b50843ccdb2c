"""Prompts, and their table of tokens for the decoder."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from service.errors import PromptOutsideImage
from service.sam.frame import Frame
from service.sam.transforms import MASK_SIZE, Size, points_to_frame

ABSENT = -3
"""Label of no token: it fills the table where another prompt of the call has more tokens."""
IGNORED = -2
"""Label of a token of zeros, which still takes part in attention (EdgeSAM's addition, for training)."""
PADDING = -1
"""Label of no point: it follows the points of a prompt without a box, and for some models also a box."""
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
    """One object that the user points at, by any mix of points, a box and an earlier mask.

    Args:
        points: Points as (x, y), (N, 2) float64, pixels of the upright image.
        labels: Label of each point, (N,) int64, POSITIVE or NEGATIVE.
        box: Box as (x0, y0, x1, y1), (4,) float64, pixels of the upright image, or None. It may extend
            beyond the image.
        mask_logits: Raw logits of an earlier mask, (256, 256) float16 or float32, or None.
        is_held: Whether the answer is the decoder's logits plus `mask_logits`, which keep it close to that mask.
    """

    points: NDArray[np.float64] = field(default_factory=_no_points)
    labels: NDArray[np.int64] = field(default_factory=_no_labels)
    box: NDArray[np.float64] | None = None
    mask_logits: NDArray[np.floating] | None = None
    is_held: bool = False

    def __post_init__(self) -> None:
        if self.points.ndim != 2 or self.points.shape[1] != 2 or self.labels.shape != (len(self.points),):
            raise ValueError(f"Points {self.points.shape} and labels {self.labels.shape} must be (N, 2) and (N,).")
        if not {NEGATIVE, POSITIVE}.issuperset(self.labels.tolist()):
            raise ValueError(f"Labels of points are {NEGATIVE} and {POSITIVE}, not {self.labels.tolist()}.")
        if self.box is not None and self.box.shape != (4,):
            raise ValueError(f"A box has the shape (4,), not {self.box.shape}.")
        if self.mask_logits is not None and self.mask_logits.shape != (MASK_SIZE, MASK_SIZE):
            raise ValueError(f"Mask logits have the shape (256, 256), not {self.mask_logits.shape}.")


def decoder_inputs(
    prompts: Sequence[Prompt], frame: Frame, *, pads_boxes: bool = False
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the table of tokens of P prompts on one image.

    The points of a prompt come first, then the corners of its box, clipped to the image. Points without a box are
    followed by one PADDING point, and with `pads_boxes` so is each box. A prompt with only a mask has no token.
    Shorter rows are filled with ABSENT, which the decoder leaves out of attention.

    Args:
        prompts: P prompts, at least one.
        frame: Image in the frame of prompts and masks.
        pads_boxes: Whether a PADDING point also follows a box, as the decoder of SAM 2 needs it.

    Returns:
        Points (P, N, 2) float32, coordinates of the frame without the half pixel, and labels (P, N) int64; N >= 1.

    Source: docs/explanation/model.md, section 1.6; for `pads_boxes` docs/explanation/sam2.md, section "Images in,
    masks out".
    """
    rows = [_tokens(prompt, frame, pads_boxes=pads_boxes) for prompt in prompts]
    length = max(1, *(len(labels) for _, labels in rows))
    points = np.zeros((len(rows), length, 2), np.float32)
    labels = np.full((len(rows), length), ABSENT, np.int64)
    for row, (row_points, row_labels) in enumerate(rows):
        points[row, : len(row_labels)] = row_points
        labels[row, : len(row_labels)] = row_labels
    return points, labels


def check_prompt(prompt: Prompt, original_size: Size) -> None:
    """Refuse a prompt that is outside the image.

    A point may lie on the border, [0, W] x [0, H]. A box may extend beyond the border, but a part must be inside;
    `decoder_inputs` clips it.

    Args:
        prompt: Prompt to check.
        original_size: Height and width of the image, pixels.

    Raises:
        PromptOutsideImage: A point is outside, or the box has no part inside.
    """
    height, width = original_size
    for x, y in prompt.points.tolist():
        if not (0 <= x <= width and 0 <= y <= height):
            raise PromptOutsideImage(
                f"The point ({x:g}, {y:g}) lies outside the image of {width} x {height} pixels; "
                f"x must be from 0 to {width} and y from 0 to {height}."
            )
    if prompt.box is not None:
        x0, y0, x1, y1 = prompt.box.tolist()
        if not (x0 < width and x1 > 0 and y0 < height and y1 > 0):
            raise PromptOutsideImage(
                f"The box ({x0:g}, {y0:g}, {x1:g}, {y1:g}) has no part inside the image of "
                f"{width} x {height} pixels; a box is x0, y0, x1, y1 in pixels."
            )


def clipped_box(box: NDArray[np.float64], original_size: Size) -> NDArray[np.float64]:
    """Return the part of a box inside the image, (4,).

    Corners beyond the image are positions that the model was not trained on. Its mask then shrinks or vanishes.

    Args:
        box: Box as (x0, y0, x1, y1), (4,), pixels of the upright image.
        original_size: Height and width of the image, pixels.
    """
    height, width = original_size
    return box.clip(0.0, (width, height, width, height))


def is_ambiguous(prompt: Prompt) -> bool:
    """Return whether a prompt is a single point, which may mean the whole object, a part or a subpart."""
    return len(prompt.points) == 1 and prompt.box is None and prompt.mask_logits is None


def _tokens(prompt: Prompt, frame: Frame, *, pads_boxes: bool) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    points, labels = points_to_frame(prompt.points, frame), prompt.labels
    is_padded = pads_boxes or len(labels) > 0
    if prompt.box is not None:
        corners = points_to_frame(clipped_box(prompt.box, frame.size).reshape(2, 2), frame)
        points = np.concatenate((points, corners))
        labels = np.append(labels, (BOX_TOP_LEFT, BOX_BOTTOM_RIGHT))
        is_padded = pads_boxes
    if is_padded and len(labels):
        points = np.concatenate((points, np.zeros((1, 2), np.float32)))
        labels = np.append(labels, PADDING)
    return points, labels
