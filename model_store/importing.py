"""From a checkpoint, or from a seed, to an artifact.

Torch and onnx come with the extra `model` and are imported only once the work begins, so that the commands which fetch,
read and check need no more than the extra `store`.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from model_store.catalog import ModelStoreError
from model_store.model_info import ModelInfo
from service.manifest import Manifest, ManifestError, load_manifest

Layout = Literal["served", "official"]
Weights = Literal["float16", "float32"]
UpsampleMode = Literal["bicubic", "bilinear"]
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Form:
    """How an artifact is written.

    Args:
        layout: the service's three graphs, or EdgeSAM's published pair.
        weights: what large weights are stored in.
        upsample_mode: Of an encoder that has this choice. None: bicubic as in the PyTorch model, but bilinear for
            the official layout, as in the published pair (docs/explanation/model.md, section 5.3).
    """

    layout: Layout = "served"
    weights: Weights = "float16"
    upsample_mode: UpsampleMode | None = None

    def upsample_mode_of(self, encoder_mode: UpsampleMode | None) -> UpsampleMode | None:
        """Return the mode for an encoder whose own is `encoder_mode`: None for one that has no such choice."""
        if encoder_mode is None:
            return None
        return self.upsample_mode or (encoder_mode if self.layout == "served" else "bilinear")


def make_artifact(
    source: Path | int,
    directory: Path,
    *,
    name: str,
    info: ModelInfo,
    form: Form,
    architecture: str = "edgesam",
    granularity: Path | None = None,
    progress: Progress,
) -> Manifest:
    """Export a checkpoint, or the initial weights of a seed.

    Args:
        source: a checkpoint file, loaded strictly, or a seed.
        directory: where the artifact will be; an artifact that is there is replaced.
        name: the model's name in the manifest.
        info: what the manifest says about the weights.
        form: how the artifact is written.
        architecture: Of the initial weights, where `source` is a seed; a file says its own.
        granularity: weights of the granularity module, trained on the encoder of `source`.
        progress: is told each step.

    Raises:
        ModelStoreError: torch is missing, the checkpoint does not fit (the message names the keys), the exported
            graphs do not answer what torch answers, or `directory` is something else (`target.check_target`).
    """
    require_extra()
    # Here and not above: torch is an extra and takes seconds to import.
    from model_store.checkpoint import (  # noqa: PLC0415
        CheckpointError,
        load_checkpoint,
        load_granularity,
        seeded_model,
    )
    from model_store.export import ParityError, export_model  # noqa: PLC0415
    from model_store.network.architectures import UnknownArchitectureError  # noqa: PLC0415
    from model_store.network.image_encoder import EncoderLacksError  # noqa: PLC0415

    try:
        if isinstance(source, int):
            progress(f"making initial weights from seed {source}")
            model = seeded_model(source, architecture)
        else:
            progress(f"loading {source}")
            model = load_checkpoint(source)
        encoder = model.image_encoder
        if mode := form.upsample_mode or form.upsample_mode_of(encoder.upsample_mode):
            encoder.set_upsample_mode(mode)
        return export_model(
            model,
            directory,
            name=name,
            info=info,
            granularity=None if granularity is None else load_granularity(granularity, encoder),
            layout=form.layout,
            weights=form.weights,
            progress=progress,
        )
    except (CheckpointError, EncoderLacksError, ParityError, UnknownArchitectureError) as error:
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


def is_made_of(directory: Path, sha256: str, form: Form) -> bool:
    """Whether the artifact is the one that a checkpoint of this hash gives in this form."""
    try:
        manifest = load_manifest(directory)
    except ManifestError:
        return False
    made = (manifest.source_sha256, manifest.layout, manifest.weights, manifest.upsample_mode)
    # Published checkpoints have EdgeSAM's encoder, whose own mode is bicubic.
    return made == (sha256, form.layout, form.weights, form.upsample_mode_of("bicubic"))
