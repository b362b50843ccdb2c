"""Refinements by negative points alone, which get the box of the mask that they refine."""

from dataclasses import replace

import numpy as np

from service.sam.float16 import as_float32
from service.sam.frame import Frame
from service.sam.mask_pieces import FilterPieces, MarkedCells
from service.sam.prompts import NEGATIVE, Prompt
from service.sam.transforms import from_cells, used_cells

_NO_CELLS = MarkedCells(np.zeros(0, np.int32), np.zeros(0, np.int32))


def needs_box_of_mask(prompt: Prompt) -> bool:
    """Return whether a prompt says only what does not belong to an earlier mask: negative points without a box.

    The decoder answers such a prompt with an empty mask, as it does without the earlier mask.
    """
    has_points = len(prompt.points) > 0
    return (
        prompt.mask_logits is not None and prompt.box is None and has_points and bool((prompt.labels == NEGATIVE).all())
    )


def with_box_of_mask(prompt: Prompt, frame: Frame, filter_pieces: FilterPieces) -> Prompt:
    """Return a prompt that `needs_box_of_mask` with the box of its mask; the same prompt where that mask is empty.

    Args:
        prompt: Prompt of the user.
        frame: Image in the frame of prompts and masks.
        filter_pieces: Function that drops the small pieces of the mask, which do not count.
    """
    assert prompt.mask_logits is not None
    logits = np.array(as_float32(prompt.mask_logits), np.float32, order="C")
    rows, columns = used_cells(frame)
    filter_pieces(logits, (rows, columns), _NO_CELLS)
    is_inside = logits[:rows, :columns] > 0.0
    if not is_inside.any():
        return prompt
    found_rows, found_columns = np.nonzero(is_inside)
    x0, x1 = int(found_columns.min()), int(found_columns.max())
    y0, y1 = int(found_rows.min()), int(found_rows.max())
    corners = from_cells(np.array([[x0 - 0.5, y0 - 0.5], [x1 + 0.5, y1 + 0.5]]), frame)
    height, width = frame.size
    return replace(prompt, box=corners.clip(0.0, (width, height)).reshape(4))
