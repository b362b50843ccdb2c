"""Masks as Label Studio's regions: brush regions, and polygons in per cent of the image."""

import secrets
from typing import Any, Final

import orjson
from starlette.responses import Response

from service.api.adapters.editable_polygons import editable_polygons
from service.api.adapters.exchange import prompt_of
from service.api.adapters.label_studio_brush import encode_brush
from service.api.adapters.label_studio_request import Target
from service.api.adapters.proposals import FoundObjects
from service.api.rendering import JSON
from service.inference.segmentation_builder import SegmentedMask
from service.sam.decoded_image import ImageInfo
from service.sam.everything.record import mask_of
from service.sam.masks import Mask
from service.sam.prompts import POSITIVE, Prompt
from service.sam.transforms import Size

# Tolerance of polygons relative to the length of an outline. People move the vertices by hand, so there should be few.
_TOLERANCE: Final = 0.001


class RegionRenderer:
    """Renders the best mask as one brush region, or as one polygon for each of its larger parts.

    Args:
        target: Target of the answer.
        prompt: Prompt that the mask answers.
        model: Name of the served model.
    """

    masks_per_prompt: int | None = 1

    def __init__(self, target: Target, prompt: Prompt, model: str) -> None:
        self._target = target
        self._prompt = prompt
        self._model = model
        self._values: list[dict[str, Any]] = []
        self._score = 0.0

    def add(self, _prompt: int, mask: SegmentedMask) -> None:
        """See `Renderer`."""
        self._score = mask.score
        self._values = _values(mask.mask, self._target, self._prompt)

    def finish(self, image: ImageInfo, _boxes: object = None) -> Response:
        """See `Renderer`."""
        result = [_region(value, image.size, self._target, self._score) for value in self._values]
        return _answer(result, self._score, self._model)


def write_proposals(found: FoundObjects, target: Target, model: str) -> Response:
    """Return proposals as regions of one prediction, the best first. Blocking.

    Args:
        found: Proposals for the image.
        target: Target of the answer.
        model: Name of the served model.
    """
    size = found.image.size
    result = [
        _region(value, size, target, record.predicted_iou)
        for record in found.masks
        for value in _values(mask_of(record, size), target, prompt_of([record.point], [POSITIVE]))
    ]
    return _answer(result, max((record.predicted_iou for record in found.masks), default=0.0), model)


def _values(mask: Mask, target: Target, prompt: Prompt) -> list[dict[str, Any]]:
    """Return the values of the regions of a mask, without their labels."""
    if target.region_type == "brushlabels":
        return [{"format": "rle", "rle": encode_brush(mask)}]
    return [{"points": points, "closed": True} for points in _polygons(mask, prompt)]


def _region(value: dict[str, Any], original_size: Size, target: Target, score: float) -> dict[str, Any]:
    height, width = original_size
    return {
        "id": secrets.token_hex(5),  # id of a region and not of a mask: a user may accept the same click twice
        "type": target.region_type,
        "from_name": target.from_name,
        "to_name": target.to_name,
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "score": score,
        "readonly": False,
        "value": {**value, target.region_type: target.labels},
    }


def _answer(result: list[dict[str, Any]], score: float, model: str) -> Response:
    prediction = {"result": result, "score": score, "model_version": model}
    return Response(orjson.dumps({"results": [prediction]}, option=orjson.OPT_SERIALIZE_NUMPY), media_type=JSON)


def _polygons(mask: Mask, prompt: Prompt) -> list[list[list[float]]]:
    """Return the outlines of `editable_polygons` as rings of [x, y] in per cent of the image."""
    height, width = mask.size
    return [
        [[x / width * 100, y / height * 100] for x, y in ring]
        for ring in editable_polygons(mask, prompt, tolerance=_TOLERANCE)
    ]
