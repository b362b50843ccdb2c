"""The routes of the served models: their descriptions at /models, and the files that a browser decodes with."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final

from fastapi import FastAPI
from fastapi import Path as PathParameter
from pydantic import BeforeValidator
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from service.api.access.policy import ANY_KEY, EMBED, EMBED_OR_SEGMENT_KEYS, RoutePolicy, with_policy
from service.api.conditional import RANGE_RESPONSES, ranged_response
from service.api.schemas import ModelFileModel, ModelModel, ModelsResponse, ProblemModel
from service.inference.served_models import ServedModel, ServedModels
from service.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)

# The address names the bytes, so a copy never becomes stale. Private: a shared cache would pass the file on without
# asking for a key.
_IMMUTABLE: Final = "private, max-age=31536000, immutable"


@dataclass(frozen=True, slots=True)
class Replica:
    """Properties of this replica that every model's description repeats.

    Args:
        role: Role of the replica.
        embedding_dtype: Type that embeddings are rounded to.
        limits: Bounds of requests, by the names of their settings.
    """

    role: str
    embedding_dtype: str
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
                "image_size", "upsample_mode", "ranking", "weights",
            }
        ),
        fingerprint=runtime.fingerprint,
        precision=runtime.precision,
        provider=runtime.provider,
        granularity=manifest.granularity is not None,
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


def announce_models(models: ServedModels, metrics: Metrics) -> None:
    """Set the metric of the served models, and log what each of them takes.

    Args:
        models: Served models.
        metrics: Metrics of the process.
    """
    metrics.model_info.clear()
    for model in models.all:
        runtime, is_trained = model.runtime, model.manifest.trained
        metrics.model_info.labels(
            model.name, model.fingerprint, runtime.provider, runtime.precision, str(is_trained).lower()
        ).set(1)
        logger.info(
            "model",
            extra={
                **_identity(model),
                "artifact_bytes": model.memory.artifact_bytes,
                "memory_bytes": model.memory.resident_bytes,
                "load_s": round(model.memory.load_s, 3),
            },
        )
        if not is_trained:
            logger.warning(
                "the model %s is not trained: its masks are meaningless. Set EDGESAM_MODEL_DIR to a trained model; "
                "`python -m model_store list` lists the models",
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
