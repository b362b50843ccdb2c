"""The points of a grid that a mask covers: `fast` leaves them out."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from service.sam.frame import Frame
from service.sam.transforms import to_cells, used_cells

COVERED_LOGIT: Final = 1.0
"""Logit above which a mask covers a point. Near its border a mask covers nothing."""

MAX_COVER_SHARE: Final = 0.25
"""Share of the image up to which a mask covers points. Larger masks are backgrounds, on which objects lie."""


class GridCells:
    """The logits at the points of a grid.

    Args:
        points: Points of the whole grid, (n, 2) as x, y, pixels of the part that the frame holds.
        frame: That part in the frame of prompts and masks.
    """

    def __init__(self, points: NDArray[np.float64], frame: Frame) -> None:
        cells = np.rint(to_cells(points, frame)).astype(np.int64)
        height, width = used_cells(frame)
        self._columns, self._rows = cells[:, 0].clip(0, width - 1), cells[:, 1].clip(0, height - 1)

    def covered(self, mask_logits: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Return which points a mask covers, (n,) bool.

        Args:
            mask_logits: Logits of the mask, (256, 256).
        """
        covered: NDArray[np.bool_] = mask_logits[self._rows, self._columns] > COVERED_LOGIT
        return covered
