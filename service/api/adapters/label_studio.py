"""Label Studio's ML backend: smart keypoints and rectangles in, brush regions or polygons out.

Source: label_studio_ml/api.py of label-studio-ml-backend; ml/api_connector.py and ml/models.py
of Label Studio 1.23.

The adapter keeps no state of a project: each request is complete.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic
from typing import Annotated, Final

import orjson
from fastapi import Depends, FastAPI, Path
from starlette.requests import Request
from starlette.responses import Response

from service.api.access.policy import ADAPTER_PREDICTION, ANY_KEY, with_policy
from service.api.adapters.exchange import Exchange
from service.api.adapters.label_studio_images import TaskImages
from service.api.adapters.label_studio_interface import read_interface
from service.api.adapters.label_studio_passed_over import without_passed_over
from service.api.adapters.label_studio_regions import RegionRenderer, write_proposals
from service.api.adapters.label_studio_request import MAX_TASKS, Asked, Setup, parse_predict
from service.api.adapters.proposals import Proposals
from service.api.rendering import JSON
from service.api.schemas import ProblemModel
from service.errors import InvalidRequest, MalformedBody, ServiceError
from service.inference.served_models import ServedModel

logger = logging.getLogger(__name__)

_PROBLEMS: Final = ProblemModel.responses(400, 401, 403, 408, 413, 415, 422, 429, 502, 503, 504)
_BODY: Final = {"requestBody": {"required": True, "content": {JSON: {"schema": {"type": "object"}}}}}


def install_label_studio(app: FastAPI, exchange: Exchange) -> None:
    """Add the routes below `/label-studio`, for the default model, and below `/label-studio/{model}`.

    Label Studio's requests for predictions name no model, so the address at which a project connects names it.

    Args:
        app: Application that gets the routes.
        exchange: Access of the adapter to the service.
    """
    images = TaskImages(exchange)
    warnings = _SetupWarnings(has_images=bool(exchange.files) or exchange.downloads is not None)

    async def default_model() -> ServedModel:
        return exchange.models.default

    async def named_model(model: Annotated[str, Path(description="Name of a model, as in /models.")]) -> ServedModel:
        return exchange.model(model, "/model")

    for prefix, choose in (("/label-studio", default_model), ("/label-studio/{model}", named_model)):
        _add_routes(app, prefix, choose, exchange, images, warnings)


def _add_routes(
    app: FastAPI,
    prefix: str,
    choose: Callable[..., Awaitable[ServedModel]],
    exchange: Exchange,
    images: TaskImages,
    warnings: "_SetupWarnings",
) -> None:
    """Add `health`, `setup`, `predict`, `versions` and `webhook`.

    Args:
        app: Application that gets the routes.
        prefix: Path before the names of the routes.
        choose: Dependency that gives the model of a request.
        exchange: Access of the adapter to the service.
        images: Access to the images of tasks.
        warnings: Log of what keeps a project from getting masks.
    """
    Chosen = Annotated[ServedModel, Depends(choose)]
    refused = ProblemModel.responses(401, 422)

    @app.get(f"{prefix}/health", responses=refused, summary="Label Studio: is the backend up?", tags=["adapters"])
    @with_policy(ANY_KEY)
    async def health(_: Chosen) -> dict[str, str]:
        return {"status": "UP", "model_class": "EdgeSAM"}

    @app.post(f"{prefix}/setup", responses=refused, summary="Label Studio: a project connects", tags=["adapters"])
    @with_policy(ADAPTER_PREDICTION)
    async def setup(request: Request, model: Chosen) -> dict[str, str]:
        try:
            found = await exchange.read(request, warnings.of)
        except (InvalidRequest, MalformedBody):  # the answer depends on nothing in it
            found = warnings.of(b"{}")
        warnings.write(found)
        return {"model_version": model.name}

    @app.post(f"{prefix}/versions", responses=refused, summary="Label Studio: versions of the model", tags=["adapters"])
    @with_policy(ADAPTER_PREDICTION)
    async def versions(model: Chosen) -> dict[str, list[str]]:
        return {"versions": [model.name]}

    @app.get(f"{prefix}/versions", responses=refused, summary="Label Studio: versions of the model", tags=["adapters"])
    @with_policy(ANY_KEY)
    async def read_versions(model: Chosen) -> dict[str, list[str]]:
        return {"versions": [model.name]}

    @app.post(
        f"{prefix}/webhook",
        status_code=201,
        responses=refused,
        summary="Label Studio: an annotation has changed",
        tags=["adapters"],
    )
    @with_policy(ADAPTER_PREDICTION)
    async def webhook(_: Chosen) -> dict[str, str]:
        return {"status": "ok", "result": "nothing is trained"}

    @app.post(
        f"{prefix}/predict",
        responses=_PROBLEMS,
        openapi_extra=_BODY,
        summary="Label Studio: a region for smart keypoints and rectangles",
        tags=["adapters"],
    )
    @with_policy(ADAPTER_PREDICTION)
    async def predict(request: Request, model: Chosen) -> Response:
        asked = await exchange.read(request, parse_predict, _shorten)
        if not asked.regions:
            return await _without_prompt(request, asked, images, model, exchange)
        image = asked.images[0]
        if isinstance(image, InvalidRequest):
            raise image
        embedded = await images.embed(request, image, model)
        prompt = asked.prompt(embedded.original_size)
        renderer = RegionRenderer(asked.target, prompt, model.name)
        return await exchange.segment(request, embedded.image_id, [prompt], "auto", renderer, model)


def _shorten(body: bytes) -> bytes:
    return without_passed_over(body, MAX_TASKS + 1)


async def _without_prompt(
    request: Request, asked: Asked, images: TaskImages, model: ServedModel, exchange: Exchange
) -> Response:
    """Answer a request without keypoints and rectangles: with proposals if they are on and it is for a task."""
    if exchange.proposals is not None and not asked.has_context:
        return await _propose(request, asked, images, model, exchange, exchange.proposals)
    return await _embed_ahead(request, asked, images, model, limit_s=exchange.limits.embed_timeout_s)


async def _propose(
    request: Request, asked: Asked, images: TaskImages, model: ServedModel, exchange: Exchange, proposals: Proposals
) -> Response:
    """Answer with all objects of a task's image. For several tasks answer in a form that lets Label Studio ask again.

    Args:
        request: Request without keypoints and rectangles.
        asked: What it asks for.
        images: Access to the images.
        model: Model that segments.
        exchange: Access of the adapter to the service.
        proposals: Access to everything mode.
    """
    if len(asked.images) > 1:  # one list for several tasks: Label Studio asks for each task by itself
        return Response(orjson.dumps({"results": [[]]}), media_type=JSON)
    image = asked.images[0]
    if isinstance(image, InvalidRequest):
        raise image
    embedded = await images.embed(request, image, model)
    found = await proposals.find(request, embedded.image_id, model)
    return await exchange.executor.run(request.state.timings, write_proposals, found, asked.target, model.name)


async def _embed_ahead(
    request: Request, asked: Asked, images: TaskImages, model: ServedModel, *, limit_s: float
) -> Response:
    """Embed the images of all tasks, one after the other, and answer that there are no predictions.

    Label Studio takes one list of predictions for each task. If it gets one list for several tasks, it asks again for
    each task by itself. So it does for a project with more tasks than can be embedded in the time of one request.

    Args:
        request: Request whose log line gets the first problem of an image.
        asked: Request without keypoints and rectangles.
        images: Access to the images.
        model: Model that embeds.
        limit_s: Time limit of one image, in seconds. After a quarter of it no other image is begun.
    """
    begun_at = monotonic()
    is_complete = not asked.has_more_tasks
    for index, image in enumerate(asked.images):
        if index and monotonic() - begun_at > limit_s / 4:
            is_complete = False
            break
        try:
            if isinstance(image, InvalidRequest):
                raise image
            await images.embed(request, image, model)
        except ServiceError as error:
            if len(asked.images) == 1:
                raise
            request.state.detail = getattr(request.state, "detail", error.detail)
    count = len(asked.images) if is_complete else 1
    return Response(orjson.dumps({"results": [[]] * count}), media_type=JSON)


class _SetupWarnings:
    """Logs why a project that connects will not get masks. Label Studio's page does not show refusals.

    Args:
        has_images: Whether images that Label Studio keeps can be read.
    """

    def __init__(self, *, has_images: bool) -> None:
        self._has_images = has_images
        self._next_at = 0.0

    def of(self, body: bytes) -> list[str]:
        """Return the warnings about a project. Blocking: its labelling interface may have a megabyte.

        Args:
            body: Body of the request by which it connects.

        Raises:
            ValidationError: The body is no such request.
        """
        label_config = Setup.model_validate_json(body).label_config
        found = []
        if label_config:
            try:
                if not read_interface(label_config).controls:
                    found.append(
                        "The labelling interface has no BrushLabels or PolygonLabels. Add one of them: masks come back "
                        "as its regions."
                    )
            except InvalidRequest as error:
                found.append(error.detail)
        if not self._has_images:
            found.append(
                "Neither EDGESAM_LABEL_STUDIO_FILES nor EDGESAM_LABEL_STUDIO_URL is set. Only tasks with data: URIs "
                "get masks."
            )
        return found

    def write(self, found: Sequence[str]) -> None:
        """Log the warnings about a project, at most once a second.

        Args:
            found: Warnings.
        """
        if found and monotonic() >= self._next_at:
            self._next_at = monotonic() + 1.0
            logger.warning("label studio setup", extra={"detail": " ".join(found)})
