"""Everything results as JSON and as lines of JSON (NDJSON). Functions that write masks are blocking."""

import base64
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import orjson

from service.api.everything_schemas import EverythingFormat
from service.inference.everything_answers import Begun
from service.sam.everything.options import EverythingOptions
from service.sam.everything.record import MaskRecord, mask_of
from service.sam.image_id import parse_image_id
from service.sam.png import encode_png
from service.sam.polygons import encode_polygons
from service.sam.transforms import Size

NDJSON: Final = "application/x-ndjson"


@dataclass(frozen=True, slots=True)
class MaskWriter:
    """Writes the record of a mask as a JSON object.

    Args:
        format: Format of the masks.
        tolerance_pixels: Tolerance of simplified polygons, in pixels.
    """

    format: EverythingFormat
    tolerance_pixels: float

    def __call__(self, record: MaskRecord, size: Size) -> bytes:
        """Return the JSON of one mask of an image of this size. Blocking."""
        segmentation = _SEGMENTATIONS[self.format](record, size, self.tolerance_pixels)
        return orjson.dumps(
            {
                "id": record.id,
                **({} if segmentation is None else {"segmentation": segmentation}),
                "area": record.area,
                "bbox": record.bbox,
                "predicted_iou": record.predicted_iou,
                "stability_score": record.stability_score,
                "point_coords": [record.point],
                "crop_box": record.crop_box,
            }
        )


@dataclass(frozen=True, slots=True)
class AnswerHead:
    """The members of an answer beside its masks.

    Args:
        image_id: Id of the image.
        model: Name of the served model.
        options: Options of the search, with the model's values.
        writer: Writer of the masks, whose parameters the answer states.
    """

    image_id: str
    model: str
    options: EverythingOptions
    writer: MaskWriter

    def members(self, begun: Begun) -> dict[str, Any]:
        """Return the members, once the image is known."""
        height, width = begun.image.size
        return {
            "image_hash": parse_image_id(self.image_id).image_hash,
            "image_id": self.image_id,
            "width": width,
            "height": height,
            "orientation": begun.image.orientation,
            "region": None if begun.image.region is None else begun.image.region.corners,
            "model": self.model,
            "parameters": {
                **asdict(self.options),
                "format": self.writer.format,
                "tolerance_pixels": self.writer.tolerance_pixels,
            },
            "cached": "redis" if begun.is_cached else None,
        }


def json_document(members: dict[str, Any], masks: Iterable[bytes]) -> bytes:
    """Return the whole answer as one JSON object. Blocking: it may have megabytes.

    Args:
        members: Members beside the masks.
        masks: JSON of each mask, in order.
    """
    return orjson.dumps(members)[:-1] + b',"masks":[' + b",".join(masks) + b"]}"


def start_line(members: dict[str, Any], prompts: int) -> bytes:
    """Return the first line of a stream."""
    return _line({"event": "start", **members, "prompts": prompts})


def progress_line(done: int, prompts: int) -> bytes:
    """Return the line of prompts that are done."""
    return _line({"event": "progress", "done": done, "prompts": prompts})


def mask_line(mask: bytes) -> bytes:
    """Return the line of a mask, from its JSON."""
    return b'{"event":"mask",' + mask[1:] + b"\n"


def drop_line(ids: Sequence[int]) -> bytes:
    """Return the line of masks that are not in the result any more."""
    return _line({"event": "drop", "ids": [*ids]})


def end_line(ids: Sequence[int]) -> bytes:
    """Return the last line of a complete result."""
    return _line({"event": "end", "ids": [*ids]})


def error_line(problem: bytes) -> bytes:
    """Return the last line of a stream that failed, from the JSON of a problem document."""
    return b'{"event":"error","problem":' + problem + b"}\n"


def _line(document: dict[str, Any]) -> bytes:
    return orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)


def _rle(record: MaskRecord, size: Size, _tolerance: float) -> dict[str, Any]:
    return {"size": [*size], "counts": record.counts}


def _polygon(record: MaskRecord, size: Size, tolerance: float) -> Any:
    return encode_polygons(mask_of(record, size), tolerance_pixels=tolerance)


def _png(record: MaskRecord, size: Size, _tolerance: float) -> str:
    return base64.b64encode(encode_png(mask_of(record, size), crop=False)).decode()


_SEGMENTATIONS: Final[dict[EverythingFormat, Callable[[MaskRecord, Size, float], Any]]] = {
    "rle": _rle,
    "polygon": _polygon,
    "png": _png,
    "none": lambda _record, _size, _tolerance: None,
}
