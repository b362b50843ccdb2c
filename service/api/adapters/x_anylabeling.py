"""X-AnyLabeling's remote server: marks on an image in, polygons out.

Source: router.md and configuration.md of X-AnyLabeling-Server, and remote_server.py of the application (4.2.1).

The application replaces all shapes of the image by none, also on disk, when `/v1/predict` answers an error status.
Therefore every refusal of that route has status 200, no shapes and `replace` false. Metrics and log have the problem.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Final, Literal

import orjson
from fastapi import FastAPI
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from service.api.access.policy import ADAPTER_PREDICTION, ANY_KEY, with_policy
from service.api.adapters.editable_polygons import editable_polygons
from service.api.adapters.exchange import Document, Exchange, prompt_of
from service.api.adapters.proposals import FoundObjects
from service.api.problems import Problem, broken_rule
from service.api.rendering import JSON
from service.api.schemas import MAX_POINTS, Coordinate, ProblemModel
from service.inference.segmentation_builder import SegmentedMask
from service.inference.served_models import ServedModel
from service.sam.decoded_image import ImageInfo
from service.sam.everything.record import mask_of
from service.sam.orientation import Point, stored_to_upright, upright_to_stored
from service.sam.prompts import NEGATIVE, POSITIVE, Prompt

# The application replaces this label by the one that the user gives the object.
_LABEL: Final = "AUTOLABEL_OBJECT"

# Buttons of the application that the adapter supports. The last one is on, so that shapes also survive what no answer
# of the service can change: its stop, an error status of a proxy, and the application's timeout.
_WIDGETS: Final = (
    {"name": "button_add_point", "value": None},
    {"name": "button_remove_point", "value": None},
    {"name": "button_add_rect", "value": None},
    {"name": "button_clear", "value": None},
    {"name": "button_finish_object", "value": None},
    {"name": "mask_fineness_slider", "value": 10},
    {"name": "mask_fineness_value_label", "value": None},
    {"name": "toggle_preserve_existing_annotations", "value": True},
)

# Ending of the names under which the application also lists the models, to find all objects. Names of models have no
# colon.
_ALL_OBJECTS: Final = ":all-objects"
# Label of proposals. Shapes with the label above belong to the object that the user is about to finish.
_PROPOSAL: Final = "object"
_PROPOSAL_WIDGETS: Final = (
    {"name": "button_run", "value": None},
    {"name": "mask_fineness_slider", "value": 10},
    {"name": "mask_fineness_value_label", "value": None},
    {"name": "toggle_preserve_existing_annotations", "value": True},
)

_PREDICTION: Final = {
    "description": "Polygons of the object; or `success` false with `error`, and no shapes.",
    "content": {
        JSON: {
            "schema": {
                "type": "object",
                "required": ["success", "data"],
                "properties": {
                    "success": {"type": "boolean"},
                    "error": {
                        "type": "object",
                        "required": ["code", "message"],
                        "properties": {"code": {"type": "string"}, "message": {"type": "string"}},
                    },
                    "data": {"type": "object"},
                },
            }
        }
    },
}


class _Mark(Document):
    """A point (x, y), or a rectangle by two corners (x, y, x, y), pixels."""

    type: Literal["point", "rectangle"]
    data: Annotated[list[Coordinate], Field(min_length=2, max_length=4)]
    label: Annotated[int, Field(ge=0, le=1)] = 1


class _Params(Document):
    marks: Annotated[tuple[_Mark, ...], Field(max_length=MAX_POINTS)] = ()
    epsilon_factor: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.001
    text_prompt: str | None = None


class _Predict(Document):
    model: str | None = None
    image: bytes
    params: _Params = _Params()


@dataclass(frozen=True, slots=True)
class _Marks:
    """The marks of a request, in pixels of the stored image.

    Args:
        points: Points (x, y).
        labels: 1 for each point that belongs to the object, 0 for each that does not.
        box: Two corners (x, y) of a box; None without one.
    """

    points: Sequence[Point]
    labels: Sequence[int]
    box: Sequence[Point] | None

    def prompt(self, image: ImageInfo) -> Prompt:
        """Return the marks as a prompt on the upright image."""
        points = stored_to_upright(self.points, image.orientation, image.size)
        if self.box is None:
            return prompt_of(points, self.labels)
        (x0, y0), (x1, y1) = stored_to_upright(self.box, image.orientation, image.size)
        return prompt_of(points, self.labels, (x0, y0, x1, y1))


def install_x_anylabeling(app: FastAPI, exchange: Exchange) -> None:
    """Add `/v1/models`, `/v1/models/{model_id}/info` and `/v1/predict`.

    Args:
        app: Application that gets the routes.
        exchange: Access of the adapter to the service.
    """

    @app.get("/v1/models", responses=ProblemModel.responses(401), summary="X-AnyLabeling: models", tags=["adapters"])
    @with_policy(ANY_KEY)
    async def models() -> dict[str, Any]:
        described = {model.name: _described(model) for model in exchange.models.all}
        if exchange.proposals is not None:
            described |= {f"{model.name}{_ALL_OBJECTS}": _described_proposer(model) for model in exchange.models.all}
        return {"success": True, "data": described}

    @app.get(
        "/v1/models/{model_id}/info",
        responses=ProblemModel.responses(401, 422),
        summary="X-AnyLabeling: one model",
        tags=["adapters"],
    )
    @with_policy(ANY_KEY)
    async def info(model_id: str) -> dict[str, Any]:
        model, wants_all = _named(exchange, model_id, "/model_id")
        described = _described_proposer(model) if wants_all else _described(model)
        return {"success": True, "data": {"model_id": model_id, **described}}

    @app.post(
        "/v1/predict",
        response_class=Response,
        responses={200: _PREDICTION, **ProblemModel.responses(400, 401, 403, 408, 413, 415, 422, 429, 503, 504)},
        openapi_extra={"requestBody": {"required": True, "content": {JSON: {"schema": {"type": "object"}}}}},
        summary="X-AnyLabeling: polygons for marks",
        description="Every refusal has status 200 and `success` false: the application erases all shapes of the image "
        "when it receives an error status. Problems come only from the limits of connections and from proxies.",
        tags=["adapters"],
    )
    @with_policy(replace(ADAPTER_PREDICTION, problem_renderer=_refusal))
    async def predict(request: Request) -> Response:
        asked, marks = await exchange.read(request, _parse)
        model, wants_all = _named(exchange, asked.model, "/model")
        embedded = await exchange.embed(request, asked.image, model)
        if wants_all:
            assert exchange.proposals is not None
            found = await exchange.proposals.find(request, embedded.image_id, model)
            tolerance = asked.params.epsilon_factor
            return await exchange.executor.run(request.state.timings, _write_proposals, found, tolerance)
        if marks is None:  # the image is embedded before the first mark
            return _shapes([])
        prompt = marks.prompt(embedded.image)
        renderer = _ShapeRenderer(asked.params.epsilon_factor, embedded.image, prompt)
        return await exchange.segment(request, embedded.image_id, [prompt], "auto", renderer, model)


def _named(exchange: Exchange, name: str | None, where: str) -> tuple[ServedModel, bool]:
    """Return the model that a name stands for, and whether it is to find all objects.

    Raises:
        InvalidRequest: There is no such model.
    """
    wants_all = exchange.proposals is not None and name is not None and name.endswith(_ALL_OBJECTS)
    if wants_all:
        assert name is not None
        name = name.removesuffix(_ALL_OBJECTS)
    return exchange.model(name, where), wants_all


def _described_proposer(model: ServedModel) -> dict[str, Any]:
    """Return a model that finds all objects in the members that the application reads. It can run over a folder."""
    return {
        "display_name": f"EdgeSAM ({model.name}), all objects",
        "batch_processing_mode": "default",
        "widgets": list(_PROPOSAL_WIDGETS),
        "params": {},
    }


def _write_proposals(found: FoundObjects, epsilon_factor: float) -> Response:
    """Return proposals as polygons of the stored image; parts of one object have a group. Blocking.

    The answer leaves to the application's button whether they replace the shapes of the image.
    """
    image = found.image
    shapes = []
    for number, record in enumerate(found.masks, start=1):
        prompt = prompt_of([record.point], [POSITIVE])
        rings = editable_polygons(mask_of(record, image.size), prompt, tolerance=epsilon_factor)
        for ring in rings:
            points = upright_to_stored(((x, y) for x, y in [*ring, ring[0]]), image.orientation, image.size)
            shape = _shape(points, record.predicted_iou)
            shapes.append({**shape, "label": _PROPOSAL, "group_id": number if len(rings) > 1 else None})
    return _answer({"success": True, "data": {"shapes": shapes, "description": ""}})


def _described(model: ServedModel) -> dict[str, Any]:
    """Return a model in the members that the application reads."""
    return {
        "display_name": f"EdgeSAM ({model.name})",
        # None: the adapter answers marks only, so it cannot run over a folder.
        "batch_processing_mode": None,
        "widgets": list(_WIDGETS),
        "params": {},
    }


def _refusal(problem: Problem, _request_id: str) -> Response:
    """Return a problem as an answer that leaves the shapes of the application alone; see `ProblemRenderer`."""
    error = {"code": problem.code, "message": problem.detail}
    return _answer({"success": False, "error": error, "data": _data([])})


def _parse(body: bytes) -> tuple[_Predict, _Marks | None]:
    """Return the request and its marks; None without marks. Blocking."""
    asked = _Predict.model_validate_json(body)
    if asked.params.text_prompt:
        raise broken_rule("/params/text_prompt", "EdgeSAM takes no text. Use points or a rectangle.")
    points: list[Point] = []
    labels: list[int] = []
    box: list[Point] | None = None
    for index, mark in enumerate(asked.params.marks):
        where = f"/params/marks/{index}"
        if mark.type == "point" and len(mark.data) == 2:
            points.append((mark.data[0], mark.data[1]))
            labels.append(mark.label)
        elif mark.type == "rectangle" and len(mark.data) == 4:
            if mark.label == NEGATIVE:
                raise broken_rule(where, "EdgeSAM has no negative rectangles. Remove it and use negative points.")
            x0, y0, x1, y1 = mark.data
            box = [(x0, y0), (x1, y1)]  # the last of several rectangles: a prompt has one
        else:
            raise broken_rule(f"{where}/data", "a point has 2 coordinates, and a rectangle has 4.")
    return asked, _Marks(points, labels, box) if asked.params.marks else None


class _ShapeRenderer:
    """Renders the best mask as polygons of the stored image, one for each of its larger parts.

    Args:
        epsilon_factor: Largest distance of a polygon from the outline, relative to the length of the outline.
        image: Size and orientation of the image.
        prompt: Prompt that the mask answers, on the upright image.
    """

    masks_per_prompt: int | None = 1

    def __init__(self, epsilon_factor: float, image: ImageInfo, prompt: Prompt) -> None:
        self._epsilon_factor = epsilon_factor
        self._image = image
        self._prompt = prompt
        self._shapes: list[dict[str, Any]] = []

    def add(self, _prompt: int, mask: SegmentedMask) -> None:
        """See `Renderer`."""
        self._shapes = [
            _shape(self._stored([*ring, ring[0]]), mask.score)
            for ring in editable_polygons(mask.mask, self._prompt, tolerance=self._epsilon_factor)
        ]

    def finish(self, _image: ImageInfo, _boxes: object = None) -> Response:
        """See `Renderer`."""
        return _shapes(self._shapes)

    def _stored(self, ring: Sequence[Sequence[float]]) -> list[Point]:
        return upright_to_stored(((x, y) for x, y in ring), self._image.orientation, self._image.size)


def _shapes(shapes: list[dict[str, Any]]) -> Response:
    return _answer({"success": True, "data": _data(shapes)})


def _data(shapes: list[dict[str, Any]]) -> dict[str, Any]:
    # `replace` false: shapes of other objects stay.
    return {"shapes": shapes, "description": "", "replace": False}


def _answer(document: dict[str, Any]) -> Response:
    return Response(orjson.dumps(document), media_type=JSON)


def _shape(points: list[Point], score: float) -> dict[str, Any]:
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
