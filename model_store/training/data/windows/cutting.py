"""Cuts a window out of an annotated image: its pixels, its position in the frame, and its prompts."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from model_store.training.data.annotated_images import AnnotatedImage
from model_store.training.data.windows.augmentation import Augmentation
from model_store.training.data.windows.colour_jitter import colour_jittered, degraded
from model_store.training.data.windows.geometry import (
    MASK_STRIDE,
    Placement,
    place_window,
    render_inside,
    render_mask,
    render_photo,
    visible_shares,
)
from model_store.training.data.windows.prompts import VisibleMasks, WindowPrompts, draw_prompts

Bytes = NDArray[np.uint8]

# Masks of an image that a window considers. More masks give more nested masks under a point: with 10 masks, one point
# in ten has another mask, with 24 one in seven, for one more CPU-ms a window.
_MAX_MASKS = 24


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """A window with side S and its prompts; s = S/4.

    Attributes:
        frame: Pixels, (S, S, 3) uint8 RGB, arbitrary outside the image.
        inside: Coverage by the image, (S/2, S/2) uint8, 0 to 255.
        origin: Position (x, y) of the window in the frame, in image tokens.
        prompts: Prompts and their targets.
    """

    frame: Bytes
    inside: Bytes
    origin: tuple[int, int]
    prompts: WindowPrompts


def cut_window(
    image: AnnotatedImage,
    side: int,
    *,
    boxes: int,
    points: int,
    augmentation: Augmentation,
    random: np.random.Generator,
) -> Window | None:
    """Cut a window out of an image.

    Args:
        image: Image with its masks.
        side: Side of the window, S, in frame pixels.
        boxes: Number of box prompts.
        points: Number of point prompts.
        augmentation: Augmentation of windows.
        random: Generator of all random choices.

    Returns:
        The window; None where it shows no mask that is large enough for a prompt.

    Raises:
        UnreadablePhoto: A mask is broken.
    """
    height, width = image.pixels.shape[:2]
    required = _weighted(image.weights, 1, random)[0] if image.required is None else image.required
    x0, y0, x1, y1 = (float(edge) for edge in image.boxes[required])
    placement = place_window((height, width), (x0, y0, x1, y1), side, augmentation, random)
    inside = render_inside(placement)
    prompts = draw_prompts(_visible_masks(image, placement, inside, random), boxes, points, augmentation, random)
    if prompts is None:
        return None
    frame = render_photo(image.pixels, placement)
    if random.random() < augmentation.degraded:
        frame = degraded(frame, random)
    is_grey = random.random() < augmentation.grey
    if augmentation.colour > 0 or is_grey:
        frame = colour_jittered(frame, augmentation.colour, random, is_grey=is_grey)
    return Window(frame, inside, placement.origin, prompts)


def _visible_masks(
    image: AnnotatedImage, placement: Placement, inside: Bytes, random: np.random.Generator
) -> VisibleMasks:
    """Return some of the visible masks, drawn by weight and by the visible share of their box."""
    side = placement.side // MASK_STRIDE
    valid = np.asarray(cv2.resize(inside, (side, side), interpolation=cv2.INTER_AREA), np.uint8)
    chosen = _weighted(image.weights * visible_shares(image.boxes, placement), _MAX_MASKS, random)
    cells_per_pixel = abs(float(np.linalg.det(placement.matrix[:2, :2]))) / MASK_STRIDE**2
    coverage = np.zeros((len(chosen), side, side), np.uint8)
    whole_areas = np.zeros(len(chosen))
    for row, number in enumerate(chosen):
        mask = image.mask(number)
        coverage[row] = render_mask(mask, placement, valid)
        whole_areas[row] = np.count_nonzero(mask) * cells_per_pixel
    return VisibleMasks(coverage, image.weights[chosen], whole_areas)


def _weighted(weights: NDArray[np.float64], count: int, random: np.random.Generator) -> list[int]:
    """Draw up to `count` different indices by weight; those of weight 0 are never drawn.

    Source: Efraimidis and Spirakis 2006, the smallest of exponential variables with the weights as rates.
    """
    keys = random.standard_exponential(len(weights)) / np.maximum(weights, 1e-12)
    order = np.argsort(keys)[:count]
    return [int(number) for number in order if weights[number] > 0]
