"""`manifest.json`, the contract between the model store that writes graphs and the service that runs them.

The one module of this room that reads files: both sides need the same reading and the same check.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

# What is written: the lowest version that says it all, so that older releases read what they can serve.
FORMAT_VERSION: Literal[2] = 2
GRANULARITY_FORMAT_VERSION: Literal[3] = 3
MANIFEST_NAME = "manifest.json"
GRAPH_NAMES = ("encoder", "prepare", "decoder")
# What `prepare` gives and `decoder` takes, in this order (DESIGN 3).
STATE_NAMES = ("keys", "keys0", "queries0")
# Boxes that the granularity module may propose for a picture: 80 KiB beside the 2 MiB of its tokens.
MAX_PROPOSALS = 4096


class ManifestError(ValueError):
    """The artifact is not what its manifest promises, or there is no usable manifest; the message names the file."""


class ArtifactFile(BaseModel):
    """One file of the artifact."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", description="File name inside the artifact.")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size_bytes: int = Field(gt=0)


class GranularityInfo(BaseModel):
    """That `encoder` proposes boxes: beside `tokens` it answers `boxes` (B, N, 4) and `scores` (B, N), SPEC 6."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    proposals: int = Field(gt=0, le=MAX_PROPOSALS, description="N, the proposals of a picture.")
    source_sha256: str | None = Field(description="SHA-256 of the module's file; null for generated weights.")


class Manifest(BaseModel):
    """What serving has to know of an exported model. Unknown members are an error: they come with a new version."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    format_version: Literal[2, 3]
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")
    architecture: str
    layout: Literal["served", "official"] = Field(
        description="served: the three graphs encoder, prepare, decoder; official: EdgeSAM's pair encoder, decoder."
    )
    image_size: Literal[1024] = Field(description="Side of the square frame the encoder sees, pixels.")
    mean: tuple[float, float, float] = Field(description="Per RGB channel, 0..255 scale.")
    std: tuple[float, float, float] = Field(description="Per RGB channel, 0..255 scale.")
    mask_threshold: float = Field(
        ge=0.0, le=0.0, description="A pixel belongs to the mask when its logit is above this."
    )
    upsample_mode: Literal["bicubic", "bilinear"] = Field(description="How stage 3 is enlarged in the encoder.")
    graphs: Mapping[str, ArtifactFile]
    decoder_parameters: ArtifactFile | None = Field(
        description="NumPy archive of the decoder's parameters under SAM's names, for the decoder in service/native."
    )
    granularity: GranularityInfo | None = Field(
        None, description="Of a model with the granularity module, since version 3; absent in all others."
    )
    opset: int
    precision: Literal["float32"] = Field(description="What the graphs compute in.")
    weights: Literal["float16", "float32"] = Field(description="What the large weights are stored in.")
    source_sha256: str | None = Field(description="SHA-256 of the checkpoint file; null for generated weights.")
    licence: str
    trained: bool
    training_data: str
    measured: Mapping[str, float] = Field(description="Quality by name, for instance mIoU per prompt kind, 0..1.")
    notes: str
    parity: Mapping[str, float] = Field(
        description="Largest absolute difference, ONNX Runtime against torch, by output, on random prompts."
    )
    rounding: Mapping[str, float] = Field(
        description="What storing weights as float16 changes, against float32 weights; empty for float32."
    )
    tools: Mapping[str, str] = Field(description="Versions of the tools that wrote the graphs.")

    @model_validator(mode="after")
    def _has_the_version_of_its_members(self) -> Self:
        if (self.granularity is not None) != (self.format_version == GRANULARITY_FORMAT_VERSION):
            raise ValueError(f"granularity is there in version {GRANULARITY_FORMAT_VERSION}, and only there")
        return self

    @property
    def files(self) -> tuple[ArtifactFile, ...]:
        """All files but the manifest."""
        parameters = () if self.decoder_parameters is None else (self.decoder_parameters,)
        return (*self.graphs.values(), *parameters)

    @property
    def fingerprint(self) -> str:
        """16 hex digits over all that changes an embedding; part of every cache key (DESIGN 3)."""
        identity = {
            "format_version": self.format_version,
            "encoder": self.graphs["encoder"].sha256,
            "image_size": self.image_size,
            "mean": self.mean,
            "std": self.std,
            "upsample_mode": self.upsample_mode,
        }
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def load_manifest(directory: Path) -> Manifest:
    """Read `directory`/manifest.json.

    Raises:
        ManifestError: there is none, it is not valid JSON, or it breaks the schema.
    """
    path = directory / MANIFEST_NAME
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: no readable manifest ({error})") from error
    try:
        manifest = Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "document"
        raise ManifestError(f"{path}: {where}: {first['msg']}") from error
    missing = [name for name in _graph_names(manifest) if name not in manifest.graphs]
    if missing:
        raise ManifestError(f"{path}: graphs lacks {', '.join(missing)}")
    return manifest


def verify_files(directory: Path, manifest: Manifest) -> None:
    """Compare size and SHA-256 of every file with the manifest.

    Raises:
        ManifestError: a file is missing or differs; the message names it and both hashes.
    """
    for file in manifest.files:
        path = directory / file.file
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ManifestError(f"{path}: cannot be read ({error.strerror})") from error
        found = hashlib.sha256(data).hexdigest()
        if len(data) != file.size_bytes or found != file.sha256:
            raise ManifestError(
                f"{path}: {len(data)} bytes with SHA-256 {found}, "
                f"the manifest promises {file.size_bytes} bytes with {file.sha256}"
            )


def _graph_names(manifest: Manifest) -> tuple[str, ...]:
    return GRAPH_NAMES if manifest.layout == "served" else ("encoder", "decoder")
