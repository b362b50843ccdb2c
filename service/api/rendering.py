"""Masks as answers. Blocking: runs in a worker thread."""

import base64
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.responses import Response

from service.api.schemas import Format
from service.inference.deadline import Deadline
from service.inference.predictor import SegmentedMask, SegmentResult
from service.sam.formats import encode_logits, encode_png, encode_polygons, encode_rle

JSON, PNG = "application/json", "image/png"

_VARY = {"Vary": "Accept"}


@dataclass(frozen=True, slots=True)
class RenderOptions:
    """How masks are written, from the request."""

    format: Format
    crop: bool
    tolerance_pixels: float


def render_json(
    image_hash: str, model: str, options: RenderOptions, result: SegmentResult, deadline: Deadline
) -> Response:
    """The answer described by `SegmentResponse`."""
    write = _WRITERS[options.format]
    results: list[dict[str, Any]] = []
    for masks in result.results:
        written = []
        for mask in masks:
            deadline.check()
            written.append({**_numbers(mask), **write(mask, options)})
        results.append({"masks": written})
    height, width = result.original_size
    document = {"image_hash": image_hash, "width": width, "height": height, "model": model, "results": results}
    return Response(orjson.dumps(document), media_type=JSON, headers=_VARY)


def render_png(options: RenderOptions, result: SegmentResult, _deadline: Deadline) -> Response:
    """The best mask of the only prompt as a PNG file, and its numbers as headers."""
    best = result.results[0][0]
    numbers = _numbers(best)
    headers = {
        "X-Mask-Id": best.mask_id,
        "X-Mask-Score": f"{numbers['score']:.6f}",
        "X-Mask-Area": str(numbers["area"]),
        "X-Mask-Box": ",".join(map(str, numbers["box"])),
    }
    return Response(encode_png(best.mask, crop=options.crop), media_type=PNG, headers={**headers, **_VARY})


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
