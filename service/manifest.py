"""`manifest.json`: the description of an exported model, written by the model store and read by the service."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from service.regular_files import read_regular_file
from service.sam.granularity import MAX_PROPOSALS
from service.sam.masks import AGREEMENT, MaskChoice

FormatVersion = Literal[2, 3, 4, 5]
ImageSize = Literal[512, 1024]
UpsampleMode = Literal["bicubic", "bilinear"]

# A manifest has the lowest version that allows all of its members. So older releases read what they support.
FORMAT_VERSION: Literal[2] = 2
GRANULARITY_FORMAT_VERSION: Literal[3] = 3
RANKING_FORMAT_VERSION: Literal[4] = 4
FAMILY_FORMAT_VERSION: Literal[5] = 5
MAX_SUMMARY = 300
CARD_PATTERN = r"^(https?://[^\s<>\"']+|[A-Za-z0-9][A-Za-z0-9._-]{0,63})?$"
# The encoder of a manifest that names none. Versions 2 and 3 allow no other.
DEFAULT_ENCODER = "RepViT-M1"
# Members that versions before 5 lack have these values: those of EdgeSAM.
DEFAULT_IMAGE_SIZE: Literal[1024] = 1024
DEFAULT_NORM_EPSILON = 1e-5
MANIFEST_NAME = "manifest.json"
MAX_MANIFEST_BYTES = 1 << 20
GRAPH_NAMES = ("encoder", "prepare", "decoder")
# The outputs of `prepare` and inputs of `decoder`, in this order (docs/explanation/model.md, section 5.1).
STATE_NAMES = ("keys", "keys0", "queries0")


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


# Stability and predicted IoU lie around 0..1: larger weights mean a mistake.
_Weight = Annotated[float, Field(ge=-100.0, le=100.0, allow_inf_nan=False)]


class Ranking(BaseModel):
    """The rule that orders the masks of one prompt: the one with the highest score comes first.

    The score of output k is ``bias[k] + stability * stability_k + predicted_iou * predicted_iou_k``. Answers state it
    limited to 0..1. The order does not limit it, because a predicted IoU above 1 still tells masks apart.
    The default is EdgeSAM's own rule, the stability score. The official predictors have no term for agreement with
    points, so models that keep their order have 0 there.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    bias: tuple[_Weight, _Weight, _Weight, _Weight] = Field(
        (0.0, 0.0, 0.0, 0.0), description="Added to the score of each of the decoder's four outputs."
    )
    stability: _Weight = Field(1.0, description="Weight of the stability score.")
    predicted_iou: _Weight = Field(0.0, description="Weight of the IoU that the model predicts.")
    agreement: _Weight = Field(
        AGREEMENT,
        description="Added, for the order alone, to a mask that agrees with all points. Another value needs version 5.",
    )

    @property
    def compares_all(self) -> bool:
        """Whether the rule weighs output 0 against the others, as a calibrated rule does by their biases."""
        return len(set(self.bias)) > 1

    def scores(self, stability: Sequence[float], predicted_iou: Sequence[float]) -> tuple[float, ...]:
        """Return the score of each output of one prompt, not bounded, for the order; see `limited_score`.

        A weight of 0 leaves its term out, also where that term is no number. NaN in a term that counts gives NaN.
        The browser computes the same sum in the same order (web/ranking.js), so that both agree to the last bit.

        Args:
            stability: Stability scores of the four outputs, 0..1.
            predicted_iou: Predicted IoUs of the four outputs, not bounded.
        """
        scores: Sequence[float] = self.bias
        for weight, terms in ((self.stability, stability), (self.predicted_iou, predicted_iou)):
            if weight:
                scores = [score + weight * term for score, term in zip(scores, terms, strict=True)]
        return tuple(scores)


def limited_score(score: float) -> float:
    """Return a score of `Ranking.scores` limited to 0..1, as answers state it; NaN stays NaN."""
    return min(max(score, 0.0), 1.0)  # in this order of arguments NaN stays NaN


_Mean = Annotated[float, Field(ge=-1e4, le=1e4, allow_inf_nan=False)]
_Deviation = Annotated[float, Field(ge=1e-4, le=1e4, allow_inf_nan=False)]
_Figure = Annotated[float, Field(allow_inf_nan=False)]  # JSON has no other numbers
# Indices of the decoder's four outputs.
_Output = Annotated[int, Field(ge=0, le=3)]


