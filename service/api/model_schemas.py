"""The JSON of the routes below /models. Clients and dashboards depend on the field names."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field, field_validator

from service.api.schemas import MAX_MODEL_NAME, RequestModel
from service.mask_rules import EverythingDefaults

MAX_MODELS = 32  # of one reload


class ModelFileModel(BaseModel):
    """A file that decoding in the browser needs."""

    file: str = Field(description="Name of the file, by which graphs refer to it.")
    sha256: str = Field(description="SHA-256 of the file, which is also its address: /models/files/{sha256}.")
    size_bytes: int


class RankingModel(BaseModel):
    """The rule behind `score`: bias of the output + stability × its stability + predicted_iou × its predicted IoU.

    `score` is the sum limited to 0..1. Masks are ordered by the sum itself.
    """

    bias: tuple[float, float, float, float] = Field(description="Bias of each of the decoder's four outputs.")
    stability: float = Field(description="Weight of the stability score.")
    predicted_iou: float = Field(description="Weight of the predicted IoU.")
    agreement: float = Field(description="Added, for the order alone, to a mask that agrees with all points.")


class AutoMasksModel(BaseModel):
    """The outputs of the decoder, 0 to 3, that a prompt gets with `multimask` auto."""

    ambiguous: list[int] = Field(description="Outputs that a single point alone gets, as many masks.")
    other: list[int] = Field(description="Outputs among which the best one is the answer to all other prompts.")
    fallback: list[int] = Field(
        description="Outputs that replace `other` where output 0 is not stable, as in SAM 2. Empty: no such rule."
    )


class FeaturesModel(BaseModel):
    """What the service can do with this model and not with every other one."""

    granularity: bool = Field(description="Whether /segment takes granularity auto, as in the member `granularity`.")
    embedding_download: bool = Field(
        description="Whether GET /embed/{image_hash} and Roboflow's /sam/embed_image return embeddings."
    )
    browser_decoding: bool = Field(
        description="Whether a browser can decode with this model. `files` is empty where that is not offered."
    )
    regions: bool = Field(description="Whether /embed takes a region of an image.")
    keeps_images: float = Field(
        description="Time for which copies of uploads are kept, in seconds, so that /embed takes an image_hash in "
        "place of the bytes. 0: not at all."
    )


class ModelModel(BaseModel):
    """A served model, its properties, and the bounds of requests."""

    name: str
    architecture: str
    encoder: str = Field(description="Name of the image encoder.")
    fingerprint: str
    trained: bool
    licence: str
    commercial_use: bool | None = Field(
        description="Whether the licence allows commercial use. null: read the licence."
    )
    training_data: str
    measured: dict[str, float]
    notes: str
    summary: str = Field(
        description="Use of the model, in a sentence or two, with commands between backticks; empty where it is not "
        "stated."
    )
    card: str = Field(
        description="Address of the model card, which may be relative to that of the service; empty without one."
    )
    image_size: int = Field(description="Side of the encoder's input, pixels. Prompts do not depend on it.")
    resize: Literal["letterbox", "stretch"] = Field(
        description="How an image fills the square frame of the logits: letterbox keeps its aspect ratio and pads, "
        "stretch scales each axis by itself."
    )
    upsample_mode: str | None = Field(
        description="Interpolation with which the encoder enlarges stage 3. null: this encoder has no such choice."
    )
    ranking: RankingModel
    auto_masks: AutoMasksModel
    everything: EverythingDefaults = Field(
        description="Parameters of /segment/everything for requests that leave them out, and the outputs that it uses."
    )
    norm_epsilon: float = Field(description="Epsilon of the layer norms in the decoder's transformer.")
    precision: str = Field(description="Precision of encoder and decoder; both, joined by +, where they differ.")
    weights: str
    provider: str = Field(
        description="Execution provider of encoder and decoder; both, joined by +, where they differ."
    )
    granularity: bool = Field(description="Whether /segment takes granularity auto.")
    features: FeaturesModel
    decoder: str = Field(description="Prompt decoder: native with its instruction set, onnx (the graph), or none.")
    provider_timings_ms: dict[str, dict[str, float]] = Field(
        description="Times by which auto selected the provider, by graph (encoder, decoder) and provider, in ms. Empty "
        "where there was no choice."
    )
    role: str = Field(description="Role of this replica: all, embed or segment.")
    threads: int
    artifact_bytes: int = Field(description="Sum of the sizes of the model's files, in bytes.")
    memory_bytes: int | None = Field(
        description="Growth of the process's resident memory while the model was loaded and warmed up, in bytes. "
        "null where the system does not tell."
    )
    load_s: float = Field(description="Time in which the model was loaded and warmed up, in seconds.")
    embedding_dtype: str = Field(description="Number format of cached embeddings: float16, float32 or int8.")
    files: dict[str, ModelFileModel] = Field(
        description="Files for decoding in the browser, by part: the graphs prepare and decoder, and parameters where "
        "the decoder refers to them. Empty where this is not offered."
    )
    limits: dict[str, float]


class ModelsResponse(BaseModel):
    """The models of this replica. The first one answers requests that name no model."""

    models: list[ModelModel]


class ReloadRequest(RequestModel):
    """The models to serve from now on."""

    models: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=MAX_MODEL_NAME)]] | None,
        Field(
            min_length=1,
            max_length=MAX_MODELS,
            description="Names of models, the default first. They are looked up as those of EDGESAM_MODELS. Without "
            "it the models of the settings.",
        ),
    ] = None

    @field_validator("models")
    @classmethod
    def _are_different(cls, names: list[str] | None) -> list[str] | None:
        if names is not None and len(set(names)) < len(names):
            raise ValueError("a model is named twice")
        return names


class ModelChangeModel(BaseModel):
    """What a reload did to one model."""

    name: str
    change: Literal["kept", "added", "replaced", "removed"] = Field(
        description="kept: the files have not changed. replaced: other files under the same name."
    )
    fingerprint: str | None = Field(description="Fingerprint of the model that is served now. null for a removed one.")
    load_s: float | None = Field(
        description="Time in which the model was loaded and warmed up, in seconds. null for one that was not loaded."
    )
    memory_bytes: int | None = Field(description="As in /models. null for one that was not loaded.")


class ReloadResponse(BaseModel):
    """The models that this replica serves from now on, in their order, and those that it serves no more."""

    models: list[ModelChangeModel]
