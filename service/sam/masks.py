"""Choosing and ordering the decoder's masks, and enlarging them to pixels of the image."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from service.sam.frame import Frame
from service.sam.mask_runs import Box
from service.sam.prompts import Prompt, is_ambiguous
from service.sam.transforms import TAPS, Size, upsampling

Multimask = Literal["auto", 1, 3, 4]

AGREEMENT = 0.1
"""Usual addition to the score of a mask that agrees with all points, when masks are ordered. Chosen for the bundled
model on validation photos: without it more points are disobeyed; with twice as much the first mask has a lower IoU."""

NARROW_OFFSET = 0.05
"""Distance of both thresholds from 0 in `narrow_stability`, in logits.

Source: docs/explanation/sam2.md, section "Choice of the mask"."""

LEAST_NARROW_STABILITY = 0.98
"""Narrow stability from which output 0 answers a prompt of a model with `MaskChoice.fallback`. Same source."""

# The mask is computed in parts of so many columns and pixels, to bound the memory of the float32 intermediates.
_BAND_COLUMNS = 1 << 14
_BAND_PIXELS = 1 << 18


class Mask(Protocol):
    """A mask at the resolution of the image. `BinaryMask` keeps pixels and `RunMask` keeps transitions."""

    @property
    def size(self) -> Size:
        """Height and width of the image, pixels."""
        ...

    @property
    def box(self) -> Box:
        """Bounding box as (x0, y0, x1, y1), pixels, exclusive at the end; four zeros for an empty mask."""
        ...

    @property
    def area(self) -> int:
        """Number of pixels in the mask."""
        ...

    @property
    def transitions(self) -> NDArray[np.integer]:
        """First pixel of each run and the pixel after its last, (n,), rising, counted column after column.

        The end of the image is no transition.
        """
        ...

    @property
    def crop(self) -> NDArray[np.bool_]:
        """Pixels inside the box, (h, w) bool; (0, 0) for an empty mask. An access may draw them anew."""
        ...


MaskFunction = Callable[[NDArray[np.float32], Frame], Mask]
"""A function from logits (256, 256) and the image in the frame to its mask: `binary_mask` or its native counterpart."""


@dataclass(frozen=True, slots=True, eq=False)
class BinaryMask:
    """A mask kept as the smallest rectangle that holds it.

    Args:
        size: Height and width of the image, pixels.
        x0: First column of the crop, pixels; 0 for an empty mask.
        y0: First row of the crop, pixels; 0 for an empty mask.
        crop: Pixels inside the rectangle, (h, w) bool; (0, 0) for an empty mask. All pixels outside are False.
    """

    size: Size
    x0: int
    y0: int
    crop: NDArray[np.bool_]

    @classmethod
    def cut(cls, size: Size, x0: int, y0: int, loose: NDArray[np.bool_]) -> "BinaryMask":
        """Return the mask of a part of the image, cut to its bounding box.

        Args:
            size: Height and width of the image, pixels.
            x0: First column of the part, pixels.
            y0: First row of the part, pixels.
            loose: Pixels of the part, (h, w) bool; it holds all True pixels of the mask.
        """
        dx, dy, width, height = cv2.boundingRect(loose.view(np.uint8)) if loose.size else (0, 0, 0, 0)
        if width == 0:
            return cls(size, 0, 0, np.zeros((0, 0), np.bool_))
        return cls(size, x0 + dx, y0 + dy, loose[dy : dy + height, dx : dx + width])

    @property
    def area(self) -> int:
        """Number of True pixels."""
        return int(np.count_nonzero(self.crop))

    @property
    def box(self) -> Box:
        """Bounding box as (x0, y0, x1, y1), pixels, exclusive at the end; four zeros for an empty mask."""
        height, width = self.crop.shape
        return self.x0, self.y0, self.x0 + width, self.y0 + height

    @property
    def transitions(self) -> NDArray[np.int64]:
        """See `Mask`."""
        height, width = self.size
        rows, columns = row_changes(self.crop)
        transitions = np.sort((columns + self.x0) * height + (rows + self.y0))
        # A run may leave one column at the bottom and enter the next at the top. There it ends and begins at the same
        # position, which is no transition.
        is_twin = transitions[1:] == transitions[:-1]
        keep = np.ones(len(transitions), np.bool_)
        keep[1:] &= ~is_twin
        keep[:-1] &= ~is_twin
        transitions = transitions[keep]
        return transitions[:-1] if len(transitions) and transitions[-1] == height * width else transitions


@dataclass(frozen=True, slots=True)
class MaskChoice:
    """The outputs of the decoder that prompts of a model get. Output 0 is trained for prompts that mean one object.

    Outputs 1 to 3 are the whole, a part and a subpart of it.

    Args:
        ambiguous: Outputs that a single point alone gets.
        other: Outputs among which the best one is the answer to all other prompts.
        compares_all: Whether the model's ranking rule weighs output 0 against the others, see `Ranking`.
        fallback: Outputs that replace `other` for a prompt whose output 0 is not stable; empty where `other` always
            answers.
    """

    ambiguous: tuple[int, ...] = (0, 1, 2, 3)
    other: tuple[int, ...] = (0,)
    compares_all: bool = False
    fallback: tuple[int, ...] = ()

    def of_one(self, narrow_stability: float) -> tuple[int, ...]:
        """Return the outputs among which the best one answers a prompt that gets one mask.

        Args:
            narrow_stability: Narrow stability of output 0, see `narrow_stability`. NaN counts as not stable.
        """
        is_stable = narrow_stability >= LEAST_NARROW_STABILITY
        return self.other if is_stable or not self.fallback else self.fallback


def narrow_stability(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return how much of N masks stays when the threshold rises from -0.05 to 0.05, (N,) float32; 1 for an empty mask.

    Args:
        logits: Logits of N masks, (N, 256, 256) float32.

    Source: docs/explanation/sam2.md, section "Choice of the mask".
    """
    inner = np.count_nonzero(logits > NARROW_OFFSET, axis=(1, 2))
    outer = np.count_nonzero(logits > -NARROW_OFFSET, axis=(1, 2))
    shares: NDArray[np.float32] = np.where(outer > 0, inner / np.maximum(outer, 1), 1.0).astype(np.float32)
    return shares


