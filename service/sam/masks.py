"""Which masks are returned, and which pixels of the picture they have."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from service.sam.mask_runs import Box, MaskLibrary
from service.sam.prompts import Prompt, is_ambiguous
from service.sam.transforms import TAPS, Size, Upsampling, input_size, upsampling

Multimask = Literal["auto", 1, 3, 4]

# One product fills at most this many pixels: 256 KiB of float32 stay in the L2 cache, and times TAPS it is below the
# 262,144 multiplications from which OpenBLAS starts threads.
_BLOCK_PIXELS = 65_536

# Computing this many pixels costs about as much as starting another product.
_GAP_PIXELS = 4_096


class Mask(Protocol):
    """A mask at the picture's resolution; two forms of one thing, `BinaryMask` and `RunMask`."""

    @property
    def size(self) -> Size:
        """(H, W) of the picture."""
        ...

    @property
    def box(self) -> Box:
        """(x0, y0, x1, y1), pixels, exclusive at the end; four zeros when the mask is empty."""
        ...

    @property
    def area(self) -> int:
        """Number of pixels."""
        ...

    @property
    def turns(self) -> NDArray[np.integer]:
        """(n,), rising: the first pixels of its runs and those behind their last, column after column.

        The end of the picture is no turn.
        """
        ...

    @property
    def crop(self) -> NDArray[np.bool_]:
        """(h, w), the pixels inside the box; (0, 0) when the mask is empty. May be drawn anew each time."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class BinaryMask:
    """A mask kept as the smallest rectangle that holds it.

    Args:
        size: (H, W) of the picture.
        x0: first column of the crop, pixels; 0 when the mask is empty.
        y0: first row of the crop.
        crop: (h, w) bool; every pixel outside is False. (0, 0) when the mask is empty.
    """

    size: Size
    x0: int
    y0: int
    crop: NDArray[np.bool_]

    @classmethod
    def cut(cls, size: Size, x0: int, y0: int, loose: NDArray[np.bool_]) -> "BinaryMask":
        """The mask whose True pixels all lie in `loose`, an (h, w) part of the picture at (x0, y0)."""
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
        """(x0, y0, x1, y1), pixels, exclusive at the end; four zeros when the mask is empty."""
        height, width = self.crop.shape
        return self.x0, self.y0, self.x0 + width, self.y0 + height

    @property
    def turns(self) -> NDArray[np.int64]:
        """See `Mask`."""
        height, width = self.size
        rows, columns = row_changes(self.crop)
        turns = np.sort((columns + self.x0) * height + (rows + self.y0))
        # A run that leaves one column at the bottom and enters the next at the top ends and starts at the same place,
        # and is no turn at all.
        is_twin = turns[1:] == turns[:-1]
        keep = np.ones(len(turns), np.bool_)
        keep[1:] &= ~is_twin
        keep[:-1] &= ~is_twin
        turns = turns[keep]
        return turns[:-1] if len(turns) and turns[-1] == height * width else turns


def candidates(multimask: Multimask, prompt: Prompt) -> tuple[int, ...]:
    """Indices of the decoder's four masks that may be returned for a prompt.

    Mask 0 is trained for prompts that mean one thing; masks 1 to 3 are the whole, a part and a part of it
    (docs/explanation/model.md, section 3.4).
    `auto` offers all four when one click leaves open what is meant, and mask 0 otherwise.
    """
    if multimask == "auto":
        multimask = 4 if is_ambiguous(prompt) else 1
    if multimask == 1:
        return (0,)
    return (1, 2, 3) if multimask == 3 else (0, 1, 2, 3)


def rank(scores: Sequence[float] | NDArray[np.floating], indices: Sequence[int]) -> tuple[int, ...]:
    """Return the indices ordered by score, highest first; equal scores by index, and NaN last.

    Args:
        scores: (4,) score of each output by the model's rule, see `Ranking.scores`.
        indices: Outputs to order, see `candidates`.
    """

    def order(index: int) -> tuple[bool, float, int]:
        score = float(scores[index])
        is_missing = math.isnan(score)
        return is_missing, 0.0 if is_missing else -score, index

    return tuple(sorted(indices, key=order))


def row_changes(crop: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where a pixel differs from the one above; outside the crop all is False.

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


def binary_mask(logits: NDArray[np.float32], original_size: Size, library: MaskLibrary | None = None) -> Mask:
    """The pixels whose logit, upsampled to the picture, is above 0.

    Equal to the full path of docs/explanation/model.md, section 1.4 up to rounding: a pixel may differ where its logit
    is below 1e-4 of the largest.
    A pixel is a weighted mean of a window of 3 x 3 logits. Windows without a positive logit give nothing, windows of
    positive logits alone are filled, and only what is left, the seam of the object, is computed.

    Args:
        logits: (256, 256) float32, finite.
        original_size: (H, W) of the picture.
        library: does the same thirty times as fast.
    """
    if library is not None:
        return library.mask(logits, original_size)
    height, width = original_size
    input_height, input_width = input_size(original_size)
    rows, columns = upsampling(height, input_height), upsampling(width, input_width)
    row_edges, column_edges = _band_edges(rows.first), _band_edges(columns.first)
    has_all, has_any = _positive_windows(logits > 0.0)
    windows = np.ix_(rows.first[row_edges[:-1]], columns.first[column_edges[:-1]])
    is_full, occupied = has_all[windows], has_any[windows]
    is_seam = occupied & ~is_full
    if not occupied.any():
        return BinaryMask.cut(original_size, 0, 0, np.zeros((0, 0), np.bool_))
    row_span, column_span = _span(occupied, axis=1), _span(occupied, axis=0)
    is_full, is_seam = is_full[row_span, column_span], is_seam[row_span, column_span]
    row_edges = row_edges[row_span.start : row_span.stop + 1]
    column_edges = column_edges[column_span.start : column_span.stop + 1]

    y0, x0, y1, x1 = (int(edge) for edge in (row_edges[0], column_edges[0], row_edges[-1], column_edges[-1]))
    crop = np.zeros((y1 - y0, x1 - x0), np.bool_)
    first_row = int(rows.first[y0])
    wide = _stretch(logits[first_row : rows.first[y1 - 1] + TAPS], columns, column_edges)
    buffer = np.empty(max(_BLOCK_PIXELS, int(np.diff(row_edges).max())), np.float32)
    seams = _runs(is_seam, least_gap=-(-_GAP_PIXELS * is_seam.size // crop.size))
    for band, start, stop in _runs(is_full & ~_covered(seams, is_full.shape)).tolist():
        top, bottom = row_edges[band] - y0, row_edges[band + 1] - y0
        crop[top:bottom, column_edges[start] - x0 : column_edges[stop] - x0] = True
    for band, start, stop in seams.tolist():
        top, bottom = int(row_edges[band]), int(row_edges[band + 1])
        first = int(rows.first[top]) - first_row
        step = max(1, _BLOCK_PIXELS // (bottom - top))
        for left in range(int(column_edges[start]) - x0, right := int(column_edges[stop]) - x0, step):
            block = slice(left, min(left + step, right))
            product = buffer[: (bottom - top) * (block.stop - left)].reshape(bottom - top, -1)
            np.matmul(rows.weights[top:bottom], wide[first : first + TAPS, block], out=product)
            np.greater(product, 0.0, out=crop[top - y0 : bottom - y0, block])
    return BinaryMask.cut(original_size, x0, y0, crop)


def _band_edges(first: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where the pixels of one axis go over to another window of logits; the first edge is 0, the last the length."""
    return np.concatenate(([0], np.flatnonzero(np.diff(first)) + 1, [len(first)]))


