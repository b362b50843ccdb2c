"""`manifest.json`: the description of an exported model, written by the model store and read by the service."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from service.manifest_versions import (
    DEFAULT_ENCODER,
    DEFAULT_MASK_DECODER,
    DEFAULT_NORM_EPSILON,
    DEFAULT_RESIZE,
    EDGESAM_MASKS,
    FORMAT_VERSION,
    GRANULARITY_FORMAT_VERSION,
    REASONS,
    FormatVersion,
    MaskDecoder,
    UpsampleMode,
    lowest_version,
)
from service.mask_rules import AutoMasks, EverythingDefaults, Ranking
from service.regular_files import read_regular_file
from service.sam.frame import Resize
from service.sam.granularity import MAX_PROPOSALS
from service.sam.logits import LARGEST_FLOAT16, SAM2_LARGEST_LOGIT
from service.sam.masks import MaskChoice
from service.sam.transforms import Size, preprocess

if TYPE_CHECKING:
    from PIL import Image

    from service.sam.resizing import Resizer

ImageSize = Literal[512, 1024]

MAX_SUMMARY = 300
CARD_PATTERN = r"^(https?://[^\s<>\"']+|[A-Za-z0-9][A-Za-z0-9._-]{0,63})?$"
MANIFEST_NAME = "manifest.json"
MAX_MANIFEST_BYTES = 1 << 20
GRAPH_NAMES = ("encoder", "prepare", "decoder")
# The outputs of `prepare` and inputs of `decoder`, in this order (docs/explanation/model.md, section 5.1).
STATE_NAMES = ("keys", "keys0", "queries0")
# The outputs of `encoder` where the mask decoder is that of SAM 2. The maps are inputs of `decoder`, too.
HIGH_RES_NAMES = ("high_res_s1", "high_res_s0")
ENCODER_OUTPUTS = ("tokens", *HIGH_RES_NAMES)


class ManifestError(ValueError):
    """The artifact differs from its manifest, or there is no usable manifest. The message names the file."""


class ArtifactFile(BaseModel):
    """One file of the artifact."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", description="File name inside the artifact.")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size_bytes: int = Field(gt=0)


