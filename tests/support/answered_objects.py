"""Masks as the client gets them from the service, made of pixels."""

import numpy as np
from pycocotools import mask as coco

from service.client import Mask


def answered_mask(pixels, *, score=0.875):
    """A mask of the client with these pixels, (H, W) bool."""
    rle = coco.encode(np.asfortranarray(pixels, np.uint8))
    rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
    box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1) if len(rows) else (0, 0, 0, 0)
    return Mask(
        score=score,
        stability=0.9,
        predicted_iou=0.8,
        area=int(pixels.sum()),
        box=tuple(map(int, box)),
        mask_id="m",
        size=pixels.shape,
        counts=rle["counts"].decode(),
    )
