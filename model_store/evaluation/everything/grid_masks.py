"""The masks of a grid of points on each photo with their true IoU: the data of the choice of defaults."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from model_store.evaluation.parallel import OnProgress, Work, map_photos
from model_store.evaluation.segmenters.onnx_segmenter import OnnxSegmenter
from model_store.evaluation.segmenters.segmenter import PromptBatch
from model_store.training.data.annotations import PhotoRecord
from service.native.masks import native_masks
from service.sam.everything.duplicates import inclusive_boxes
from service.sam.everything.filters import stability_scores
from service.sam.everything.grid import grid_points
from service.sam.everything.options import STABILITY_OFFSET
from service.sam.frame import Frame
from service.sam.masks import binary_mask
from service.sam.prompts import POSITIVE
from service.sam.rle import encode_rle
from service.sam.transforms import points_to_frame, used_cells

_POINTS_PER_CALL = 16


@dataclass(frozen=True, slots=True, eq=False)
class GridMasks:
    """All masks of a grid on one photo: those of n outputs, ordered by point, then output.

    Attributes:
        output: Output of the decoder, (n,) int64.
        predicted_iou: Predicted IoU, (n,) float32.
        stability: Stability of all logits, as models are ranked by it, (n,) float32.
        stability_score: Stability of the logits inside the photo, by which masks are filtered, (n,) float32.
        boxes: Boxes, (n, 4) int64 as x0, y0, x1, y1, pixels, inclusive at the end.
        is_empty: Whether the mask has no pixel, (n,) bool.
        iou: True IoU with each object of the photo, (n, objects) float32.
    """

    output: NDArray[np.int64]
    predicted_iou: NDArray[np.float32]
    stability: NDArray[np.float32]
    stability_score: NDArray[np.float32]
    boxes: NDArray[np.int64]
    is_empty: NDArray[np.bool_]
    iou: NDArray[np.float32]


def grid_masks(
    model: Path,
    photos: Sequence[PhotoRecord],
    indices: Sequence[int],
    points_per_side: int,
    *,
    processes: int = 1,
    threads: int = 0,
    on_progress: OnProgress = lambda _done, _all: None,
) -> list[GridMasks]:
    """Return the masks of a grid on each photo, computed by the graphs of an artifact.

    Args:
        model: Folder of the artifact.
        photos: Records with masks.
        indices: Indices of the photos to measure.
        points_per_side: Points along each side of a photo.
        processes: Number of processes, each with photos of its own.
        threads: Number of threads of a process; 0 leaves it to the libraries.
        on_progress: Callback that receives (photos done, photos in all).
    """
    open_work = partial(_open_work, model, threads, points_per_side)
    return map_photos(open_work, photos, indices, processes=processes, on_progress=on_progress)


@contextmanager
def _open_work(model: Path, threads: int, points_per_side: int) -> Iterator[Work[GridMasks]]:
    if threads:
        cv2.setNumThreads(threads)
    yield partial(_of_photo, OnnxSegmenter(model, threads=threads), points_per_side)


def _of_photo(segmenter: OnnxSegmenter, points_per_side: int, _index: int, photo: PhotoRecord) -> GridMasks:
    frame = Frame(photo.size, segmenter.resize)
    height, width = photo.size
    points = points_to_frame(grid_points(points_per_side) * (width, height), frame)[:, np.newaxis]
    labels = np.full((len(points), 1), POSITIVE, np.int64)
    embedded = segmenter.embed(photo)
    parts = []
    for start in range(0, len(points), _POINTS_PER_CALL):
        chunk = slice(start, start + _POINTS_PER_CALL)
        answers = segmenter.outputs(embedded, PromptBatch(None, points[chunk], labels[chunk]))
        logits = answers.mask_logits.reshape(-1, *answers.mask_logits.shape[2:])
        parts.append(_measured(logits, answers.predicted_iou.ravel(), answers.stability.ravel(), frame, photo))
    return GridMasks(*(np.concatenate([getattr(part, name) for part in parts]) for name in GridMasks.__slots__))


def _measured(
    logits: NDArray[np.float32],
    predicted_iou: NDArray[np.float32],
    stability: NDArray[np.float32],
    frame: Frame,
    photo: PhotoRecord,
) -> GridMasks:
    native = native_masks()
    enlarge = binary_mask if native is None else native.binary_mask
    masks = [enlarge(each, frame) for each in logits]
    rows, columns = used_cells(frame)
    objects = [mask.rle for mask in photo.masks]
    return GridMasks(
        output=np.arange(len(masks)) % 4,
        predicted_iou=predicted_iou,
        stability=stability,
        stability_score=stability_scores([each[:rows, :columns] for each in logits], STABILITY_OFFSET),
        boxes=inclusive_boxes([mask.box for mask in masks]),
        is_empty=np.array([mask.area == 0 for mask in masks]),
        iou=np.asarray(coco.iou([encode_rle(mask) for mask in masks], objects, [0] * len(objects)), np.float32),
    )