def candidates(
    multimask: Multimask, prompt: Prompt, choice: MaskChoice, narrow_stability: float = 1.0
) -> tuple[int, ...]:
    """Return the indices of the decoder's four masks from which those of a prompt are selected.

    `auto` offers those for ambiguous prompts when a single point leaves open which is meant, and the others otherwise.
    For several points without a box it takes the best of all that the model uses, where the rule can compare them.

    Args:
        multimask: Number of masks for the prompt.
        prompt: Points, box and mask of the prompt.
        choice: Outputs that the model uses.
        narrow_stability: Narrow stability of output 0 of the prompt. It matters only to a model with a fallback.

    Source: docs/explanation/model.md, section 3.4; docs/explanation/sam2.md, section "Choice of the mask".
    """
    if multimask == "auto":
        if is_ambiguous(prompt):
            return choice.ambiguous
        if choice.compares_all and _has_several_points(prompt):
            return tuple(sorted({*choice.ambiguous, *choice.other}))
        return choice.of_one(narrow_stability)
    if multimask == 1:
        return choice.of_one(narrow_stability)
    return (1, 2, 3) if multimask == 3 else (0, 1, 2, 3)


def mask_count(multimask: Multimask, prompt: Prompt, choice: MaskChoice) -> int:
    """Return the number of masks that a prompt gets.

    Args:
        multimask: Number of masks for the prompt; `auto` gives all of `choice.ambiguous` for a single point, else 1.
        prompt: Points, box and mask of the prompt.
        choice: Outputs that the model uses.
    """
    if multimask == "auto":
        return len(choice.ambiguous) if is_ambiguous(prompt) else 1
    return multimask


def rank(scores: Sequence[float] | NDArray[np.floating], indices: Sequence[int]) -> tuple[int, ...]:
    """Return the indices ordered by score, highest first; equal scores by index, and NaN last.

    Args:
        scores: Score of each output by the model's rule, (4,), see `Ranking.scores`.
        indices: Outputs to order, see `candidates`.
    """

    def order(index: int) -> tuple[bool, float, int]:
        score = float(scores[index])
        is_missing = math.isnan(score)
        return is_missing, 0.0 if is_missing else -score, index

    return tuple(sorted(indices, key=order))


def prefer_agreeing(scores: Sequence[float], agrees: Sequence[bool], agreement: float = AGREEMENT) -> tuple[float, ...]:
    """Return the numbers by which masks are ordered: their scores, raised where the mask agrees with all points.

    Args:
        scores: Score of each output by the model's rule, (4,).
        agrees: Whether the mask of each output agrees with all points of the prompt, (4,).
        agreement: Number that is added where it does, see `Ranking`.
    """
    return tuple([score + agreement * agreed for score, agreed in zip(scores, agrees, strict=True)])


def _has_several_points(prompt: Prompt) -> bool:
    return len(prompt.points) > 1 and prompt.box is None


def row_changes(crop: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return where a pixel differs from the pixel above it. Outside the crop all pixels are False.

    Returns:
        Rows from 0 to h and columns from 0 to w - 1, ordered by row, then column.
    """
    height, width = crop.shape
    if height == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    differs = np.empty((height + 1, width), np.bool_)
    differs[0], differs[-1] = crop[0], crop[-1]
    np.not_equal(crop[1:], crop[:-1], out=differs[1:-1])
    rows, columns = np.divmod(np.flatnonzero(differs), width)
    return rows, columns


def binary_mask(logits: NDArray[np.float32], frame: Frame) -> BinaryMask:
    """Return the pixels of the image whose upsampled logit is above 0.

    This is the reference, and the fallback where the native library is missing. `service.native.masks` computes the
    same mask many times as fast. A pixel may differ where its logit is below 1e-4 of the largest.

    Args:
        logits: Low-resolution logits, (256, 256) float32, finite.
        frame: Image in the frame of prompts and masks.

    Source: docs/explanation/model.md, section 1.4.
    """
    height, width = frame.size
    rows, columns = upsampling(frame)
    # A letterboxed image of 300 000 columns needs a few rows of logits.
    top_row = int(rows.first[0])
    needed = logits[top_row : int(rows.first[-1]) + TAPS]
    pixels = np.empty(frame.size, np.bool_)
    for left in range(0, width, _BAND_COLUMNS):
        across = slice(left, left + _BAND_COLUMNS)
        weights, first = columns.weights[across], columns.first[across]
        wide = np.zeros((len(needed), len(first)), np.float32)
        for tap in range(TAPS):
            wide += needed[:, first + tap] * weights[:, tap]
        band_rows = max(1, _BAND_PIXELS // len(first))
        for top in range(0, height, band_rows):
            down = slice(top, top + band_rows)
            weights, first = rows.weights[down], rows.first[down] - top_row
            enlarged = sum(weights[:, tap, np.newaxis] * wide[first + tap] for tap in range(TAPS))
            np.greater(enlarged, 0.0, out=pixels[down, across])
    return BinaryMask.cut(frame.size, 0, 0, pixels)
