"""Contact sheets: the best, middle and worst masks of a model as an image."""

import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from model_store.evaluation.instances import image_mask, make_instance
from model_store.evaluation.protocol import Measurement, first_prompts
from model_store.evaluation.segmenters.segmenter import Segmenter
from model_store.training.data.annotations import PhotoRecord
from service.sam.frame import Frame

_TILE_PIXELS = 240
_TRUTH, _PREDICTION = (60, 220, 60), (255, 80, 60)  # RGB


def contact_sheet(
    photos: Sequence[PhotoRecord], segmenter: Segmenter, measurements: Sequence[Measurement], *, columns: int = 8
) -> NDArray[np.uint8]:
    """Draw the best, middle and worst masks of the box prompt, a row each: the annotation green, the prediction red.

    Args:
        photos: All photos of the evaluation.
        segmenter: Model whose masks are drawn.
        measurements: Measurements of all methods.
        columns: Number of masks in a row.

    Returns:
        (H, W, 3) RGB.
    """
    own = [
        one
        for one in measurements
        if (one.method, one.start, one.step, one.choice) == (segmenter.name, "box", 0, "single")
        and not math.isnan(one.iou)
    ]
    ordered = sorted(own, key=lambda one: -one.iou)
    middle = max(0, len(ordered) // 2 - columns // 2)
    rows = [ordered[:columns], ordered[middle : middle + columns], ordered[-columns:]]
    sheet = np.full((_TILE_PIXELS * len(rows), _TILE_PIXELS * columns, 3), 32, np.uint8)
    for row, line in enumerate(rows):
        for column, measurement in enumerate(line):
            tile = _tile(photos[measurement.photo], segmenter, measurement)
            top, left = row * _TILE_PIXELS, column * _TILE_PIXELS
            sheet[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    return sheet


def _tile(photo: PhotoRecord, segmenter: Segmenter, measurement: Measurement) -> NDArray[np.uint8]:
    """Draw the part of the photo around an object, with both outlines and the IoU."""
    record = photo.masks[measurement.mask]
    frame = Frame(photo.size, segmenter.resize)
    instance = make_instance(record, frame)
    logits = segmenter.predict(segmenter.embed(photo), first_prompts([instance], "box")).mask_logits[0, 0]
    image = photo.image().copy()
    x0, y0, x1, y1 = record.box
    margin = 0.3 * max(x1 - x0, y1 - y0) + 4
    left, top = max(0, int(x0 - margin)), max(0, int(y0 - margin))
    right, bottom = min(photo.size[1], int(x1 + margin)), min(photo.size[0], int(y1 + margin))
    scale = (_TILE_PIXELS - 8) / max(right - left, bottom - top)
    size = (max(1, int((right - left) * scale)), max(1, int((bottom - top) * scale)))
    tile = cv2.resize(image[top:bottom, left:right], size, interpolation=cv2.INTER_LINEAR).astype(np.uint8)
    for mask, colour in ((record.decode() > 0, _TRUTH), (image_mask(logits, frame), _PREDICTION)):
        part = mask[top:bottom, left:right].astype(np.uint8)
        enlarged = cv2.resize(part, size, interpolation=cv2.INTER_NEAREST).astype(np.uint8)
        outlines, _ = cv2.findContours(enlarged, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(tile, outlines, -1, colour, 2)
    for colour, thickness in (((255, 255, 255), 2), ((0, 0, 0), 1)):  # dark text with a light rim
        cv2.putText(tile, f"{measurement.iou:.2f}", (4, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.5, colour, thickness)
    return tile