class GranularityInfo(BaseModel):
    """The granularity module of an encoder, whose outputs are `tokens`, `boxes` (B, N, 4) and `scores` (B, N).

    Source: docs/explanation/model.md, section 6.3.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    proposals: int = Field(gt=0, le=MAX_PROPOSALS, description="N, the number of proposals for an image.")
    source_sha256: str | None = Field(description="SHA-256 of the module's file; null for generated weights.")


_Mean = Annotated[float, Field(ge=-1e4, le=1e4, allow_inf_nan=False)]
_Deviation = Annotated[float, Field(ge=1e-4, le=1e4, allow_inf_nan=False)]
_Figure = Annotated[float, Field(allow_inf_nan=False)]  # JSON has no other numbers


class Manifest(BaseModel):
    """The description of an exported model. Unknown members are an error, because they belong to a newer version."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    format_version: FormatVersion
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")
    architecture: str
    summary: str = Field("", max_length=MAX_SUMMARY, description="Use of the model, one sentence, since version 5.")
    card: str = Field(
        "", max_length=2000, pattern=CARD_PATTERN, description="Address or file of the model card, since version 5."
    )
    encoder: str = Field(DEFAULT_ENCODER, min_length=1, description="The image encoder's own name, since version 4.")
    layout: Literal["served", "official"] = Field(
        description="served: the three graphs encoder, prepare, decoder; official: EdgeSAM's pair encoder, decoder."
    )
    image_size: ImageSize = Field(
        description="Side of the encoder's square input, pixels; 512 since version 5. Prompts have 1024 always."
    )
    mean: tuple[_Mean, _Mean, _Mean] = Field(description="Per RGB channel, 0..255 scale.")
    std: tuple[_Deviation, _Deviation, _Deviation] = Field(description="Per RGB channel, 0..255 scale.")
    mask_threshold: float = Field(
        ge=0.0, le=0.0, description="A pixel belongs to the mask when its logit is above this."
    )
    ranking: Ranking = Field(Ranking(), description="How the masks of one prompt are ordered, since version 4.")
    auto_masks: AutoMasks = Field(
        EDGESAM_MASKS, description="Outputs for a prompt that does not say how many masks it wants, since version 5."
    )
    resize: Resize = Field(
        DEFAULT_RESIZE,
        description="letterbox: the image keeps its aspect ratio and is padded; stretch: it fills the square, each "
        "axis with its own scale, since version 6.",
    )
    mask_decoder: MaskDecoder = Field(
        DEFAULT_MASK_DECODER,
        description="sam: five tokens of its own; sam2: a sixth for the object score, two maps of high resolution, a "
        "sigmoid on the predicted IoU and a padding point behind a box, since version 6.",
    )
    norm_epsilon: float = Field(
        DEFAULT_NORM_EPSILON,
        ge=1e-8,
        le=1e-3,
        allow_inf_nan=False,
        description="Epsilon of the layer norms in the decoder's transformer, since version 5.",
    )
    upsample_mode: UpsampleMode | None = Field(
        description="Upsampling of stage 3 in the encoder; null, since version 4, for an encoder without this choice."
    )
    everything: EverythingDefaults | None = Field(
        None,
        description="Defaults of everything mode, since version 7. Absent: those of SAM's generator, see "
        "`everything_defaults`.",
    )
    graphs: Mapping[str, ArtifactFile]
    decoder_parameters: ArtifactFile | None = Field(
        description="NumPy archive of the decoder's parameters under SAM's names, for the decoder in service/native."
    )
    granularity: GranularityInfo | None = Field(
        None, description="Of a model with the granularity module, in versions 3 and 4; absent in all others."
    )
    opset: int
    precision: Literal["float32"] = Field(description="Precision in which the graphs compute.")
    weights: Literal["float16", "float32"] = Field(description="Precision in which the large weights are stored.")
    source_sha256: str | None = Field(description="SHA-256 of the checkpoint file; null for generated weights.")
    licence: str
    trained: bool
    training_data: str
    measured: Mapping[str, _Figure] = Field(description="Quality by name, for instance mIoU per prompt kind, 0..1.")
    notes: str
    parity: Mapping[str, float] = Field(
        description="Largest absolute difference, ONNX Runtime against torch, by output, on random prompts."
    )
    rounding: Mapping[str, float] = Field(
        description="Largest difference that float16 weights make, against float32 weights; empty for float32."
    )
    tools: Mapping[str, str] = Field(description="Versions of the tools that wrote the graphs.")

    @model_validator(mode="after")
    def _has_the_version_of_its_members(self) -> Self:
        lowest = self._lowest_version()
        if self.format_version != lowest:
            raise ValueError(f"its members make it version {lowest}, and it says {self.format_version}: {REASONS}")
        return self

    @model_validator(mode="after")
    def _has_the_decoder_of_its_members(self) -> Self:
        if self.has_high_res and self.granularity is not None:
            raise ValueError("a granularity module needs mask_decoder sam")
        if self.has_high_res and self.layout != "served":
            raise ValueError(f"layout {self.layout} needs mask_decoder sam")
        if self.auto_masks.fallback and not self.has_high_res:
            raise ValueError("auto_masks with a fallback need mask_decoder sam2")
        return self

    def with_ranking(self, ranking: Ranking) -> "Manifest":
        """Return this manifest with another rule, in the lowest version that can state it."""
        return self._changed({"ranking": ranking})

    def with_everything(self, everything: EverythingDefaults) -> "Manifest":
        """Return this manifest with other defaults of everything mode, in the lowest version that can state them."""
        return self._changed({"everything": everything})

    def _changed(self, members: Mapping[str, object]) -> "Manifest":
        changed = self.model_copy(update=members)
        return changed.model_copy(update={"format_version": changed._lowest_version()})  # noqa: SLF001 - its own class

    def _lowest_version(self) -> FormatVersion:
        return lowest_version(
            encoder=self.encoder,
            ranking=self.ranking,
            upsample_mode=self.upsample_mode,
            has_granularity=self.granularity is not None,
            image_size=self.image_size,
            norm_epsilon=self.norm_epsilon,
            auto_masks=self.auto_masks,
            summary=self.summary,
            card=self.card,
            resize=self.resize,
            mask_decoder=self.mask_decoder,
            everything=self.everything,
        )

    @property
    def has_high_res(self) -> bool:
        """Whether an embedding has two maps of high resolution beside its tokens."""
        return self.mask_decoder == "sam2"

    @property
    def decodes_in_browsers(self) -> bool:
        """Whether the page can decode: it knows the decoder of SAM, and letterboxed images."""
        return self.mask_decoder == "sam" and self.resize == "letterbox"

    @property
    def pads_boxes(self) -> bool:
        """Whether a padding point also follows a box, as the mask decoder of SAM 2 is trained."""
        return self.mask_decoder == "sam2"

    @property
    def largest_logit(self) -> float:
        """Largest absolute value of the logits that leave the service."""
        return SAM2_LARGEST_LOGIT if self.mask_decoder == "sam2" else LARGEST_FLOAT16

    @property
    def mask_choice(self) -> MaskChoice:
        """The outputs of the decoder that prompts get."""
        masks = self.auto_masks
        return MaskChoice(masks.ambiguous, masks.other, self.ranking.compares_all, masks.fallback)

    @property
    def everything_defaults(self) -> EverythingDefaults:
        """The defaults of everything mode. A model whose ranking ignores the predicted IoU orders by stability."""
        if self.everything is not None:
            return self.everything
        return EverythingDefaults(quality="predicted_iou" if self.ranking.predicted_iou else "stability")

    def encoder_input(
        self,
        image: "NDArray[np.uint8] | Image.Image",
        original_size: Size | None = None,
        resizer: "Resizer | None" = None,
    ) -> NDArray[np.float32]:
        """Return the model's input for an image, (3, S, S); see `service.sam.transforms.preprocess`."""
        return preprocess(
            image, self.mean, self.std, self.image_size,
            original_size=original_size, resize=self.resize, resizer=resizer,
        )  # fmt: skip

    @property
    def files(self) -> tuple[ArtifactFile, ...]:
        """All files of the model itself, without the manifest and the model card."""
        parameters = () if self.decoder_parameters is None else (self.decoder_parameters,)
        return (*self.graphs.values(), *parameters)

    @property
    def fingerprint(self) -> str:
        """Hash of all members that change an embedding, 16 hexadecimal digits. It is a part of every cache key.

        The ranking rule and what else follows the encoder are no part of it: a model whose rule is calibrated anew
        keeps its cached embeddings.

        Source: docs/explanation/model.md, section 5.4.
        """
        identity = {
            # The version of the stored form of an embedding, with or without proposals. Later ones did not change it.
            "format_version": FORMAT_VERSION if self.granularity is None else GRANULARITY_FORMAT_VERSION,
            "encoder": self.graphs["encoder"].sha256,
            "image_size": self.image_size,
            "mean": self.mean,
            "std": self.std,
            "upsample_mode": self.upsample_mode,
        }
        # Only where they are not at their defaults, so that older models keep their cached embeddings.
        if self.resize != DEFAULT_RESIZE:
            identity["resize"] = self.resize
        if self.mask_decoder != DEFAULT_MASK_DECODER:
            identity["mask_decoder"] = self.mask_decoder
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def read_manifest(directory: Path) -> bytes:
    """Return the content of `directory`/manifest.json.

    Raises:
        ManifestError: There is no such file, or it is too large.
    """
    path = directory / MANIFEST_NAME
    try:
        content = read_regular_file(path, MAX_MANIFEST_BYTES, follows_links=True)
    except OSError as error:
        raise ManifestError(f"{path}: no readable manifest ({error})") from error
    if len(content) > MAX_MANIFEST_BYTES:
        raise ManifestError(f"{path}: no readable manifest (it has more than {MAX_MANIFEST_BYTES} bytes)")
    return content


def load_manifest(directory: Path) -> Manifest:
    """Read `directory`/manifest.json.

    Args:
        directory: Folder of the artifact.

    Raises:
        ManifestError: The file is missing, is not valid JSON, or breaks the schema.
    """
    path = directory / MANIFEST_NAME
    try:
        manifest = Manifest.model_validate_json(read_manifest(directory))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "document"
        raise ManifestError(f"{path}: {where}: {first['msg']}") from error
    missing = [name for name in _graph_names(manifest) if name not in manifest.graphs]
    if missing:
        raise ManifestError(f"{path}: graphs lacks {', '.join(missing)}")
    return manifest


def _graph_names(manifest: Manifest) -> tuple[str, ...]:
    return GRAPH_NAMES if manifest.layout == "served" else ("encoder", "decoder")
