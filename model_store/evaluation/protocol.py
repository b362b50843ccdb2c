"""EdgeSAM's evaluation: a box and a centre point prompt for each object, both corrected twice.

Source: docs/explanation/model.md, section 8.1.

Every predicted mask is enlarged to the photo's own resolution, and so is the ground truth. All objects count alike,
whatever their class.
"""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from model_store.evaluation.baselines import FROM_BOX, FROM_POINT, Baseline
from model_store.evaluation.instances import Instance, correction, image_mask, make_instance, obeys, valid_cells
from model_store.evaluation.metrics import boundary_iou, iou, pieces, size_class
from model_store.evaluation.parallel import OnProgress, Work, map_photos
from model_store.evaluation.segmenters.segmenter import Predictions, PromptBatch, Segmenter
from model_store.training.data.annotations import PhotoRecord
from service.sam.frame import Frame, Resize
from service.sam.prompts import POSITIVE
from service.sam.transforms import points_from_frame

Start = Literal["box", "point"]
STARTS: tuple[Start, ...] = ("box", "point")

Choice = Literal["single", "auto", "stability", "oracle"]
OpenSegmenters = Callable[[], AbstractContextManager[Sequence[Segmenter]]]


@dataclass(frozen=True, slots=True)
class Protocol:
    """Amount and kind of measurements.

    Args:
        corrections: Number of correction points after the first prompt.
        max_instances: Largest number of objects of a photo. Where the photo has more they are drawn with replacement,
            seeded by the photo's index; None takes all.
        max_photos: Largest number of photos, spread over the list; None takes all.
        multimask: Whether to measure the four masks of the first point as well: the one that the service shows first,
            the most stable one, and the best one.
        boundary: Whether to measure the boundary IoU as well.
        seed: Seed of the correction points.
    """

    corrections: int = 2
    max_instances: int | None = None
    max_photos: int | None = None
    multimask: bool = True
    boundary: bool = True
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Measurement:
    """One predicted mask and its quality.

    Attributes:
        method: Name of the segmenter or baseline.
        start: Kind of the first prompt, box or point.
        step: Number of corrections before the mask; 0 is the first prompt.
        choice: Output that was chosen: "single" is output 0, "auto" the first of four as the service orders them,
            "stability" the most stable of four, "oracle" the best of four.
        photo: Index of the photo in the list.
        mask: Index of the mask among those of the photo.
        source: Source of the photo; "" where the data set does not state it.
        area: Area of the annotation, in pixels.
        iou: IoU with the ground truth, 0..1; NaN where both are empty.
        pieces: Number of 8-connected components of the predicted mask.
        boundary: Boundary IoU, 0..1; NaN where it was not measured.
        predicted: IoU that the model predicts; NaN for baselines.
        score: Score by which the model orders four masks; NaN for single masks.
        is_obeyed: Whether the mask obeys the correction point before it; None where there was none.
    """

    method: str
    start: Start
    step: int
    choice: Choice
    photo: int
    mask: int
    source: str
    area: int
    iou: float
    pieces: int
    boundary: float = math.nan
    predicted: float = math.nan
    score: float = math.nan
    is_obeyed: bool | None = None

    @property
    def size(self) -> str:
        """Size class of the object: small, medium or large."""
        return size_class(self.area)


def selected_photos(photos: Sequence[PhotoRecord], protocol: Protocol) -> list[int]:
    """Return the indices of the photos that are measured."""
    count = len(photos) if protocol.max_photos is None else min(protocol.max_photos, len(photos))
    return sorted({round(index) for index in np.linspace(0, len(photos) - 1, count)})


def selected_masks(photo: PhotoRecord, index: int, protocol: Protocol) -> list[int]:
    """Return the indices of the masks of a photo that are measured; one of them may occur more than once.

    Args:
        photo: Photo with its masks.
        index: Index of the photo in the list, which seeds the choice.
        protocol: Number of objects of a photo.
    """
    count = len(photo.masks)
    if protocol.max_instances is None or count <= protocol.max_instances:
        return list(range(count))
    drawn: list[int] = np.random.default_rng(index).integers(0, count, protocol.max_instances).tolist()
    return drawn


