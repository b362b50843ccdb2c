"""Roboflow inference's routes for SAM: images in base64 in; polygons, run lengths or arrays out.

    /sam/embed_image    /sam/segment_image     its first protocol: point_coords and point_labels, NumPy on request
    /sam2/embed_image   /sam2/segment_image    prompts with points and boxes; used by its SDK's sam2_segment_image
    /sam3/embed_image   /sam3/visual_segment   same protocol; used by its SDK's sam3_embed_image and sam3_visual_segment

Source: inference/core/entities/requests and responses, sam.py and sam2.py; inference_sdk/http/client.py. One thing is
different on purpose. There a client chooses an `image_id`, so that two clients can choose the same one for different
images. Here it is the hash of the image. A request with an image needs no `image_id`, and one that is given is ignored.
"""

import io
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Annotated, Any, Final, Literal

import numpy as np
import orjson
from fastapi import FastAPI
from numpy.typing import NDArray
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from service.api.access.policy import ADAPTER_PREDICTION, with_policy
from service.api.adapters.exchange import Document, Exchange, prompt_of
from service.api.conditional import OCTETS
from service.api.problems import broken_rule
from service.api.rendering import JSON
from service.api.request_context import request_context
from service.api.schemas import MAX_POINTS, Coordinate, ProblemModel
from service.inference.segmentation_builder import SegmentedMask
from service.sam.decoded_image import ImageInfo
from service.sam.embedding import ImageEmbedding
from service.sam.float16 import as_float32
from service.sam.image_id import parse_image_id
from service.sam.masks import BinaryMask, Mask, Multimask
from service.sam.polygons import encode_outlines
from service.sam.prompts import BOX_BOTTOM_RIGHT, BOX_TOP_LEFT, NEGATIVE, PADDING, POSITIVE, Prompt
from service.sam.rle import encode_rle
from service.sam.transforms import MASK_SIZE

# Polygons have whole numbers there, so a staircase of pixels becomes a line.
_TOLERANCE_PIXELS: Final = 1.0

_NO_REFINEMENT: Final = "this protocol does not refine masks here. POST /segment takes the mask_id of an answer."

_BODY: Final = {"requestBody": {"required": True, "content": {JSON: {"schema": {"type": "object"}}}}}
_PROBLEMS: Final = ProblemModel.responses(400, 401, 403, 404, 408, 413, 415, 422, 429, 503, 504)


_Label = Annotated[int, Field(ge=PADDING, le=BOX_BOTTOM_RIGHT)]


class _Image(Document):
    type: str
    value: bytes


class _OfImage(Document):
    """The members that every request has."""

    image: _Image | None = None
    image_id: str | None = None


class _SamEmbed(_OfImage):
    format: Literal["json", "binary"] = "json"


class _Segment(_OfImage):
    """The members that would change the mask, and that this service does not support."""

    mask_input: Any = None
    load_logits_from_cache: bool | None = None
    text_prompt: str | None = None
    text: str | None = None


class _SamSegment(_Segment):
    format: Literal["json", "binary"] = "json"
    point_coords: Annotated[tuple[tuple[Coordinate, Coordinate], ...], Field(max_length=MAX_POINTS)] = ()
    point_labels: Annotated[tuple[_Label, ...], Field(max_length=MAX_POINTS)] = ()
    has_mask_input: bool | None = False
    embeddings: Any = None


class _Point(Document):
    x: Coordinate
    y: Coordinate
    positive: bool


class _Box(Document):
    """A box by its centre, in pixels."""

    x: Coordinate
    y: Coordinate
    width: Annotated[Coordinate, Field(gt=0)]
    height: Annotated[Coordinate, Field(gt=0)]


class _Prompt(Document):
    points: Annotated[list[_Point], Field(max_length=MAX_POINTS)] | None = None
    box: _Box | None = None


class _PromptSet(Document):
    prompts: list[_Prompt] | None = None


class _Sam2Segment(_Segment):
    format: Literal["json", "rle"] = "json"
    prompts: _PromptSet = _PromptSet()
    multimask_output: bool = True
    use_mask_input_cache: bool | None = None


