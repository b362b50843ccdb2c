"""The routes of the served models: their descriptions at /models, and the files that a browser decodes with."""

import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Final

from fastapi import FastAPI
from fastapi import Path as PathParameter
from pydantic import BeforeValidator, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from service.api.access.policy import ANY_KEY, EMBED, EMBED_OR_SEGMENT_KEYS, SEGMENT, RoutePolicy, with_policy
from service.api.bodies import RequestLimits, read_body, without_bom
from service.api.conditional import RANGE_RESPONSES, ranged_response
from service.api.model_schemas import (
    FeaturesModel,
    ModelChangeModel,
    ModelFileModel,
    ModelModel,
    ModelsResponse,
    ReloadRequest,
    ReloadResponse,
)
from service.api.problems import invalid_request
from service.api.rendering import JSON
from service.api.routes.model_card import card_address, install_card_route
from service.api.schemas import ProblemModel
from service.inference.served_models import ModelChange, ServedModel, ServedModels
from service.licences import allows_commercial_use
from service.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)

_UNTRAINED: Final = "This model is not trained. Its masks mean nothing."

# The address names the bytes, so a copy never becomes stale. Private: a shared cache would pass the file on without
# asking for a key.
_IMMUTABLE: Final = "private, max-age=31536000, immutable"

_MAX_RELOAD_BYTES: Final = 8192  # of the longest list of names, and more
_RELOAD_BODY: Final = {
    "required": False,
    "content": {JSON: {"schema": {"$ref": "#/components/schemas/ReloadRequest"}}},
}


@dataclass(frozen=True, slots=True)
class Replica:
    """Properties of this replica that every model's description repeats.

    Args:
        role: Role of the replica.
        embedding_dtype: Number format that embeddings are rounded to.
        keep_images_s: Time for which copies of uploads are kept, in seconds; 0 where they are not.
        limits: Bounds of requests, by the names of their settings.
    """

    role: str
    embedding_dtype: str
    keep_images_s: float
    limits: Mapping[str, float]


def install_model_routes(app: FastAPI, models: ServedModels, replica: Replica, *, offers_files: bool) -> None:
    """Add `GET /models`, and `GET /models/files/{sha256}` where decoding in the browser is offered.

    No path comes from a request: the hash is looked up among those of the files.

    Args:
        app: Application that gets the routes.
        models: Served models.
        replica: Properties of this replica.
        offers_files: Whether the files for decoding in the browser can be downloaded.
    """

    @app.get("/models", responses=ProblemModel.responses(401), operation_id="models", summary="The served models")
    @with_policy(ANY_KEY)
    async def list_models() -> ModelsResponse:
        return ModelsResponse(models=[describe_model(model, replica) for model in models.all])

    install_card_route(app, models)
    if not offers_files:
        return

    @app.get(
        "/models/files/{sha256}",
        response_class=Response,
        responses={**RANGE_RESPONSES, **ProblemModel.responses(401, 404, 416, 422, 503)},
        operation_id="model_file",
        summary="Download a file for decoding in the browser",
        description="The files whose hashes /models lists under `files`. Single ranges are answered. The model's "
        "licence applies to everybody who passes the files on.",
    )
    @with_policy(RoutePolicy(roles=EMBED_OR_SEGMENT_KEYS, quota=EMBED, permit="downloads"))
    async def read_model_file(
        request: Request,
        sha256: Annotated[
            str, PathParameter(pattern=r"^[0-9a-f]{64}$", description="Lower-case hex."), BeforeValidator(str.lower)
        ],
    ) -> Response:
        files = (file for model in models.all for file in model.files.values())
        content = next((file.content for file in files if file.described.sha256 == sha256), None)
        if content is None:
            raise HTTPException(404)
        return ranged_response(
            memoryview(content), request.headers, etag=f'"{sha256}"', described={"Cache-Control": _IMMUTABLE}
        )


