"""Answers of Roboflow inference's protocols: polygons, run lengths and arrays of masks, and embeddings."""

import io
from time import perf_counter
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray
from starlette.responses import Response

from service.api.conditional import OCTETS
from service.api.rendering import JSON
from service.inference.segmentation_builder import SegmentedMask
from service.sam.decoded_image import ImageInfo
from service.sam.embedding import ImageEmbedding
from service.sam.float16 import as_float32
from service.sam.image_id import parse_image_id
from service.sam.masks import BinaryMask, Mask
from service.sam.polygons import encode_outlines
from service.sam.rle import encode_rle
from service.sam.transforms import MASK_SIZE

# Polygons have whole numbers there, so a staircase of pixels becomes a line.
_TOLERANCE_PIXELS: Final = 1.0


class SamPolygons:
    """Renders `masks` and `low_res_masks` of the first protocol: parts of the mask, largest first, without holes."""

    masks_per_prompt: int | None = 1

    def __init__(self, started: float) -> None:
        self._started = started
        self._answer: dict[str, Any] = {}

    def add(self, _prompt: int, mask: SegmentedMask) -> None:
        """See `Renderer`."""
        small = BinaryMask.cut((MASK_SIZE, MASK_SIZE), 0, 0, as_float32(mask.mask_logits) > 0.0)
        self._answer = {"masks": _polygons(mask.mask), "low_res_masks": _polygons(small)}

    def finish(self, _image: ImageInfo, _boxes: object = None) -> Response:
        """See `Renderer`."""
        return json_response({**self._answer, "time": perf_counter() - self._started})


class SamArrays:
    """Renders a compressed NumPy archive: masks (1, H, W) bool, low_res_masks (1, 256, 256) float32 logits."""

    masks_per_prompt: int | None = 1

    def __init__(self) -> None:
        self._content = io.BytesIO()

    def add(self, _prompt: int, mask: SegmentedMask) -> None:
        """See `Renderer`."""
        x0, y0, x1, y1 = mask.mask.box
        pixels = np.zeros((1, *mask.mask.size), np.bool_)
        pixels[0, y0:y1, x0:x1] = mask.mask.crop
        np.savez_compressed(self._content, masks=pixels, low_res_masks=as_float32(mask.mask_logits)[None])

    def finish(self, _image: ImageInfo, _boxes: object = None) -> Response:
        """See `Renderer`."""
        return Response(self._content.getvalue(), media_type=OCTETS)


class Predictions:
    """Renders the answer of the second protocol: the best mask of each prompt."""

    masks_per_prompt: int | None = 1

    def __init__(self, prompts: int, started: float, *, is_rle: bool) -> None:
        self._started = started
        self._is_rle = is_rle
        self._predictions: list[dict[str, Any]] = [{} for _ in range(prompts)]

    def add(self, prompt: int, mask: SegmentedMask) -> None:
        """See `Renderer`."""
        self._predictions[prompt] = {
            "masks": encode_rle(mask.mask) if self._is_rle else _polygons(mask.mask),
            "confidence": mask.score,
            "format": "rle" if self._is_rle else "polygon",
        }

    def finish(self, _image: ImageInfo, _boxes: object = None) -> Response:
        """See `Renderer`."""
        return json_response({"predictions": self._predictions, "time": perf_counter() - self._started})


def _polygons(mask: Mask) -> list[list[list[float]]]:
    return [outline.ring for outline in encode_outlines(mask, tolerance_pixels=_TOLERANCE_PIXELS)]


def _embedding_planes(embedding: ImageEmbedding) -> NDArray[np.float32]:
    """Return the embedding with channels first, as the official encoder does; (256, 64, 64). Blocking."""
    return np.ascontiguousarray(as_float32(embedding.tokens).reshape(64, 64, -1).transpose(2, 0, 1))


def embedding_array(embedding: ImageEmbedding, image_id: str, _started: float) -> Response:
    content = io.BytesIO()
    np.save(content, _embedding_planes(embedding)[None])
    return Response(
        content.getvalue(), media_type=OCTETS, headers={"X-Image-Hash": parse_image_id(image_id).image_hash}
    )


def embedding_json(embedding: ImageEmbedding, image_id: str, started: float) -> Response:
    """Return ten megabytes of text, written plane by plane: a thread that writes numbers holds the interpreter."""
    planes = [orjson.dumps(plane, option=orjson.OPT_SERIALIZE_NUMPY) for plane in _embedding_planes(embedding)]
    rest = orjson.dumps({"image_id": image_id, "time": perf_counter() - started})
    return Response(b'{"embeddings":[[' + b",".join(planes) + b"]]," + rest[1:], media_type=JSON)


def json_response(document: dict[str, Any]) -> Response:
    return Response(orjson.dumps(document), media_type=JSON)
