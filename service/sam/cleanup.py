"""Cleanup of a mask before it is enlarged: the box, disobeyed points, islands and holes.

All of it works on the decoder's logits, so its time does not depend on the size of the image. `enlarged_pieces` drops
what enlarging cuts off.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from service.sam.frame import Frame
from service.sam.mask_pieces import LEAST_LOGIT, FilterPieces, MarkedCells
from service.sam.point_agreement import PointTaps, point_taps
from service.sam.prompts import POSITIVE, Prompt, clipped_box
from service.sam.transforms import MASK_SIZE, to_cells, used_cells

Cleanup = Literal["auto", "none"]
"""With `auto` the returned masks are cleaned; with `none` they stay as the model made them."""

BOX_MARGIN = 0.05
"""Margin around a box in which a mask may lie, as a share of the box's sides. One cell of the logits is added."""

REPAIR_RADIUS = 2.0
"""Standard deviation of the change around a disobeyed point, cells of the logits. Chosen on validation photos."""

_LEAST_RADIUS = 0.5
_MOST_REPAIRS = 3  # a repair may flip a point of the other kind close by; contradicting points are not settled
_CELLS = np.arange(MASK_SIZE, dtype=np.float64)


class MaskCleaner:
    """Cleans the masks of one prompt.

    Args:
        prompt: Prompt that the masks answer.
        frame: Image in the frame of prompts and masks.
        filter_pieces: Function that drops small pieces and fills small holes.
        clips_to_box: Whether the box of the prompt bounds the mask.
    """

    def __init__(self, prompt: Prompt, frame: Frame, filter_pieces: FilterPieces, *, clips_to_box: bool = True) -> None:
        self._prompt = prompt
        self._frame = frame
        self._filter_pieces = filter_pieces
        self._cells = used_cells(frame)
        self._taps = point_taps(prompt, frame)
        self._clips = clips_to_box and prompt.box is not None

    def clean(self, mask_logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the logits of a mask without islands, small holes and disobeyed points.

        1. Clip to the box and a margin. 2. Drop small pieces, and somewhat larger ones on which a negative point lies;
        fill small holes. Pieces with a positive point and holes with a negative point stay. 3. Change the logits around
        each point that is still disobeyed, then drop and fill what this cut off.

        Args:
            mask_logits: Logits of the decoder, (256, 256); they are not changed.
        """
        logits = np.array(mask_logits, np.float32, order="C")
        if self._clips:
            self._clip(logits)
        self._filter_pieces(logits, self._cells, _marked(logits, self._taps))
        for _ in range(_MOST_REPAIRS):
            if self._taps.agree(logits).all():
                break
            self._repair(logits)
            self._filter_pieces(logits, self._cells, _marked(logits, self._taps))
        return logits

    def _clip(self, logits: NDArray[np.float32]) -> None:
        """Take out of the mask what lies beyond the box, the positive points and the margin."""
        assert self._prompt.box is not None
        corners = clipped_box(self._prompt.box, self._frame.size).reshape(2, 2)
        margin = (corners[1] - corners[0]) * BOX_MARGIN
        held = np.concatenate((corners, self._prompt.points[self._prompt.labels == POSITIVE]))
        x0, y0 = to_cells(held.min(0) - margin, self._frame) - 1.0
        x1, y1 = to_cells(held.max(0) + margin, self._frame) + 1.0
        is_column, is_row = (x0 <= _CELLS) & (x1 >= _CELLS), (y0 <= _CELLS) & (y1 >= _CELLS)
        is_beyond = ~(is_row[:, np.newaxis] & is_column) & (logits > 0.0)
        logits[is_beyond] = -np.maximum(logits[is_beyond], np.float32(LEAST_LOGIT))

    def _repair(self, logits: NDArray[np.float32]) -> None:
        """Raise or lower the logits around each disobeyed point until its pixel changes sides.

        The change falls off as exp(-d² / (2 r²)) with the distance d from the point. Where the model is unsure a larger
        area changes sides, and where it is sure a small disc does. The radius r is at most a third of the distance to a
        point of the other kind, which so keeps its side.
        """
        # The centres of the pixels at the points: a pixel is what has to change sides.
        last = np.array(self._frame.size[::-1]) - 1.0
        centres = to_cells(np.minimum(np.floor(self._prompt.points), last) + 0.5, self._frame)
        is_positive = self._taps.is_positive
        for index, centre in enumerate(centres):
            taps = self._taps.one(index)
            if taps.agree(logits)[0]:
                continue
            others = centres[is_positive != is_positive[index]]
            nearest = float(np.hypot(*(others - centre).T).min(initial=3.0 * REPAIR_RADIUS))
            radius = max(nearest / 3.0, _LEAST_RADIUS)
            column, row = (np.exp(-((_CELLS - at) ** 2) / (2.0 * radius**2)) for at in centre)
            change = (row[:, np.newaxis] * column).astype(np.float32)
            amount = (abs(float(taps.values(logits)[0])) + LEAST_LOGIT) / float(taps.values(change)[0])
            logits += np.float32(amount if is_positive[index] else -amount) * change


def _marked(logits: NDArray[np.float32], taps: PointTaps) -> MarkedCells:
    """Return the cells at the points: those that agree with their point, and the pieces under disobeyed negatives."""
    flat = (taps.rows * MASK_SIZE + taps.columns).astype(np.int32)
    is_positive = taps.is_positive[:, np.newaxis, np.newaxis]
    is_inside = logits[taps.rows, taps.columns] > 0.0
    counts = taps.weights > 0.0
    is_disobeyed = ~taps.agree(logits)[:, np.newaxis, np.newaxis]
    return MarkedCells(
        held=flat[counts & (is_inside == is_positive)],
        rejected=flat[counts & is_inside & is_disobeyed & ~is_positive],
    )
