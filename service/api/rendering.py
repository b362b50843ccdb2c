"""Renderers: they write masks as JSON or PNG answers. Blocking: they run in worker threads."""

import base64
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson
from starlette.responses import Response

from service.api.problems import broken_rule
from service.api.schemas import Format
from service.errors import InvalidRequest
from service.inference.segmentation_builder import SegmentedMask
from service.sam.decoded_image import ImageInfo
from service.sam.granularity import Box
from service.sam.image_id import parse_image_id
from service.sam.logits import encode_logits
from service.sam.png import encode_alpha_png, encode_png
from service.sam.polygons import encode_polygons
from service.sam.rle import encode_rle

JSON, PNG = "application/json", "image/png"

_VARY = {"Vary": "Accept"}

MAX_ALPHA_BYTES: Final = 64 << 20
"""Largest size of the alphas of one JSON answer, in bytes. That of a mask of noise takes 3 MiB at 52 megapixels, where
the other formats take some hundred KiB at most."""


@dataclass(frozen=True, slots=True)
class RenderOptions:
    """Format of the masks, from the request.

    Args:
        format: Format of each mask in JSON.
        crop: Whether a PNG has only the part of the image inside the mask's box, or the alpha's.
        tolerance_pixels: Tolerance of simplified polygons, in pixels.
    """

    format: Format
    crop: bool
    tolerance_pixels: float


class JsonRenderer:
    """Renders the answer that `SegmentResponse` describes.

    Args:
        image_id: Id of the image.
        model: Name of the served model.
        prompts: Number of prompts.
        options: Format of the masks.
        max_alpha_bytes: Largest size of all alphas, in bytes.
    """

    masks_per_prompt: int | None = None

    def __init__(
        self,
        image_id: str,
        model: str,
        prompts: int,
        options: RenderOptions,
        *,
        max_alpha_bytes: int = MAX_ALPHA_BYTES,
    ) -> None:
        self._image_id = image_id
        self._model = model
        self._results: list[dict[str, Any]] = [{"masks": []} for _ in range(prompts)]
        self._options = options
        self._write = _WRITERS[options.format]
        self._max_alpha_bytes = max_alpha_bytes
        self._alpha_bytes = 0
        self._lock = threading.Lock()

    def add(self, prompt: int, mask: SegmentedMask) -> None:
        """See `Renderer`.

        Raises:
            InvalidRequest: The alphas take too many bytes.
        """
        if self._alpha_bytes > self._max_alpha_bytes:  # another thread has raised it
            raise self._too_large()
        written = self._write(mask, self._options)
        with self._lock:
            self._alpha_bytes += len(written.get("alpha", ""))
        if self._alpha_bytes > self._max_alpha_bytes:
            raise self._too_large()
        self._results[prompt]["masks"].append({**_numbers(mask), **written})

    def finish(self, image: ImageInfo, boxes: Sequence[Box | None] | None) -> Response:
        """See `Renderer`."""
        if boxes is not None:
            for result, box in zip(self._results, boxes, strict=True):
                result["granularity_box"] = box
        height, width = image.size
        document = {
            "image_hash": parse_image_id(self._image_id).image_hash,
            "image_id": self._image_id,
            "width": width,
            "height": height,
            "region": None if image.region is None else image.region.corners,
            "orientation": image.orientation,
            "model": self._model,
            "results": self._results,
        }
        return Response(orjson.dumps(document), media_type=JSON, headers=_VARY)

    def _too_large(self) -> InvalidRequest:
        message = (
            f"the alphas take more than {self._max_alpha_bytes >> 20} MiB. Send fewer prompts at once, ask for fewer "
            "masks with multimask, or for the best one with Accept: image/png."
        )
        return broken_rule("/format", message)


class PngRenderer:
    """Renders the best mask of the only prompt as a PNG file, hard or with a soft edge, with its numbers as headers.

    Args:
        options: Format of the mask.
    """

    masks_per_prompt: int | None = 1

    def __init__(self, options: RenderOptions) -> None:
        self._options = options
        self._content = b""
        self._headers: dict[str, str] = {}

    def add(self, _prompt: int, mask: SegmentedMask) -> None:
        """See `Renderer`."""
        numbers = _numbers(mask)
        self._headers = {
            "X-Mask-Id": mask.mask_id,
            "X-Mask-Score": f"{numbers['score']:.6f}",
            "X-Mask-Area": str(numbers["area"]),
            "X-Mask-Box": ",".join(map(str, numbers["box"])),
        }
        if self._options.format == "alpha":
            alpha = mask.draw_alpha()
            self._content = encode_alpha_png(alpha, crop=self._options.crop)
            self._headers["X-Alpha-Box"] = ",".join(map(str, alpha.box))
        else:
            self._content = encode_png(mask.mask, crop=self._options.crop)

    def finish(self, image: ImageInfo, boxes: Sequence[Box | None] | None) -> Response:
        """See `Renderer`."""
        (box,) = boxes or (None,)
        box_header = {} if box is None else {"X-Granularity-Box": ",".join(map(str, box))}
        height, width = image.size
        size = {"X-Image-Size": f"{width},{height}", "X-Image-Orientation": str(image.orientation)}
        if image.region is not None:
            size["X-Image-Region"] = str(image.region)
        return Response(self._content, media_type=PNG, headers={**self._headers, **box_header, **size, **_VARY})


def _numbers(mask: SegmentedMask) -> dict[str, Any]:
    return {
        "score": mask.score,
        "stability": mask.stability,
        "predicted_iou": mask.predicted_iou,
        "area": mask.mask.area,
        "box": mask.mask.box,
        "mask_id": mask.mask_id,
    }


def _png(mask: SegmentedMask, options: RenderOptions) -> dict[str, Any]:
    return {"png": base64.b64encode(encode_png(mask.mask, crop=options.crop)).decode()}


def _alpha(mask: SegmentedMask, options: RenderOptions) -> dict[str, Any]:
    alpha = mask.draw_alpha()
    png = encode_alpha_png(alpha, crop=options.crop)
    return {"alpha": base64.b64encode(png).decode(), "alpha_box": alpha.box}


def _polygon(mask: SegmentedMask, options: RenderOptions) -> dict[str, Any]:
    return {"polygon": encode_polygons(mask.mask, tolerance_pixels=options.tolerance_pixels)}


def _logits(mask: SegmentedMask, _options: RenderOptions) -> dict[str, Any]:
    return {"logits": base64.b64encode(encode_logits(mask.mask_logits)).decode()}


_WRITERS: dict[Format, Callable[[SegmentedMask, RenderOptions], dict[str, Any]]] = {
    "rle": lambda mask, _: {"rle": encode_rle(mask.mask)},
    "png": _png,
    "alpha": _alpha,
    "polygon": _polygon,
    "logits": _logits,
    "none": lambda _mask, _options: {},
}
