"""The two requests and what belongs to them."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from fastapi import FastAPI
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response

from service.api.bodies import MULTIPART_OVERHEAD_BYTES, picture_of, read_body
from service.api.middleware.fast_path import DirectRoute
from service.api.negotiation import preferred
from service.api.problems import broken_rule, invalid_request, refusal
from service.api.rendering import JSON, PNG, JsonRenderer, PngRenderer, RenderOptions
from service.api.request_context import request_context
from service.api.schemas import (
    MAX_POINTS,
    EmbedResponse,
    ImageHash,
    ModelModel,
    ModelsResponse,
    ProblemModel,
    PromptModel,
    SegmentRequest,
    SegmentResponse,
)
from service.errors import EmbeddingNotFound, InvalidRequest, NotAcceptable
from service.inference.embed import Embedder
from service.inference.refinement_masks import RefinablePrompt
from service.inference.scheduling.executors import TimedExecutor
from service.inference.segment import Segmenter
from service.inference.segmentation_builder import Renderer
from service.sam.formats import decode_logits
from service.sam.prompts import Prompt
from service.telemetry.metrics import Metrics

# application/octet-stream is taken, too, and not named: of two kinds of body that it knows, openapi-python-client 0.29
# makes a module that cannot be imported.
_PICTURE_BODY = {
    "required": True,
    "content": {
        **{
            kind: {"schema": {"type": "string", "format": "binary"}}
            for kind in ("image/jpeg", "image/png", "image/webp", "image/gif", "image/bmp", "image/tiff")
        },
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["image"],
                "properties": {"image": {"type": "string", "format": "binary"}},
            }
        },
    },
}
_SEGMENT_BODY = {
    "required": True,
    "content": {JSON: {"schema": {"$ref": "#/components/schemas/SegmentRequest"}}},
}
_PNG_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {PNG: {"schema": {"type": "string", "format": "binary"}}},
        "description": "Masks as JSON, or with `Accept: image/png` the best mask of the only prompt as a PNG file.",
    }
}


# A JSON body has a colon for each member: x, y and label of a point, a few of a prompt and of the request. Base64 has
# none.
COLONS_PER_POINT = 3
COLONS_BESIDE = 1000


# A click has 200 to 400 bytes. Up to here a body, whatever is in it, is read in little more time than a thread needs to
# take it.
SMALL_BODY_BYTES = 1024


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """Bounds of bodies and prompts, from the settings."""

    max_image_bytes: int
    max_request_bytes: int
    max_prompts: int
    body_timeout_s: float
    min_bytes_per_s: int
    embed_timeout_s: float
    segment_timeout_s: float


def install_routes(
    app: FastAPI,
    embedder: Embedder,
    segmenter: Segmenter,
    *,
    executor: TimedExecutor,
    limits: RequestLimits,
    expires_in_s: float,
    description: ModelModel,
    metrics: Metrics,
) -> None:
    """Add the routes of embedding and segmenting.

    They are the app's own and not an included router's, whose templates FastAPI hides from middleware.
    """

    @app.post(
        "/embed",
        response_model=EmbedResponse,
        responses=ProblemModel.responses(400, 401, 403, 408, 413, 415, 422, 429, 503, 504),
        openapi_extra={"requestBody": _PICTURE_BODY},
        operation_id="embed",
        summary="Embed a picture",
        description="Send the picture once; its `image_hash` is what /segment takes. A known picture costs a look-up.",
    )
    async def embed(request: Request) -> Response:
        content_type = request.headers.get("content-type", "")
        overhead = MULTIPART_OVERHEAD_BYTES if content_type.startswith("multipart/") else 0
        result = await embedder.embed(
            await read_body(
                request,
                max_bytes=limits.max_image_bytes + overhead,
                timeout_s=limits.body_timeout_s,
                min_bytes_per_s=limits.min_bytes_per_s,
            ),
            partial(picture_of, content_type=content_type),
            request_context(request, timeout_s=limits.embed_timeout_s, work="Embedding the picture"),
        )
        request.state.cached = result.cached
        height, width = result.original_size
        answer = EmbedResponse(
            image_hash=result.image_hash,
            width=width,
            height=height,
            model=description.name,
            cached=result.cached,
            expires_in_s=expires_in_s,
        )
        return Response(answer.model_dump_json(), media_type=JSON)

    @app.head(
        "/embed/{image_hash}",
        response_class=Response,
        responses={status: {"description": "Problem, without a body"} for status in (401, 403, 404, 422, 429, 503)},
        operation_id="is_embedded",
        summary="Is a picture embedded?",
        description="200 when it is, so the upload can be skipped; X-Cache names the tier.",
    )
    async def head(request: Request, image_hash: ImageHash) -> Response:
        tier = await embedder.contains(image_hash, request.state.caller)
        if tier is None:
            raise EmbeddingNotFound("No embedding of this picture is cached. POST the picture to /embed.")
        return Response(headers={"X-Cache": tier})

    @app.delete(
        "/embed/{image_hash}",
        status_code=204,
        responses=ProblemModel.responses(401, 403, 404, 422, 429, 503, 504),
        operation_id="forget",
        summary="Forget a picture",
        description="Removes the embedding from Redis and from the memory of the replica that answers; the others have "
        "been told when this answers, and do the same at once. "
        "Where keys are asked for it needs one with the role admin.",
    )
    async def delete(request: Request, image_hash: ImageHash) -> Response:
        work = "Waiting for the picture's embedding"
        context = request_context(request, timeout_s=limits.embed_timeout_s, work=work)
        if not await embedder.delete(image_hash, context):
            raise EmbeddingNotFound("No embedding of this picture is cached; there is nothing to delete.")
        return Response(status_code=204)

    @app.post(
        "/segment",
        response_model=SegmentResponse,
        responses={**_PNG_ANSWER, **ProblemModel.responses(400, 401, 403, 404, 406, 408, 413, 422, 429, 503, 504)},
        openapi_extra={"requestBody": _SEGMENT_BODY},
        operation_id="segment",
        summary="Cut out objects",
        description="Prompts on an embedded picture; coordinates are pixels of the upright original.",
    )
    async def segment(request: Request) -> Response:
        body = await read_body(
            request,
            max_bytes=limits.max_request_bytes,
            timeout_s=limits.body_timeout_s,
            min_bytes_per_s=limits.min_bytes_per_s,
        )
        if len(body) <= SMALL_BODY_BYTES:
            asked, prompts = _parse(body, limits.max_prompts)
        else:
            asked, prompts = await executor.run(request.state.timings, _parse, body, limits.max_prompts)
        _check_served(asked, description)
        offered = (JSON, PNG) if len(prompts) == 1 else (JSON,)
        kind = preferred(",".join(request.headers.getlist("accept")), offered)
        if kind is None:
            raise NotAcceptable(f"/segment answers {JSON}, or {PNG} for a single prompt.")
        request.state.prompts = len(prompts)
        options = RenderOptions(asked.format, asked.crop, asked.tolerance_pixels)
        renderer: Renderer[Response] = (
            PngRenderer(options)
            if kind == PNG
            else JsonRenderer(asked.image_hash, description.name, len(prompts), options)
        )
        return await segmenter.segment(
            asked.image_hash,
            prompts,
            asked.multimask,
            renderer,
            request_context(request, timeout_s=limits.segment_timeout_s, work="Segmenting"),
            granularity=asked.granularity,
        )

    app.add_middleware(DirectRoute, route="/segment", endpoint=segment, refuse=refusal(metrics))

    @app.get("/models", responses=ProblemModel.responses(401), operation_id="models", summary="What is served")
    async def models() -> ModelsResponse:
        return ModelsResponse(models=[description])


def _parse(body: bytes, max_prompts: int) -> tuple[SegmentRequest, Sequence[RefinablePrompt]]:
    """Blocking: a body may hold megabytes of mask logits."""
    # Validation collects every error there is: half a million unknown members would hold the interpreter for seconds.
    if body.count(b":") > MAX_POINTS * COLONS_PER_POINT * max_prompts + COLONS_BESIDE:
        raise broken_rule("/", f"more members than {max_prompts} prompts of {MAX_POINTS} points have.")
    try:
        asked = SegmentRequest.model_validate_json(body)
    except ValidationError as error:
        raise invalid_request(error) from error
    if len(asked.prompts) > max_prompts:
        message = f"{len(asked.prompts)} prompts; a request holds at most {max_prompts}. Send several."
        raise broken_rule("/prompts", message, limit=max_prompts)
    return asked, [_prompt(prompt, f"/prompts/{i}") for i, prompt in enumerate(asked.prompts)]


def _check_served(asked: SegmentRequest, model: ModelModel) -> None:
    if asked.granularity == "auto" and not model.granularity:
        message = (
            f"the served model {model.name} has no granularity module. Leave granularity out, or send a box with the "
            "click; who runs the service can serve a model that was exported with --granularity."
        )
        raise broken_rule("/granularity", message)


def _prompt(prompt: PromptModel, where: str) -> RefinablePrompt:
    logits: Any = None
    if prompt.mask_logits is not None:
        try:
            logits = decode_logits(base64.b64decode(prompt.mask_logits, validate=True))
        except InvalidRequest as error:
            raise broken_rule(f"{where}/mask_logits", error.detail) from error
        except ValueError as error:  # for text that is not ASCII not even its subclass binascii.Error
            raise broken_rule(f"{where}/mask_logits", f"not base64 ({error}).") from error
    points = [(point.x, point.y) for point in prompt.points]
    return RefinablePrompt(
        Prompt(
            points=np.array(points, np.float64).reshape(-1, 2),
            labels=np.array([point.label for point in prompt.points], np.int64),
            box=None if prompt.box is None else np.array(prompt.box, np.float64),
            mask_logits=logits,
        ),
        prompt.mask_id,
    )
