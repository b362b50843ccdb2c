"""What callers hand in and get back. Coordinates are pixels of the upright picture, x to the right, y down."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from service.client.errors import UnexpectedAnswer
from service.client.pictures import Picture
from service.client.rle import decode_rle

Multimask = Literal["auto", 1, 3, 4]
Box = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Timing:
    """Where the time of one answer went.

    Args:
        round_trip_ms: from sending the request to the last byte of the answer, without earlier attempts.
        stages_ms: what the service measured, by stage; `total` is its whole time.
    """

    round_trip_ms: float
    stages_ms: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Embedded:
    """A picture that can be segmented.

    Args:
        image_hash: SHA-256 of the file's bytes, lower-case hex.
        width: of the upright picture, pixels.
        height: of the upright picture, pixels.
        was_uploaded: False when the service knew the picture, and only its hash was sent.
        cached: tier of the service that had it, `memory` or `redis`; None when it was computed now.
        timing: of the last request.
        picture: to embed it again after an eviction; holds the bytes, or the path where it came from one.
    """

    image_hash: str
    width: int
    height: int
    was_uploaded: bool
    cached: str | None
    timing: Timing
    picture: Picture = field(repr=False, compare=False)


@dataclass(frozen=True, eq=False)
class Prompt:
    """What points at one object: any mix of points, one box and one mask to refine.

    Args:
        points: (N, 2) as (x, y), or one such pair.
        labels: (N,): 1 belongs to the object, 0 does not; without them all belong to it.
        box: x0, y0, x1, y1, exclusive at the end.
        mask_id: of an earlier mask on the same picture.

    Raises:
        ValueError: shapes that do not fit, numbers that are not finite, or nothing at all.
    """

    points: ArrayLike | None = None
    labels: ArrayLike | None = None
    box: ArrayLike | None = None
    mask_id: str | None = None

    def __post_init__(self) -> None:
        """Refuse at once what no service can take."""
        self.document  # noqa: B018 - it raises, and is kept for the request

    @cached_property
    def document(self) -> dict[str, Any]:
        """The prompt as /segment reads it."""
        document: dict[str, Any] = {}
        if self.points is not None:
            points = _numbers("points", self.points)
            if points.ndim == 1 and len(points) == 2:
                points = points[None]
            if points.ndim != 2 or points.shape[1] != 2:
                raise ValueError(f"points have the shape (N, 2), not {points.shape}.")
            labels = np.ones(len(points)) if self.labels is None else np.atleast_1d(np.asarray(self.labels))
            if labels.shape != (len(points),) or not np.isin(labels, (0, 1)).all():
                raise ValueError(f"labels are {len(points)} numbers, one for each point: 1 for the object, 0 else.")
            document["points"] = [
                {"x": x, "y": y, "label": int(label)}
                for (x, y), label in zip(points.tolist(), labels.tolist(), strict=True)
            ]
        elif self.labels is not None:
            raise ValueError("labels without points.")
        if self.box is not None:
            box = _numbers("box", self.box)
            if box.shape != (4,):
                raise ValueError(f"a box is x0, y0, x1, y1; its shape is (4,), not {box.shape}.")
            document["box"] = box.tolist()
        if self.mask_id is not None:
            document["mask_id"] = self.mask_id
        if not document.get("points") and "box" not in document and "mask_id" not in document:
            raise ValueError("a prompt needs points, a box or a mask_id.")
        return document


@dataclass(frozen=True, eq=False)
class Mask:
    """One mask of a picture; its pixels are decoded when they are first asked for.

    Args:
        score: what masks are ordered by, 0..1: the model's ranking score, see `ranking` in /models.
        stability: how little the mask depends on the threshold, 0..1.
        predicted_iou: the model's own estimate; not bounded.
        area: pixels.
        box: x0, y0, x1, y1, exclusive at the end; zeros when empty.
        mask_id: to refine this mask with further prompts, for some minutes.
        size: (H, W) of the picture.
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

    @cached_property
    def pixels(self) -> NDArray[np.bool_]:
        """(H, W) bool, True inside; read-only, since it is kept.

        Raises:
            UnexpectedAnswer: the run lengths do not fit the picture.
        """
        try:
            return decode_rle(self.counts, *self.size)
        except ValueError as error:
            raise UnexpectedAnswer(f"The mask cannot be read. {error}") from error


@dataclass(frozen=True, slots=True, eq=False)
class Segmentation:
    """The answer to one request.

    Args:
        image_hash: of the picture.
        width: of the picture, pixels.
        height: of the picture, pixels.
        model: name of the served model.
        results: for each prompt its masks, best first.
        timing: of the request that was answered.
        request_id: names it in the service's log.
    """

    image_hash: str
    width: int
    height: int
    model: str
    results: tuple[tuple[Mask, ...], ...]
    timing: Timing
    request_id: str

    @property
    def masks(self) -> tuple[Mask, ...]:
        """The masks of the only prompt, best first; ValueError where there were several prompts."""
        (masks,) = self.results
        return masks

    @property
    def best(self) -> Mask:
        """The best mask of the only prompt."""
        return self.masks[0]


@dataclass(frozen=True, slots=True)
class Model:
    """What is served.

    Args:
        name: of the model.
        is_trained: False: its masks mean nothing.
        fingerprint: changes when embeddings do.
        document: everything that /models tells of it.
    """

    name: str
    is_trained: bool
    fingerprint: str
    document: Mapping[str, Any] = field(repr=False)


def _numbers(name: str, values: ArrayLike) -> NDArray[np.float64]:
    """As float64, finite: JSON has neither NaN nor infinity."""
    numbers = np.asarray(values, np.float64)
    if not np.isfinite(numbers).all():
        raise ValueError(f"{name} must be finite numbers.")
    return numbers