def _positive_windows(is_positive: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Whether all logits of a 3 x 3 window are positive, and whether any is; (254, 254) by first row and column."""
    all_rows = is_positive[:-2] & is_positive[1:-1] & is_positive[2:]
    any_rows = is_positive[:-2] | is_positive[1:-1] | is_positive[2:]
    return (
        all_rows[:, :-2] & all_rows[:, 1:-1] & all_rows[:, 2:],
        any_rows[:, :-2] | any_rows[:, 1:-1] | any_rows[:, 2:],
    )


def _span(cells: NDArray[np.bool_], *, axis: int) -> slice:
    """From the first row (axis 1) or column (axis 0) with a True cell to behind the last."""
    used = np.flatnonzero(cells.any(axis=axis))
    return slice(int(used[0]), int(used[-1]) + 1)


def _stretch(logits: NDArray[np.float32], columns: Upsampling, column_edges: NDArray[np.int64]) -> NDArray[np.float32]:
    """Rows of logits (h, 256) upsampled along x alone, for the columns between the first edge and the last; (h, w)."""
    edges = column_edges.tolist()
    wide = np.empty((len(logits), edges[-1] - edges[0]), np.float32)
    for left, right in itertools.pairwise(edges):
        first = columns.first[left]
        np.matmul(
            logits[:, first : first + TAPS],
            columns.weights[left:right].T,
            out=wide[:, left - edges[0] : right - edges[0]],
        )
    return wide


def _runs(cells: NDArray[np.bool_], least_gap: int = 1) -> NDArray[np.int64]:
    """Stretches of True cells in every row, those less than `least_gap` cells apart taken together.

    Returns:
        (n, 3) as (row, start, stop), by row and start.
    """
    height, width = cells.shape
    padded = np.zeros((height, width + 2), np.int8)
    padded[:, 1:-1] = cells
    edges = np.flatnonzero(np.diff(padded.reshape(-1)))
    rows, starts = np.divmod(edges[::2], width + 2)
    stops = edges[1::2] - rows * (width + 2)
    is_apart = (rows[1:] != rows[:-1]) | (starts[1:] - stops[:-1] >= least_gap)
    opens, closes = np.append(True, is_apart)[: len(rows)], np.append(is_apart, True)[: len(rows)]
    return np.stack((rows[opens], starts[opens], stops[closes]), axis=1)


def _covered(runs: NDArray[np.int64], shape: Size) -> NDArray[np.bool_]:
    """Cells that lie in a run."""
    steps = np.zeros((shape[0], shape[1] + 1), np.int8)
    steps[runs[:, 0], runs[:, 1]] = 1
    steps[runs[:, 0], runs[:, 2]] = -1
    return np.cumsum(steps, axis=1, dtype=np.int8)[:, :-1].astype(np.bool_)
