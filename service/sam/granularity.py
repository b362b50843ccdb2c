"""How large the object is that a click means: the boxes that a model with the granularity module proposes for a
picture, and the one that goes with a click (docs/explanation/model.md, section 6.3).
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from service.sam.prompts import POSITIVE, Prompt, is_ambiguous
from service.sam.transforms import Size, points_from_frame, points_to_frame

# Boxes that the granularity module may propose for an image: 80 KiB beside the 2 MiB of its tokens.
MAX_PROPOSALS = 4096

Granularity = Literal["off", "auto"]
"""auto: a single positive click gets the box that goes with it."""

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in pixels of the picture."""

# Source: docs/explanation/model.md, section 6.3; evaluation of EdgeSAM.
LEAST_SCORE = 0.1
NEAREST = 5


@dataclass(frozen=True, slots=True, eq=False)
class Proposals:
    """Boxes where an object may be, with many of each object: nothing is suppressed.

    Args:
        boxes: (N, 4) float32 as (x0, y0, x1, y1), pixels of the frame, 0..1024.
        scores: (N,) float32, 0..1.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]

    def __post_init__(self) -> None:
        if self.boxes.shape != (len(self.scores), 4) or self.scores.ndim != 1:
            raise ValueError(f"Boxes {self.boxes.shape} and scores {self.scores.shape} must be (N, 4) and (N,).")

    @property
    def nbytes(self) -> int:
        """Bytes of both arrays."""
        return int(self.boxes.nbytes + self.scores.nbytes)


def takes_box(prompt: Prompt) -> bool:
    """Whether the prompt leaves the size of its object open: one positive click, and nothing else."""
    return is_ambiguous(prompt) and prompt.labels[0] == POSITIVE


def with_box(prompt: Prompt, proposals: Proposals, original_size: Size) -> Prompt:
    """The prompt with the box that goes with its click; the same prompt where there is none, or where it takes none.

    The box is cut at the picture's border, so that it can be drawn.
    """
    if not takes_box(prompt):
        return prompt
    x, y = points_to_frame(prompt.points[0], original_size).tolist()
    found = box_around((x, y), proposals)
    if found is None:
        return prompt
    height, width = original_size
    corners = points_from_frame(found.reshape(2, 2), original_size)
    return replace(prompt, box=corners.clip(0.0, (width, height)).reshape(4))


def box_around(
    click: tuple[float, float], proposals: Proposals, *, nearest: int = NEAREST
) -> NDArray[np.float64] | None:
    """The box that goes with a click, (4,) in the frame, or None where no confident proposal holds it.

    The mean, weighted by score, of those proposals around the click whose middle is nearest to it. A border holds
    nothing.

    Args:
        click: (x, y) in the frame.
        proposals: of the picture; those of a score up to LEAST_SCORE do not count.
        nearest: so many are merged at most.

    Source: docs/explanation/model.md, section 6.3. The paper merges in this way; the official code takes the best of
    the nearest instead.
    """
    x, y = click
    boxes = proposals.boxes
    holds = (boxes[:, 0] < x) & (x < boxes[:, 2]) & (boxes[:, 1] < y) & (y < boxes[:, 3])
    places = np.flatnonzero(holds & (proposals.scores > LEAST_SCORE))
    if len(places) == 0:
        return None
    around = boxes[places].astype(np.float64)
    distances = np.hypot(*((around[:, :2] + around[:, 2:]) / 2 - click).T)
    chosen = np.argsort(distances, kind="stable")[:nearest]
    merged: NDArray[np.float64] = np.average(around[chosen], axis=0, weights=proposals.scores[places[chosen]])
    return merged
