"""Roboflow inference's routes for SAM: images in base64 in; polygons, run lengths or arrays out.

    /sam/embed_image    /sam/segment_image     its first protocol: point_coords and point_labels, NumPy on request
    /sam2/embed_image   /sam2/segment_image    prompts with points and boxes; used by its SDK's sam2_segment_image
    /sam3/embed_image   /sam3/visual_segment   same protocol; used by its SDK's sam3_embed_image and sam3_visual_segment
    /model/registry                            the models; used by its SDK's list_loaded_models

Source: inference/core/entities/requests and responses, sam.py and sam2.py; inference_sdk/http/client.py. One thing is
different on purpose. There a client chooses an `image_id`, so that two clients can choose the same one for different
images. Here it is the hash of the image. A request with an image needs no `image_id`, and one that is given is ignored.
"""

import re
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Annotated, Any, Final, Literal

from fastapi import FastAPI
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from service.api.access.policy import ADAPTER_PREDICTION, ANY_KEY, with_policy
from service.api.adapters.exchange import Document, Exchange, prompt_of
from service.api.adapters.roboflow_answers import (
    Predictions,
    SamArrays,
    SamPolygons,
    embedding_array,
    embedding_json,
    json_response,
)
from service.api.problems import broken_rule
from service.api.rendering import JSON
from service.api.request_context import request_context
from service.api.schemas import MAX_POINTS, Coordinate, ProblemModel
from service.api.single_array import require_single_array
from service.inference.served_models import ServedModel
from service.sam.image_id import parse_image_id
from service.sam.masks import Multimask
from service.sam.prompts import BOX_BOTTOM_RIGHT, BOX_TOP_LEFT, NEGATIVE, PADDING, POSITIVE, Prompt

_NO_REFINEMENT: Final = "this protocol does not refine masks here. POST /segment takes the mask_id of an answer."
_OTHER_PROTOCOL: Final = "Send images and prompts to /sam2/embed_image and /sam2/segment_image, or name another model."

_BODY: Final = {"requestBody": {"required": True, "content": {JSON: {"schema": {"type": "object"}}}}}
_PROBLEMS: Final = ProblemModel.responses(400, 401, 403, 404, 408, 413, 415, 422, 429, 503, 504)


# Names of the models that Roboflow's own server has, as `model_id` or as version.
_THEIR_MODEL: Final = re.compile(r"(?:sam[23]?/)?(vit_[bhl]|hiera_[a-z_]+|sam3(?:_[a-z]+)?)")
# Names of the same models here. Those that are not served, and all others of Roboflow's, mean the default model.
_OUR_MODELS: Final = {
    "vit_b": "sam-vit-b",
    "vit_l": "sam-vit-l",
    "vit_h": "sam-vit-h",
    "hiera_tiny": "sam2.1-tiny",
    "hiera_small": "sam2.1-small",
    "hiera_b_plus": "sam2.1-base-plus",
    "hiera_large": "sam2.1-large",
}

_Label = Annotated[int, Field(ge=PADDING, le=BOX_BOTTOM_RIGHT)]


class _Image(Document):
    type: str
    value: bytes


class _OfImage(Document):
    """The members that every request has. All but the first two name a model; each protocol has its own."""

    image: _Image | None = None
    image_id: str | None = None
    model_id: str | None = None
    sam_version_id: str | None = None
    sam2_version_id: str | None = None

    def model(self, exchange: Exchange) -> ServedModel:
        """Return the model that is asked for.

        A name of a served model comes before a version of Roboflow's own models, which the SDK always sends, by default
        `hiera_tiny`. Such a version means the same model of this service, or the default model where it is not served.

        Raises:
            InvalidRequest: A name is neither that of a served model nor one of Roboflow's.
        """
        version = ""
        for member in ("model_id", "sam2_version_id", "sam_version_id"):
            name = getattr(self, member)
            theirs = _THEIR_MODEL.fullmatch(name or "")
            if name and theirs is None:
                return exchange.model(name, f"/{member}")
            version = version or (theirs[1] if theirs else "")
        ours = _OUR_MODELS.get(version)
        return next((model for model in exchange.models.all if model.name == ours), exchange.models.default)


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
    _add_registry(app, exchange)

    async def find(request: Request, asked: _OfImage) -> tuple[str, ServedModel]:
        """Return the id of the image, and the model. An image that comes with the request is embedded first."""
        model = asked.model(exchange)
        if asked.image is not None:
            if asked.image.type != "base64":
                raise broken_rule(
                    "/image/type", "this service fetches no addresses and unpickles nothing. Send type base64."
                )
            return (await exchange.embed(request, asked.image.value, model)).image_id, model
        try:
            return str(parse_image_id(asked.image_id or "")), model
        except ValueError as error:
            raise broken_rule(
                "/image_id", f"without an image, this has to be the image_id that embed_image answered; {error}."
            ) from error

    async def sam_embed(request: Request) -> Response:
        started = perf_counter()
        asked = await exchange.read(request, _SamEmbed.model_validate_json)
        require_single_array(asked.model(exchange), _OTHER_PROTOCOL, where="/model_id")
        image_id, model = await find(request, asked)
        timeout_s = exchange.limits.segment_timeout_s
        context = request_context(request, timeout_s=timeout_s, work="Reading the embedding")
        embedding = await model.embedder.read(image_id, context)
        write = embedding_array if asked.format == "binary" else embedding_json
        return await exchange.executor.run(context.timings, write, embedding, image_id, started)

    async def sam_segment(request: Request) -> Response:
        started = perf_counter()
        asked, prompt = await exchange.read(request, _parse_sam)
        renderer = SamArrays() if asked.format == "binary" else SamPolygons(started)
        image_id, model = await find(request, asked)
        return await exchange.segment(request, image_id, [prompt], 1, renderer, model)

    async def embed(request: Request) -> Response:
        started = perf_counter()
        asked = await exchange.read(request, _OfImage.model_validate_json)
        image_id, _ = await find(request, asked)
        return json_response({"image_id": image_id, "time": perf_counter() - started})

    async def segment(request: Request) -> Response:
        started = perf_counter()
        asked, prompts = await exchange.read(request, lambda body: _parse_sam2(body, max_prompts))
        renderer = Predictions(len(prompts), started, is_rle=asked.format == "rle")
        # The answer has one mask in any case. "Several" means that the ranking rule chooses where a click is ambiguous.
        multimask: Multimask = "auto" if asked.multimask_output else 1
        image_id, model = await find(request, asked)
        return await exchange.segment(request, image_id, prompts, multimask, renderer, model)

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


def _add_registry(app: FastAPI, exchange: Exchange) -> None:
    """Add the list of models."""

    @app.get("/model/registry", responses=ProblemModel.responses(401), summary="Roboflow: models", tags=["adapters"])
    @with_policy(ANY_KEY)
    async def model_registry() -> dict[str, Any]:
        return {"models": [_registered(model) for model in exchange.models.all]}


def _registered(model: ServedModel) -> dict[str, Any]:
    """Return a model in the members that the SDK's `list_loaded_models` reads."""
    side = model.manifest.image_size
    task = "unsupervised-segmentation"  # masks without classes
    return {"model_id": model.name, "task_type": task, "batch_size": 1, "input_height": side, "input_width": side}


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