def install_reload_route(
    app: FastAPI,
    reload: Callable[[Sequence[str] | None], Awaitable[Sequence[ModelChange]]],
    limits: RequestLimits,
) -> None:
    """Add `POST /models/reload`.

    A request names models and never folders: their places come from the settings.

    Args:
        app: Application that gets the route.
        reload: Function that loads the named models, or those of the settings, and serves them from then on.
        limits: Bounds of requests.
    """

    @app.post(
        "/models/reload",
        response_model=ReloadResponse,
        responses=ProblemModel.responses(400, 401, 403, 404, 408, 409, 413, 415, 422, 429, 503, 504),
        openapi_extra={"requestBody": _RELOAD_BODY},
        operation_id="reload_models",
        summary="Reload the models",
        description="Loads new and changed models beside those that serve, and then serves them instead. Without a "
        "body they are those of the settings. It concerns the replica that answers, and lasts until its end. "
        "A reload that fails changes nothing. Where API keys are required, the key needs the role admin.",
    )
    @with_policy(RoutePolicy(quota=SEGMENT))
    async def reload_models(request: Request) -> Response:
        body = await read_body(
            request,
            max_bytes=_MAX_RELOAD_BYTES,
            timeout_s=limits.body_timeout_s,
            min_bytes_per_s=limits.min_bytes_per_s,
            may_be_empty=True,
        )
        try:
            asked = ReloadRequest.model_validate_json(without_bom(body)) if body else ReloadRequest()
        except ValidationError as error:
            raise invalid_request(error) from error
        changes = await reload(asked.models)
        answer = ReloadResponse(models=[_describe_change(change) for change in changes])
        return Response(answer.model_dump_json(), media_type=JSON)


def _describe_change(change: ModelChange) -> ModelChangeModel:
    model = change.model
    memory = None if model is None or change.change == "kept" else model.memory
    return ModelChangeModel(
        name=change.name,
        change=change.change,
        fingerprint=None if model is None else model.fingerprint,
        load_s=None if memory is None else round(memory.load_s, 3),
        memory_bytes=None if memory is None else memory.resident_bytes,
    )


def describe_model(model: ServedModel, replica: Replica) -> ModelModel:
    """Return the description of a served model for /models.

    Args:
        model: Served model.
        replica: Properties of this replica.
    """
    runtime, manifest = model.runtime, model.manifest
    return ModelModel(
        **manifest.model_dump(
            include={
                "name", "architecture", "encoder", "trained", "licence", "training_data", "measured", "notes",
                "image_size", "resize", "upsample_mode", "ranking", "auto_masks", "norm_epsilon", "weights",
            }
        ),
        everything=manifest.everything_defaults,
        summary=manifest.summary if manifest.trained else _UNTRAINED,
        card=card_address(model),
        commercial_use=allows_commercial_use(manifest.licence),
        fingerprint=runtime.fingerprint,
        precision=runtime.precision,
        provider=runtime.provider,
        granularity=manifest.granularity is not None,
        features=FeaturesModel(
            granularity=manifest.granularity is not None,
            embedding_download=not manifest.has_high_res,
            browser_decoding=manifest.decodes_in_browsers,
            regions=True,
            keeps_images=replica.keep_images_s,
        ),
        decoder=runtime.decoder,
        provider_timings_ms=runtime.provider_timings_ms,
        role=replica.role,
        threads=runtime.threads,
        artifact_bytes=model.memory.artifact_bytes,
        memory_bytes=model.memory.resident_bytes,
        load_s=model.memory.load_s,
        embedding_dtype=replica.embedding_dtype,
        files={part: ModelFileModel(**file.described.model_dump()) for part, file in model.files.items()},
        limits=dict(replica.limits),
    )  # fmt: skip


def announce_models(models: ServedModels, metrics: Metrics, loaded: Collection[ServedModel]) -> None:
    """Set the metric of the served models, and log what each of those takes that were loaded.

    Args:
        models: Served models.
        metrics: Metrics of the process.
        loaded: Models that were loaded now.
    """
    metrics.model_info.clear()
    for model in models.all:
        runtime, trained = model.runtime, str(model.manifest.trained).lower()
        metrics.model_info.labels(model.name, model.fingerprint, runtime.provider, runtime.precision, trained).set(1)
    for model in loaded:
        logger.info(
            "model",
            extra={
                **_identity(model),
                "artifact_bytes": model.memory.artifact_bytes,
                "memory_bytes": model.memory.resident_bytes,
                "load_s": round(model.memory.load_s, 3),
            },
        )
        if not model.manifest.trained:
            logger.warning(
                "the model %s is not trained: its masks are meaningless. Set EDGESAM_MODEL_DIR to a trained model. "
                "`edgesam models fetch edgetam` gets one, and `edgesam models list` lists all",
                model.name,
            )


def announce_ready(models: ServedModels, role: str) -> None:
    """Log that the service is ready, with its default model.

    Args:
        models: Served models.
        role: Role of this replica.
    """
    default = models.default
    logger.info(
        "ready",
        extra={"role": role, **_identity(default), "models": [model.name for model in models.all]},
    )


def _identity(model: ServedModel) -> dict[str, object]:
    """Return the fields of the log that say what a model is and what computes it."""
    runtime = model.runtime
    return {
        "model": model.name,
        "fingerprint": model.fingerprint,
        "provider": runtime.provider,
        "precision": runtime.precision,
        "decoder": runtime.decoder,
        "provider_timings_ms": runtime.provider_timings_ms,
        "threads": runtime.threads,
    }
