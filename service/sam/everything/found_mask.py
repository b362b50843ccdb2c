"""A mask that everything mode found, and what answers state of it."""

from dataclasses import dataclass

from service.sam.masks import Mask

CropBox = tuple[int, int, int, int]
"""Part of the image that was searched: x, y, width, height, pixels."""


@dataclass(frozen=True, slots=True, eq=False)
class EverythingMask:
    """One mask of an everything result.

    Args:
        id: Number of the mask in the result: 3 * point + position among the outputs, for SAM's three outputs. The id
            of a mask does not depend on the order in which masks are found.
        mask: Mask at the resolution of the whole image, after small regions were removed.
        predicted_iou: IoU that the decoder predicts for the mask. Like the stability it is that of the mask before
            small regions were removed.
        stability_score: Stability of the mask at the offset of the request, 0 to 1.
        point: Prompt of the mask as (x, y), pixels of the whole image.
        crop_box: Part of the image that was searched, (x, y, width, height) in pixels.
    """

    id: int
    mask: Mask
    predicted_iou: float
    stability_score: float
    point: tuple[float, float]
    crop_box: CropBox

    @property
    def bbox(self) -> tuple[int, int, int, int]:
        """Bounding box as COCO states it: (x, y, width, height), pixels; four zeros for an empty mask."""
        x0, y0, x1, y1 = self.mask.box
        return x0, y0, x1 - x0, y1 - y0