def install_roboflow(app: FastAPI, exchange: Exchange) -> None:
    """Add the routes of all three protocols.

    Args:
        app: Application that gets the routes.
        exchange: Access of the adapter to the service.
    """
    max_prompts = exchange.limits.max_prompts

    async def find(request: Request, asked: _OfImage) -> str:
        """Return the id of the image. An image that comes with the request is embedded first."""
        if asked.image is not None:
            if asked.image.type != "base64":
                raise broken_rule(
                    "/image/type", "this service fetches no addresses and unpickles nothing. Send type base64."
                )
            return (await exchange.embed(request, asked.image.value)).image_id
        try:
            return str(parse_image_id(asked.image_id or ""))
        except ValueError as error:
            raise broken_rule(
                "/image_id", f"without an image, this has to be the image_id that embed_image answered; {error}."
            ) from error

    async def sam_embed(request: Request) -> Response:
        started = perf_counter()
        asked = await exchange.read(request, _SamEmbed.model_validate_json)
        image_id = await find(request, asked)
        timeout_s = exchange.limits.segment_timeout_s
        context = request_context(request, timeout_s=timeout_s, work="Reading the embedding")
        embedding = await exchange.embedder.read(image_id, context)
        write = _embedding_array if asked.format == "binary" else _embedding_json
        return await exchange.executor.run(context.timings, write, embedding, image_id, started)

    async def sam_segment(request: Request) -> Response:
        started = perf_counter()
        asked, prompt = await exchange.read(request, _parse_sam)
        renderer = _SamArrays() if asked.format == "binary" else _SamPolygons(started)
        return await exchange.segment(request, await find(request, asked), [prompt], 1, renderer)

    async def embed(request: Request) -> Response:
        started = perf_counter()
        asked = await exchange.read(request, _OfImage.model_validate_json)
        image_id = await find(request, asked)
        return _json({"image_id": image_id, "time": perf_counter() - started})

    async def segment(request: Request) -> Response:
        started = perf_counter()
        asked, prompts = await exchange.read(request, lambda body: _parse_sam2(body, max_prompts))
        renderer = _Predictions(len(prompts), started, is_rle=asked.format == "rle")
        # The answer has one mask in any case. "Several" means that the ranking rule chooses where a click is ambiguous.
        multimask: Multimask = "auto" if asked.multimask_output else 1
        return await exchange.segment(request, await find(request, asked), prompts, multimask, renderer)

    routes: dict[str, Callable[[Request], Awaitable[Response]]] = {
        "/sam/embed_image": sam_embed,
        "/sam/segment_image": sam_segment,
        "/sam2/embed_image": embed,
        "/sam2/segment_image": segment,
        "/sam3/embed_image": embed,
        "/sam3/visual_segment": segment,
    }
    for path, endpoint in routes.items():
        app.add_api_route(
            path,
            with_policy(ADAPTER_PREDICTION)(endpoint),
            methods=["POST"],
            responses=_PROBLEMS,
            openapi_extra=_BODY,
            summary=f"Roboflow: {path.removeprefix('/')}",
            operation_id=path.strip("/").replace("/", "_"),
            tags=["adapters"],
        )


def _parse_sam(body: bytes) -> tuple[_SamSegment, Prompt]:
    """Return the request and its points as a prompt; labels 2 and 3 are the corners of a box. Blocking."""
    asked = _SamSegment.model_validate_json(body)
    _refuse_unsupported(asked)
    if asked.has_mask_input:
        raise broken_rule("/has_mask_input", _NO_REFINEMENT)
    if asked.embeddings is not None:
        raise broken_rule(
            "/embeddings", "this service decodes its own embeddings only. Send the image or its image_id."
        )
    if len(asked.point_coords) != len(asked.point_labels):
        raise broken_rule("/point_labels", f"{len(asked.point_labels)} labels for {len(asked.point_coords)} points.")
    points, labels, corners = [], [], {}
    for point, label in zip(asked.point_coords, asked.point_labels, strict=True):
        if label in (BOX_TOP_LEFT, BOX_BOTTOM_RIGHT):
            corners[label] = point
        # SAM's own exports pad with (0, 0) and -1; Roboflow documents -1 as a negative click.
        elif label != PADDING or point != (0.0, 0.0):
            points.append(point)
            labels.append(POSITIVE if label == POSITIVE else NEGATIVE)
    if len(corners) == 1 or not (points or corners):
        raise broken_rule("/point_coords", "send points labelled 1 or 0, or the corners of a box labelled 2 and 3.")
    box = (*corners[BOX_TOP_LEFT], *corners[BOX_BOTTOM_RIGHT]) if corners else None
    return asked, prompt_of(points, labels, box)