class AutoMasks(BaseModel):
    """The outputs of the decoder that a prompt gets when it does not say how many masks it wants.

    Output 0 is trained for prompts that mean one object. Outputs 1 to 3 are the whole, a part and a subpart of it.
    The default is EdgeSAM's choice.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    ambiguous: tuple[_Output, ...] = Field(
        (0, 1, 2, 3),
        min_length=1,
        max_length=4,
        description="Outputs that a single point alone gets, ordered by the model's ranking.",
    )
    other: tuple[_Output, ...] = Field(
        (0,),
        min_length=1,
        max_length=4,
        description="Outputs among which the best one, by the model's ranking, is the answer to all other prompts.",
    )

    @field_validator("ambiguous", "other")
    @classmethod
    def _names_each_output_once(cls, outputs: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(outputs)) < len(outputs):
            raise ValueError("it names an output twice")
        return outputs


_EDGESAM_MASKS = AutoMasks()


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
        _EDGESAM_MASKS, description="Outputs for a prompt that does not say how many masks it wants, since version 5."
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
            raise ValueError(
                f"its members make it version {lowest}, and it says {self.format_version}: granularity needs version "
                f"{GRANULARITY_FORMAT_VERSION}; an encoder other than {DEFAULT_ENCODER}, a ranking other than by "
                f"stability and no upsample_mode need version {RANKING_FORMAT_VERSION}; an image_size other than "
                f"{DEFAULT_IMAGE_SIZE}, a norm_epsilon other than {DEFAULT_NORM_EPSILON}, other auto_masks, another "
                f"agreement, a summary and a card need version {FAMILY_FORMAT_VERSION}; without them it is version "
                f"{FORMAT_VERSION}"
            )
        return self

    @staticmethod
    def lowest_version(
        *,
        encoder: str,
        ranking: Ranking,
        upsample_mode: UpsampleMode | None,
        has_granularity: bool,
        image_size: int = DEFAULT_IMAGE_SIZE,
        norm_epsilon: float = DEFAULT_NORM_EPSILON,
        auto_masks: AutoMasks = _EDGESAM_MASKS,
        summary: str = "",
        card: str = "",
    ) -> FormatVersion:
        """Return the lowest version that allows these members. A manifest has to have this version.

        Args:
            encoder: Name of the image encoder.
            ranking: Rule that orders the masks of one prompt.
            upsample_mode: Interpolation as in `Manifest.upsample_mode`.
            has_granularity: Whether the encoder proposes boxes.
            image_size: Side of the encoder's input, in pixels.
            norm_epsilon: Epsilon of the layer norms in the decoder's transformer.
            auto_masks: Outputs for prompts that do not say how many masks they want.
            summary: Use of the model, one sentence.
            card: Address of the model card, or the name of its file.
        """
        newest = (image_size, norm_epsilon, auto_masks, ranking.agreement, summary, card)
        if newest != (DEFAULT_IMAGE_SIZE, DEFAULT_NORM_EPSILON, _EDGESAM_MASKS, AGREEMENT, "", ""):
            return FAMILY_FORMAT_VERSION
        if encoder != DEFAULT_ENCODER or ranking != Ranking() or upsample_mode is None:
            return RANKING_FORMAT_VERSION
        return GRANULARITY_FORMAT_VERSION if has_granularity else FORMAT_VERSION

    def with_ranking(self, ranking: Ranking) -> "Manifest":
        """Return this manifest with another rule, in the lowest version that can state it."""
        changed = self.model_copy(update={"ranking": ranking})
        return changed.model_copy(update={"format_version": changed._lowest_version()})  # noqa: SLF001 - its own class

    def _lowest_version(self) -> FormatVersion:
        return self.lowest_version(
            encoder=self.encoder,
            ranking=self.ranking,
            upsample_mode=self.upsample_mode,
            has_granularity=self.granularity is not None,
            image_size=self.image_size,
            norm_epsilon=self.norm_epsilon,
            auto_masks=self.auto_masks,
            summary=self.summary,
            card=self.card,
        )

    @property
    def mask_choice(self) -> MaskChoice:
        """The outputs of the decoder that prompts get."""
        return MaskChoice(self.auto_masks.ambiguous, self.auto_masks.other, self.ranking.compares_all)

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