def evaluate(
    photos: Sequence[PhotoRecord],
    open_segmenters: OpenSegmenters,
    protocol: Protocol,
    *,
    baselines: bool = True,
    processes: int = 1,
    on_progress: OnProgress = lambda _done, _all: None,
) -> list[Measurement]:
    """Measure all methods on the same objects.

    Args:
        photos: Photos with their masks.
        open_segmenters: Function that opens the models. Each process calls it; for several processes it is pickled.
        protocol: Amount and kind of measurements.
        baselines: Whether to measure the methods of `baselines` as well.
        processes: Number of processes, each with photos of its own; the results do not depend on it.
        on_progress: Callback that receives (photos done, photos in all).
    """
    open_work = partial(_open_measuring, open_segmenters, protocol, baselines=baselines)
    indices = selected_photos(photos, protocol)
    by_photo = map_photos(open_work, photos, indices, processes=processes, on_progress=on_progress)
    return [measurement for measurements in by_photo for measurement in measurements]


def first_prompts(objects: Sequence[Instance], start: Start) -> PromptBatch:
    """Return the first prompts of objects: boxes, or one positive centre point each."""
    count = len(objects)
    if start == "box":
        boxes = np.stack([instance.box for instance in objects])
        return PromptBatch(boxes, np.zeros((count, 0, 2), np.float32), np.zeros((count, 0), np.int64))
    centres = np.stack([instance.centre for instance in objects])
    return PromptBatch(None, centres[:, None], np.full((count, 1), POSITIVE))


@contextmanager
def _open_measuring(
    open_segmenters: OpenSegmenters, protocol: Protocol, *, baselines: bool
) -> Iterator[Work[list[Measurement]]]:
    with open_segmenters() as segmenters:
        yield partial(_measure_photo, segmenters, protocol, baselines=baselines)


def _measure_photo(
    segmenters: Sequence[Segmenter], protocol: Protocol, index: int, photo: PhotoRecord, *, baselines: bool
) -> list[Measurement]:
    masks = selected_masks(photo, index, protocol)

    @functools.cache
    def instances(resize: Resize) -> _PhotoInstances:
        frame = Frame(photo.size, resize)
        objects = [make_instance(photo.masks[mask], frame) for mask in masks]
        return _PhotoInstances(index, photo, frame, masks, objects, has_boundary=protocol.boundary)

    measurements = [
        one for segmenter in segmenters for one in _measure_segmenter(segmenter, instances(segmenter.resize), protocol)
    ]
    return measurements + (_measure_baselines(instances("letterbox")) if baselines else [])


@dataclass(frozen=True, slots=True)
class _PhotoInstances:
    """The objects of one photo that are measured, in the frame of some of the models."""

    index: int
    photo: PhotoRecord
    frame: Frame
    masks: list[int]
    objects: list[Instance]
    has_boundary: bool

    def measurement(self, row: int, mask: NDArray[np.bool_], **rest: Any) -> Measurement:
        """Return the quality of the mask that was predicted for object number `row`."""
        truth = self.objects[row].truth
        return Measurement(
            photo=self.index,
            mask=self.masks[row],
            source=self.photo.source,
            area=self.objects[row].area,
            iou=iou(mask, truth),
            pieces=pieces(mask),
            boundary=boundary_iou(mask, truth) if self.has_boundary else math.nan,
            **rest,
        )


