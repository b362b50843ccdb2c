"""CVAT's interactor and detector: the part of Nuclio's dashboard that CVAT calls.

The interactor gets an image and points and answers a mask. The detector gets an image and answers polygons of all
objects.

    GET  /api/functions              the functions, by id
    GET  /api/functions/{id}         one function
    POST /api/function_invocations   a call of the function that the header `x-nuclio-function-name` names

CVAT's settings have a host and a port and no path, so the routes stand at the root. They also stand under `/cvat`, for
a proxy that serves several tools at one address.

Source: cvat/apps/lambda_manager/views.py, serverless/**/function.yaml, and tools-control.tsx of CVAT's page.
"""

from typing import Annotated, Any, Final

import numpy as np
import orjson
from fastapi import FastAPI
from numpy.typing import NDArray
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from service.api.access.policy import ADAPTER_PREDICTION, ANY_KEY, with_policy
from service.api.adapters.cvat_detector import describe_detector, detect
from service.api.adapters.exchange import Document, Exchange, prompt_of
from service.api.problems import broken_rule
from service.api.rendering import JSON
from service.api.schemas import MAX_POINTS, Coordinate, ProblemModel
from service.inference.segmentation_builder import SegmentedMask
from service.inference.served_models import ServedModel
from service.sam.decoded_image import ImageInfo
from service.sam.prompts import NEGATIVE, POSITIVE, Prompt

# Id of the default model's function. Those of other models have a name behind it: `edgesam-mobile-sam`.
# CVAT's page decodes the embedding itself for the id `pth-facebookresearch-sam-vit-h`. For every other id it shows the
# mask of the answer.
FUNCTION: Final = "edgesam"
_OTHER_FUNCTION: Final = f"{FUNCTION}-"
# Beginning of the ids of detectors. It differs from that of the interactors, whose ids end with any name of a model.
_DETECTOR: Final = "all-objects-"

_PREFIXES: Final = {"": "nuclio", "/cvat": "cvat"}
_FUNCTION_HEADER: Final = "x-nuclio-function-name"
_BODY: Final = {"requestBody": {"required": True, "content": {JSON: {"schema": {"type": "object"}}}}}
_PROBLEMS: Final = ProblemModel.responses(400, 401, 403, 408, 413, 415, 422, 429, 503, 504)

_Point = tuple[Coordinate, Coordinate]
_Points = Annotated[tuple[_Point, ...], Field(max_length=MAX_POINTS)]


class _Invocation(Document):
    """A call of the interactor. A box is two corners; an empty list or null means none."""

    image: bytes
    pos_points: _Points = ()
    neg_points: _Points = ()
    obj_bbox: Annotated[tuple[_Point, ...], Field(max_length=2)] | None = None


def install_cvat(app: FastAPI, exchange: Exchange) -> None:
    """Add the routes of Nuclio's dashboard, at the root and under `/cvat`.

    Args:
        app: Application that gets the routes.
        exchange: Access of the adapter to the service.
    """

    @with_policy(ANY_KEY)
    async def functions() -> dict[str, Any]:
        default, *others = exchange.models.all
        ids = {FUNCTION: default, **{f"{_OTHER_FUNCTION}{model.name}": model for model in others}}
        described = {function_id: _description(function_id, model) for function_id, model in ids.items()}
        if exchange.proposals is not None:
            detectors = {f"{_DETECTOR}{model.name}": model for model in exchange.models.all}
            described |= {
                function_id: describe_detector(function_id, model) for function_id, model in detectors.items()
            }
        return described

    @with_policy(ANY_KEY)
    async def function(function_id: str) -> dict[str, Any]:
        if _is_detector(exchange, function_id):
            return describe_detector(function_id, _detecting_model(exchange, function_id, "/function_id"))
        return _description(function_id, _model_of(exchange, function_id, "/function_id"))

    @with_policy(ADAPTER_PREDICTION)
    async def invoke(request: Request) -> Response:
        function_id, where = request.headers.get(_FUNCTION_HEADER, ""), f"/headers/{_FUNCTION_HEADER}"
        if _is_detector(exchange, function_id):
            return await detect(request, exchange, _detecting_model(exchange, function_id, where))
        model = _model_of(exchange, function_id, where)
        asked, prompt = await exchange.read(request, _parse)
        embedded = await exchange.embed(request, asked.image, model)
        return await exchange.segment(request, embedded.image_id, [prompt], "auto", _RowsRenderer(), model)

    for prefix, name in _PREFIXES.items():
        app.add_api_route(
            f"{prefix}/api/functions",
            functions,
            responses=ProblemModel.responses(401),
            summary=f"CVAT: functions, under {prefix or '/'}",
            operation_id=f"{name}_functions",
            tags=["adapters"],
        )
        app.add_api_route(
            f"{prefix}/api/functions/{{function_id}}",
            function,
            responses=ProblemModel.responses(401, 422),
            summary=f"CVAT: one function, under {prefix or '/'}",
            operation_id=f"{name}_function",
            tags=["adapters"],
        )
        app.add_api_route(
            f"{prefix}/api/function_invocations",
            invoke,
            methods=["POST"],
            response_class=Response,
            responses={200: {"content": {JSON: {"schema": {"type": "object"}}}}, **_PROBLEMS},
            openapi_extra=_BODY,
            summary=f"CVAT: mask for points, under {prefix or '/'}",
            operation_id=f"{name}_function_invocations",
            tags=["adapters"],
        )


