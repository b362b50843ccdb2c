"""Everything mode: its options, its masks, and the events of a request while it runs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict, cast

from .run_lengths import RunLengthMask
from .values import Box, Timing

BoxAndSize = tuple[int, int, int, int]


class EverythingOptions(TypedDict, total=False):
    """Options of everything mode, with SAM's names. Values that are missing come from the model.

    Args:
        points_per_side: Number of points along each side of the grid.
        pred_iou_thresh: Quality above which a mask is kept, 0..1.
        stability_score_thresh: Stability from which a mask is kept, 0..1.
        stability_score_offset: Change of the threshold of the logits by which stability is measured.
        box_nms_thresh: IoU of two boxes above which only the better mask is kept, 0..1.
        min_mask_region_area: Size of holes and islands that are removed, in pixels.
        max_masks: Largest number of masks; the best ones are kept.
        fast: Whether no point is placed where an earlier mask lies.
    """

    points_per_side: int
    pred_iou_thresh: float
    stability_score_thresh: float
    stability_score_offset: float
    box_nms_thresh: float
    min_mask_region_area: int
    max_masks: int
    fast: bool


@dataclass(frozen=True, eq=False)
class EverythingMask(RunLengthMask):
    """One mask of an everything result. Its pixels are decoded when `pixels` is first read.

    Args:
        id: Number of the mask in its result.
        area: Number of pixels inside.
        bbox: Box of the mask x, y, width, height, in pixels.
        predicted_iou: The model's estimate of the mask's IoU, or the score that its ranking rule uses instead.
        stability_score: Stability of the mask under a change of the threshold, 0..1.
        point_coords: The point that found the mask, in pixels.
        crop_box: Part of the image that was searched: x, y, width, height, in pixels.
        size: (height, width) of the image, in pixels.
        counts: COCO's compressed run lengths.
    """

    id: int
    area: int
    bbox: BoxAndSize
    predicted_iou: float
    stability_score: float
    point_coords: tuple[tuple[float, float], ...]
    crop_box: BoxAndSize
    size: tuple[int, int]
    counts: str = field(repr=False)

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> "EverythingMask":
        """Read a record that has COCO's run lengths.

        Raises:
            KeyError: if a member is missing.
            TypeError: if a member has another type.
            ValueError: if a list has another length, or a text is no number.
        """
        height, width = (int(side) for side in record["segmentation"]["size"])
        return cls(
            id=int(record["id"]),
            area=int(record["area"]),
            bbox=_box(record["bbox"]),
            predicted_iou=float(record["predicted_iou"]),
            stability_score=float(record["stability_score"]),
            point_coords=tuple((float(x), float(y)) for x, y in record["point_coords"]),
            crop_box=_box(record["crop_box"]),
            size=(height, width),
            counts=str(record["segmentation"]["counts"]),
        )

    @property
    def score(self) -> float:
        """Score that the masks of one crop are ordered by."""
        return self.predicted_iou

    @property
    def box(self) -> Box:
        """Box of the mask x0, y0, x1, y1, exclusive at the end."""
        x, y, width, height = self.bbox
        return x, y, x + width, y + height

    @property
    def record(self) -> dict[str, Any]:
        """The mask as a record of SAM's generator, ready for `json.dump`. The segmentation is COCO's run lengths."""
        return {
            "id": self.id,
            "segmentation": self.run_lengths,
            "area": self.area,
            "bbox": list(self.bbox),
            "predicted_iou": self.predicted_iou,
            "stability_score": self.stability_score,
            "point_coords": [list(point) for point in self.point_coords],
            "crop_box": list(self.crop_box),
        }


@dataclass(frozen=True, slots=True, eq=False)
class Everything:
    """The masks of all objects of an image.

    Args:
        image_hash: Hash of the image.
        image_id: Id of the image with its levels, bands and region.
        width: Width of the upright image, in pixels.
        height: Height of the upright image, in pixels.
        orientation: EXIF orientation that the service applied, 1 to 8.
        model: Name of the model.
        parameters: Options that were used, also those that come from the model.
        masks: Masks, best first. With crops, the masks of smaller crops come first.
        cached: "redis" if the result was found there. None if it was computed for this request.
        timing: Times of the request.
        request_id: Id of the request in the service's log.
    """

    image_hash: str
    image_id: str
    width: int
    height: int
    orientation: int
    model: str
    parameters: Mapping[str, Any]
    masks: tuple[EverythingMask, ...]
    cached: str | None
    timing: Timing
    request_id: str


@dataclass(frozen=True, slots=True)
class EverythingStarted:
    """The service has begun. This event comes again if the connection breaks and the request is repeated.

    Args:
        prompts: Number of points that will be tried.
        crop: Number of the crop, from 0 for the whole image.
        crops: Number of crops.
    """

    prompts: int
    crop: int = 0
    crops: int = 1


@dataclass(frozen=True, slots=True)
class EverythingAdvanced:
    """Progress.

    Args:
        done: Number of points that have been tried.
        prompts: Number of points that will be tried.
        crop: Number of the crop, from 0 for the whole image.
        crops: Number of crops.
    """

    done: int
    prompts: int
    crop: int = 0
    crops: int = 1


@dataclass(frozen=True, slots=True)
class EverythingFound:
    """A mask was found. It may be dropped again.

    Args:
        mask: The mask.
    """

    mask: EverythingMask


@dataclass(frozen=True, slots=True)
class EverythingDropped:
    """Masks were dropped, as a better one covers them or there are too many.

    Args:
        ids: Ids of masks that were found before.
    """

    ids: tuple[int, ...]


EverythingEvent = EverythingStarted | EverythingAdvanced | EverythingFound | EverythingDropped
OnEvent = Callable[[EverythingEvent], None]


def given_options(**options: Any) -> EverythingOptions:
    """The options that are not None."""
    given = {name: value for name, value in options.items() if value is not None}
    return cast("EverythingOptions", given)


def checked_options(options: EverythingOptions) -> dict[str, Any]:
    """The options of the JSON body.

    Raises:
        TypeError: if there is no option of a name.
    """
    unknown = options.keys() - EverythingOptions.__annotations__.keys()
    if unknown:
        raise TypeError(f"everything mode has no option {', '.join(sorted(unknown))}.")
    return dict(options)


def _box(values: Sequence[Any]) -> BoxAndSize:
    x, y, width, height = (int(value) for value in values)
    return x, y, width, height
