"""Polygons that people edit in a labelling tool: few vertices, and no small parts that they would have to delete."""

from typing import Final

import cv2
import numpy as np

from service.sam.masks import Mask
from service.sam.polygons import Outline, Ring, encode_outlines
from service.sam.prompts import POSITIVE, Prompt

# Smallest area of a part, relative to the largest. Cleanup drops islands of the logits, but a part of the logits can
# still lose a thin neck when it is enlarged.
_SMALLEST_PART: Final = 0.1
_MAX_TOLERANCE_PIXELS: Final = 100.0


def editable_polygons(mask: Mask, prompt: Prompt, *, tolerance: float) -> list[Ring]:
    """Return the simplified exteriors of a mask, largest first, without small parts.

    A small part that holds a positive point of the prompt stays: the user asked for it.

    Args:
        mask: Mask of the upright image.
        prompt: Prompt that the mask answers.
        tolerance: Tolerance of the simplification, relative to the length of the outline. That of the box around the
            mask stands for it.

    Returns:
        Rings of [x, y], pixel corners of the upright image. The first corner is not repeated at the end.
    """
    x0, y0, x1, y1 = mask.box
    pixels = min(_MAX_TOLERANCE_PIXELS, tolerance * 2 * (x1 - x0 + y1 - y0))
    outlines = encode_outlines(mask, tolerance_pixels=pixels)
    positive = prompt.points[prompt.labels == POSITIVE].tolist()
    return [
        outline.ring
        for outline in outlines
        if outline.area >= _SMALLEST_PART * outlines[0].area
        or any(_is_at(outline, x, y, margin=1.0 + 2.0 * pixels) for x, y in positive)
    ]


def _is_at(outline: Outline, x: float, y: float, *, margin: float) -> bool:
    """Return whether a point is inside an outline, or at most `margin` pixels beside it: simplification moves it."""
    return cv2.pointPolygonTest(np.array(outline.ring, np.float32), (x, y), True) >= -margin