def _measure_segmenter(segmenter: Segmenter, instances: _PhotoInstances, protocol: Protocol) -> list[Measurement]:
    embedded = segmenter.embed(instances.photo)
    measurements = []
    for start in STARTS:
        prompts = first_prompts(instances.objects, start)
        if start == "point" and protocol.multimask:
            predictions, four = segmenter.predict_point(embedded, prompts)
            measurements += _measure_four(segmenter.name, four, instances)
        else:
            predictions = segmenter.predict(embedded, prompts)
        measurements += _measure_corrected(segmenter, embedded, prompts, predictions, start, instances, protocol)
    return measurements


def _measure_corrected(
    segmenter: Segmenter,
    embedded: Any,
    prompts: PromptBatch,
    predictions: Predictions,
    start: Start,
    instances: _PhotoInstances,
    protocol: Protocol,
) -> list[Measurement]:
    """Measure the masks of the first prompts, and of the same prompts with one correction after the other."""
    # The same numbers for every method, so that methods differ only by their masks.
    random = np.random.default_rng((protocol.seed, instances.index, STARTS.index(start)))
    valid = valid_cells(instances.frame)
    measurements = _measure_single(segmenter.name, start, 0, predictions, None, instances)
    for step in range(1, protocol.corrections + 1):
        logits = predictions.mask_logits[:, 0]
        added = [
            correction(logits[row], instance.cells, valid, random) for row, instance in enumerate(instances.objects)
        ]
        points, labels = np.stack([point for point, _ in added]), np.array([label for _, label in added], np.int64)
        prompts = prompts.with_point(points, labels)
        predictions = segmenter.predict(embedded, prompts)
        measurements += _measure_single(segmenter.name, start, step, predictions, added, instances)
    return measurements


def _measure_single(
    method: str,
    start: Start,
    step: int,
    predictions: Predictions,
    added: Sequence[tuple[NDArray[np.float32], int]] | None,
    instances: _PhotoInstances,
) -> list[Measurement]:
    """Measure output 0; `added` holds position and label of the newest correction points."""
    measurements = []
    for row, (logits,) in enumerate(predictions.mask_logits):
        mask = image_mask(logits, instances.frame)
        is_obeyed = None if added is None else obeys(mask, *added[row], instances.frame.resize)
        predicted = float(predictions.predicted_iou[row, 0])
        measurements.append(
            instances.measurement(
                row, mask, method=method, start=start, step=step, choice="single", predicted=predicted,
                is_obeyed=is_obeyed,
            )
        )  # fmt: skip
    return measurements


def _measure_four(method: str, four: Predictions, instances: _PhotoInstances) -> list[Measurement]:
    """Measure the mask that the service shows first, the most stable one and the best one of four."""
    measurements = []
    for row in range(len(instances.objects)):
        masks = [
            instances.measurement(
                row,
                image_mask(four.mask_logits[row, index], instances.frame),
                method=method,
                start="point",
                step=0,
                choice="auto",
                predicted=float(four.predicted_iou[row, index]),
                score=float(four.score[row, index].clip(0.0, 1.0)),
            )
            for index in range(four.score.shape[1])
        ]
        most_stable = masks[int(four.stability[row].argmax())]
        best = max(masks, key=lambda mask: -1.0 if math.isnan(mask.iou) else mask.iou)
        measurements += [masks[0], replace(most_stable, choice="stability"), replace(best, choice="oracle")]
    return measurements


def _measure_baselines(instances: _PhotoInstances) -> list[Measurement]:
    image = instances.photo.image()

    def measure(name: str, method: Baseline, start: Start) -> list[Measurement]:
        in_frame = [(one.box if start == "box" else one.centre).reshape(-1, 2) for one in instances.objects]
        prompts = [points_from_frame(points, instances.frame).astype(np.float32) for points in in_frame]
        return [
            instances.measurement(
                row, method(image, prompt.reshape(-1)), method=name, start=start, step=0, choice="single"
            )
            for row, prompt in enumerate(prompts)
        ]

    measurements = [one for name, method in FROM_BOX.items() for one in measure(name, method, "box")]
    return measurements + [one for name, method in FROM_POINT.items() for one in measure(name, method, "point")]