def _parse_sam2(body: bytes, max_prompts: int) -> tuple[_Sam2Segment, list[Prompt]]:
    """Return the request and its prompts. Blocking."""
    asked = _Sam2Segment.model_validate_json(body)
    _refuse_unsupported(asked)
    # The first protocol has this member, too. There true is the default, which says nothing.
    if asked.use_mask_input_cache:
        raise broken_rule("/use_mask_input_cache", _NO_REFINEMENT)
    prompts = asked.prompts.prompts or []
    if not 1 <= len(prompts) <= max_prompts:
        raise broken_rule("/prompts/prompts", f"{len(prompts)} prompts. Send 1 to {max_prompts}.", limit=max_prompts)
    return asked, [_prompt(prompt, f"/prompts/prompts/{index}") for index, prompt in enumerate(prompts)]


def _refuse_unsupported(asked: _Segment) -> None:
    """Raise InvalidRequest for a member that would change the mask: without it the answer would be another mask."""
    if asked.mask_input is not None:
        raise broken_rule("/mask_input", _NO_REFINEMENT)
    if asked.load_logits_from_cache:
        raise broken_rule("/load_logits_from_cache", _NO_REFINEMENT)
    for name in ("text_prompt", "text"):
        if getattr(asked, name):
            raise broken_rule(f"/{name}", "EdgeSAM takes no text. Send points or a box.")


def _prompt(prompt: _Prompt, where: str) -> Prompt:
    points = prompt.points or []
    if not points and prompt.box is None:
        raise broken_rule(where, "a prompt needs points or a box.")
    box = None
    if prompt.box is not None:
        x, y, half_width, half_height = prompt.box.x, prompt.box.y, prompt.box.width / 2, prompt.box.height / 2
        box = (x - half_width, y - half_height, x + half_width, y + half_height)
    return prompt_of([(point.x, point.y) for point in points], [int(point.positive) for point in points], box)


class _SamPolygons:
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
        return _json({**self._answer, "time": perf_counter() - self._started})


class _SamArrays:
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


class _Predictions:
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
        return _json({"predictions": self._predictions, "time": perf_counter() - self._started})


def _polygons(mask: Mask) -> list[list[list[float]]]:
    return [outline.ring for outline in encode_outlines(mask, tolerance_pixels=_TOLERANCE_PIXELS)]


def _embedding_planes(embedding: ImageEmbedding) -> NDArray[np.float32]:
    """Return the embedding with channels first, as the official encoder does; (256, 64, 64). Blocking."""
    return np.ascontiguousarray(as_float32(embedding.tokens).reshape(64, 64, -1).transpose(2, 0, 1))


def _embedding_array(embedding: ImageEmbedding, image_id: str, _started: float) -> Response:
    content = io.BytesIO()
    np.save(content, _embedding_planes(embedding)[None])
    return Response(
        content.getvalue(), media_type=OCTETS, headers={"X-Image-Hash": parse_image_id(image_id).image_hash}
    )


def _embedding_json(embedding: ImageEmbedding, image_id: str, started: float) -> Response:
    """Return ten megabytes of text, written plane by plane: a thread that writes numbers holds the interpreter."""
    planes = [orjson.dumps(plane, option=orjson.OPT_SERIALIZE_NUMPY) for plane in _embedding_planes(embedding)]
    rest = orjson.dumps({"image_id": image_id, "time": perf_counter() - started})
    return Response(b'{"embeddings":[[' + b",".join(planes) + b"]]," + rest[1:], media_type=JSON)


def _json(document: dict[str, Any]) -> Response:
    return Response(orjson.dumps(document), media_type=JSON)
