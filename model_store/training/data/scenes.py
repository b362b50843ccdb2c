"""Generated scenes with exact masks: textured shapes over textured grounds, some with parts; no data set is needed."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from model_store.training.data.shelf import Shelf, shelve

Bytes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Scenes:
    """What generated scenes look like.

    Args:
        size: side of the picture, pixels.
        objects: fewest and most objects.
        part: probability that an object has a part of another texture, which gets a mask of its own.
        has_texture: else everything is of one colour each.
    """

    size: int = 320
    objects: tuple[int, int] = (2, 6)
    part: float = 0.4
    has_texture: bool = True


def generated_shelf(count: int, *, seed: int, scenes: Scenes | None = None) -> Shelf:
    """A shelf of scenes, the same for the same seed."""
    random = np.random.default_rng(seed)
    made = [scene(random, scenes or Scenes()) for _ in range(count)]
    masks = sum(len(one[1]) for one in made)
    return shelve(made, np.full(count, 1.0 / count, np.float32), np.ones(masks, np.float32))


def scene(random: np.random.Generator, scenes: Scenes) -> tuple[Bytes, list[Bytes]]:
    """A picture (H, W, 3) and its masks (H, W), what is hidden cut away; slivers are left out."""
    size = scenes.size
    image = texture(random, size, is_plain=not scenes.has_texture).astype(np.float32)
    masks: list[Bytes] = []
    for _ in range(int(random.integers(scenes.objects[0], scenes.objects[1] + 1))):
        outline = shape(random, size)
        image, alpha = _lay(random, image, outline, scenes)
        masks = [mask & ~alpha for mask in masks]
        masks.append(alpha)
        if random.random() < scenes.part:
            part = shape(random, size) & outline
            image, part_alpha = _lay(random, image, part, scenes)
            masks.append(part_alpha)
    image += random.normal(0, random.uniform(0, 8), image.shape)
    least = size * size // 400
    kept = [(mask > 0).astype(np.uint8) for mask in masks if int(np.count_nonzero(mask)) >= least]
    return np.clip(image, 0, 255).astype(np.uint8), kept


def texture(random: np.random.Generator, size: int, *, is_plain: bool = False) -> Bytes:
    """A ground (size, size, 3): a gradient, noise at a scale, stripes or checks between two colours, or one colour."""
    first, second = random.uniform(0, 255, (2, 3))
    if is_plain:
        return np.full((size, size, 3), first.astype(np.uint8), np.uint8)
    kind = random.integers(4)
    y, x = np.mgrid[:size, :size].astype(np.float32) / size
    angle = random.uniform(0, np.pi)
    along = np.cos(angle) * x + np.sin(angle) * y
    across = np.cos(angle) * y - np.sin(angle) * x
    if kind == 0:
        share = along
    elif kind == 1:
        cells = int(random.integers(3, 40))
        share = cv2.resize(
            random.random((cells, cells)).astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC
        )
    elif kind == 2:
        share = 0.5 + 0.5 * np.sin(along * random.uniform(10, 90))
    else:
        step = random.uniform(6, 30)
        share = ((np.floor(along * step) + np.floor(across * step)) % 2).astype(np.float32)
    share = np.clip(share, 0, 1)[..., None] * random.uniform(0.2, 1.0)
    mixed: Bytes = (first * (1 - share) + second * share).astype(np.uint8)
    return mixed


def shape(random: np.random.Generator, size: int) -> Bytes:
    """An outline filled with 255: an ellipse, a turned box, a polygon or a blob."""
    mask = np.zeros((size, size), np.uint8)
    centre = random.uniform(0.15, 0.85, 2) * size
    radii = np.exp(random.uniform(np.log(0.05), np.log(0.32), 2)) * size
    turn = random.uniform(0, np.pi)
    corners = int(random.choice([4, 5, 7, 40]))
    angles = np.sort(random.uniform(0, 2 * np.pi, corners)) if corners < 40 else np.linspace(0, 2 * np.pi, corners)
    wobble = 1 + random.uniform(0, 0.35) * np.sin(angles * int(random.integers(2, 6)) + random.uniform(0, 6))
    ring = np.stack([np.cos(angles) * radii[0], np.sin(angles) * radii[1]], axis=1) * wobble[:, None]
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    points = np.round(ring @ rotation.T + centre).astype(np.int32)
    cv2.fillPoly(mask, [points], 255)
    return mask


def _lay(
    random: np.random.Generator, image: NDArray[np.float32], outline: Bytes, scenes: Scenes
) -> tuple[NDArray[np.float32], Bytes]:
    """The picture with a textured, shaded shape on it, its edge a little soft, and the shape."""
    alpha = cv2.GaussianBlur(outline, (0, 0), 0.8).astype(np.float32)[..., None] / 255
    size = scenes.size
    light = 1 + random.uniform(-0.3, 0.3) * (np.linspace(-1, 1, size, dtype=np.float32)[None, :, None])
    ground = texture(random, size, is_plain=not scenes.has_texture).astype(np.float32) * light
    return (image * (1 - alpha) + ground * alpha).astype(np.float32), outline
