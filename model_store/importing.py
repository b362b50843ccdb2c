"""From a checkpoint, or from a seed, to an artifact. Needs torch, but only once the work begins.

So the commands that read and check models run where the extra `model` is not installed.
"""

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from model_store.catalog import (
    ModelStoreError,
    PublishedModel,
    UsageError,
    file_sha256,
    published_with_hash,
)
from service.sam.manifest import MANIFEST_NAME, Manifest, ManifestError, load_manifest

Layout = Literal["served", "official"]
Weights = Literal["float16", "float32"]
UpsampleMode = Literal["bicubic", "bilinear"]
Progress = Callable[[str], None]

UNTRAINED_LICENCE = "that of this package: the weights are its own seeded initial values"


@dataclass(frozen=True, slots=True)
class Origin:
    """What a manifest says about the weights and nobody can see in them.

    Args:
        licence: their terms; empty while nobody has said.
        trained: whether they have seen training.
        training_data: on what, in a few words.
        source_sha256: of the checkpoint file; None for generated weights.
        measured: quality by name.
        notes: anything a user of the model should know.
    """

    licence: str
    trained: bool
    training_data: str
    source_sha256: str | None = None
    measured: Mapping[str, float] = field(default_factory=dict)
    notes: str = ""


@dataclass(frozen=True, slots=True)
class Form:
    """How an artifact is written.

    Args:
        layout: the service's three graphs, or EdgeSAM's published pair.
        weights: what large weights are stored in.
        upsample_mode: of the encoder's third stage. None: bicubic as in the PyTorch model, but bilinear for the
            official layout, as in the published pair (SPEC 5).
    """

    layout: Layout = "served"
    weights: Weights = "float16"
    upsample_mode: UpsampleMode | None = None

    def resolved_upsample_mode(self) -> UpsampleMode:
        """The mode, the layout's own one where none was asked for."""
        return self.upsample_mode or ("bicubic" if self.layout == "served" else "bilinear")


def make_artifact(
    source: Path | int,
    directory: Path,
    *,
    name: str,
    origin: Origin,
    form: Form,
    progress: Progress,
) -> Manifest:
    """Export a checkpoint, or the initial weights of a seed.

    Args:
        source: a checkpoint file, loaded strictly, or a seed.
        directory: where the artifact will be; see `check_target`.
        name: the model's name in the manifest.
        origin: what the manifest says about the weights.
        form: how the artifact is written.
        progress: is told each step.

    Raises:
        ModelStoreError: torch is missing, the checkpoint does not fit (the message names the keys), or the exported
            graphs do not answer what torch answers.
    """
    require_extra()
    # Here and not above: torch is an extra and takes seconds to import.
    from model_store.checkpoint import CheckpointError, load_checkpoint, seeded_model  # noqa: PLC0415
    from model_store.export import ModelInfo, ParityError, export_model  # noqa: PLC0415

    mode = form.resolved_upsample_mode()
    try:
        if isinstance(source, int):
            progress(f"making initial weights from seed {source}")
            model = seeded_model(source, upsample_mode=mode)
        else:
            progress(f"loading {source}")
            model = load_checkpoint(source, upsample_mode=mode)
        return export_model(
            model,
            directory,
            name=name,
            info=ModelInfo(
                licence=origin.licence,
                trained=origin.trained,
                source_sha256=origin.source_sha256,
                training_data=origin.training_data,
                measured=origin.measured,
                notes=origin.notes,
            ),
            layout=form.layout,
            weights=form.weights,
            progress=progress,
        )
    except (CheckpointError, ParityError) as error:
        raise ModelStoreError(str(error)) from error


def require_extra() -> None:
    """Say so before any work when what an export needs is not installed.

    Raises:
        ModelStoreError: names the package and the extra that brings it.
    """
    for package in ("torch", "onnx"):
        if importlib.util.find_spec(package) is None:
            raise ModelStoreError(
                f"making a model needs {package}, which is not installed: pip install 'edgesam-service[model]'"
            )


def check_target(directory: Path, *, force: bool) -> None:
    """Refuse a place that holds something else than an artifact, since an export replaces all of it.

    Raises:
        UsageError: there is an artifact and `force` is not set, or there is something that is no artifact.
    """
    if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
        return
    try:
        manifest = load_manifest(directory)
    except ManifestError as error:
        raise UsageError(f"{directory} exists and is not a model; it is left alone, choose another place") from error
    expected = {MANIFEST_NAME, *(graph.file for graph in manifest.graphs.values())}
    others = sorted(path.name for path in directory.iterdir() if path.name not in expected)
    if others:
        raise UsageError(f"{directory} holds more than a model ({', '.join(others[:3])}); it is left alone")
    if not force:
        raise UsageError(f"{directory} exists already; --force replaces it")


def published_origin(model: PublishedModel) -> Origin:
    """What is known about a published checkpoint."""
    return Origin(
        licence=f"{model.licence.title}, {model.licence.url}",
        trained=True,
        training_data=model.training_data,
        source_sha256=model.sha256,
        notes=f"{model.summary}. Its authors' quality figures were not measured again here.",
    )


def origin_of(file: Path, stated: Origin) -> tuple[Origin, PublishedModel | None]:
    """What the manifest will say about a checkpoint file.

    A published file is recognised by its hash and keeps its own terms and training data, whatever was stated.

    Returns:
        The origin, and the published model whose terms have to be accepted first, if it is one.

    Raises:
        ModelStoreError: there is no such file.
        UsageError: the file is unknown and no terms were stated.
    """
    if not file.is_file():
        raise ModelStoreError(f"{file}: no such file")
    sha256 = file_sha256(file)
    model = published_with_hash(sha256)
    if model is not None:
        return replace(published_origin(model), measured=stated.measured), model
    if not stated.licence.strip():
        raise UsageError(f"{file} (SHA-256 {sha256}) is not a published file: state its terms with --licence")
    return replace(stated, source_sha256=sha256), None


def is_made_of(directory: Path, sha256: str, form: Form) -> bool:
    """Whether the artifact is the one that a checkpoint of this hash gives in this form."""
    try:
        manifest = load_manifest(directory)
    except ManifestError:
        return False
    made = (manifest.source_sha256, manifest.layout, manifest.weights, manifest.upsample_mode)
    return made == (sha256, form.layout, form.weights, form.resolved_upsample_mode())
