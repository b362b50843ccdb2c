"""The interface of segmenters, and the prompts and predictions that pass through it.

Letters: P prompts on one photo, N points each, n masks of a prompt.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from model_store.evaluation.ranking.scores import order_of, scores_of
from model_store.training.data.annotations import PhotoRecord
from service.sam.frame import Resize
from service.sam.masks import MaskChoice, narrow_stability

if TYPE_CHECKING:
    from service.mask_rules import AutoMasks, Ranking

Floats = NDArray[np.float32]

_CHUNK = 16  # prompts in a call; 256 KiB of logits a mask


@dataclass(frozen=True, slots=True, eq=False)
class PromptBatch:
    """P prompts of one form, in the frame.

    Attributes:
        boxes: Boxes, (P, 4), as x0, y0, x1, y1; None for prompts without boxes.
        points: Points (x, y), (P, N, 2).
        labels: Labels of the points, (P, N) int64; IGNORED is allowed.
    """

    boxes: Floats | None
    points: Floats
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.points)

    def rows(self, rows: slice) -> "PromptBatch":
        """Return some of the prompts."""
        boxes = None if self.boxes is None else self.boxes[rows]
        return PromptBatch(boxes, self.points[rows], self.labels[rows])

    def with_point(self, points: Floats, labels: NDArray[np.int64]) -> "PromptBatch":
        """Return the prompts with one more point each: (P, 2) in the frame, and labels (P,)."""
        return replace(
            self,
            points=np.concatenate([self.points, points[:, None]], axis=1),
            labels=np.concatenate([self.labels, labels[:, None]], axis=1),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Predictions:
    """n masks of each of P prompts.

    Attributes:
        mask_logits: Logits of the masks, (P, n, 256, 256).
        predicted_iou: IoU that the model predicts, (P, n).
        stability: Stability scores, (P, n), 0..1.
        score: Score by which the model orders the masks of a prompt, (P, n), not bounded.
    """

    mask_logits: Floats
    predicted_iou: Floats
    stability: Floats
    score: NDArray[np.floating]

    @classmethod
    def scored(cls, mask_logits: Floats, predicted_iou: Floats, stability: Floats, ranking: "Ranking") -> "Predictions":
        """Return predictions whose scores follow from a ranking rule."""
        return cls(mask_logits, predicted_iou, stability, scores_of(ranking, stability, predicted_iou))

    def best(self, outputs: Sequence[int]) -> "Predictions":
        """Return the mask with the highest score of some outputs of each prompt, n = 1."""
        return self.by_score(outputs).masks(slice(1))

    def only(self, masks: "AutoMasks") -> "Predictions":
        """Return the mask of each prompt that means one object, n = 1.

        Args:
            masks: Outputs that the model uses. With a fallback, its best mask stands for one that is not stable.
        """
        best = self.best(masks.other)
        if not masks.fallback:
            return best
        choice = MaskChoice(masks.ambiguous, masks.other, fallback=masks.fallback)
        others = self.best(masks.fallback)
        for row, stability in enumerate(narrow_stability(best.mask_logits[:, 0])):
            if choice.of_one(float(stability)) == masks.fallback:
                for name in self.__slots__:
                    getattr(best, name)[row] = getattr(others, name)[row]
        return best

    def by_score(self, outputs: Sequence[int] = (0, 1, 2, 3)) -> "Predictions":
        """Return some outputs of each prompt in the order in which the service shows them."""
        chosen = np.array(outputs)
        rows, order = np.arange(len(self.score))[:, None], chosen[order_of(self.score[:, chosen])]
        return Predictions(*(getattr(self, name)[rows, order] for name in self.__slots__))

    def masks(self, which: slice) -> "Predictions":
        """Return some masks of each prompt."""
        return Predictions(*(getattr(self, name)[:, which] for name in self.__slots__))


class Segmenter(Protocol):
    """A model that can be measured, however it runs.

    Attributes:
        name: Name in tables.
        resize: How the model's images get into the frame in which prompts are given.
    """

    name: str

    @property
    def resize(self) -> Resize: ...

    def embed(self, photo: PhotoRecord) -> Any:
        """Return the embedding of a photo, in the segmenter's own form."""
        ...

    def predict(self, embedded: Any, prompts: PromptBatch) -> Predictions:
        """Return the mask of each prompt that means one object, n = 1: output 0 for most models."""
        ...

    def predict_point(self, embedded: Any, prompts: PromptBatch) -> tuple[Predictions, Predictions]:
        """Return, for prompts of one point each, that mask and those of `auto` in the order of the service."""
        ...


def predict_in_chunks(prompts: PromptBatch, predict: Callable[[PromptBatch], Predictions]) -> Predictions:
    """Return the predictions of many prompts, made for a few prompts at a time to bound memory.

    Args:
        prompts: P prompts.
        predict: Function that predicts at most 16 prompts.
    """
    parts = [predict(prompts.rows(slice(start, start + _CHUNK))) for start in range(0, len(prompts), _CHUNK)]
    return Predictions(*(np.concatenate([getattr(part, name) for part in parts]) for name in Predictions.__slots__))
