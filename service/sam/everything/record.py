"""Everything results in the form in which answers and the cache hold them: run lengths instead of pixels."""

from dataclasses import dataclass

import numpy as np

from service.sam.everything.found_mask import CropBox, EverythingMask
from service.sam.mask_runs import RunMask, draw_runs
from service.sam.rle import decode_counts, encode_rle
from service.sam.transforms import Size


@dataclass(frozen=True, slots=True)
class MaskRecord:
    """One mask of an everything result.

    A mask of a large image takes ten times as much memory as transitions, and more as pixels.

    Args:
        id: Number of the mask in the result.
        counts: COCO's compressed run lengths of the mask.
        area: Number of pixels in the mask.
        bbox: Bounding box as COCO states it: (x, y, width, height), pixels; four zeros for an empty mask.
        predicted_iou: IoU that the decoder predicts for the mask.
        stability_score: Stability of the mask at the offset of the request, 0 to 1.
        point: Prompt of the mask as (x, y), pixels of the whole image.
        crop_box: Part of the image that was searched, (x, y, width, height) in pixels.
    """

    id: int
    counts: str
    area: int
    bbox: tuple[int, int, int, int]
    predicted_iou: float
    stability_score: float
    point: tuple[float, float]
    crop_box: CropBox


@dataclass(frozen=True, slots=True)
class RecordedResult:
    """All masks of an image by one set of options.

    Args:
        size: Height and width of the upright image, pixels.
        crop_box: Part of the image that was searched, (x, y, width, height) in pixels.
        masks: Masks, the best first.
    """

    size: Size
    crop_box: CropBox
    masks: tuple[MaskRecord, ...]


def record_of(found: EverythingMask) -> MaskRecord:
    """Return the record of a mask. Blocking."""
    return MaskRecord(
        id=found.id,
        counts=encode_rle(found.mask)["counts"],
        area=found.mask.area,
        bbox=found.bbox,
        predicted_iou=found.predicted_iou,
        stability_score=found.stability_score,
        point=found.point,
        crop_box=found.crop_box,
    )


def mask_of(record: MaskRecord, size: Size) -> RunMask:
    """Return a recorded mask. Blocking.

    Args:
        record: Record of the mask.
        size: Height and width of the image, pixels.
    """
    x, y, width, height = record.bbox
    transitions = np.cumsum(decode_counts(record.counts))[:-1].astype(np.uint32)
    return RunMask(size, transitions, record.area, (x, y, x + width, y + height), draw_runs)
