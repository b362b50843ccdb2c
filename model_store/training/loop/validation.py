"""Validation during training: objects and prompts of the evaluation protocol on some photos, with the fast decoder.

The figures equal those of `model_store.evaluation` for the same photos.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model_store.evaluation.instances import Instance, correction, image_mask, make_instance, obeys, valid_cells
from model_store.evaluation.metrics import iou
from model_store.evaluation.protocol import STARTS, Protocol, selected_masks
from model_store.network.frames import frame
from model_store.network.mask_decoder import stability_score
from model_store.network.model import PromptableModel
from model_store.training.data.annotations import PhotoRecord
from model_store.training.objectives.fast_decoder import decode_tokens
from model_store.training.objectives.window_inputs import FramePrompts
from service.sam.frame import Frame
from service.sam.masks import rank
from service.sam.transforms import FRAME_SIZE

if TYPE_CHECKING:
    from service.mask_rules import Ranking

Bools = NDArray[np.bool_]
Floats = NDArray[np.float32]

PROTOCOL = Protocol(max_instances=4)
_STEPS = range(1, PROTOCOL.corrections + 1)
FIGURES = (
    *(f"val_{start}{suffix}" for start in STARTS for suffix in ("", *(f"_{step}" for step in _STEPS))),
    "val_auto",
    "val_oracle",
    *(f"val_obeyed_{step}" for step in _STEPS),
)
"""Names of the figures.

