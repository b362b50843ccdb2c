"""The routes of the served model: its description at /models, and the files that a browser decodes with."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
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
from service.inference.backends.runtime import Runtime
from service.manifest import ArtifactFile, Manifest
from service.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)

# The address names the bytes, so a copy never becomes stale. Private: a shared cache would pass the file on without
# asking for a key.
_IMMUTABLE: Final = "private, max-age=31536000, immutable"


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A file of the served artifact, in memory.

    Args:
        described: Description of the file in /models.
        content: Bytes of the file.
    """

    described: ModelFileModel
    content: bytes


def read_model_files(directory: Path, manifest: Manifest) -> Mapping[str, ModelFile]:
    """Read the files that decoding needs.

    Args:
        directory: Folder of the artifact. Its files have been compared with the manifest.
        manifest: Manifest of the artifact.

    Returns:
        Files by part: `prepare`, `decoder`, and `parameters` where the graph of the decoder refers to them.
    """
    files = {part: _read(directory, manifest.graphs[part]) for part in ("prepare", "decoder")}
    parameters = manifest.decoder_parameters
    if parameters is not None and parameters.file.encode() in files["decoder"].content:
        files["parameters"] = _read(directory, parameters)
    return files


def install_model_routes(app: FastAPI, model: ModelModel, files: Mapping[str, ModelFile]) -> None:
    """Add `GET /models`, and `GET /models/files/{sha256}` where there are files.

    No path comes from a request: the hash is looked up among those of the files.

    Args:
        app: Application that gets the routes.
        model: Description of the served model.
        files: Files that decoding needs, by part; empty where decoding in the browser is not offered.
    """

    @app.get("/models", responses=ProblemModel.responses(401), operation_id="models", summary="The served model")
    @with_policy(ANY_KEY)
    async def models() -> ModelsResponse:
        return ModelsResponse(models=[model])

    if not files:
        return
    contents = {file.described.sha256: memoryview(file.content) for file in files.values()}

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
        content = contents.get(sha256)
        if content is None:
            raise HTTPException(404)
        return ranged_response(content, request.headers, etag=f'"{sha256}"', described={"Cache-Control": _IMMUTABLE})


def describe_model(
    runtime: Runtime, *, role: str, embedding_dtype: str, files: Mapping[str, ModelFile], limits: Mapping[str, float]
) -> ModelModel:
    """Return the description of the served model for /models.

    Args:
        runtime: Loaded model with its backends.
        role: Role of this replica.
        embedding_dtype: Type that embeddings are rounded to.
        files: Files that decoding in the browser needs, by part.
        limits: Bounds of requests, by the names of their settings.
    """
    manifest = runtime.manifest
    return ModelModel(
        **manifest.model_dump(
            include={
                "name", "architecture", "encoder", "trained", "licence", "training_data", "measured", "notes",
                "image_size", "upsample_mode", "ranking", "auto_masks", "norm_epsilon", "weights", "summary", "card",
            }
        ),
        fingerprint=runtime.fingerprint,
        precision=runtime.precision,
        provider=runtime.provider,
        granularity=manifest.granularity is not None,
        decoder=runtime.decoder,
        provider_timings_ms=runtime.provider_timings_ms,
        role=role,
        threads=runtime.threads,
        embedding_dtype=embedding_dtype,
        files={part: file.described for part, file in files.items()},
        limits=dict(limits),
    )  # fmt: skip


def announce_model(model: ModelModel, metrics: Metrics) -> None:
    """Set the metric of the served model, and log that the service is ready.

    Args:
        model: Description of the served model.
        metrics: Metrics of the process.
    """
    metrics.model_info.labels(
        model.name, model.fingerprint, model.provider, model.precision, str(model.trained).lower()
    ).set(1)
    logger.info(
        "ready",
        extra={
            "role": model.role,
            "model": model.name,
            "fingerprint": model.fingerprint,
            "provider": model.provider,
            "precision": model.precision,
            "decoder": model.decoder,
            "provider_timings_ms": model.provider_timings_ms,
            "threads": model.threads,
        },
    )
    if not model.trained:
        logger.warning(
            "the model %s is not trained: its masks are meaningless. Set EDGESAM_MODEL_DIR to a trained model; "
            "`python -m model_store list` lists the models",
            model.name,
        )


def _read(directory: Path, file: ArtifactFile) -> ModelFile:
    described = ModelFileModel(file=file.file, sha256=file.sha256, size_bytes=file.size_bytes)
    return ModelFile(described, (directory / file.file).read_bytes())
