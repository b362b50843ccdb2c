"""Facts about weights that a manifest states and the weights do not show: licence, origin, measured quality."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from model_store.catalogue.entries import file_sha256
from model_store.catalogue.published import published_with_hash
from model_store.catalogue.published_model import PublishedModel
from model_store.errors import ModelStoreError, UsageError

UNTRAINED_LICENCE = "that of this package: the weights are its own seeded initial values"


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """Facts about the weights of one model.

    Args:
        licence: Licence of the weights; empty while it is not stated.
        trained: Whether the weights were trained.
        training_data: Short description of the training data.
        source_sha256: SHA-256 of the checkpoint file; None for generated weights.
        granularity_sha256: SHA-256 of the granularity module's file; None for generated weights or without a module.
        measured: Measured quality by name.
        notes: Notes for users of the model.
        summary: Use of the model, one sentence; empty for that of its architecture.
        card: Address of its model card, or the name of a file that is added to the artifact; empty without one.
    """

    licence: str
    trained: bool
    training_data: str
    source_sha256: str | None = None
    granularity_sha256: str | None = None
    measured: Mapping[str, float] = field(default_factory=dict)
    notes: str = ""
    summary: str = ""
    card: str = ""


def info_of_published(model: PublishedModel, *, sha256: str) -> ModelInfo:
    """Return the known facts about a published checkpoint.

    Args:
        model: Entry of the catalogue.
        sha256: SHA-256 of the file: that of the entry, or the one that the user stated.
    """
    figures = "; ".join(f"{figure.value} {figure.measure} ({figure.source})" for figure in model.quality)
    notes = f"Published figures, not measured again here: {figures}."
    if model.sha256 not in {None, sha256}:  # the figures and the training data may be those of other weights
        notes = f"The SHA-256 was stated by the user and is not that of the published file. Of that file: {notes}"
    return ModelInfo(
        licence=f"{model.licence.title}, {model.licence.url}",
        trained=True,
        training_data=model.training_data,
        source_sha256=sha256,
        notes=notes,
        summary=model.purpose,
        card=model.card,
    )


def info_of_untrained(
    seed: int, *, licence: str, training_data: str, measured: Mapping[str, float], notes: str
) -> ModelInfo:
    """Return the facts about initial weights; a text that is empty gets its default.

    Args:
        seed: Seed of the weights.
        licence: Licence of the weights.
        training_data: Short description of the training data.
        measured: Measured quality by name.
        notes: Notes for users of the model.
    """
    return ModelInfo(
        licence or UNTRAINED_LICENCE,
        trained=False,
        training_data=training_data or "none",
        measured=measured,
        notes=notes or f"Initial weights of seed {seed}: their masks mean nothing.",
    )


def info_of_checkpoint(file: Path, stated: ModelInfo) -> tuple[ModelInfo, PublishedModel | None]:
    """Return the facts that the manifest states about a checkpoint file.

    A published file is recognised by its hash. It keeps its own licence and training data, whatever was stated.

    Args:
        file: Checkpoint file.
        stated: Facts that the user has stated.

    Returns:
        The facts, and the published model, if the file is one; its licence has to be accepted first.

    Raises:
        ModelStoreError: The file does not exist.
        UsageError: The file is not a published one and no licence was stated.
    """
    if not file.is_file():
        raise ModelStoreError(f"{file}: no such file")
    sha256 = file_sha256(file)
    model = published_with_hash(sha256)
    if model is not None:
        return replace(info_of_published(model, sha256=sha256), measured=stated.measured), model
    if not stated.licence.strip():
        raise UsageError(f"{file} (SHA-256 {sha256}) is not a published file: state its licence with --licence")
    return replace(stated, source_sha256=sha256), None
