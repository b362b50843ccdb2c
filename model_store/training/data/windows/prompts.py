"""Prompts of a window and their targets: boxes around masks, points in them, and other masks under a point.

Letters: M masks, S side of the window in frame pixels, s = S/4 side of the decoder's logits, n prompts.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from model_store.training.data.windows.augmentation import Augmentation
from model_store.training.data.windows.geometry import MASK_STRIDE

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

TARGETS = 3
"""Targets of a prompt: the mask that is meant, and a larger and a smaller one under the same point."""

_COVERED = 127  # coverage above which a cell belongs to a mask
_MIN_CELLS = 8  # smallest mask that is a target, in cells; the outline of smaller masks depends on rounding
_DISTINCT = (
    1.3  # ratio of areas from which on two masks under a point are different objects, not two annotations of one
)
# A mask that the window cuts off is prompted less often, since the visible part does not show its extent.
_MOSTLY_SEEN, _CUT_OFF_FACTOR = 0.7, 0.15
# Small masks are prompted less often: the factor grows with the root of the area, from _SMALL_FACTOR to 1.
_SMALL_FACTOR, _LARGE_ROOT = 0.4, 16.0


@dataclass(frozen=True, slots=True, eq=False)
class VisibleMasks:
    """The visible parts of M masks in a window.

    Attributes:
        coverage: Coverage of the cells by each mask, (M, s, s), 0 to 255.
        weights: Relative frequency of each mask as a prompt's target, (M,).
        whole_areas: Areas of the whole masks, also outside the window, (M,), in cells.
    """

    coverage: Bytes
    weights: NDArray[np.float64]
    whole_areas: NDArray[np.float64]

    def probabilities(self) -> NDArray[np.float64]:
        """Return the probability of each mask as a target, (M,), of sum 1; all zeros if no mask is large enough."""
        areas = np.count_nonzero(self.coverage > _COVERED, axis=(1, 2))
        seen = self.coverage.sum((1, 2), dtype=np.float64) / 255 / np.maximum(self.whole_areas, 1.0)
        mask_probabilities: NDArray[np.float64] = self.weights * (areas >= _MIN_CELLS)
        mask_probabilities *= np.where(seen > _MOSTLY_SEEN, 1.0, _CUT_OFF_FACTOR)
        mask_probabilities *= np.minimum(1.0, _SMALL_FACTOR + np.sqrt(areas) / _LARGE_ROOT)
        total = float(mask_probabilities.sum())
        return mask_probabilities / total if total > 0 else mask_probabilities


@dataclass(frozen=True, slots=True, eq=False)
class WindowPrompts:
    """The n prompts of a window, boxes first.

    Attributes:
        boxes: Boxes, (boxes, 4) float32, x0, y0, x1, y1 in window pixels.
        points: Points, (points, 2) float32, x and y in window pixels; (0, 0) is the centre of the first pixel.
        targets: Coverage by the targets, (n, 3, s, s), 0 to 255: the mask that is meant, and the largest and the
            smallest other one under a point.
        has_target: Whether each target exists, (n, 3) bool.
    """

    boxes: Floats
    points: Floats
    targets: Bytes
    has_target: NDArray[np.bool_]


def draw_prompts(
    masks: VisibleMasks, boxes: int, points: int, augmentation: Augmentation, random: np.random.Generator
) -> WindowPrompts | None:
    """Draw masks by weight, and boxes and points for them.

    Args:
        masks: Visible masks of the window.
        boxes: Number of box prompts.
        points: Number of point prompts.
        augmentation: Shares of noisy boxes and of points in the centre.
        random: Generator of the random choices.

    Returns:
        The prompts; None where the window shows no mask that is large enough.
    """
    mask_probabilities = masks.probabilities()
    if not mask_probabilities.any():
        return None
    side = masks.coverage.shape[1]
    meant = random.choice(len(mask_probabilities), boxes + points, p=mask_probabilities)
    targets = np.zeros((boxes + points, TARGETS, side, side), np.uint8)
    targets[:, 0] = masks.coverage[meant]
    has_target = np.zeros((boxes + points, TARGETS), np.bool_)
    has_target[:, 0] = True
    drawn_boxes = [_noisy_box(masks.coverage[mask], augmentation, random) for mask in meant[:boxes]]
    point_positions = np.zeros((points, 2), np.float32)
    for row, mask in enumerate(meant[boxes:]):
        cell, point_positions[row] = _draw_point(masks.coverage[mask], augmentation.centre_points, random)
        for index, other in enumerate(other_masks(masks, int(mask), cell), start=1):
            if other is not None:
                targets[boxes + row, index] = masks.coverage[other]
                has_target[boxes + row, index] = True
    return WindowPrompts(np.array(drawn_boxes, np.float32).reshape(-1, 4), point_positions, targets, has_target)


def tight_box(coverage: Bytes) -> Floats:
    """Return the box around a mask, (4,), x0, y0, x1, y1 in window pixels; coverage gives the edge within its cell.

    Args:
        coverage: Coverage by the mask, (s, s), 0 to 255, more than half in at least one cell.
    """
    edges = []
    for axis in (0, 1):
        profile = coverage.max(axis).astype(np.float32) / 255
        covered = np.flatnonzero(profile > 0.5)
        first, last = int(covered[0]), int(covered[-1])
        # The coverage of the neighbouring cell belongs to the same edge.
        low = first + 1 - profile[first] - (profile[first - 1] if first > 0 else 0.0)
        high = last + profile[last] + (profile[last + 1] if last + 1 < len(profile) else 0.0)
        edges.append((low * MASK_STRIDE, high * MASK_STRIDE))
    (x0, x1), (y0, y1) = edges
    return np.array([x0, y0, x1, y1], np.float32)


def other_masks(masks: VisibleMasks, meant: int, cell: tuple[int, int]) -> tuple[int | None, int | None]:
    """Return the numbers of the largest and the smallest other mask under a point; None where there is none.

    Their areas clearly differ from that of the mask that is meant, and from each other.

    Args:
        masks: Visible masks of the window.
        meant: Number of the mask that is meant.
        cell: Cell (x, y) of the point.
    """
    x, y = cell
    areas = np.count_nonzero(masks.coverage > _COVERED, axis=(1, 2))
    differs = (areas > areas[meant] * _DISTINCT) | (areas < areas[meant] / _DISTINCT)
    others = np.flatnonzero(differs & (areas >= _MIN_CELLS) & (masks.coverage[:, y, x] > _COVERED))
    if len(others) == 0:
        return None, None
    largest, smallest = int(others[areas[others].argmax()]), int(others[areas[others].argmin()])
    return largest, smallest if areas[largest] > areas[smallest] * _DISTINCT else None


def _noisy_box(coverage: Bytes, augmentation: Augmentation, random: np.random.Generator) -> Floats:
    box = tight_box(coverage)
    if random.random() < augmentation.noisy_boxes:
        width, height = float(box[2] - box[0]), float(box[3] - box[1])
        shift = random.uniform(-augmentation.box_noise, augmentation.box_noise, 4)
        box = box + (np.array([width, height, width, height]) * shift).astype(np.float32)
    return np.asarray(np.clip(box, 0, len(coverage) * MASK_STRIDE), np.float32)


def _draw_point(
    coverage: Bytes, centre_share: float, random: np.random.Generator
) -> tuple[tuple[int, int], tuple[float, float]]:
    """Draw a point in a mask: its cell (x, y), and (x, y) in window pixels from the centre of the first pixel."""
    covered = coverage > _COVERED
    if random.random() < centre_share:
        padded = np.pad(covered.astype(np.uint8), 1)  # outside the window is outside the mask
        depth = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_3)[1:-1, 1:-1]
        y, x = divmod(int(depth.argmax()), len(coverage))
        inner = (MASK_STRIDE / 2, MASK_STRIDE / 2)
    else:
        y, x = divmod(int(random.choice(np.flatnonzero(covered))), len(coverage))
        inner = (MASK_STRIDE * random.random(), MASK_STRIDE * random.random())
    return (x, y), (x * MASK_STRIDE + inner[0] - 0.5, y * MASK_STRIDE + inner[1] - 0.5)
