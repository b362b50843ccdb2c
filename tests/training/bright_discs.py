"""Pictures that a network from random weights learns in a few dozen steps: bright ellipses on dark ground."""

import cv2
import numpy as np

from model_store.training.data.shelf import Shelf, shelve

SIDE = 64


def bright_discs(count: int, *, seed: int) -> Shelf:
    """One ellipse a picture, its mask exact."""
    random = np.random.default_rng(seed)
    pictures = []
    for _ in range(count):
        mask = np.zeros((SIDE, SIDE), np.uint8)
        centre, radii = (tuple(random.integers(*span, 2).tolist()) for span in ((16, 48), (8, 24)))
        cv2.ellipse(mask, centre, radii, float(random.uniform(0, 180)), 0, 360, 1, -1)
        image = np.where(mask[..., None] > 0, random.integers(160, 255, 3), random.integers(0, 90, 3))
        noisy = np.clip(image + random.normal(0, 8, image.shape), 0, 255).astype(np.uint8)
        pictures.append((noisy, [mask]))
    return shelve(pictures, np.full(count, 1 / count, np.float32), np.ones(count, np.float32))
