"""Masks as COCO's compressed run-length encoding."""

from typing import TypedDict

import numpy as np
from pycocotools import mask as coco

from service.sam.masks import Mask


class Rle(TypedDict):
    """COCO's compressed run-length encoding; `size` is [H, W], columns run first."""

    size: list[int]
    counts: str


def encode_rle(mask: Mask) -> Rle:
    """The same text that pycocotools gives for the full picture, from the turns alone."""
    height, width = mask.size
    found = mask.transitions
    transitions = np.zeros(len(found) + 2, np.int64)
    transitions[1:-1], transitions[-1] = found, height * width
    counts = np.diff(transitions).astype(np.uint32)
    packed = coco.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    return {"size": [height, width], "counts": packed["counts"].decode("ascii")}
