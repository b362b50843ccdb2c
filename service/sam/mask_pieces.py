"""Dropping islands of a mask and filling its holes, on the decoder's logits.

Two cells belong to one piece, or to one hole, when they share a side. Enlarging can still cut a neck of one cell,
because no pixel of the enlarged logits lies at the centre of a cell. `enlarged_pieces` removes the parts that it makes.
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from service.sam.transforms import MASK_SIZE, Size

SMALL_SHARE = 0.1
"""Pieces and holes below this share of the largest piece's area are dropped and filled. Chosen on validation photos."""

REJECTED_SHARE = 0.25
"""A piece on which a negative point lies is dropped below this share of the largest piece's area."""

LEAST_LOGIT = 0.1
"""Least absolute value of a logit whose sign is changed. It outlasts rounding to float16."""


@dataclass(frozen=True, slots=True, eq=False)
class MarkedCells:
    """Cells of the logits at the points of a prompt, as flat indices, row by row, int32.

    Args:
        held: Cells whose piece, or hole, stays whatever its size. Cells in the padding count for nothing.
        rejected: Cells whose piece is dropped below `REJECTED_SHARE`, unless it holds a cell of `held`.
    """

    held: NDArray[np.int32]
    rejected: NDArray[np.int32]


FilterPieces = Callable[[NDArray[np.float32], Size, MarkedCells], None]
"""A function that changes logits (256, 256) in place: `filter_pieces` or its native counterpart."""


def filter_pieces(mask_logits: NDArray[np.float32], cells: Size, marked: MarkedCells) -> None:
    """Drop the small pieces of a mask, then fill its small holes. The signs of their logits are changed in place.

    This is the reference, and the fallback where the native library is missing. `service.native.masks` gives the same
    logits in a tenth of the time.

    Args:
        mask_logits: Logits, (256, 256) float32.
        cells: Rows and columns of the logits that lie in the image. The others are padding and stay as they are.
        marked: Cells at the points of the prompt.
    """
    part = mask_logits[: cells[0], : cells[1]]
    is_inside = part > 0.0
    labels, areas = _components(is_inside)
    largest = int(areas.max())
    if largest == 0:
        return
    is_dropped = areas < SMALL_SHARE * largest
    rejected = _labels_at(labels, marked.rejected)
    is_dropped[rejected] = areas[rejected] < REJECTED_SHARE * largest
    is_dropped[_labels_at(labels, marked.held)] = False
    _flip(part, is_inside & is_dropped[labels])

    is_outside = ~(part > 0.0)
    labels, areas = _components(is_outside)
    is_filled = areas < SMALL_SHARE * largest
    for border in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        is_filled[border] = False
    is_filled[_labels_at(labels, marked.held)] = False
    _flip(part, is_outside & is_filled[labels])


def _components(mask: NDArray[np.bool_]) -> tuple[NDArray[np.uint16], NDArray[np.int64]]:
    """Return the component of each cell, 0 outside, and the area of each component; that of component 0 is 0."""
    count, labels = cv2.connectedComponents(mask.view(np.uint8), connectivity=4, ltype=cv2.CV_16U)
    areas = np.bincount(labels.ravel(), minlength=count)
    areas[0] = 0
    return labels.astype(np.uint16, copy=False), areas


def _labels_at(labels: NDArray[np.uint16], flat: NDArray[np.int32]) -> NDArray[np.uint16]:
    rows, columns = np.divmod(flat, MASK_SIZE)
    is_in_image = (rows < labels.shape[0]) & (columns < labels.shape[1])
    found: NDArray[np.uint16] = labels[rows[is_in_image], columns[is_in_image]]
    return found


def _flip(logits: NDArray[np.float32], cells: NDArray[np.bool_]) -> None:
    changed = logits[cells]
    logits[cells] = np.copysign(np.maximum(np.abs(changed), np.float32(LEAST_LOGIT)), np.where(changed > 0, -1, 1))