``val_box`` and ``val_point`` are mean IoUs of output 0 after a first prompt, ``val_box_1``, … those after corrections.
``val_auto`` is the mean IoU of the first of a point's four masks in the order of the model's ranking, ``val_oracle``
that of the best of the four. ``val_obeyed_1``, … are shares of the newest correction points that the mask obeys.
"""

SumOverProcesses = Callable[[Mapping[str, float]], Mapping[str, float]]
"""Function that sums values by name over the processes of a run."""


@dataclass(frozen=True, slots=True)
class ValidationPhoto:
    """A photo and its objects to measure.

    Attributes:
        index: Index of the photo in the list, which seeds the choice of objects and points, as in the protocol.
        record: Record of the photo.
        objects: Objects to measure.
    """

    index: int
    record: PhotoRecord
    objects: tuple[Instance, ...]

    @classmethod
    def of(cls, index: int, record: PhotoRecord) -> Self:
        """Choose the objects of a photo."""
        masks = selected_masks(record, index, PROTOCOL)
        return cls(index, record, tuple(make_instance(record.masks[mask], Frame(record.size)) for mask in masks))


@dataclass(frozen=True, slots=True)
class ValidationSet:
    """The photos that this process measures."""

    photos: tuple[ValidationPhoto, ...]

    @classmethod
    def of(cls, records: Sequence[PhotoRecord], *, every: int = 1, rank: int = 0, world_size: int = 1) -> Self:
        """Choose every k-th photo, and of those the share of this process.

        Args:
            records: All photos with their masks.
            every: Stride of the choice, k; 1 for all photos.
            rank: Rank of this process.
            world_size: Number of processes.

        Raises:
            ValueError: ``every`` is below 1.
        """
        if every < 1:
            raise ValueError(f"Every k-th photo is measured, k from 1, not {every}.")
        chosen = list(enumerate(records))[::every][rank::world_size]
        return cls(tuple(ValidationPhoto.of(index, record) for index, record in chosen))


@torch.no_grad()
def validate(
    model: nn.Module,
    validation: ValidationSet,
    *,
    ranking: "Ranking | None" = None,
    sum_over_processes: SumOverProcesses = dict,
) -> dict[str, float]:
    """Return the mean of each of `FIGURES` over all objects of all processes.

    Every process calls this function with its own photos.

    Args:
        model: A `PromptableModel` with the served frame. It is measured in eval mode and returned to its mode.
        validation: Photos of this process.
        ranking: Rule that orders the four masks of a click, for ``val_auto``; None for the stability score.
        sum_over_processes: Function that sums values over the processes, see `DistributedContext.sum`.

    Raises:
        ValueError: The model's frame is not 1024 pixels.
    """
    assert isinstance(model, PromptableModel)
    if model.prompt_encoder.frame_size != FRAME_SIZE:
        raise ValueError(f"The frame is {FRAME_SIZE} pixels, not {model.prompt_encoder.frame_size}.")
    was_training = model.training
    model.eval()
    sums = {f"{key} {part}": 0.0 for key in FIGURES for part in ("sum", "count")}
    code = model.prompt_encoder.dense_positional_code().flatten(2).transpose(1, 2)
    for photo in validation.photos:
        for key, value in _PhotoMeasurement(model, photo, code, ranking).figures():
            if np.isfinite(value):  # an empty mask of an empty object has no IoU
                sums[f"{key} sum"] += float(value)
                sums[f"{key} count"] += 1
    model.train(was_training)
    total = sum_over_processes(sums)
    return {key: total[f"{key} sum"] / max(total[f"{key} count"], 1.0) for key in FIGURES}


class _PhotoMeasurement:
    """Measures one photo: box and point prompts of all its objects, decoded together in each pass.

    Letters: n objects, P = 2·n prompts, boxes before points; s side of the logits.
    """

    def __init__(self, model: PromptableModel, photo: ValidationPhoto, code: Tensor, ranking: "Ranking | None") -> None:
        self._model, self._photo, self._code, self._ranking = model, photo, code, ranking
        pixels = frame(photo.record.image()).to(code.device)
        self._image = model.image_encoder(pixels).float().flatten(2).transpose(1, 2)  # (1, M, 256)
        self._valid = valid_cells(Frame(photo.record.size))

    def figures(self) -> Iterator[tuple[str, float]]:
        """Yield name and value of each figure of each object."""
        count = len(self._photo.objects)
        # As in the protocol, corrections of boxes and of points have separate random numbers.
        random = [np.random.default_rng((PROTOCOL.seed, self._photo.index, number)) for number in range(len(STARTS))]
        prompts = self._first_prompts()
        logits, predicted = self._decode(prompts)  # (P, 4, s, s), (P, 4)
        yield from self._ious(self._masks(logits), "")
        yield from self._choices(logits[count:], predicted[count:])
        for step in _STEPS:
            added = [
                correction(mask_logits, self._object(row).cells, self._valid, random[row // count])
                for row, mask_logits in enumerate(logits[:, 0])
            ]
            points, labels = np.stack([point for point, _ in added]), np.array([label for _, label in added])
            prompts = prompts.with_correction(
                *(torch.from_numpy(values).to(self._code.device) for values in (points, labels))
            )
            logits, _ = self._decode(prompts)
            masks = self._masks(logits)
            yield from self._ious(masks, f"_{step}")
            for mask, (point, label) in zip(masks, added, strict=True):
                is_obeyed = obeys(mask, point, label)
                if is_obeyed is not None:
                    yield f"val_obeyed_{step}", float(is_obeyed)

    def _first_prompts(self) -> FramePrompts:
        boxes, centres = (
            torch.from_numpy(np.stack([getattr(one, name) for one in self._photo.objects])).to(self._code.device)[None]
            for name in ("box", "centre")
        )
        count = 2 * boxes.shape[1]
        no_labels = torch.zeros(1, count, 0, dtype=torch.int64, device=boxes.device)
        return FramePrompts(boxes, centres, boxes.new_zeros(1, count, 0, 2), no_labels)

    def _decode(self, prompts: FramePrompts) -> tuple[Floats, Floats]:
        encoder = self._model.prompt_encoder
        logits, predicted = decode_tokens(
            self._model.mask_decoder,
            self._image,
            self._code,
            prompts.tokens(encoder),
            prompts.count,
            no_mask=encoder.no_mask_embed.weight,
        )
        return logits.cpu().numpy(), predicted.cpu().numpy()

    def _masks(self, logits: Floats) -> list[Bools]:
        """Return output 0 of each prompt as a mask of the photo, (H, W)."""
        return [image_mask(mask_logits, Frame(self._photo.record.size)) for mask_logits in logits[:, 0]]

    def _ious(self, masks: Sequence[Bools], suffix: str) -> Iterator[tuple[str, float]]:
        for row, mask in enumerate(masks):
            start = STARTS[row // len(self._photo.objects)]
            yield f"val_{start}{suffix}", iou(mask, self._object(row).truth)

    def _choices(self, logits: Floats, predicted: Floats) -> Iterator[tuple[str, float]]:
        """Yield the IoU of the first mask and of the best mask, from logits (n, 4, s, s) and predicted IoUs (n, 4)."""
        stability = stability_score(torch.from_numpy(logits)).numpy()
        for row, one in enumerate(self._photo.objects):
            values = [
                iou(image_mask(mask_logits, Frame(self._photo.record.size)), one.truth) for mask_logits in logits[row]
            ]
            scores = stability[row].tolist()
            if self._ranking is not None:
                scores = self._ranking.scores(scores, predicted[row].tolist())
            yield "val_auto", values[rank(scores, range(len(values)))[0]]
            yield "val_oracle", max(values, key=lambda value: -1.0 if math.isnan(value) else value)

    def _object(self, row: int) -> Instance:
        """Return the object of a prompt."""
        return self._photo.objects[row % len(self._photo.objects)]
