"""Prompts, masks and the other values of the client. Coordinates are pixels of the upright image: x right, y down."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .images import ImageSource
from .mask_input import mask_as_png
from .run_lengths import RunLengthMask

Multimask = Literal["auto", 1, 3, 4]
Levels = Literal["auto", "full", "minmax", "percentile"]
Cleanup = Literal["none", "auto"]
Box = tuple[int, int, int, int]

_MAX_BAND = 9999
MIN_REGION_SIDE = 32


@dataclass(frozen=True, slots=True)
class Timing:
    """Times of one request.

    Args:
        round_trip_ms: Time from the start of the request to the last byte of the response, without earlier attempts.
        stages_ms: Milliseconds in the service, by stage. `total` is the service's whole time for the request.
    """

    round_trip_ms: float
    stages_ms: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Reading:
    """How the service reads the samples of a file, and which part of the image it embeds.

    Args:
        levels: Conversion of samples to grey levels; the API reference describes the choices.
        bands: Numbers of the bands for red, green and blue, from 1; None for the first three.
        region: Part of the upright image that is embedded: x0, y0, x1, y1 in whole pixels, exclusive at the end, at
            least 32 pixels a side. None for all of it.

    Raises:
        ValueError: if there are no such levels, bands or region.
    """

    levels: Levels = "auto"
    bands: tuple[int, int, int] | None = None
    region: Box | None = None

    def __post_init__(self) -> None:
        """Check the choices when they are made, not when they are sent."""
        if self.levels not in get_args(Levels):
            raise ValueError(f"levels is one of {', '.join(get_args(Levels))}, not {self.levels!r}.")
        if self.bands is not None and not (len(self.bands) == 3 and all(1 <= band <= _MAX_BAND for band in self.bands)):
            raise ValueError(f"bands are three numbers from 1 to {_MAX_BAND}, not {self.bands}.")
        if self.region is not None:
            object.__setattr__(self, "region", _region(self.region))

    @property
    def parameters(self) -> dict[str, str]:
        """Parameters of the query, in the order of an image_id. Defaults are left out."""
        parameters: dict[str, str] = {} if self.levels == "auto" else {"levels": self.levels}
        if self.bands is not None:
            parameters["bands"] = ",".join(map(str, self.bands))
        if self.region is not None:
            parameters["region"] = ",".join(map(str, self.region))
        return parameters

    def image_id(self, image_hash: str) -> str:
        """Return the id of an image that is read so."""
        return "~".join((image_hash, *(f"{name}={value}" for name, value in self.parameters.items())))

    @property
    def of_whole(self) -> "Reading":
        """The same reading of the whole image."""
        return replace(self, region=None)


@dataclass(frozen=True, slots=True)
class Embedded:
    """An embedded image, ready for `segment`.

    Args:
        image_hash: SHA-256 of the file's bytes, in lower-case hex.
        width: Width of the upright image, in pixels.
        height: Height of the upright image, in pixels.
        was_uploaded: False if the service had the embedding, so that only the hash was sent.
        cached: Cache tier that had the embedding, `memory`, `redis` or `disk`. None if it was computed now.
        timing: Times of the last request.
        picture: Path or bytes of the image's file, to embed the image again after an eviction.
        reading: How the service reads the samples of the file, and which part is embedded.
        orientation: EXIF orientation that the service applied, 1 to 8; 1 for none.
        applied_levels: Conversion of samples to grey levels that the service applied: `full`, `minmax` or `percentile`.
        model: Name of the model that was asked for, which `segment` then uses; None for the service's first model.
    """

    image_hash: str
    width: int
    height: int
    was_uploaded: bool
    cached: str | None
    timing: Timing
    picture: ImageSource = field(repr=False, compare=False)
    reading: Reading = Reading()
    orientation: int = 1
    applied_levels: str = "full"
    model: str | None = None

    @property
    def image_id(self) -> str:
        """Id of the image: its hash, followed by the levels, bands and region that were asked for."""
        return self.reading.image_id(self.image_hash)

    @property
    def region(self) -> Box | None:
        """Part of the image that is embedded, x0, y0, x1, y1 in pixels. None for all of it."""
        return self.reading.region


@dataclass(frozen=True, eq=False)
class Prompt:
    """A prompt for one object: points, a box, an earlier mask, or any combination of them.

    Args:
        points: Points as (N, 2) array of (x, y), or one pair.
        labels: Labels of the points, (N,): 1 on the object, 0 beside it. By default all are 1.
        box: Box x0, y0, x1, y1, exclusive at the end.
        mask_id: Id of an earlier mask on the same image, which the prompt refines.
        mask: Instead of `mask_id`, a binary mask of the image's size, (H, W), or a `Mask` of an answer.

    Raises:
        ValueError: if a shape is wrong, a number is not finite, or the prompt is empty.
    """

    points: ArrayLike | None = None
    labels: ArrayLike | None = None
    box: ArrayLike | None = None
    mask_id: str | None = None
    mask: ArrayLike | RunLengthMask | None = None

    def __post_init__(self) -> None:
        """Check the prompt when it is made, not when it is sent."""
        self.document  # noqa: B018 - raises ValueError; the value is cached for the request

    @cached_property
    def document(self) -> dict[str, Any]:
        """The prompt in the JSON format of /segment."""
        document = self._points()
        if self.box is not None:
            box = _numbers("box", self.box)
            if box.shape != (4,):
                raise ValueError(f"box needs four numbers, x0, y0, x1, y1; its shape is {box.shape}.")
            document["box"] = box.tolist()
        if self.mask_id is not None:
            document["mask_id"] = self.mask_id
        if self.mask is not None:
            if self.mask_id is not None:
                raise ValueError("give mask_id or mask, not both.")
            document["mask"] = self.mask.run_lengths if isinstance(self.mask, RunLengthMask) else mask_as_png(self.mask)
        if not (document.get("points") or {"box", "mask_id", "mask"} & document.keys()):
            raise ValueError("a prompt needs points, a box, a mask_id or a mask.")
        return document

    def _points(self) -> dict[str, Any]:
        document: dict[str, Any] = {}
        if self.points is not None:
            points = _numbers("points", self.points)
            if points.ndim == 1 and len(points) == 2:
                points = points[None]
            if points.ndim != 2 or points.shape[1] != 2:
                raise ValueError(f"points need the shape (N, 2), not {points.shape}.")
            labels = np.ones(len(points)) if self.labels is None else np.atleast_1d(np.asarray(self.labels))
            if labels.shape != (len(points),) or not np.isin(labels, (0, 1)).all():
                raise ValueError(f"labels need {len(points)} numbers, one per point: 1 on the object, 0 beside it.")
            document["points"] = [
                {"x": x, "y": y, "label": int(label)}
                for (x, y), label in zip(points.tolist(), labels.tolist(), strict=True)
            ]
        elif self.labels is not None:
            raise ValueError("labels need points.")
        return document


@dataclass(frozen=True, eq=False)
class Mask(RunLengthMask):
    """One mask of an image. Its pixels are decoded when `pixels` is first read.

    Args:
        score: Score that masks are ordered by, 0..1: the model's ranking score, see `ranking` in /models.
        stability: Stability of the mask under a change of the threshold, 0..1.
        predicted_iou: The model's estimate of the mask's IoU; may lie outside 0..1.
        area: Number of pixels inside.
        box: Box of the mask x0, y0, x1, y1, exclusive at the end. Zeros if the mask is empty.
        mask_id: Id for refining this mask. The service keeps the mask for some minutes.
        size: (height, width) of the image, in pixels.
        counts: COCO's compressed run lengths.
    """

    score: float
    stability: float
    predicted_iou: float
    area: int
    box: Box
    mask_id: str
    size: tuple[int, int]
    counts: str = field(repr=False)


@dataclass(frozen=True, slots=True, eq=False)
class Segmentation:
    """Masks of one image, for each prompt of a request.

    Args:
        image_hash: Hash of the image.
        width: Width of the upright image, in pixels.
        height: Height of the upright image, in pixels.
        model: Name of the model.
        results: Masks of each prompt, best first.
        timing: Times of the request.
        request_id: Id of the request in the service's log.
        image_id: Id of the image with its levels, bands and region; equal to the hash without them.
        orientation: EXIF orientation that the service applied, 1 to 8.
    """

    image_hash: str
    width: int
    height: int
    model: str
    results: tuple[tuple[Mask, ...], ...]
    timing: Timing
    request_id: str
    image_id: str
    orientation: int

    @property
    def masks(self) -> tuple[Mask, ...]:
        """The masks of the only prompt, best first.

        Raises:
            ValueError: if the request had several prompts.
        """
        (masks,) = self.results
        return masks

    @property
    def best(self) -> Mask:
        """The best mask of the only prompt."""
        return self.masks[0]


@dataclass(frozen=True, slots=True)
class Model:
    """A model of the service.

    Args:
        name: Name of the model, for the parameter `model` of the client and its methods.
        is_trained: Whether the model is trained. The masks of an untrained model mean nothing.
        fingerprint: Fingerprint of the embeddings. Embeddings of another fingerprint do not fit.
        document: All of the model's members in /models, among them `summary`, `licence`, `commercial_use`, `card`, and
            `features`, which says what the service can do with this model: `granularity`, `embedding_download` and
            `browser_decoding`.
    """

    name: str
    is_trained: bool
    fingerprint: str
    document: Mapping[str, Any] = field(repr=False)


def _region(values: Any) -> Box:
    """The region as four ints.

    Raises:
        ValueError: if they are not whole numbers, or the region is too small or outside every image.
    """
    numbers = _numbers("region", values)
    if numbers.shape != (4,) or (numbers != np.floor(numbers)).any():
        raise ValueError(f"region needs four whole numbers, x0, y0, x1, y1, not {values}.")
    x0, y0, x1, y1 = (int(number) for number in numbers)
    if min(x0, y0) < 0 or min(x1 - x0, y1 - y0) < MIN_REGION_SIDE:
        raise ValueError(f"region needs {MIN_REGION_SIDE} pixels a side inside the image, not {values}.")
    return x0, y0, x1, y1


def _numbers(name: str, values: ArrayLike) -> NDArray[np.float64]:
    """The values as float64. JSON has no NaN and no infinity, so these are refused."""
    numbers = np.asarray(values, np.float64)
    if not np.isfinite(numbers).all():
        raise ValueError(f"{name} must be finite numbers.")
    return numbers
