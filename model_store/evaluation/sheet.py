"""A contact sheet: the best, middle and worst masks of a model, to look at."""

import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from model_store.evaluation.instances import instance, to_photo
from model_store.evaluation.protocol import Finding, first_prompts
from model_store.evaluation.segmenters import Segmenter
from model_store.training.data.annotations import PhotoRecord

_CELL_PIXELS = 240
_TRUTH, _ANSWER = (60, 220, 60), (255, 80, 60)  # RGB


def contact_sheet(
    photos: Sequence[PhotoRecord], segmenter: Segmenter, findings: Sequence[Finding], *, each: int = 8
) -> NDArray[np.uint8]:
    """Best, middle and worst masks of the box prompt, three rows of `each`: the annotation green, the answer red.

    Returns:
        (H, W, 3) RGB.
    """
    own = [
        one
        for one in findings
        if (one.method, one.start, one.step, one.choice) == (segmenter.name, "box", 0, "single")
        and not math.isnan(one.iou)
    ]
    ordered = sorted(own, key=lambda one: -one.iou)
    middle = max(0, len(ordered) // 2 - each // 2)
    rows = [ordered[:each], ordered[middle : middle + each], ordered[-each:]]
    sheet = np.full((_CELL_PIXELS * len(rows), _CELL_PIXELS * each, 3), 32, np.uint8)
    for row, line in enumerate(rows):
        for column, finding in enumerate(line):
            cell = _cell(photos[finding.photo], segmenter, finding)
            top, left = row * _CELL_PIXELS, column * _CELL_PIXELS
            sheet[top : top + cell.shape[0], left : left + cell.shape[1]] = cell
    return sheet


def _cell(photo: PhotoRecord, segmenter: Segmenter, finding: Finding) -> NDArray[np.uint8]:
    """The part of the photo around an object, with both outlines and the IoU."""
    record = photo.masks[finding.mask]
    one = instance(record, photo.size)
    logits = segmenter.answer(segmenter.embed(photo), first_prompts([one], "box")).mask_logits[0, 0]
    image = photo.image().copy()
    x0, y0, x1, y1 = record.box
    margin = 0.3 * max(x1 - x0, y1 - y0) + 4
    left, top = max(0, int(x0 - margin)), max(0, int(y0 - margin))
    right, bottom = min(photo.size[1], int(x1 + margin)), min(photo.size[0], int(y1 + margin))
    scale = (_CELL_PIXELS - 8) / max(right - left, bottom - top)
    size = (max(1, int((right - left) * scale)), max(1, int((bottom - top) * scale)))
    cell = cv2.resize(image[top:bottom, left:right], size, interpolation=cv2.INTER_LINEAR).astype(np.uint8)
    for mask, colour in ((record.decode() > 0, _TRUTH), (to_photo(logits, photo.size), _ANSWER)):
        part = mask[top:bottom, left:right].astype(np.uint8)
        enlarged = cv2.resize(part, size, interpolation=cv2.INTER_NEAREST).astype(np.uint8)
        outlines, _ = cv2.findContours(enlarged, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(cell, outlines, -1, colour, 2)
    cv2.putText(cell, f"{finding.iou:.2f}", (4, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 2)
    cv2.putText(cell, f"{finding.iou:.2f}", (4, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1)
    return cell
