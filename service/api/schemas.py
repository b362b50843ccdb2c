"""The JSON of requests and answers. Clients, adapters and dashboards depend on the field names."""

from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from service.api.mask_prompts import MaskField
from service.sam.cleanup import Cleanup
from service.sam.decoded_image import AppliedLevels
from service.sam.granularity import Granularity
from service.sam.image_id import VARIANT_PATTERN, parse_image_id
from service.sam.masks import Multimask

MAX_PROMPTS = 256  # what the schema allows; the setting max_prompts may allow less
MAX_POINTS = 64
MAX_MODEL_NAME = 64

Format = Literal["rle", "png", "alpha", "polygon", "logits", "none"]
Coordinate = Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)]
ImageHash = Annotated[
    str, Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the uploaded bytes, lower-case hex.")
]
ImageIdText = Annotated[
    str,
    AfterValidator(lambda text: str(parse_image_id(text))),
    # In the schema alone: the refusal of `parse_image_id` says what is wrong, a pattern does not.
    WithJsonSchema(
        {
            "type": "string",
            "pattern": f"^[0-9A-Fa-f]{{64}}{VARIANT_PATTERN}$",
            "description": "`image_id` of /embed: the SHA-256 of the uploaded bytes in hex, followed by "
            "`~levels=…`, `~bands=…` and `~region=…` where they were given.",
        }
    ),
]
MaskId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$", description="`mask_id` of an earlier answer.")]

Orientation = Annotated[
    int, Field(ge=1, le=8, description="EXIF orientation that was applied to the file's pixels, 1 to 8. 1: none.")
]

ModelOfImage = Annotated[
    str | None,
    Field(
        max_length=MAX_MODEL_NAME,
        description="Name of the model that embedded the image, as in /models. Without it the first model there.",
    ),
]
_FOUR_INTEGERS = {"type": "array", "items": {"type": "integer"}, "minItems": 4, "maxItems": 4}
RegionCorners = Annotated[
    tuple[int, int, int, int] | None,
    # Schemathesis 4.32 reads no `prefixItems` in a member that may be null.
    WithJsonSchema({"anyOf": [_FOUR_INTEGERS, {"type": "null"}]}),
    Field(
        description="Part of the image that is embedded: x0, y0, x1, y1 in pixels of the upright image, x1 and y1 "
        "exclusive. null: the whole image."
    ),
]


class RequestModel(BaseModel):
    """A body of a request. Unknown members are an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def whole_number(value: object) -> object:
    """Return 1 for 1.0: many languages write whole numbers that way."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


class PointModel(RequestModel):
    """A point in pixels of the upright image. The centre of the first pixel is (0.5, 0.5)."""

    x: Coordinate
    y: Coordinate
    label: Annotated[
        int,
        Field(strict=True, ge=0, le=1, description="1: the point belongs to the object. 0: it does not."),
        BeforeValidator(whole_number),
    ] = 1

    @model_validator(mode="before")
    @classmethod
    def _of_numbers(cls, value: object) -> object:
        if not isinstance(value, list | tuple):
            return value
        if len(value) not in (2, 3):
            raise ValueError("a point is {x, y, label}, [x, y] or [x, y, label]")
        return dict(zip(("x", "y", "label"), value, strict=False))


class PromptModel(RequestModel):
    """A prompt for one object: any combination of points, a box and one mask to refine."""

    points: Annotated[list[PointModel], Field(max_length=MAX_POINTS)] = []
    box: Annotated[
        tuple[Coordinate, Coordinate, Coordinate, Coordinate] | None,
        Field(description="x0, y0, x1, y1 in pixels. The part of the box beyond the image is cut off."),
    ] = None
    mask_id: Annotated[MaskId | None, BeforeValidator(_lower)] = None
    mask_logits: Annotated[
        str | None,
        Field(max_length=200_000, description="Base64 of 256×256 little-endian float16 logits, row by row."),
    ] = None
    mask: MaskField = None

    @model_validator(mode="after")
    def _points_at_something(self) -> Self:
        masks = [each for each in (self.mask_id, self.mask_logits, self.mask) if each is not None]
        if not self.points and self.box is None and not masks:
            raise ValueError("a prompt needs points, a box, a mask_id, mask_logits or a mask")
        if len(masks) > 1:
            raise ValueError("give one of mask_id, mask_logits and mask")
        if self.box is not None and not (self.box[0] < self.box[2] and self.box[1] < self.box[3]):
            raise ValueError("box is x0, y0, x1, y1 with x0 < x1 and y0 < y1")
        return self


