"""Crops of an image for everything mode, and the merge of their masks, as in SAM's generator.

Layer L divides each side of the image into 2^L parts, which overlap. Each crop is embedded by itself, so that small
objects get more detail. Of masks that cover the same object, the mask of the smallest crop is kept.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .everything import Everything, EverythingMask
from .values import MIN_REGION_SIDE, Box, Timing

_MAX_LAYERS: Final = 4


@dataclass(frozen=True, slots=True)
class Crops:
    """Crops of everything mode. The defaults are SAM's.

    Args:
        layers: Number of layers, 0 to 4. Layer L has 4^L crops, each of which is embedded by itself.
        overlap_ratio: Overlap of neighbouring crops of layer 1, as a share of the image's shorter side, 0 to 1. It is
            half of that in layer 2, and so on.
        points_downscale: Divisor of `points_per_side` for each layer.
        nms_thresh: IoU of two boxes above which only the mask of the smaller crop is kept.

    Raises:
        ValueError: if a number is outside its range.
    """

    layers: int = 1
    overlap_ratio: float = 512 / 1500
    points_downscale: int = 1
    nms_thresh: float = 0.7

    def __post_init__(self) -> None:
        """Check the numbers when they are given."""
        if not 0 <= self.layers <= _MAX_LAYERS:
            raise ValueError(f"crops has 0 to {_MAX_LAYERS} layers, not {self.layers}.")
        if not (0 <= self.overlap_ratio <= 1 and 0 <= self.nms_thresh <= 1 and self.points_downscale >= 1):
            raise ValueError("overlap_ratio and nms_thresh are from 0 to 1, and points_downscale is at least 1.")


class Crop(NamedTuple):
    """A crop.

    Args:
        box: The crop x0, y0, x1, y1, in pixels of the image.
        layer: Layer of the crop, from 1.
    """

    box: Box
    layer: int


def crop_boxes(width: int, height: int, crops: Crops) -> list[Crop]:
    """The crops of all layers, in SAM's order: columns before rows.

    Args:
        width: Width of the image, in pixels.
        height: Height of the image, in pixels.
        crops: Number of layers and their overlap.

    Raises:
        ValueError: if a crop would be smaller than a region may be.

    Source: Kirillov et al., "Segment Anything", 2023, appendix B (automatic mask generation).
    """
    found = []
    for layer in range(1, crops.layers + 1):
        parts = 2**layer
        overlap = int(crops.overlap_ratio * min(width, height) * (2 / parts))
        crop_width, crop_height = (math.ceil((overlap * (parts - 1) + side) / parts) for side in (width, height))
        for x0 in ((crop_width - overlap) * column for column in range(parts)):
            for y0 in ((crop_height - overlap) * row for row in range(parts)):
                box = (x0, y0, min(x0 + crop_width, width), min(y0 + crop_height, height))
                if min(box[2] - x0, box[3] - y0) < MIN_REGION_SIDE:
                    raise ValueError(
                        f"The image of {width} x {height} pixels is too small for {crops.layers} layers of crops: each "
                        f"crop needs {MIN_REGION_SIDE} pixels a side."
                    )
                found.append(Crop(box, layer))
    return found


def points_per_side(parameters: Mapping[str, Any], crops: Crops, layer: int) -> dict[str, int]:
    """The member `points_per_side` of a request over a crop. Empty if the model's value is used.

    Args:
        parameters: Options of the first request, as they were used.
        crops: Divisor of each layer.
        layer: Layer of the crop, 0 for the whole image.

    Raises:
        ValueError: if no point is left.
    """
    if layer == 0 or crops.points_downscale == 1:
        return {}
    points = int(parameters["points_per_side"] / crops.points_downscale**layer)
    if points == 0:
        raise ValueError(f"points_downscale {crops.points_downscale} leaves no point in layer {layer}.")
    return {"points_per_side": points}


def merge_crops(results: Sequence[Everything], crops: Crops) -> Everything:
    """Merge the results of an image and its crops. Masks of smaller crops win, and come first.

    Args:
        results: Result of the whole image, followed by those of the crops.
        crops: Threshold of the merge.

    Returns:
        A result of the whole image. Its timing is the sum over the requests.
    """
    whole = results[0]
    masks = [mask for result in results for mask in result.masks]
    areas = np.array([mask.crop_box[2] * mask.crop_box[3] for mask in masks], np.float64)
    kept = non_maximum_suppression(_inclusive_boxes(masks), 1.0 / areas, crops.nms_thresh)
    stages: dict[str, float] = {}
    for result in results:
        for stage, ms in result.timing.stages_ms.items():
            stages[stage] = stages.get(stage, 0.0) + ms
    timing = Timing(sum(result.timing.round_trip_ms for result in results), stages)
    return replace(whole, masks=tuple(masks[index] for index in kept), timing=timing, cached=None)


def non_maximum_suppression(
    boxes: NDArray[np.float32], scores: NDArray[np.float64], threshold: float
) -> NDArray[np.intp]:
    """Indices of the boxes that are kept, by descending score. Of equal scores the earlier box is kept.

    Args:
        boxes: (N, 4) x0, y0, x1, y1. The area is (x1 - x0) · (y1 - y0).
        scores: (N,) scores.
        threshold: IoU above which a box is dropped.

    Returns:
        (M,) indices. A box without area neither drops another one nor is dropped.

    Source: torchvision, `ops.nms`, which SAM's generator uses.
    """
    order = np.argsort(-scores, kind="stable")
    boxes = boxes[order]
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    is_kept = np.ones(len(boxes), np.bool_)
    for index in range(len(boxes)):
        if not is_kept[index]:
            continue
        rest = boxes[index + 1 :]
        corners = np.maximum(boxes[index, :2], rest[:, :2]), np.minimum(boxes[index, 2:], rest[:, 2:])
        sides = np.maximum(corners[1] - corners[0], 0)
        shared = sides[:, 0] * sides[:, 1]
        with np.errstate(invalid="ignore"):  # 0 / 0 is NaN, which is not above the threshold
            overlap = shared / (areas[index] + areas[index + 1 :] - shared)
        is_kept[index + 1 :] &= ~(overlap.astype(np.float64) > threshold)
    return order[is_kept]


def _inclusive_boxes(masks: Sequence[EverythingMask]) -> NDArray[np.float32]:
    """Boxes x0, y0, x1, y1 with the last column and row inside, as SAM's generator compares them."""
    boxes = np.array([mask.box for mask in masks], np.float32).reshape(-1, 4)
    boxes[:, 2:] -= 1
    return boxes
