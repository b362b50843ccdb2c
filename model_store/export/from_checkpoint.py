"""Makes an artifact from a checkpoint file or from a seed.

Torch and onnx come with the extra `model`. They are imported only when an export begins, so that the commands which
fetch, read and check models need no more than the extra `store`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from model_store.errors import ModelStoreError
from model_store.export.model_info import ModelInfo
from model_store.extras import require_model_extra
from service.manifest import Manifest, ManifestError, load_manifest

Layout = Literal["served", "official"]
Weights = Literal["float16", "float32"]
UpsampleMode = Literal["bicubic", "bilinear"]
OnProgress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """Choices that an export leaves to the user.

    Args:
        layout: Set of graphs: "served" for the service's three, "official" for EdgeSAM's published pair.
        weights: Number format in which large weights are stored.
        upsample_mode: Interpolation of an encoder that has this choice. None: bicubic as in the PyTorch model, but
            bilinear for the official layout, as in the published pair (docs/explanation/model.md, section 5.3).
    """

    layout: Layout = "served"
    weights: Weights = "float16"
    upsample_mode: UpsampleMode | None = None

    def upsample_mode_for(self, encoder_mode: UpsampleMode | None) -> UpsampleMode | None:
        """Return the mode for an encoder whose own mode is `encoder_mode`; None for one that has no such choice."""
        if encoder_mode is None:
            return None
        return self.upsample_mode or (encoder_mode if self.layout == "served" else "bilinear")


def make_artifact(
    source: Path | int,
    directory: Path,
    *,
    name: str,
    info: ModelInfo,
    options: ExportOptions,
    architecture: str = "edgesam",
    granularity: Path | None = None,
    on_progress: OnProgress,
) -> Manifest:
    """Export a checkpoint, or the initial weights of a seed.

    Args:
        source: Checkpoint file, loaded strictly, or a seed.
        directory: Folder of the artifact; an artifact that is already there is replaced.
        name: Name of the model in the manifest.
        info: Facts about the weights, for the manifest.
        options: Layout, number format and interpolation.
        architecture: Architecture of the initial weights when `source` is a seed; a file states its own.
        granularity: Weights of the granularity module, trained on the encoder of `source`.
        on_progress: Callback that receives each step as a short text.

    Raises:
        ModelStoreError: Torch is missing, the checkpoint does not fit (the message names the keys), the exported
            graphs differ from torch, or `directory` is something else (`output_folder.check_output_folder`).
    """
    require_model_extra()
    # Not at the top: torch is an extra and takes seconds to import.
    from model_store.architectures import UnknownArchitectureError  # noqa: PLC0415
    from model_store.checkpoint import (  # noqa: PLC0415
        CheckpointError,
        load_checkpoint,
        load_granularity,
        seeded_model,
    )
    from model_store.export.artifact import ParityError, export_model  # noqa: PLC0415
    from model_store.network.encoders.image_encoder import UnsupportedByEncoderError  # noqa: PLC0415

    try:
        if isinstance(source, int):
            on_progress(f"making initial weights from seed {source}")
            model = seeded_model(source, architecture)
        else:
            on_progress(f"loading {source}")
            model = load_checkpoint(source)
        encoder = model.image_encoder
        if mode := options.upsample_mode or options.upsample_mode_for(encoder.upsample_mode):
            encoder.set_upsample_mode(mode)
        return export_model(
            model,
            directory,
            name=name,
            info=info,
            granularity=None if granularity is None else load_granularity(granularity, encoder),
            layout=options.layout,
            weights=options.weights,
            on_progress=on_progress,
        )
    except (CheckpointError, UnsupportedByEncoderError, ParityError, UnknownArchitectureError) as error:
        raise ModelStoreError(str(error)) from error


def is_export_of(directory: Path, sha256: str, options: ExportOptions) -> bool:
    """Return whether the artifact of a folder is the export of a checkpoint with these options.

    Args:
        directory: Folder that may hold an artifact.
        sha256: SHA-256 of the checkpoint file.
        options: Choices of the export.
    """
    try:
        manifest = load_manifest(directory)
    except ManifestError:
        return False
    found = (manifest.source_sha256, manifest.layout, manifest.weights)
    if found != (sha256, options.layout, options.weights):
        return False
    # An encoder without this choice has no mode. Of the published ones only EdgeSAM's has it, whose own is bicubic.
    return manifest.upsample_mode == options.upsample_mode_for(None if manifest.upsample_mode is None else "bicubic")
