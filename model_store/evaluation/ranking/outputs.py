"""The four outputs of a point prompt for each object with their true IoU: the data of a ranking rule's fit."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from model_store.evaluation.instances import image_mask, make_instance
from model_store.evaluation.metrics import iou
from model_store.evaluation.parallel import OnProgress, Work, map_photos
from model_store.evaluation.protocol import Protocol, first_prompts, selected_masks, selected_photos
from model_store.evaluation.ranking.scores import Doubles, order_of, scores_of
from model_store.evaluation.segmenters.onnx_segmenter import OnnxSegmenter
from model_store.training.data.annotations import PhotoRecord
from service.mask_rules import Ranking
from service.sam.frame import Frame


@dataclass(frozen=True, slots=True, eq=False)
class PointOutputs:
    """Outputs of one point prompt in the centre of each of n objects.

    Attributes:
        photos: Index of each object's photo, (n,); cross-validation keeps the objects of a photo together.
        iou: True IoUs, (n, 4), 0..1.
        stability: Stability scores, (n, 4), 0..1.
        predicted_iou: Predicted IoUs, (n, 4).
    """

    photos: NDArray[np.int64]
    iou: Doubles
    stability: Doubles
    predicted_iou: Doubles

    def __len__(self) -> int:
        return len(self.photos)

    def rows(self, rows: NDArray[np.bool_]) -> "PointOutputs":
        """Return some of the objects."""
        return PointOutputs(*(getattr(self, name)[rows] for name in self.__slots__))

    def chosen(self, ranking: Ranking) -> tuple[NDArray[np.int64], Doubles, Doubles]:
        """Return the output that a rule ranks first, its true IoU and its score as answers state it, (n,) each."""
        scores = scores_of(ranking, self.stability, self.predicted_iou)
        first, every = order_of(scores)[:, 0], np.arange(len(self))
        return first, self.iou[every, first], scores[every, first].clip(0.0, 1.0)


def point_outputs(
    model: Path,
    photos: Sequence[PhotoRecord],
    protocol: Protocol,
    *,
    processes: int = 1,
    threads: int = 0,
    on_progress: OnProgress = lambda _done, _all: None,
) -> PointOutputs:
    """Return the four outputs of a point prompt for each object, computed by the graphs of an artifact.

    Args:
        model: Folder of the artifact.
        photos: Records with masks.
        protocol: Choice of photos and objects.
        processes: Number of processes, each with photos of its own.
        threads: Number of threads of a process; 0 leaves it to the libraries.
        on_progress: Callback that receives (photos done, photos in all).

    Returns:
        The outputs of all objects whose true IoU is known.
    """
    indices = selected_photos(photos, protocol)
    open_work = partial(_open_work, model, threads, protocol)
    rows = np.concatenate(map_photos(open_work, photos, indices, processes=processes, on_progress=on_progress))
    rows = rows[np.isfinite(rows).all(axis=1)]  # the IoU is NaN where annotation and mask are empty
    return PointOutputs(rows[:, 0].astype(np.int64), rows[:, 1:5], rows[:, 5:9], rows[:, 9:13])


@contextmanager
def _open_work(model: Path, threads: int, protocol: Protocol) -> Iterator[Work[Doubles]]:
    if threads:
        cv2.setNumThreads(threads)
    yield partial(_photo_rows, OnnxSegmenter(model, threads=threads), protocol)


def _photo_rows(segmenter: OnnxSegmenter, protocol: Protocol, index: int, photo: PhotoRecord) -> Doubles:
    """Return (objects, 13): index of the photo, then IoU, stability and predicted IoU of four outputs."""
    frame = Frame(photo.size, segmenter.resize)
    objects = [make_instance(photo.masks[mask], frame) for mask in selected_masks(photo, index, protocol)]
    outputs = segmenter.outputs(segmenter.embed(photo), first_prompts(objects, "point"))
    true = [
        [iou(image_mask(logits, frame), one.truth) for logits in four]
        for one, four in zip(objects, outputs.mask_logits, strict=True)
    ]
    where = np.full((len(objects), 1), index)
    return np.hstack([where, np.array(true), outputs.stability, outputs.predicted_iou]).astype(np.float64)
