"""EdgeSAM's evaluation: each object is asked for with its box and with its middle, then corrected twice.

Protocol: docs/explanation/model.md, section 8.1.

Every answer goes to the photo's own resolution, and so does the ground truth. Objects count alike, whatever their
class.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from model_store.evaluation.baselines import FROM_BOX, FROM_CLICK, Baseline
from model_store.evaluation.instances import Instance, correction, instance, obeys, to_photo, valid_cells
from model_store.evaluation.measures import boundary_iou, iou, pieces, size_class
from model_store.evaluation.processes import Progress, Work, map_photos
from model_store.evaluation.segmenters import Answers, Asked, Segmenter
from model_store.training.data.annotations import PhotoRecord
from service.sam.prompts import POSITIVE
from service.sam.transforms import input_size

Start = Literal["box", "point"]
STARTS: tuple[Start, ...] = ("box", "point")

Choice = Literal["single", "auto", "stability", "oracle"]
OpenSegmenters = Callable[[], AbstractContextManager[Sequence[Segmenter]]]


@dataclass(frozen=True, slots=True)
class Protocol:
    """How much is measured.

    Args:
        corrections: clicks after the first prompt.
        max_instances: of a photo; drawn with replacement, by the photo's place, where it has more; None takes all.
        max_photos: spread over the list; None takes all.
        multimask: also measure the four masks of the first click: the one that the service shows first, the most
            stable one, and the best one.
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
        choice: which output: "single" is output 0, "auto" the first of four as the service orders them, "stability"
            the most stable of four, "oracle" the best of four.
        photo: place of the photo in the list.
        mask: place of the mask among those of the photo.
        source: of the photo, "" where the data set does not say.
        area: of the annotation, pixels.
        iou: with the ground truth; NaN where both are empty.
        pieces: 8-connected components of the answer.
        boundary: IoU of the outlines; NaN where it was not measured.
        predicted: the model's own IoU; NaN of baselines.
        score: what the model orders four masks by; NaN of single masks.
        is_obeyed: whether the answer does what the click before it asked for; None where there was none.
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
    open_segmenters: OpenSegmenters,
    protocol: Protocol,
    *,
    baselines: bool = True,
    processes: int = 1,
    progress: Progress = lambda _done, _all: None,
) -> list[Finding]:
    """Measures all methods on the same objects.

    Args:
        photos: with their masks.
        open_segmenters: opens the models to ask; each process does so, and for more than one it is sent to them.
        protocol: how much.
        baselines: also measure the methods of `baselines`.
        processes: that measure, each on photos of its own; the findings are the same.
        progress: is told (photos done, photos in all).
    """
    open_work = partial(_measuring, open_segmenters, protocol, baselines=baselines)
    places = chosen_photos(photos, protocol)
    of_photos = map_photos(open_work, photos, places, processes=processes, progress=progress)
    return [finding for findings in of_photos for finding in findings]


@contextmanager
def _measuring(
    open_segmenters: OpenSegmenters, protocol: Protocol, *, baselines: bool
) -> Iterator[Work[list[Finding]]]:
    with open_segmenters() as segmenters:
        yield partial(_measure, segmenters, protocol, baselines=baselines)


def _measure(
    segmenters: Sequence[Segmenter], protocol: Protocol, place: int, photo: PhotoRecord, *, baselines: bool
) -> list[Finding]:
    masks = chosen_masks(photo, place, protocol)
    objects = [instance(photo.masks[mask], photo.size) for mask in masks]
    note = _Note(place, photo, masks, objects, has_boundary=protocol.boundary)
    findings = [finding for segmenter in segmenters for finding in _ask(segmenter, note, protocol)]
    return findings + (_ask_baselines(note) if baselines else [])


