"""X-AnyLabeling's remote server: marks on an image in, polygons out.

Source: router.md and configuration.md of X-AnyLabeling-Server, and the application's remote_server.py. Its own
server answers most errors with status 200 and a document that the application does not read. Here they are problem
documents with their status, which the application shows.
"""

from typing import Annotated, Any, Final, Literal

import orjson
from fastapi import FastAPI
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from service.api.access.policy import ADAPTER_PREDICTION, ANY_KEY, with_policy
from service.api.adapters.exchange import Document, Exchange, prompt_of
from service.api.problems import broken_rule
from service.api.rendering import JSON
from service.api.schemas import MAX_POINTS, Coordinate, ProblemModel
from service.inference.segmentation_builder import SegmentedMask
from service.sam.decoded_image import ImageInfo
from service.sam.polygons import encode_outlines
from service.sam.prompts import NEGATIVE, Prompt

# The application replaces this label by the one that the user gives the object.
_LABEL: Final = "AUTOLABEL_OBJECT"

# Buttons of the application that the adapter supports.
_WIDGETS: Final = (
    {"name": "button_add_point", "value": None},
    {"name": "button_remove_point", "value": None},
    {"name": "button_add_rect", "value": None},
    {"name": "button_clear", "value": None},
    {"name": "button_finish_object", "value": None},
    {"name": "mask_fineness_slider", "value": 10},
    {"name": "mask_fineness_value_label", "value": None},
)

# Smallest area of a part, relative to the largest. Users would have to delete each smaller part by hand.
_SMALLEST_PART: Final = 0.1

_MAX_TOLERANCE_PIXELS: Final = 100.0


class _Mark(Document):
    """A point (x, y), or a rectangle by two corners (x, y, x, y), pixels."""

    type: Literal["point", "rectangle"]
    data: Annotated[list[Coordinate], Field(min_length=2, max_length=4)]
    label: Annotated[int, Field(ge=0, le=1)] = 1


class _Params(Document):
    marks: Annotated[tuple[_Mark, ...], Field(max_length=MAX_POINTS)] = ()
    epsilon_factor: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.001


class _Predict(Document):
    model: str
    image: bytes
    params: _Params = _Params()


def install_x_anylabeling(app: FastAPI, exchange: Exchange) -> None:
    """Add `/v1/models`, `/v1/models/{model_id}/info` and `/v1/predict`.

    Args:
        app: Application that gets the routes.
        exchange: Access of the adapter to the service.
    """
    model = exchange.model
    described: dict[str, Any] = {
        "display_name": f"EdgeSAM ({model})",
        # None: the adapter answers marks only, so it cannot run over a folder.
        "batch_processing_mode": None,
        "widgets": list(_WIDGETS),
        "params": {},
    }

    @app.get("/v1/models", responses=ProblemModel.responses(401), summary="X-AnyLabeling: models", tags=["adapters"])
    @with_policy(ANY_KEY)
    async def models() -> dict[str, Any]:
        return {"success": True, "data": {model: described}}

    @app.get(
        "/v1/models/{model_id}/info",
        responses=ProblemModel.responses(401, 422),
        summary="X-AnyLabeling: one model",
        tags=["adapters"],
    )
    @with_policy(ANY_KEY)
    async def info(model_id: str) -> dict[str, Any]:
        _check_model(model_id, model)
        return {"success": True, "data": {"model_id": model, **described}}

    @app.post(
        "/v1/predict",
        responses=ProblemModel.responses(400, 401, 403, 408, 413, 415, 422, 429, 503, 504),
        openapi_extra={"requestBody": {"required": True, "content": {JSON: {"schema": {"type": "object"}}}}},
        summary="X-AnyLabeling: polygons for marks",
        tags=["adapters"],
    )
    @with_policy(ADAPTER_PREDICTION)
    async def predict(request: Request) -> Response:
        asked, prompt = await exchange.read(request, _parse)
        _check_model(asked.model, model)
        embedded = await exchange.embed(request, asked.image)
        renderer = _ShapeRenderer(asked.params.epsilon_factor)
        if prompt is None:  # the image is embedded before the first mark
            return renderer.finish(embedded.image)
        return await exchange.segment(request, embedded.image_id, [prompt], "auto", renderer)


def _check_model(asked: str, served: str) -> None:
    if asked != served:
        raise broken_rule("/model", f"this service has only the model {served!r}. Reload the models and choose it.")


def _parse(body: bytes) -> tuple[_Predict, Prompt | None]:
    """Return the request, and its marks as one prompt. Blocking."""
    asked = _Predict.model_validate_json(body)
    points, labels, box = [], [], None
    for index, mark in enumerate(asked.params.marks):
        where = f"/params/marks/{index}"
        if mark.type == "point" and len(mark.data) == 2:
            points.append((mark.data[0], mark.data[1]))
            labels.append(mark.label)
        elif mark.type == "rectangle" and len(mark.data) == 4:
            if mark.label == NEGATIVE:
                raise broken_rule(where, "EdgeSAM has no negative rectangles. Remove it and use negative points.")
            box = mark.data  # the last of several rectangles: a prompt has one
        else:
            raise broken_rule(f"{where}/data", "a point has 2 coordinates, and a rectangle has 4.")
    return asked, prompt_of(points, labels, box) if asked.params.marks else None


class _ShapeRenderer:
    """Renders the best mask as polygons, one for each of its larger parts."""

    masks_per_prompt: int | None = 1

    def __init__(self, epsilon_factor: float) -> None:
        self._epsilon_factor = epsilon_factor
        self._shapes: list[dict[str, Any]] = []

    def add(self, _prompt: int, mask: SegmentedMask) -> None:
        """See `Renderer`."""
        # The factor is relative to the length of an outline, which is about that of the box around it.
        x0, y0, x1, y1 = mask.mask.box
        tolerance = min(_MAX_TOLERANCE_PIXELS, self._epsilon_factor * 2 * (x1 - x0 + y1 - y0))
        outlines = encode_outlines(mask.mask, tolerance_pixels=tolerance)
        self._shapes = [
            _shape([*outline.ring, outline.ring[0]], mask.score)
            for outline in outlines
            if outline.area >= _SMALLEST_PART * outlines[0].area
        ]

    def finish(self, _image: ImageInfo, _boxes: object = None) -> Response:
        """See `Renderer`."""
        # `replace` false: shapes of other objects stay.
        data = {"shapes": self._shapes, "description": "", "replace": False}
        return Response(orjson.dumps({"success": True, "data": data}), media_type=JSON)


def _shape(points: list[list[float]], score: float) -> dict[str, Any]:
    return {
        "label": _LABEL,
        "shape_type": "polygon",
        "points": points,
        "score": score,
        "attributes": {},
        "description": None,
        "difficult": False,
        "direction": 0,
        "flags": None,
        "group_id": None,
        "kie_linking": [],
    }
