"""The route POST /segment/everything: an embedded image in, the masks of all its objects out."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import fields
from typing import Any, Final

from fastapi import FastAPI
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response

from service.api.access.policy import SEGMENT, SEGMENT_KEYS, RoutePolicy, with_policy
from service.api.bodies import RequestLimits, read_body, without_bom
from service.api.event_stream import EventStream
from service.api.everything_rendering import (
    NDJSON,
    AnswerHead,
    MaskWriter,
    drop_line,
    end_line,
    error_line,
    json_document,
    mask_line,
    progress_line,
    start_line,
)
from service.api.everything_schemas import EverythingRequest, EverythingResponse
from service.api.negotiation import preferred
from service.api.problems import broken_rule, invalid_request
from service.api.rendering import JSON
from service.api.request_context import request_context
from service.api.schemas import ProblemModel
from service.errors import NotAcceptable
from service.inference.everything import Advanced, Dropped, Finished
from service.inference.everything_answers import AnswerEvent, Begun, EverythingAnswers, Written
from service.inference.scheduling.executors import TimedExecutor
from service.inference.served_models import ServedModels
from service.sam.everything.options import EverythingOptions
from service.telemetry.metrics import Metrics

EVERYTHING_ROUTE: Final = "/segment/everything"

# A body has a dozen short members. One of this size is parsed in less than a millisecond, whatever its content.
MAX_BODY_BYTES: Final = 8 * 1024

_OPTION_NAMES: Final = {field.name for field in fields(EverythingOptions)}

_BODY: Final = {
    "required": True,
    "content": {JSON: {"schema": {"$ref": "#/components/schemas/EverythingRequest"}}},
}
_STREAM_RESPONSE: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "content": {NDJSON: {"schema": {"$ref": "#/components/schemas/EverythingLine"}}},
        "description": "All masks as one JSON object. With `Accept: application/x-ndjson` a stream of lines, each a "
        "JSON object: `start`, then `progress`, `mask` and `drop` while the work goes on, at last `end` or `error`.",
    }
}


def install_everything_route(
    app: FastAPI,
    models: ServedModels,
    answers: EverythingAnswers,
    *,
    executor: TimedExecutor,
    limits: RequestLimits,
    metrics: Metrics,
) -> None:
    """Add `POST /segment/everything`.

    Args:
        app: Application that gets the route.
        models: Served models.
        answers: Use case that finds the masks.
        executor: Threads of low priority that join the masks of an answer.
        limits: Bounds of requests.
        metrics: Metrics of the process.
    """

    @app.post(
        EVERYTHING_ROUTE,
        response_model=EverythingResponse,
        responses={
            **_STREAM_RESPONSE,
            **ProblemModel.responses(400, 401, 403, 404, 406, 408, 413, 415, 421, 422, 429, 503, 504),
        },
        openapi_extra={"requestBody": _BODY},
        operation_id="segment_everything",
        summary="Find all objects",
        description="Masks of all objects of an embedded image, found by a grid of points (everything mode). "
        "Coordinates are pixels of the upright image. The same request is answered from Redis later, as long as the "
        "image is there. An API key has one request at a time.",
    )
    @with_policy(RoutePolicy(roles=SEGMENT_KEYS, quota=SEGMENT, permit="everything requests", replica_role="segment"))
    async def segment_everything(request: Request) -> Response:
        body = await read_body(
            request,
            max_bytes=MAX_BODY_BYTES,
            timeout_s=limits.body_timeout_s,
            min_bytes_per_s=limits.min_bytes_per_s,
        )
        asked = _parse(body, limits.max_points_per_side)
        model = models.get(asked.model)
        request.state.model = model.name
        given = asked.model_dump(include=_OPTION_NAMES, exclude_none=True)
        options = model.manifest.everything_defaults.options(given, max_points_per_side=limits.max_points_per_side)
        kind = preferred(",".join(request.headers.getlist("accept")), (JSON, NDJSON))
        if kind is None:
            raise NotAcceptable(f"{EVERYTHING_ROUTE} answers {JSON} or {NDJSON}. Change the Accept header.")
        context = request_context(request, timeout_s=limits.everything_timeout_s, work="Finding all objects")
        writer = MaskWriter(asked.format, asked.tolerance_pixels)
        head = AnswerHead(asked.image_hash, model.name, options, writer)
        events = answers.answer(model, asked.image_hash, options, writer, context)
        if kind == NDJSON:
            # An error before the first event gets an answer of its own, with its own status.
            begun = await _begin(events, request)
            lines = _lines(begun, events, head, request)
            return EventStream(lines, error_line=error_line, media_type=NDJSON, metrics=metrics)
        async with aclosing(events):
            begun = await _begin(events, request)
            masks = await _collect(events, request)
        content = await executor.run(context.timings, json_document, head.members(begun), masks)
        return Response(content, media_type=JSON, headers={"Vary": "Accept"})


def _parse(body: bytes, max_points_per_side: int) -> EverythingRequest:
    try:
        asked = EverythingRequest.model_validate_json(without_bom(body))
    except ValidationError as error:
        raise invalid_request(error) from error
    if asked.points_per_side is not None and asked.points_per_side > max_points_per_side:
        message = f"{asked.points_per_side} points; this service takes at most {max_points_per_side}. Send fewer."
        raise broken_rule("/points_per_side", message, limit=max_points_per_side)
    return asked


async def _begin(events: AsyncGenerator[AnswerEvent], request: Request) -> Begun:
    """Return the first event, and note it for the log and the objective."""
    begun = await anext(events)
    assert isinstance(begun, Begun)
    request.state.prompts = begun.prompts
    if begun.is_cached:
        request.state.cached = "redis"
    else:
        request.state.objective = "everything"
    return begun


async def _collect(events: AsyncGenerator[AnswerEvent], request: Request) -> list[bytes]:
    """Return the JSON of all masks of the result, best first."""
    masks: dict[int, bytes] = {}
    async for event in events:
        match event:
            case Written(record, content):
                masks[record.id] = content
            case Dropped(ids):
                for each in ids:
                    del masks[each]
            case Finished(ids):
                request.state.masks = len(ids)
                return [masks[each] for each in ids]
    raise AssertionError("The events end without a result. This is a bug.")


async def _lines(
    begun: Begun, events: AsyncGenerator[AnswerEvent], head: AnswerHead, request: Request
) -> AsyncGenerator[bytes]:
    """Yield the lines of a stream. The events are closed with them."""
    async with aclosing(events):
        yield start_line(head.members(begun), begun.prompts)
        async for event in events:
            match event:
                case Advanced(done):
                    yield progress_line(done, begun.prompts)
                case Written(_, content):
                    yield mask_line(content)
                case Dropped(ids):
                    yield drop_line(ids)
                case Finished(ids):
                    request.state.masks = len(ids)
                    yield end_line(ids)
