"""Prompts of a window and what is right for them: boxes around masks, clicks in them, and other masks under a click.

Letters: M masks, S side of the window in frame pixels, s = S/4 side of the decoder's logits, n prompts.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from model_store.training.data.window_augmentation import Augmentation
from model_store.training.data.window_geometry import MASK_STRIDE

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

TARGETS = 3
"""Masks that may be right for a prompt: the one that is meant, a larger and a smaller one under the same click."""

_COVERED = 127  # coverage above which a cell belongs to a mask
_FEWEST_CELLS = 8  # of a mask that is asked for or answers a click; below, its outline is a matter of rounding
_DISTINCT = 1.3  # ratio of areas beyond which two masks under a click are different answers, not two drawings of one
# A mask that the window cuts off is asked for less: from what is seen, nobody can say how far it goes.
_MOSTLY_SEEN, _CUT_OFF_FACTOR = 0.7, 0.15
# Small masks are asked for less: weight grows with the root of the area, from this share of it to all.
_SMALL_FACTOR, _LARGE_ROOT = 0.4, 16.0


@dataclass(frozen=True, slots=True, eq=False)
class VisibleMasks:
    """What a window shows of M masks.

    Attributes:
        coverage: (M, s, s), 0 to 255.
        weights: (M,), how often a mask is asked for.
        whole_areas: (M,), cells that each mask would cover without the window's edges.
    """

    coverage: Bytes
    weights: NDArray[np.float64]
    whole_areas: NDArray[np.float64]

    def chances(self) -> NDArray[np.float64]:
        """How often each mask is asked for, (M,), of sum 1; all zeros where none can be."""
        areas = np.count_nonzero(self.coverage > _COVERED, axis=(1, 2))
        seen = self.coverage.sum((1, 2), dtype=np.float64) / 255 / np.maximum(self.whole_areas, 1.0)
        chances: NDArray[np.float64] = self.weights * (areas >= _FEWEST_CELLS)
        chances *= np.where(seen > _MOSTLY_SEEN, 1.0, _CUT_OFF_FACTOR)
        chances *= np.minimum(1.0, _SMALL_FACTOR + np.sqrt(areas) / _LARGE_ROOT)
        total = float(chances.sum())
        return chances / total if total > 0 else chances


@dataclass(frozen=True, slots=True, eq=False)
class WindowPrompts:
    """The n prompts of a window, boxes first.

    Attributes:
        boxes: (boxes, 4) float32, x0, y0, x1, y1 in window pixels.
        points: (points, 2) float32, x and y in window pixels; (0, 0) is the middle of the first pixel.
        targets: (n, 3, s, s), 0 to 255: the mask that is meant, the largest and the smallest other one under a click.
        has_target: (n, 3) bool.
    """

    boxes: Floats
    points: Floats
    targets: Bytes
    has_target: NDArray[np.bool_]


def draw_prompts(
    masks: VisibleMasks, boxes: int, points: int, augmentation: Augmentation, random: np.random.Generator
) -> WindowPrompts | None:
    """Chooses masks by weight and points at them.

    Args:
        masks: What the window shows.
        boxes: Number of prompts that are boxes.
        points: Number of prompts that are clicks.
        augmentation: Shares of noisy boxes and of clicks in the middle.
        random: Source of the choices.

    Returns:
        None where the window shows no mask that can be asked for.
    """
    chances = masks.chances()
    if not chances.any():
        return None
    side = masks.coverage.shape[1]
    meant = random.choice(len(chances), boxes + points, p=chances)
    targets = np.zeros((boxes + points, TARGETS, side, side), np.uint8)
    targets[:, 0] = masks.coverage[meant]
    has_target = np.zeros((boxes + points, TARGETS), np.bool_)
    has_target[:, 0] = True
    drawn_boxes = [_noisy_box(masks.coverage[mask], augmentation, random) for mask in meant[:boxes]]
    clicks = np.zeros((points, 2), np.float32)
    for row, mask in enumerate(meant[boxes:]):
        cell, clicks[row] = _click(masks.coverage[mask], augmentation.middle_clicks, random)
        for place, other in enumerate(other_masks(masks, int(mask), cell), start=1):
            if other is not None:
                targets[boxes + row, place] = masks.coverage[other]
                has_target[boxes + row, place] = True
    return WindowPrompts(np.array(drawn_boxes, np.float32).reshape(-1, 4), clicks, targets, has_target)


def tight_box(coverage: Bytes) -> Floats:
    """Box around a mask, (4,), x0, y0, x1, y1 in window pixels; an edge lies within its cell where the coverage says.

    Args:
        coverage: (s, s), 0 to 255, more than half in at least one cell.
    """
    edges = []
    for axis in (0, 1):
        profile = coverage.max(axis).astype(np.float32) / 255
        covered = np.flatnonzero(profile > 0.5)
        first, last = int(covered[0]), int(covered[-1])
        # What the neighbouring cell has of the mask belongs to the same edge.
        low = first + 1 - profile[first] - (profile[first - 1] if first > 0 else 0.0)
        high = last + profile[last] + (profile[last + 1] if last + 1 < len(profile) else 0.0)
        edges.append((low * MASK_STRIDE, high * MASK_STRIDE))
    (x0, x1), (y0, y1) = edges
    return np.array([x0, y0, x1, y1], np.float32)


def other_masks(masks: VisibleMasks, meant: int, cell: tuple[int, int]) -> tuple[int | None, int | None]:
    """Numbers of the largest and the smallest other mask under a click, or None where there is none.

    Their areas clearly differ from that of the mask that is meant, and from each other.

    Args:
        masks: What the window shows.
        meant: Number of the mask that is meant.
        cell: (x, y) of the click.
    """
    x, y = cell
    areas = np.count_nonzero(masks.coverage > _COVERED, axis=(1, 2))
    differs = (areas > areas[meant] * _DISTINCT) | (areas < areas[meant] / _DISTINCT)
    others = np.flatnonzero(differs & (areas >= _FEWEST_CELLS) & (masks.coverage[:, y, x] > _COVERED))
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


def _click(coverage: Bytes, middle: float, random: np.random.Generator) -> tuple[tuple[int, int], tuple[float, float]]:
    """A click in a mask: its cell (x, y), and (x, y) in window pixels, from the middle of the first one."""
    covered = coverage > _COVERED
    if random.random() < middle:
        padded = np.pad(covered.astype(np.uint8), 1)  # what is outside the window is outside the mask
        depth = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_3)[1:-1, 1:-1]
        y, x = divmod(int(depth.argmax()), len(coverage))
        inner = (MASK_STRIDE / 2, MASK_STRIDE / 2)
    else:
        y, x = divmod(int(random.choice(np.flatnonzero(covered))), len(coverage))
        inner = (MASK_STRIDE * random.random(), MASK_STRIDE * random.random())
    return (x, y), (x * MASK_STRIDE + inner[0] - 0.5, y * MASK_STRIDE + inner[1] - 0.5)