def _description(function_id: str, model: ServedModel) -> dict[str, Any]:
    """Return a model's function in the members that CVAT reads. Nuclio's annotations are strings."""
    annotations = {
        "name": f"EdgeSAM ({model.name})",
        "type": "interactor",
        "version": "2",  # the page warns of lower ones: they answered polygons
        "spec": "[]",  # an interactor has no labels of its own
        "min_pos_points": "0",  # a box alone is enough
        "min_neg_points": "0",
        # CVAT reads any text as true, so `startswith_box`, which would demand a box, is left out.
        "startswith_box_optional": "true",
        "help_message": "Add positive points, negative points or a box. The first click in a new image takes longest.",
    }
    return {
        "metadata": {"name": function_id, "annotations": annotations},
        "spec": {"description": f"Interactive segmentation with the model {model.name} of the EdgeSAM service."},
        "status": {"state": "ready"},
    }


def _is_detector(exchange: Exchange, function_id: str) -> bool:
    return exchange.proposals is not None and function_id.startswith(_DETECTOR)


def _detecting_model(exchange: Exchange, function_id: str, where: str) -> ServedModel:
    return exchange.model(function_id.removeprefix(_DETECTOR), where)


def _model_of(exchange: Exchange, function_id: str, where: str) -> ServedModel:
    """Return the model of a function. The id with the default model's name is known, too: a reload may change it.

    Raises:
        InvalidRequest: There is no such function.
    """
    if function_id == FUNCTION:
        return exchange.models.default
    if not function_id.startswith(_OTHER_FUNCTION):
        raise broken_rule(where, f"this service has only functions named {FUNCTION!r} or {_OTHER_FUNCTION!r} and a "
                          "model's name. Reload CVAT's page and choose one.")  # fmt: skip
    return exchange.model(function_id.removeprefix(_OTHER_FUNCTION), where)


def _parse(body: bytes) -> tuple[_Invocation, Prompt]:
    """Return the request and its prompt. Blocking."""
    asked = _Invocation.model_validate_json(body)
    corners = asked.obj_bbox or ()
    if len(corners) == 1:
        raise broken_rule("/obj_bbox", "a box is two corners, [[x, y], [x, y]].")
    if not (asked.pos_points or corners):
        raise broken_rule("/pos_points", "EdgeSAM needs a positive point or a box. Add one inside the object.")
    points = [*asked.pos_points, *asked.neg_points]
    if len(points) > MAX_POINTS:
        raise broken_rule("/neg_points", f"{len(points)} points. Send at most {MAX_POINTS}.", limit=MAX_POINTS)
    labels = [POSITIVE] * len(asked.pos_points) + [NEGATIVE] * len(asked.neg_points)
    return asked, prompt_of(points, labels, (*corners[0], *corners[1]) if corners else None)


class _RowsRenderer:
    """Renders the best mask as rows of 0 and 1 inside its box, and `bounds`: left, top, right, bottom, inclusive.

    The page places the rows by `bounds`. The rows of a whole image of 12 megapixels would be 24 MB with every click.
    """

    masks_per_prompt: int | None = 1

    def __init__(self) -> None:
        self._answer: bytes | memoryview = b""

    def add(self, _prompt: int, mask: SegmentedMask) -> None:
        """See `Renderer`."""
        x0, y0, x1, y1 = mask.mask.box
        if x0 == x1:
            # The page reads the width of the first row, and fails when it looks for the outline of no pixels.
            self._answer = b'{"mask":[[0]],"bounds":[0,0,0,0],"points":[]}'
        else:
            bounds = orjson.dumps((x0, y0, x1 - 1, y1 - 1))
            self._answer = _document(b'{"mask":[', mask.mask.crop, b'],"bounds":%b}' % bounds)

    def finish(self, _image: ImageInfo, _boxes: object = None) -> Response:
        """See `Renderer`."""
        return Response(self._answer, media_type=JSON)


def _document(head: bytes, pixels: NDArray[np.bool_], tail: bytes) -> memoryview:
    """Return pixels (h, w) as h JSON arrays of w digits, between two texts: 2 (w + 1) h - 1 bytes and the texts.

    The text is written in place, because it may have 100 MB.
    """
    height, width = pixels.shape
    end = len(head) + 2 * (width + 1) * height
    text = bytearray(end - 1 + len(tail))
    text[: len(head)] = head
    rows = np.frombuffer(text, np.uint8, end - len(head), len(head)).reshape(height, 2 * width + 2)
    rows[:, 0] = ord("[")
    rows[:, 1:-1:2] = pixels
    rows[:, 1:-1:2] += ord("0")
    rows[:, 2:-2:2] = ord(",")
    rows[:, -2:] = (ord("]"), ord(","))
    text[end - 1 :] = tail  # in place of the last comma
    return memoryview(text)
