"""One window cut out of an annotated image: its pixels, where it lies, and its prompts."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from model_store.training.data.annotated_images import AnnotatedImage
from model_store.training.data.recolouring import degraded, recoloured
from model_store.training.data.window_augmentation import Augmentation
from model_store.training.data.window_geometry import (
    MASK_STRIDE,
    Placement,
    place_window,
    render_inside,
    render_mask,
    render_photo,
    visible_shares,
)
from model_store.training.data.window_prompts import VisibleMasks, WindowPrompts, draw_prompts

Bytes = NDArray[np.uint8]

# Of an image that are looked at for a window. More of them find more masks that nest under a click: of 10, one click in
# ten has another mask, of 24 one in seven, for one more CPU-ms a window.
_MOST_MASKS = 24


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """A window of side S, and s = S/4.

    Attributes:
        frame: (S, S, 3) uint8 RGB, arbitrary outside the image.
        inside: (S/2, S/2) uint8, coverage by the image, 0 to 255.
        origin: (x, y) in the frame, in image tokens.
        prompts: What is asked and what is right.
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
    """Cuts a window out of an image.

    Args:
        image: Pixels and masks.
        side: S, in frame pixels.
        boxes: Number of prompts that are boxes.
        points: Number of prompts that are clicks.
        augmentation: How windows vary.
        random: Source of all choices.

    Returns:
        None where the window shows no mask that is large enough to be asked for.

    Raises:
        UnreadablePhoto: A mask is broken.
    """
    height, width = image.pixels.shape[:2]
    aim = _weighted(image.weights, 1, random)[0] if image.aim is None else image.aim
    x0, y0, x1, y1 = (float(edge) for edge in image.boxes[aim])
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
        frame = recoloured(frame, augmentation.colour, random, is_grey=is_grey)
    return Window(frame, inside, placement.origin, prompts)


def _visible_masks(
    image: AnnotatedImage, placement: Placement, inside: Bytes, random: np.random.Generator
) -> VisibleMasks:
    """Some of the masks that the window shows; which ones goes by weight and by how much of their box is seen."""
    side = placement.side // MASK_STRIDE
    valid = np.asarray(cv2.resize(inside, (side, side), interpolation=cv2.INTER_AREA), np.uint8)
    chosen = _weighted(image.weights * visible_shares(image.boxes, placement), _MOST_MASKS, random)
    cells_per_pixel = abs(float(np.linalg.det(placement.matrix[:2, :2]))) / MASK_STRIDE**2
    coverage = np.zeros((len(chosen), side, side), np.uint8)
    whole_areas = np.zeros(len(chosen))
    for row, number in enumerate(chosen):
        mask = image.mask(number)
        coverage[row] = render_mask(mask, placement, valid)
        whole_areas[row] = np.count_nonzero(mask) * cells_per_pixel
    return VisibleMasks(coverage, image.weights[chosen], whole_areas)


def _weighted(weights: NDArray[np.float64], count: int, random: np.random.Generator) -> list[int]:
    """Up to `count` different numbers, by weight; those of weight 0 are never chosen.

    Source: Efraimidis and Spirakis 2006, the smallest of exponential variables with the weights as rates.
    """
    keys = random.standard_exponential(len(weights)) / np.maximum(weights, 1e-12)
    order = np.argsort(keys)[:count]
    return [int(number) for number in order if weights[number] > 0]