@dataclass(frozen=True, slots=True)
class _Note:
    """The objects of a photo, and how findings about them are written down."""

    place: int
    photo: PhotoRecord
    masks: list[int]
    objects: list[Instance]
    has_boundary: bool

    def finding(self, row: int, answer: NDArray[np.bool_], **rest: Any) -> Finding:
        truth = self.objects[row].truth
        return Finding(
            photo=self.place,
            mask=self.masks[row],
            source=self.photo.source,
            area=self.objects[row].area,
            iou=iou(answer, truth),
            pieces=pieces(answer),
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


def _ask(segmenter: Segmenter, note: _Note, protocol: Protocol) -> list[Finding]:
    embedded = segmenter.embed(note.photo)
    findings = []
    for start in STARTS:
        asked = first_prompts(note.objects, start)
        if start == "point" and protocol.multimask:
            answers, four = segmenter.answer_click(embedded, asked)
            findings += _of_four(segmenter.name, four, note)
        else:
            answers = segmenter.answer(embedded, asked)
        findings += _corrected(segmenter, embedded, asked, answers, start, note, protocol)
    return findings


def _corrected(
    segmenter: Segmenter, embedded: Any, asked: Asked, answers: Answers, start: Start, note: _Note, protocol: Protocol
) -> list[Finding]:
    """The answers to the first prompts, and to the same prompts with one correction after the other."""
    # The same numbers for every method, so that only their answers differ.
    random = np.random.default_rng((protocol.seed, note.place, STARTS.index(start)))
    valid = valid_cells(note.photo.size)
    findings = _of_single(segmenter.name, start, 0, answers, None, note)
    for step in range(1, protocol.corrections + 1):
        logits = answers.mask_logits[:, 0]
        clicks = [correction(logits[row], one.cells, valid, random) for row, one in enumerate(note.objects)]
        points, labels = np.stack([point for point, _ in clicks]), np.array([label for _, label in clicks], np.int64)
        asked = asked.with_click(points, labels)
        answers = segmenter.answer(embedded, asked)
        findings += _of_single(segmenter.name, start, step, answers, clicks, note)
    return findings


def _of_single(
    method: str,
    start: Start,
    step: int,
    answers: Answers,
    clicks: Sequence[tuple[NDArray[np.float32], int]] | None,
    note: _Note,
) -> list[Finding]:
    findings = []
    for row, (logits,) in enumerate(answers.mask_logits):
        mask = to_photo(logits, note.photo.size)
        is_obeyed = None if clicks is None else obeys(mask, *clicks[row])
        predicted = float(answers.predicted_iou[row, 0])
        findings.append(
            note.finding(
                row, mask, method=method, start=start, step=step, choice="single", predicted=predicted,
                is_obeyed=is_obeyed,
            )
        )  # fmt: skip
    return findings


def _of_four(method: str, four: Answers, note: _Note) -> list[Finding]:
    """What a user gets who is shown the first mask, or the most stable one, and who picks the best."""
    findings = []
    for row in range(len(note.objects)):
        masks = [
            note.finding(
                row,
                to_photo(four.mask_logits[row, place], note.photo.size),
                method=method,
                start="point",
                step=0,
                choice="auto",
                predicted=float(four.predicted_iou[row, place]),
                score=float(four.score[row, place]),
            )
            for place in range(four.score.shape[1])
        ]
        most_stable = masks[int(four.stability[row].argmax())]
        best = max(masks, key=lambda one: -1.0 if math.isnan(one.iou) else one.iou)
        findings += [masks[0], replace(most_stable, choice="stability"), replace(best, choice="oracle")]
    return findings


def _ask_baselines(note: _Note) -> list[Finding]:
    image, size = note.photo.image(), note.photo.size
    height, width = input_size(size)
    scale = np.array([size[1] / width, size[0] / height], np.float32)

    def of(name: str, method: Baseline, start: Start) -> list[Finding]:
        places = [(one.box if start == "box" else one.middle).reshape(-1, 2) * scale for one in note.objects]
        return [
            note.finding(row, method(image, place.reshape(-1)), method=name, start=start, step=0, choice="single")
            for row, place in enumerate(places)
        ]

    findings = [finding for name, method in FROM_BOX.items() for finding in of(name, method, "box")]
    return findings + [finding for name, method in FROM_CLICK.items() for finding in of(name, method, "point")]
