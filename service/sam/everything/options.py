"""The options of everything mode, under the names of SAM's generator, and their bounds."""

from dataclasses import dataclass
from typing import Final, Literal

Quality = Literal["predicted_iou", "stability"]
"""Number by which masks are filtered and ordered: the IoU that the model predicts, or the stability of the mask."""

MAX_POINTS_PER_SIDE: Final = 64
MAX_STABILITY_OFFSET: Final = 10.0
MAX_REGION_AREA: Final = 1 << 30
MAX_MASKS: Final = 1000
DEFAULT_MAX_MASKS: Final = 300

STABILITY_OFFSET: Final = 1.0
"""Offset at which the decoders measure stability themselves, in logits."""

_BOUNDS: Final = {
    "points_per_side": (1, MAX_POINTS_PER_SIDE),
    "pred_iou_thresh": (0.0, 1.0),
    "stability_score_thresh": (0.0, 1.0),
    "stability_score_offset": (0.0, MAX_STABILITY_OFFSET),
    "box_nms_thresh": (0.0, 1.0),
    "min_mask_region_area": (0, MAX_REGION_AREA),
    "max_masks": (1, MAX_MASKS),
}


@dataclass(frozen=True, slots=True)
class EverythingOptions:
    """The options of one everything request. The defaults are those of SAM's generator.

    Args:
        points_per_side: Points of the grid along each side of the image, 1 to 64.
        pred_iou_thresh: Quality that a mask has to exceed, 0 to 1; 0 keeps all. It is the predicted IoU, or the
            stability for a model whose predicted IoU is not used.
        stability_score_thresh: Least stability of a mask, 0 to 1; 0 keeps all.
        stability_score_offset: Distance of both thresholds of the stability from 0, in logits, 0 to 10.
        box_nms_thresh: IoU of boxes above which the worse of two masks is dropped, 0 to 1.
        min_mask_region_area: Holes and islands of fewer pixels are removed from a mask; 0 keeps them.
        max_masks: Largest number of masks in the result, the best ones, 1 to 1000.
        fast: Whether points that a mask covers already are left out.

    Raises:
        ValueError: A number is out of its bounds.
    """

    points_per_side: int = 32
    pred_iou_thresh: float = 0.88
    stability_score_thresh: float = 0.95
    stability_score_offset: float = STABILITY_OFFSET
    box_nms_thresh: float = 0.7
    min_mask_region_area: int = 0
    max_masks: int = DEFAULT_MAX_MASKS
    fast: bool = False

    def __post_init__(self) -> None:
        for name, (least, most) in _BOUNDS.items():
            if not least <= getattr(self, name) <= most:  # NaN lies in no bounds
                raise ValueError(f"{name} lies from {least} to {most}, not {getattr(self, name)}.")
