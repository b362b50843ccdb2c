"""The JSON of /segment/everything. The field names are those of SAM's generator and of COCO."""

from typing import Annotated, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, RootModel

from service.api.schemas import (
    ImageHash,
    ImageIdText,
    ModelOfImage,
    Orientation,
    PolygonModel,
    ProblemModel,
    RegionCorners,
    RequestModel,
    RleModel,
    whole_number,
)
from service.sam.everything.options import (
    DEFAULT_MAX_MASKS,
    MAX_MASKS,
    MAX_POINTS_PER_SIDE,
    MAX_REGION_AREA,
    MAX_STABILITY_OFFSET,
)

EverythingFormat = Literal["rle", "polygon", "png", "none"]

_Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
_OF_THE_MODEL: Final = " Without it, the value of the model, `everything` in /models."
_Whole = BeforeValidator(whole_number)


class EverythingRequest(RequestModel):
    """Parameters of a search for all objects of an image that was embedded before."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "image_hash": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
                "points_per_side": 16,
                "format": "rle",
            }
        }
    )

    image_hash: ImageIdText
    model: ModelOfImage = None
    points_per_side: Annotated[
        Annotated[int, Field(ge=1, le=MAX_POINTS_PER_SIDE, strict=True)] | None,
        _Whole,
        Field(
            description=f"Points of the grid along each side of the image: 16 makes 256 prompts.{_OF_THE_MODEL}",
        ),
    ] = None
    pred_iou_thresh: Annotated[
        _Share | None,
        Field(
            description="Quality that a mask has to exceed; 0 keeps all. It is the predicted IoU, or the stability for "
            f"a model that does not use the predicted IoU.{_OF_THE_MODEL}"
        ),
    ] = None
    stability_score_thresh: Annotated[
        _Share | None, Field(description=f"Least stability of a mask; 0 keeps all.{_OF_THE_MODEL}")
    ] = None
    stability_score_offset: Annotated[
        float | None,
        Field(
            ge=0,
            le=MAX_STABILITY_OFFSET,
            allow_inf_nan=False,
            description=f"Distance of both thresholds of the stability from 0, in logits.{_OF_THE_MODEL}",
        ),
    ] = None
    box_nms_thresh: Annotated[
        _Share | None,
        Field(description=f"IoU of boxes above which the worse of two masks is dropped.{_OF_THE_MODEL}"),
    ] = None
    min_mask_region_area: Annotated[
        Annotated[int, Field(ge=0, le=MAX_REGION_AREA, strict=True)] | None,
        _Whole,
        Field(description=f"Holes and islands of fewer pixels are removed from a mask; 0 keeps them.{_OF_THE_MODEL}"),
    ] = None
    max_masks: Annotated[
        int,
        _Whole,
        Field(ge=1, le=MAX_MASKS, strict=True, description="Largest number of masks in the result, the best ones."),
    ] = DEFAULT_MAX_MASKS
    format: Annotated[
        EverythingFormat,
        Field(
            description="rle: COCO compressed; polygon: parts with holes on pixel corners; png: 1-bit, base64; "
            "none: numbers only."
        ),
    ] = "rle"
    tolerance_pixels: Annotated[
        float,
        Field(
            ge=0,
            le=100,
            allow_inf_nan=False,
            description="polygon: tolerance of the simplification, in pixels, as in /segment. 0: exact outlines.",
        ),
    ] = 0.0
    fast: Annotated[bool, Field(strict=True, description="Whether points that a found mask covers are left out.")] = (
        False
    )


class EverythingParameters(BaseModel):
    """All parameters of a result, with the model's values where the request has none."""

    points_per_side: int
    pred_iou_thresh: float
    stability_score_thresh: float
    stability_score_offset: float
    box_nms_thresh: float
    min_mask_region_area: int
    max_masks: int
    fast: bool
    format: EverythingFormat
    tolerance_pixels: float


class EverythingMaskModel(BaseModel):
    """One mask, in the form of a COCO annotation."""

    id: int = Field(description="Number of the mask in this result. With three masks a point: 3 × point + mask.")
    segmentation: RleModel | list[PolygonModel] | str | None = Field(
        None, description="The mask in the format that was asked for, as /segment writes it. Absent with format none."
    )
    area: int = Field(description="Area of the mask, in pixels.")
    bbox: tuple[int, int, int, int] = Field(
        description="x, y, width, height in pixels, as COCO states boxes. SAM's own generator states a width and a "
        "height that are 1 less."
    )
    predicted_iou: float = Field(description="The model's estimate of the IoU; not limited to 0..1.")
    stability_score: float = Field(description="Stability of the mask when the threshold changes, 0..1.")
    point_coords: list[tuple[float, float]] = Field(description="The point of the grid that found the mask: [[x, y]].")
    crop_box: tuple[int, int, int, int] = Field(
        description="Part of the image that was searched: x, y, width, height in pixels."
    )


class _Head(BaseModel):
    image_hash: ImageHash
    image_id: ImageIdText
    width: int
    height: int
    orientation: Orientation
    region: RegionCorners = None
    model: str
    parameters: EverythingParameters
    cached: Literal["redis"] | None = Field(
        description="redis: the result of an earlier request with these parameters. null: it was computed now."
    )


class EverythingResponse(_Head):
    """All objects of the image."""

    masks: list[EverythingMaskModel] = Field(description="Best first.")


class StartLine(_Head):
    """The first line of a stream: what is known before the first mask."""

    event: Literal["start"]
    prompts: int = Field(description="Number of prompts to decode; 0 for a result from Redis.")


class ProgressLine(BaseModel):
    """Some prompts are done."""

    event: Literal["progress"]
    done: int = Field(description="Number of prompts so far that were decoded, or left out by `fast`.")
    prompts: int = Field(description="Number of all prompts.")


class MaskLine(EverythingMaskModel):
    """A mask was found. A later line may drop it."""

    event: Literal["mask"]


class DropLine(BaseModel):
    """Masks of earlier lines are not in the result: better masks replace them, or a limit removes them."""

    event: Literal["drop"]
    ids: list[int]


class EndLine(BaseModel):
    """The last line of a complete result."""

    event: Literal["end"]
    ids: list[int] = Field(description="Ids of all masks of the result, best first.")


class ErrorLine(BaseModel):
    """The last line of a stream that failed after its start."""

    event: Literal["error"]
    problem: ProblemModel


class EverythingLine(
    RootModel[
        Annotated[StartLine | ProgressLine | MaskLine | DropLine | EndLine | ErrorLine, Field(discriminator="event")]
    ]
):
    """One line of a stream: a JSON object. A stream that ends without `end` and `error` was cut off."""
