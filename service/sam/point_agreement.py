"""Whether a mask agrees with the points of its prompt: positive points inside, negative points outside."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.sam.frame import Frame
from service.sam.prompts import POSITIVE, Prompt
from service.sam.transforms import TAPS, Size, upsampling


@dataclass(frozen=True, slots=True, eq=False)
class PointTaps:
    """The logits that decide the pixels of N points, and their weights.

    Args:
        rows: Rows of the logits, (N, TAPS, 1) int64.
        columns: Columns of the logits, (N, 1, TAPS) int64.
        weights: Weight of each logit, (N, TAPS, TAPS) float32; the sum of each point is 1.
        is_positive: Whether the point belongs to the object, (N,) bool.
    """

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    weights: NDArray[np.float32]
    is_positive: NDArray[np.bool_]

    def values(self, mask_logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the enlarged logit at each point, (..., N), from logits (..., 256, 256)."""
        values: NDArray[np.float32] = (mask_logits[..., self.rows, self.columns] * self.weights).sum((-2, -1))
        return values

    def agree(self, mask_logits: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Return whether a mask agrees with each point, (..., N), from logits (..., 256, 256)."""
        agrees: NDArray[np.bool_] = (self.values(mask_logits) > 0.0) == self.is_positive
        return agrees

    def one(self, index: int) -> "PointTaps":
        """Return a single point."""
        some = slice(index, index + 1)
        return PointTaps(self.rows[some], self.columns[some], self.weights[some], self.is_positive[some])


def point_pixels(prompt: Prompt, original_size: Size) -> NDArray[np.int64]:
    """Return the pixels of a prompt's points as (x, y), (N, 2).

    A point on the right or lower border belongs to the last pixel.

    Args:
        prompt: Prompt whose points lie in the image, see `check_prompt`.
        original_size: Height and width of the image, pixels.
    """
    height, width = original_size
    pixels: NDArray[np.int64] = np.minimum(prompt.points.astype(np.int64), (width - 1, height - 1))
    return pixels


def point_taps(prompt: Prompt, frame: Frame) -> PointTaps:
    """Return the logits that decide the pixels of a prompt's points.

    Args:
        prompt: Prompt whose points lie in the image, see `check_prompt`.
        frame: Image in the frame of prompts and masks.
    """
    rows, columns = upsampling(frame)
    x, y = point_pixels(prompt, frame.size).T
    taps = np.arange(TAPS)
    return PointTaps(
        (rows.first[y][:, np.newaxis] + taps)[:, :, np.newaxis],
        (columns.first[x][:, np.newaxis] + taps)[:, np.newaxis, :],
        rows.weights[y][:, :, np.newaxis] * columns.weights[x][:, np.newaxis, :],
        prompt.labels == POSITIVE,
    )
