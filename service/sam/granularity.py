"""The size of the object that a point means: boxes that the granularity module proposes for an image.

The box that fits a single positive point is added to the prompt (docs/explanation/model.md, section 6.3).
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from service.sam.frame import Frame
from service.sam.prompts import POSITIVE, Prompt, is_ambiguous
from service.sam.transforms import points_from_frame, points_to_frame

# Boxes that the granularity module may propose for an image: 80 KiB beside the 2 MiB of its tokens.
MAX_PROPOSALS = 4096

Granularity = Literal["off", "auto"]
"""With `auto` a single positive point gets the box that fits it."""

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in pixels of the image."""

# Source: docs/explanation/model.md, section 6.3; evaluation of EdgeSAM.
LEAST_SCORE = 0.1
NEAREST = 5


@dataclass(frozen=True, slots=True, eq=False)
class Proposals:
    """Boxes that may hold an object. Several boxes may belong to one object: nothing is suppressed.

    Args:
        boxes: Boxes as (x0, y0, x1, y1), (N, 4) float32, pixels of the frame, 0..1024.
        scores: Score of each box, (N,) float32, 0..1.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]

    def __post_init__(self) -> None:
        if self.boxes.shape != (len(self.scores), 4) or self.scores.ndim != 1:
            raise ValueError(f"Boxes {self.boxes.shape} and scores {self.scores.shape} must be (N, 4) and (N,).")

    @property
    def nbytes(self) -> int:
        """Size of both arrays, bytes."""
        return int(self.boxes.nbytes + self.scores.nbytes)


def takes_box(prompt: Prompt) -> bool:
    """Return whether the prompt leaves the size of its object open: one positive point and nothing else."""
    return is_ambiguous(prompt) and prompt.labels[0] == POSITIVE


def with_box(prompt: Prompt, proposals: Proposals, frame: Frame) -> Prompt:
    """Return the prompt with the box that fits its point; the same prompt where it takes no box, or no box fits.

    The box is clipped to the image, so that it can be drawn.

    Args:
        prompt: Prompt of the user.
        proposals: Proposals for the image.
        frame: Image in the frame of prompts and masks.
    """
    if not takes_box(prompt):
        return prompt
    x, y = points_to_frame(prompt.points[0], frame).tolist()
    found = box_around((x, y), proposals)
    if found is None:
        return prompt
    height, width = frame.size
    corners = points_from_frame(found.reshape(2, 2), frame)
    return replace(prompt, box=corners.clip(0.0, (width, height)).reshape(4))


def box_around(
    point: tuple[float, float], proposals: Proposals, *, nearest: int = NEAREST
) -> NDArray[np.float64] | None:
    """Return the box that fits a point, (4,) in the frame; None where no confident proposal contains the point.

    It is the mean, weighted by score, of the proposals around the point whose centres are nearest to it. A point on the
    border of a box is outside.

    Args:
        point: Point as (x, y) in the frame.
        proposals: Proposals for the image. Those with a score up to LEAST_SCORE do not count.
        nearest: Most proposals that are merged.

    Source: docs/explanation/model.md, section 6.3. The paper merges in this way; the official code takes the best of
    the nearest instead.
    """
    x, y = point
    boxes = proposals.boxes
    holds = (boxes[:, 0] < x) & (x < boxes[:, 2]) & (boxes[:, 1] < y) & (y < boxes[:, 3])
    inside = np.flatnonzero(holds & (proposals.scores > LEAST_SCORE))
    if len(inside) == 0:
        return None
    around = boxes[inside].astype(np.float64)
    distances = np.hypot(*((around[:, :2] + around[:, 2:]) / 2 - point).T)
    chosen = np.argsort(distances, kind="stable")[:nearest]
    merged: NDArray[np.float64] = np.average(around[chosen], axis=0, weights=proposals.scores[inside[chosen]])
    return merged