class SegmentRequest(RequestModel):
    """Prompts on an image that was embedded before."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "image_hash": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
                "multimask": "auto",
                "format": "rle",
                "prompts": [{"points": [{"x": 610, "y": 420, "label": 1}]}],
            }
        }
    )

    @field_validator("multimask", mode="before")
    @classmethod
    def _is_not_a_truth_value(cls, value: object) -> object:
        if isinstance(value, bool):
            raise ValueError("multimask is auto, 1, 3 or 4")  # noqa: TRY004 - pydantic wants ValueError
        return whole_number(value)

    image_hash: ImageIdText
    model: ModelOfImage = None
    prompts: Annotated[list[PromptModel], Field(min_length=1, max_length=MAX_PROMPTS)]
    multimask: Annotated[
        Multimask,
        Field(
            description="Masks per prompt: 1, 3 (whole, part, sub-part) or 4 (all). "
            "auto: 3 or 4 (`auto_masks` in /models) for a single point, which is ambiguous, else 1."
        ),
        # Generators of clients do not support one enum of a word and numbers.
        WithJsonSchema({"anyOf": [{"type": "string", "const": "auto"}, {"type": "integer", "enum": [1, 3, 4]}]}),
    ] = "auto"
    granularity: Annotated[
        Granularity,
        Field(
            description="auto: a prompt of one positive point gets the box of the object that the model finds there. "
            "multimask auto then gives one mask. Prompts without such an object are not changed. "
            "Only for models whose `granularity` in /models is true."
        ),
    ] = "off"
    cleanup: Annotated[
        Cleanup,
        Field(
            description="auto: the masks agree with all points, keep to the box and a small margin, and have no small "
            "islands and holes. This holds for every format, and for refinements by mask_id. none: the model's masks."
        ),
    ] = "none"
    format: Annotated[
        Format,
        Field(
            description="rle: COCO compressed; png: 1-bit, base64; alpha: 8-bit PNG with a soft edge, base64; "
            "polygon: parts with holes on pixel corners; logits: base64 of 256×256 float16; none: numbers only."
        ),
    ] = "rle"
    crop: Annotated[
        bool, Field(description="png and alpha: only the part of the image inside `box`, or inside `alpha_box`.")
    ] = False
    tolerance_pixels: Annotated[
        float,
        Field(
            ge=0,
            le=100,
            allow_inf_nan=False,
            description="polygon: tolerance of the simplification, in pixels. The polygons stay valid geometry and at "
            "most twice the tolerance from the exact outline. 0: exact outlines.",
        ),
    ] = 0.0


class EmbedResponse(BaseModel):
    """The image is embedded and can be segmented."""

    image_hash: ImageHash
    image_id: ImageIdText
    width: int = Field(description="Width of the whole upright image, pixels.")
    height: int = Field(description="Height of the whole upright image, pixels.")
    region: RegionCorners = None
    orientation: Orientation
    levels: AppliedLevels = Field(
        description="How samples became grey levels. full: white is the largest number that the samples can hold."
    )
    model: str = Field(description="Name of the model that embedded the image. /segment takes it as `model`.")
    cached: Literal["memory", "redis", "disk"] | None = Field(
        description="Cache tier that had the embedding. null: it was computed now."
    )
    expires_in_s: float = Field(description="Time that the embedding is kept after its last use, in seconds.")


class RleModel(BaseModel):
    """COCO compressed run lengths, as pycocotools reads them."""

    size: tuple[int, int] = Field(description="height, width")
    counts: str


class PolygonModel(BaseModel):
    """One part of a mask, on pixel corners. With tolerance_pixels 0, filling all parts gives the mask back."""

    exterior: list[tuple[float, float]]
    holes: list[list[tuple[float, float]]]


class MaskModel(BaseModel):
    """One mask, with the one of rle, png, alpha, polygon and logits that was asked for."""

    score: float = Field(
        description="Score of the mask, 0..1, by the model's `ranking` in /models. For the order of the masks, its "
        "`agreement` is added to masks that agree with all points."
    )
    stability: float = Field(description="Stability of the mask when the threshold changes, 0..1. 0 for an empty mask.")
    predicted_iou: float = Field(description="The model's estimate of the IoU; not limited to 0..1.")
    area: int = Field(description="Area of the mask, in pixels.")
    box: tuple[int, int, int, int] = Field(
        description="x0, y0, x1, y1 in pixels; x1 and y1 are exclusive. Zeros for an empty mask."
    )
    mask_id: MaskId
    rle: RleModel | None = None
    png: str | None = None
    alpha: str | None = None
    alpha_box: tuple[int, int, int, int] | None = Field(
        None, description="alpha: x0, y0, x1, y1 of the values above 0, in pixels. It holds `box` and the soft edge."
    )
    polygon: list[PolygonModel] | None = None
    logits: str | None = None


class ResultModel(BaseModel):
    """The answer to one prompt."""

    masks: list[MaskModel] = Field(description="Best first: ordered by `score`, and by agreement with the points.")
    granularity_box: tuple[float, float, float, float] | None = Field(
        None,
        description="With granularity auto: the box that the prompt got, x0, y0, x1, y1 in pixels. null: no box.",
    )


class SegmentResponse(BaseModel):
    """One result for each prompt, in the order of the prompts."""

    image_hash: ImageHash
    image_id: ImageIdText
    width: int = Field(description="Width of the whole upright image, pixels.")
    height: int = Field(description="Height of the whole upright image, pixels.")
    region: RegionCorners = None
    orientation: Orientation
    model: str
    results: list[ResultModel]


class ProblemModel(BaseModel):
    """A problem document (RFC 9457). Further members depend on `code`."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    instance: str = Field(description="Id of the request, as in X-Request-ID and the log.")
    code: str

    @classmethod
    def responses(cls, *statuses: int) -> dict[int | str, dict[str, Any]]:
        """Return FastAPI's `responses` for a route that can answer with problem documents.

        Args:
            *statuses: HTTP statuses of these answers.
        """
        schema = {"schema": {"$ref": "#/components/schemas/ProblemModel"}}
        return {
            status: {"description": "Problem", "content": {"application/problem+json": schema}} for status in statuses
        }
