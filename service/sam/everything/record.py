"""Everything results in the form in which answers and the cache hold them: run lengths instead of pixels."""

from dataclasses import dataclass

import numpy as np

from service.sam.everything.found_mask import CropBox, EverythingMask
from service.sam.masks import BinaryMask
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


def mask_of(record: MaskRecord, size: Size) -> BinaryMask:
    """Return the pixels of a recorded mask. Only the columns of its box are drawn. Blocking.

    Args:
        record: Record of the mask.
        size: Height and width of the image, pixels.
    """
    height = size[0]
    x, y, box_width, box_height = record.bbox
    if not record.area:
        return BinaryMask(size, 0, 0, np.zeros((0, 0), np.bool_))
    # Every column before the box is outside of the mask, and every pixel behind it as well.
    first, end = x * height, (x + box_width) * height
    transitions = np.clip(np.cumsum(decode_counts(record.counts))[:-1], first, end)
    lengths = np.diff(transitions, prepend=first, append=end)
    values = np.arange(len(lengths)) % 2 == 1
    columns = np.repeat(values, lengths).reshape(box_width, height)
    return BinaryMask(size, x, y, np.ascontiguousarray(columns[:, y : y + box_height].T))
