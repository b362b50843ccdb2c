"""Baselines: methods without training, measured in the same tables as models."""

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]
Bytes = NDArray[np.uint8]

GRAB_CUT_ROUNDS = 5
FLOOD_TOLERANCE = 8
"""Largest step between neighbours after smoothing, in grey levels."""


def filled_box(image: Bytes, box: NDArray[np.float32]) -> Bools:
    """Return all pixels of the box as a mask (H, W).

    Args:
        image: Photo, (H, W, 3) RGB.
        box: Box as x0, y0, x1, y1 in pixels of the photo, exclusive at the end.
    """
    x0, y0, x1, y1 = _pixels(box, image)
    mask = np.zeros(image.shape[:2], np.bool_)
    mask[y0:y1, x0:x1] = True
    return mask


def grab_cut(image: Bytes, box: NDArray[np.float32]) -> Bools:
    """Return the mask of OpenCV's GrabCut from the box (Rother et al. 2004); where it cannot start, the filled box.

    Args:
        image: Photo, (H, W, 3) RGB.
        box: Box as x0, y0, x1, y1 in pixels of the photo, exclusive at the end.
    """
    x0, y0, x1, y1 = _pixels(box, image)
    filled = filled_box(image, box)
    if filled.all() or x1 - x0 < 2 or y1 - y0 < 2:  # no background, or too little foreground, to learn colours from
        return filled
    labels = np.zeros(image.shape[:2], np.uint8)
    background, foreground = np.zeros((1, 65), np.float64), np.zeros((1, 65), np.float64)
    cv2.setRNGSeed(0)
    pixels = np.ascontiguousarray(image[..., ::-1])
    try:
        cv2.grabCut(
            pixels, labels, (x0, y0, x1 - x0, y1 - y0), background, foreground, GRAB_CUT_ROUNDS, cv2.GC_INIT_WITH_RECT
        )
    except cv2.error:  # fewer pixels than colours
        return filled
    found: Bools = (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)
    return found if found.any() else filled


def flood_fill(image: Bytes, point: NDArray[np.float32]) -> Bools:
    """Return the region of similar colour around a point: mean shift flattens regions, then flood fill takes one.

    Args:
        image: Photo, (H, W, 3) RGB.
        point: Point (x, y) in pixels of the photo.
    """
    height, width = image.shape[:2]
    x, y = min(int(point[0]), width - 1), min(int(point[1]), height - 1)
    flat = _flattened(image)
    mask = np.zeros((height + 2, width + 2), np.uint8)
    cv2.floodFill(
        flat, mask, (x, y), (0, 0, 0), (FLOOD_TOLERANCE,) * 3, (FLOOD_TOLERANCE,) * 3,
        cv2.FLOODFILL_MASK_ONLY | (255 << 8) | 4,
    )  # fmt: skip
    region: Bools = mask[1:-1, 1:-1] > 0
    return region


Baseline = Callable[[Bytes, NDArray[np.float32]], Bools]

FROM_BOX: dict[str, Baseline] = {"box filled": filled_box, "GrabCut": grab_cut}
FROM_POINT: dict[str, Baseline] = {"flood fill": flood_fill}


_last: tuple[Bytes, Bytes] | None = None


def _flattened(image: Bytes) -> Bytes:
    """Return the mean shift of a photo in Lab; the last result is kept, since many points belong to one photo."""
    global _last  # noqa: PLW0603 - one entry, of one photo
    if _last is None or _last[0] is not image:
        lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
        _last = image, cv2.pyrMeanShiftFiltering(lab, 8, 12).astype(np.uint8)
    return _last[1].copy()


def _pixels(box: NDArray[np.float32], image: Bytes) -> tuple[int, int, int, int]:
    height, width = image.shape[:2]
    x0, y0, x1, y1 = (round(float(value)) for value in box)
    x0, y0 = min(max(x0, 0), width - 1), min(max(y0, 0), height - 1)
    return x0, y0, min(max(x1, x0 + 1), width), min(max(y1, y0 + 1), height)
