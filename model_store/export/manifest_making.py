"""Makes the manifest of an artifact from its architecture, its files and the facts about its weights."""

import hashlib
import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from model_store.architectures import PIXEL_MEAN, PIXEL_STD, Architecture
from model_store.export.model_info import ModelInfo
from service.manifest import ArtifactFile, GranularityInfo, Manifest
from service.manifest_versions import UpsampleMode, lowest_version


@dataclass(frozen=True, slots=True)
class MadeFiles:
    """The files of an artifact and how they were made.

    Args:
        graphs: Paths of the graphs by name.
        decoder_parameters: Path of the archive for the decoder in C; None without one.
        layout: Set of graphs.
        weights: Number format of large weights.
        opset: Version of ONNX's operators in the graphs.
        tools: Names of the packages that made the graphs.
        parity: Largest difference of ONNX Runtime from torch, by output; empty where torch took no part.
        rounding: Effect of rounded weights.
    """

    graphs: Mapping[str, Path]
    decoder_parameters: Path | None
    layout: Literal["served", "official"]
    weights: Literal["float16", "float32"]
    opset: int
    tools: Sequence[str]
    parity: Mapping[str, float] = field(default_factory=dict)
    rounding: Mapping[str, float] = field(default_factory=dict)


def made_manifest(
    architecture: Architecture,
    files: MadeFiles,
    *,
    name: str,
    info: ModelInfo,
    encoder: str,
    upsample_mode: UpsampleMode | None,
    granularity: GranularityInfo | None = None,
) -> Manifest:
    """Return the manifest of an artifact, in the lowest format version that can state it.

    Args:
        architecture: Architecture of the weights.
        files: Files of the artifact.
        name: Name of the model.
        info: Facts that the weights do not show.
        encoder: Name of the image encoder.
        upsample_mode: Interpolation of the encoder; None for one without this choice.
        granularity: Granularity module of the encoder; None without one.
    """
    summary = info.summary or architecture.summary
    parameters = files.decoder_parameters
    return Manifest(
        format_version=lowest_version(
            encoder=encoder,
            ranking=architecture.ranking,
            upsample_mode=upsample_mode,
            has_granularity=granularity is not None,
            image_size=architecture.image_size,
            norm_epsilon=architecture.norm_epsilon,
            auto_masks=architecture.auto_masks,
            summary=summary,
            card=info.card,
            resize=architecture.resize,
            mask_decoder=architecture.mask_decoder,
        ),
        name=name,
        architecture=architecture.title,
        summary=summary,
        card=info.card,
        encoder=encoder,
        layout=files.layout,
        image_size=architecture.image_size,
        mean=PIXEL_MEAN,
        std=PIXEL_STD,
        mask_threshold=0.0,
        ranking=architecture.ranking,
        auto_masks=architecture.auto_masks,
        norm_epsilon=architecture.norm_epsilon,
        upsample_mode=upsample_mode,
        resize=architecture.resize,
        mask_decoder=architecture.mask_decoder,
        graphs={key: _artifact_file(path) for key, path in files.graphs.items()},
        decoder_parameters=None if parameters is None else _artifact_file(parameters),
        granularity=granularity,
        opset=files.opset,
        precision="float32",
        weights=files.weights,
        source_sha256=info.source_sha256,
        licence=info.licence,
        trained=info.trained,
        training_data=info.training_data,
        measured=info.measured,
        notes=info.notes,
        parity=files.parity,
        rounding=files.rounding,
        tools={tool: importlib.metadata.version(tool) for tool in files.tools},
    )


def _artifact_file(path: Path) -> ArtifactFile:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return ArtifactFile(file=path.name, sha256=digest, size_bytes=path.stat().st_size)
