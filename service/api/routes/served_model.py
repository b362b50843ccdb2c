"""What is told of the served model: by /models, by a metric, and by the log when the process is ready."""

import logging
from collections.abc import Mapping

from service.api.routes.model_files import ModelFile
from service.api.schemas import ModelModel
from service.inference.backends.runtime import Runtime
from service.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)


def describe_model(
    runtime: Runtime, *, role: str, embedding_dtype: str, files: Mapping[str, ModelFile], limits: Mapping[str, float]
) -> ModelModel:
    """The model as /models shows it.

    Args:
        runtime: what computes.
        role: of this replica.
        embedding_dtype: what tokens are rounded to.
        files: what decoding in the browser needs, by part.
        limits: bounds of requests, by the names of their settings.
    """
    manifest = runtime.manifest
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
        role=role,
        threads=runtime.threads,
        embedding_dtype=embedding_dtype,
        files={part: file.described for part, file in files.items()},
        limits=dict(limits),
    )  # fmt: skip


def announce(model: ModelModel, metrics: Metrics) -> None:
    """Say that it is ready, and what it is."""
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
            "the model %s is not trained: its masks mean nothing. Point EDGESAM_MODEL_DIR to a trained one; "
            "`python -m model_store list` shows what there is",
            model.name,
        )
