"""EdgeSAM's evaluation (SPEC 8.1): each object is asked for with its box and with its middle, then corrected twice.

Every answer goes to the photo's own resolution, and so does the ground truth; the figure is the mean IoU of all
objects, not of classes.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from model_store.evaluation.baselines import FROM_BOX, FROM_CLICK, Baseline
from model_store.evaluation.instances import Instance, correction, instance, to_photo, valid_cells
from model_store.evaluation.measures import boundary_iou, iou, size_class
from model_store.evaluation.segmenters import Asked, Segmenter
from model_store.training.data.annotations import PhotoRecord
from service.sam.prompts import POSITIVE
from service.sam.transforms import Size, input_size

Start = Literal["box", "point"]
STARTS: tuple[Start, ...] = ("box", "point")

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Protocol:
    """How much is measured.

    Args:
        corrections: clicks after the first prompt.
        max_instances: of a photo; drawn with replacement, by the photo's place, where it has more; None takes all.
        max_photos: spread over the list; None takes all.
        multimask: also measure the best of four outputs by stability, and by the truth, for the first click.
        boundary: also measure the IoU of outlines.
        seed: of corrections.
    """

    corrections: int = 2
    max_instances: int | None = None
    max_photos: int | None = None
    multimask: bool = True
    boundary: bool = True
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Finding:
    """One answer and how good it is.

    Attributes:
        method: who answered.
        start: box or point.
        step: corrections before it; 0 is the first prompt.
        choice: which output: "single" is output 0, "stability" the most stable of four, "oracle" the best of four.
        photo: place of the photo in the list.
        mask: place of the mask among those of the photo.
        area: of the annotation, pixels.
        iou: with the ground truth; NaN where both are empty.
        boundary: IoU of the outlines; NaN where it was not measured.
        predicted: the model's own IoU; NaN of baselines.
    """

    method: str
    start: Start
    step: int
    choice: str
    photo: int
    mask: int
    area: int
    iou: float
    boundary: float = math.nan
    predicted: float = math.nan

    @property
    def size(self) -> str:
        """small, medium or large."""
        return size_class(self.area)


def chosen_photos(photos: Sequence[PhotoRecord], protocol: Protocol) -> list[int]:
    """Places of the photos that are measured."""
    count = len(photos) if protocol.max_photos is None else min(protocol.max_photos, len(photos))
    return sorted({round(place) for place in np.linspace(0, len(photos) - 1, count)})


def chosen_masks(photo: PhotoRecord, place: int, protocol: Protocol) -> list[int]:
    """Places of the masks of a photo that are measured, one of them perhaps more than once."""
    count = len(photo.masks)
    if protocol.max_instances is None or count <= protocol.max_instances:
        return list(range(count))
    drawn: list[int] = np.random.default_rng(place).integers(0, count, protocol.max_instances).tolist()
    return drawn


def evaluate(
    photos: Sequence[PhotoRecord],
    segmenters: Sequence[Segmenter],
    protocol: Protocol,
    *,
    baselines: bool = True,
    progress: Progress = lambda _done, _all: None,
) -> list[Finding]:
    """Measures all methods on the same objects.

    Args:
        photos: with their masks.
        segmenters: models to ask.
        protocol: how much.
        baselines: also measure the methods of `baselines`.
        progress: is told (photos done, photos in all).
    """
    findings: list[Finding] = []
    places = chosen_photos(photos, protocol)
    for done, place in enumerate(places):
        progress(done, len(places))
        photo = photos[place]
        masks = chosen_masks(photo, place, protocol)
        objects = [instance(photo.masks[mask], photo.size) for mask in masks]
        note = _Note(place, photo.size, masks, objects, has_boundary=protocol.boundary)
        for segmenter in segmenters:
            findings += _ask(segmenter, photo, note, protocol)
        if baselines:
            findings += _ask_baselines(photo, note)
    progress(len(places), len(places))
    return findings


@dataclass(frozen=True, slots=True)
class _Note:
    """The objects of a photo, and how findings about them are written down."""

    place: int
    size: Size
    masks: list[int]
    objects: list[Instance]
    has_boundary: bool

    def finding(self, row: int, answer: NDArray[np.bool_], **rest: Any) -> Finding:
        truth = self.objects[row].truth
        return Finding(
            photo=self.place,
            mask=self.masks[row],
            area=self.objects[row].area,
            iou=iou(answer, truth),
            boundary=boundary_iou(answer, truth) if self.has_boundary else math.nan,
            **rest,
        )


def first_prompts(objects: Sequence[Instance], start: Start) -> Asked:
    """Boxes, or one positive click each."""
    count = len(objects)
    if start == "box":
        boxes = np.stack([one.box for one in objects])
        return Asked(boxes, np.zeros((count, 0, 2), np.float32), np.zeros((count, 0), np.int64))
    return Asked(None, np.stack([one.middle for one in objects])[:, None], np.full((count, 1), POSITIVE))


def _ask(segmenter: Segmenter, photo: PhotoRecord, note: _Note, protocol: Protocol) -> list[Finding]:
    embedded = segmenter.embed(photo)
    valid = valid_cells(photo.size)
    findings = []
    for start in STARTS:
        # The same numbers for every method, so that only their answers differ.
        random = np.random.default_rng((protocol.seed, note.place, STARTS.index(start)))
        asked = first_prompts(note.objects, start)
        for step in range(protocol.corrections + 1):
            answers = segmenter.answer(embedded, asked, 1)
            logits = answers.mask_logits[:, 0]
            for row in range(len(asked)):
                found = to_photo(logits[row], photo.size)
                predicted = float(answers.predicted_iou[row, 0])
                findings.append(
                    note.finding(
                        row, found, method=segmenter.name, start=start, step=step, choice="single", predicted=predicted
                    )
                )
            if step < protocol.corrections:
                clicks = [correction(logits[row], one.cells, valid, random) for row, one in enumerate(note.objects)]
                asked = asked.with_click(
                    np.stack([point for point, _ in clicks]), np.array([label for _, label in clicks], np.int64)
                )
        if start == "point" and protocol.multimask:
            findings += _ask_for_four(segmenter, embedded, photo.size, note)
    return findings


def _ask_for_four(segmenter: Segmenter, embedded: Any, size: Size, note: _Note) -> list[Finding]:
    """The first click again: what a user gets who is shown the most stable mask, and one who picks the best."""
    answers = segmenter.answer(embedded, first_prompts(note.objects, "point"), 4)
    findings = []
    for row in range(len(note.objects)):
        about = {"method": segmenter.name, "start": "point", "step": 0}
        outputs = [
            note.finding(row, to_photo(logits, size), choice="stability", predicted=float(predicted), **about)
            for logits, predicted in zip(answers.mask_logits[row], answers.predicted_iou[row], strict=True)
        ]
        best = max(outputs, key=lambda one: -1.0 if math.isnan(one.iou) else one.iou)
        findings += [outputs[int(answers.stability[row].argmax())], replace(best, choice="oracle")]
    return findings


def _ask_baselines(photo: PhotoRecord, note: _Note) -> list[Finding]:
    image = photo.image()
    height, width = input_size(photo.size)
    scale = np.array([photo.size[1] / width, photo.size[0] / height], np.float32)

    def of(name: str, method: Baseline, start: Start) -> list[Finding]:
        places = [(one.box if start == "box" else one.middle).reshape(-1, 2) * scale for one in note.objects]
        return [
            note.finding(row, method(image, place.reshape(-1)), method=name, start=start, step=0, choice="single")
            for row, place in enumerate(places)
        ]

    findings = [finding for name, method in FROM_BOX.items() for finding in of(name, method, "box")]
    return findings + [finding for name, method in FROM_CLICK.items() for finding in of(name, method, "point")]
