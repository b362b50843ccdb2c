"""The four outputs of a click on each object, with their true IoU: what a ranking rule is fitted and measured on."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from model_store.evaluation.instances import instance, to_photo
from model_store.evaluation.measures import iou
from model_store.evaluation.processes import Progress, Work, map_photos
from model_store.evaluation.protocol import Protocol, chosen_masks, chosen_photos, first_prompts
from model_store.evaluation.ranking.rule import Doubles, order_of, scores_of
from model_store.evaluation.segmenters import GraphSegmenter
from model_store.training.data.annotations import PhotoRecord
from service.manifest import Ranking


@dataclass(frozen=True, slots=True, eq=False)
class ClickOutputs:
    """Outputs of one click in the middle of each of n objects.

    Attributes:
        photos: (n,) photo of each object; objects of one photo are never parted in cross-validation.
        iou: (n, 4) true IoU of each output, 0..1.
        stability: (n, 4) stability scores, 0..1.
        predicted_iou: (n, 4) predicted IoUs.
    """

    photos: NDArray[np.int64]
    iou: Doubles
    stability: Doubles
    predicted_iou: Doubles

    def __len__(self) -> int:
        return len(self.photos)

    def rows(self, rows: NDArray[np.bool_]) -> "ClickOutputs":
        """Some of the objects."""
        return ClickOutputs(*(getattr(self, name)[rows] for name in self.__slots__))

    def chosen(self, ranking: Ranking) -> tuple[NDArray[np.int64], Doubles, Doubles]:
        """The output that a rule puts first, its true IoU and its score, (n,) each."""
        scores = scores_of(ranking, self.stability, self.predicted_iou)
        first, every = order_of(scores)[:, 0], np.arange(len(self))
        return first, self.iou[every, first], scores[every, first]


def click_outputs(
    model: Path,
    photos: Sequence[PhotoRecord],
    protocol: Protocol,
    *,
    processes: int = 1,
    threads: int = 0,
    progress: Progress = lambda _done, _all: None,
) -> ClickOutputs:
    """Ask the graphs of an artifact for the four outputs of a click on each object.

    Args:
        model: Folder of the artifact.
        photos: Records with masks.
        protocol: Decides which photos and objects are asked for.
        processes: Processes that ask, each on photos of its own.
        threads: Threads of a process; 0 leaves it to the libraries.
        progress: Callback that is told (photos done, photos in all).

    Returns:
        The outputs of all objects whose true IoU is known.
    """
    places = chosen_photos(photos, protocol)
    open_work = partial(_asking, model, threads, protocol)
    rows = np.concatenate(map_photos(open_work, photos, places, processes=processes, progress=progress))
    rows = rows[np.isfinite(rows).all(axis=1)]  # the IoU is NaN where an annotation has no pixel and the answer neither
    return ClickOutputs(rows[:, 0].astype(np.int64), rows[:, 1:5], rows[:, 5:9], rows[:, 9:13])


@contextmanager
def _asking(model: Path, threads: int, protocol: Protocol) -> Iterator[Work[Doubles]]:
    if threads:
        cv2.setNumThreads(threads)
    yield partial(_rows, GraphSegmenter(model, threads=threads), protocol)


def _rows(segmenter: GraphSegmenter, protocol: Protocol, place: int, photo: PhotoRecord) -> Doubles:
    """(objects, 13): place of the photo, then IoU, stability and predicted IoU of four outputs."""
    objects = [instance(photo.masks[mask], photo.size) for mask in chosen_masks(photo, place, protocol)]
    outputs = segmenter.outputs(segmenter.embed(photo), first_prompts(objects, "point"))
    true = [
        [iou(to_photo(logits, photo.size), one.truth) for logits in four]
        for one, four in zip(objects, outputs.mask_logits, strict=True)
    ]
    where = np.full((len(objects), 1), place)
    return np.hstack([where, np.array(true), outputs.stability, outputs.predicted_iou]).astype(np.float64)
