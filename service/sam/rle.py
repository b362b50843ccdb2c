"""Masks as COCO's compressed run-length encoding."""

from typing import TypedDict

import numpy as np
from pycocotools import mask as coco

from service.sam.masks import Mask


class Rle(TypedDict):
    """COCO's compressed run-length encoding.

    Pixels are counted column after column.

    Attributes:
        size: Height and width of the image, pixels.
        counts: Compressed run lengths.
    """

    size: list[int]
    counts: str


def encode_rle(mask: Mask) -> Rle:
    """Return the encoding that pycocotools gives for the whole image, made from the transitions alone."""
    height, width = mask.size
    counts = np.diff(mask.transitions, prepend=0, append=height * width).astype(np.uint32)
    packed = coco.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    return {"size": [height, width], "counts": packed["counts"].decode("ascii")}
