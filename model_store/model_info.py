"""What a manifest says about the weights and nobody can see in them: terms, origin, measured quality."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from model_store.catalog import ModelStoreError, PublishedModel, UsageError, file_sha256, published_with_hash

UNTRAINED_LICENCE = "that of this package: the weights are its own seeded initial values"


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What has to be said about the weights.

    Args:
        licence: their terms; empty while nobody has said.
        trained: whether they have seen training.
        training_data: on what, in a few words.
        source_sha256: of the checkpoint file; None for generated weights.
        granularity_sha256: of the granularity module's file; None for generated weights, or where there is none.
        measured: quality by name.
        notes: anything a user of the model should know.
    """

    licence: str
    trained: bool
    training_data: str
    source_sha256: str | None = None
    granularity_sha256: str | None = None
    measured: Mapping[str, float] = field(default_factory=dict)
    notes: str = ""


def published_info(model: PublishedModel) -> ModelInfo:
    """What is known about a published checkpoint."""
    return ModelInfo(
        licence=f"{model.licence.title}, {model.licence.url}",
        trained=True,
        training_data=model.training_data,
        source_sha256=model.sha256,
        notes=f"{model.summary}. Its authors' quality figures were not measured again here.",
    )


def info_of(file: Path, stated: ModelInfo) -> tuple[ModelInfo, PublishedModel | None]:
    """What the manifest will say about a checkpoint file.

    A published file is recognised by its hash and keeps its own terms and training data, whatever was stated.

    Returns:
        The information, and the published model whose terms have to be accepted first, if it is one.

    Raises:
        ModelStoreError: there is no such file.
        UsageError: the file is unknown and no terms were stated.
    """
    if not file.is_file():
        raise ModelStoreError(f"{file}: no such file")
    sha256 = file_sha256(file)
    model = published_with_hash(sha256)
    if model is not None:
        return replace(published_info(model), measured=stated.measured), model
    if not stated.licence.strip():
        raise UsageError(f"{file} (SHA-256 {sha256}) is not a published file: state its terms with --licence")
    return replace(stated, source_sha256=sha256), None
