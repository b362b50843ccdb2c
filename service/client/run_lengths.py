"""A mask that is kept as COCO's run lengths, and decoded when its pixels are first read."""

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import UnexpectedAnswer
from .rle import decode_rle


class RunLengthMask:
    """Base of the masks of answers. A dataclass that derives from it has the fields `size` and `counts`."""

    size: tuple[int, int]
    counts: str

    @property
    def run_lengths(self) -> dict[str, Any]:
        """The mask as COCO run lengths: `size` and `counts`."""
        return {"size": list(self.size), "counts": self.counts}

    @cached_property
    def pixels(self) -> NDArray[np.bool_]:
        """(H, W) bool, True inside the mask. The array is cached and therefore read-only.

        Raises:
            UnexpectedAnswer: if the run lengths do not fit the image.
        """
        try:
            return decode_rle(self.counts, *self.size)
        except ValueError as error:
            raise UnexpectedAnswer(f"The mask cannot be read. {error}") from error
