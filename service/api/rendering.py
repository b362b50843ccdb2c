"""Masks as bytes of an answer. Blocking: runs in a worker thread."""

import base64
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

from service.api.schemas import Format
from service.inference.predictor import SegmentedMask, SegmentResult
from service.sam.formats import encode_logits, encode_png, encode_polygons, encode_rle


@dataclass(frozen=True, slots=True)
class RenderOptions:
    """How masks are written, from the request."""

    format: Format
    crop: bool
    tolerance_pixels: float


def render_json(image_hash: str, model: str, result: SegmentResult, options: RenderOptions) -> bytes:
    """The body of `SegmentResponse`."""
    write = _WRITERS[options.format]
    height, width = result.original_size
    document = {
        "image_hash": image_hash,
        "width": width,
        "height": height,
        "model": model,
        "results": [
            {"masks": [{**_numbers(mask), **write(mask, options)} for mask in masks]} for masks in result.results
        ],
    }
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)


def render_png(result: SegmentResult, options: RenderOptions) -> tuple[bytes, dict[str, str]]:
    """The best mask of the only prompt as a PNG file, and its numbers as headers."""
    best = result.results[0][0]
    numbers = _numbers(best)
    headers = {
        "X-Mask-Id": best.mask_id,
        "X-Mask-Score": f"{numbers['score']:.6f}",
        "X-Mask-Area": str(numbers["area"]),
        "X-Mask-Box": ",".join(map(str, numbers["box"])),
    }
    return encode_png(best.mask, crop=options.crop), headers


def _numbers(mask: SegmentedMask) -> dict[str, Any]:
    return {
        "score": mask.stability,
        "stability": mask.stability,
        "predicted_iou": mask.predicted_iou,
        "area": mask.mask.area,
        "box": mask.mask.box,
        "mask_id": mask.mask_id,
    }


def _png(mask: SegmentedMask, options: RenderOptions) -> dict[str, Any]:
    return {"png": base64.b64encode(encode_png(mask.mask, crop=options.crop)).decode()}


def _polygon(mask: SegmentedMask, options: RenderOptions) -> dict[str, Any]:
    return {"polygon": encode_polygons(mask.mask, tolerance_pixels=options.tolerance_pixels)}


def _logits(mask: SegmentedMask, _options: RenderOptions) -> dict[str, Any]:
    return {"logits": base64.b64encode(encode_logits(mask.mask_logits)).decode()}


_WRITERS: dict[Format, Callable[[SegmentedMask, RenderOptions], dict[str, Any]]] = {
    "rle": lambda mask, _: {"rle": encode_rle(mask.mask)},
    "png": _png,
    "polygon": _polygon,
    "logits": _logits,
    "none": lambda _mask, _options: {},
}
