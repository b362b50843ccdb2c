"""The route POST /segment: prompts on an embedded image in, masks out."""

import base64
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import numpy as np
from fastapi import FastAPI
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response

from service.api.access.policy import SEGMENT, SEGMENT_KEYS, RoutePolicy, with_policy
from service.api.bodies import SMALL_BODY_BYTES, RequestLimits, read_body, without_bom
from service.api.mask_prompts import MAX_RUNS, encoded_mask
from service.api.negotiation import preferred
from service.api.problems import broken_rule, invalid_request
from service.api.rendering import JSON, PNG, JsonRenderer, PngRenderer, RenderOptions
from service.api.request_context import request_context
from service.api.schemas import (
    MAX_POINTS,
    ProblemModel,
    PromptModel,
    SegmentRequest,
    SegmentResponse,
)
from service.errors import InvalidRequest, NotAcceptable
from service.inference.refinement_masks import RefinablePrompt
from service.inference.scheduling.executors import TimedExecutor
from service.inference.segmentation_builder import Renderer
from service.inference.served_models import ServedModel, ServedModels
from service.manifest_versions import DEFAULT_ENCODER
from service.sam.logits import decode_logits
from service.sam.prompts import Prompt

SEGMENT_ROUTE: Final = "/segment"

_BODY: Final = {
    "required": True,
    "content": {JSON: {"schema": {"$ref": "#/components/schemas/SegmentRequest"}}},
}
_PNG_RESPONSE: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "content": {PNG: {"schema": {"type": "string", "format": "binary"}}},
        "description": "Masks as JSON, or with `Accept: image/png` the best mask of the only prompt as a PNG file.",
    }
}

# A JSON body has a colon for each member: x, y and label of a point, a few of a prompt and of the request. Base64 has
# none.
COLONS_PER_POINT: Final = 3
OTHER_COLONS: Final = 1000
# Numbers and members are separated by commas: as many as colons, and the run lengths of masks beside them.
COMMAS_PER_POINT: Final = 3
OTHER_COMMAS: Final = 1000 + MAX_RUNS


def install_segment_route(
    app: FastAPI, models: ServedModels, *, executor: TimedExecutor, limits: RequestLimits
) -> Callable[[Request], Awaitable[Response]]:
    """Add `POST /segment`.

    Args:
        app: Application that gets the route.
        models: Served models.
        executor: Threads that parse large bodies.
        limits: Bounds of requests.

    Returns:
        The function that answers the route, for the fast path around the framework.
    """

    @app.post(
        SEGMENT_ROUTE,
        response_model=SegmentResponse,
        responses={
            **_PNG_RESPONSE,
            **ProblemModel.responses(400, 401, 403, 404, 406, 408, 413, 415, 422, 429, 503, 504),
        },
        openapi_extra={"requestBody": _BODY},
        operation_id="segment",
        summary="Cut out objects",
        description="Prompts on an embedded image. Coordinates are pixels of the upright original.",
    )
    @with_policy(RoutePolicy(roles=SEGMENT_KEYS, quota=SEGMENT, permit="prompt requests", replica_role="segment"))
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
        model = models.get(asked.model)
        request.state.model = model.name
        _check_granularity(asked, model)
        offered = (JSON, PNG) if len(prompts) == 1 else (JSON,)
        kind = preferred(",".join(request.headers.getlist("accept")), offered)
        if kind is None:
            raise NotAcceptable(f"/segment answers {JSON}, or {PNG} for a single prompt. Change the Accept header.")
        request.state.prompts, request.state.objective = len(prompts), "clicks"
        options = RenderOptions(asked.format, asked.crop, asked.tolerance_pixels)
        renderer: Renderer[Response] = (
            PngRenderer(options) if kind == PNG else JsonRenderer(asked.image_hash, model.name, len(prompts), options)
        )
        return await model.segmenter.segment(
            asked.image_hash,
            prompts,
            asked.multimask,
            renderer,
            request_context(request, timeout_s=limits.segment_timeout_s, work="Segmenting"),
            granularity=asked.granularity,
            cleanup=asked.cleanup,
        )

    return segment


def _parse(body: bytes, max_prompts: int) -> tuple[SegmentRequest, Sequence[RefinablePrompt]]:
    """Return the validated body and its prompts. Blocking: a body may hold megabytes of mask logits."""
    # Validation collects every error there is: half a million unknown members would hold the interpreter for seconds.
    if body.count(b":") > MAX_POINTS * COLONS_PER_POINT * max_prompts + OTHER_COLONS:
        raise broken_rule("/", f"more members than {max_prompts} prompts of {MAX_POINTS} points have.")
    if body.count(b",") > MAX_POINTS * COMMAS_PER_POINT * max_prompts + OTHER_COMMAS:
        raise broken_rule(
            "/", f"more numbers than {max_prompts} prompts of {MAX_POINTS} points and masks of {MAX_RUNS} runs have."
        )
    try:
        asked = SegmentRequest.model_validate_json(without_bom(body))
    except ValidationError as error:
        raise invalid_request(error) from error
    if len(asked.prompts) > max_prompts:
        message = f"{len(asked.prompts)} prompts; a request holds at most {max_prompts}. Send several requests."
        raise broken_rule("/prompts", message, limit=max_prompts)
    return asked, [_prompt(prompt, f"/prompts/{i}") for i, prompt in enumerate(asked.prompts)]


def _check_granularity(asked: SegmentRequest, model: ServedModel) -> None:
    manifest = model.manifest
    if asked.granularity == "auto" and manifest.granularity is None:
        remedy = (
            "The operator of the service can serve a model that was exported with --granularity."
            if manifest.encoder == DEFAULT_ENCODER
            else f"No such module exists for {manifest.architecture}."
        )
        message = (
            f"the served model {model.name} has no granularity module. Leave granularity out, or send a box with the "
            f"click. {remedy}"
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
        None if prompt.mask is None else encoded_mask(prompt.mask, f"{where}/mask"),
    )
