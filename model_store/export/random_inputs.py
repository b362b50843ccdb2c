"""Random images and prompts with which graphs are compared."""

import numpy as np
from numpy.typing import NDArray

from service.sam.prompts import Prompt


def random_prompts(random: np.random.Generator) -> list[Prompt]:
    """Return prompts of every kind, in frame pixels: points of both labels, box, mask, and their combinations."""

    def prompt(points: int, *, box: bool = False, mask: bool = False) -> Prompt:
        corners = np.sort(random.uniform(0, 1024, (2, 2)), axis=0).reshape(4)
        labels = random.integers(0, 2, points)
        labels[:1] = 1
        return Prompt(
            points=random.uniform(0, 1024, (points, 2)),
            labels=labels.astype(np.int64),
            box=corners if box else None,
            mask_logits=random.normal(0, 4, (256, 256)).astype(np.float32) if mask else None,
        )

    plain = [prompt(1), prompt(2), prompt(5), prompt(0, box=True), prompt(1, box=True), prompt(3, box=True)]
    masked = [prompt(0, mask=True), prompt(1, mask=True), prompt(0, box=True, mask=True), prompt(2, mask=True)]
    return [*plain, *masked]


def random_image(random: np.random.Generator, size: int) -> NDArray[np.float32]:
    """Return a normalised image (1, 3, S, S) with structure at several scales, its lower quarter padding.

    Args:
        random: Source of randomness.
        size: Side of the image, S, a multiple of 256 pixels.
    """
    image = np.zeros((3, size, size), np.float32)
    for cell in (256, 64, 16, 4):
        coarse = random.normal(0, 0.6, (3, size // cell, size // cell)).astype(np.float32)
        image += np.kron(coarse, np.ones((1, cell, cell), np.float32))
    image[:, size * 3 // 4 :] = 0.0
    return image[None]
