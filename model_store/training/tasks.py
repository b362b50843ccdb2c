"""What a run learns: annotated masks, a teacher's features, a teacher's masks, or boxes for the granularity module.

A task draws its batches and computes the losses of one; the run around it (time, weights, state) is the same for all.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from model_store.network.granularity_module import GranularityModule
from model_store.network.model import PromptableModel
from model_store.training.data.augmentation import Augmentation, Batch, make_batch
from model_store.training.data.letterboxed import LetterboxedBatch
from model_store.training.data.sources import Source
from model_store.training.data.teacher_features import FeatureCache
from model_store.training.objectives.annotated import AnnotatedLoop, annotated_step, mask_boxes
from model_store.training.objectives.distilled import TeacherLoop, prompt_passes, valid_cells
from model_store.training.objectives.granularity import BoxLoss, box_losses
from model_store.training.objectives.losses import Division, StepLosses, feature_mse
from model_store.training.objectives.prompt_sets import Promptable


class Task(nn.Module, ABC):
    """A module, so that its step can be distributed.

    Attributes:
        learner: what learns, and what is saved.
    """

    learner: nn.Module

    @abstractmethod
    def draw(self, count: int, frame_size: int, generator: torch.Generator) -> Any:
        """A batch of `count` pictures on the learner's device; `generator` is of the CPU."""

    @abstractmethod
    def forward(self, batch: Any, generator: torch.Generator) -> StepLosses:
        """Losses of a batch that `draw` gave; `generator` is of the device."""

    def start(self) -> None:
        """Put the parts into the mode in which they learn."""
        self.learner.train()


class AnnotatedTask(Task):
    """The prompt loop on annotated masks.

    Args:
        model: all of it learns.
        source: photos with masks.
        loop: what a step asks.
        augmentation: how photos are varied.
        max_masks: masks of a photo that are looked at in a step.
    """

    def __init__(
        self,
        model: PromptableModel,
        source: Source,
        loop: AnnotatedLoop | None = None,
        augmentation: Augmentation | None = None,
        *,
        max_masks: int = 20,
    ) -> None:
        super().__init__()
        self.learner = self.model = model
        self._source, self._max_masks = source, max_masks
        self._loop, self._augmentation = loop or AnnotatedLoop(), augmentation or Augmentation()

    def draw(self, count: int, frame_size: int, generator: torch.Generator) -> Batch:
        shelf, chosen = self._source.draw(count, generator)
        return make_batch(shelf, chosen, frame_size, self._augmentation, max_masks=self._max_masks, generator=generator)

    def forward(self, batch: Batch, generator: torch.Generator) -> StepLosses:
        return annotated_step(self.model, batch, self._loop, generator)


class FeatureTask(Task):
    """Stage 1: the student's image embedding learns the teacher's (SPEC 7.2).

    Args:
        model: the student, whose encoder learns.
        batches: endless photos at the frame size of the cache.
        cache: the teacher's features.
        division: see `losses.feature_mse`.
    """

    def __init__(
        self,
        model: PromptableModel,
        batches: Iterator[LetterboxedBatch],
        cache: FeatureCache,
        *,
        division: Division = "each",
    ) -> None:
        super().__init__()
        # The decoder has no part in this; it must not be waited for when gradients are exchanged.
        self.learner = model
        self.encoder = model.image_encoder
        model.prompt_encoder.requires_grad_(False)
        model.mask_decoder.requires_grad_(False)
        self._batches, self._cache, self._division = batches, cache, division

    def draw(self, count: int, frame_size: int, generator: torch.Generator) -> LetterboxedBatch:  # noqa: ARG002 - the batches come in their own order
        return next(self._batches).to(_device(self.learner))

    def forward(self, batch: LetterboxedBatch, generator: torch.Generator) -> StepLosses:  # noqa: ARG002 - nothing is drawn
        features = self._cache.get(batch.places).to(batch.frames.device)
        embedding = self.encoder(batch.frames).float()
        loss = feature_mse(embedding, features, valid_cells(batch.valid), division=self._division)
        return StepLosses(loss, {})


class PromptTask(Task):
    """Stage 2: the student's masks learn the teacher's, with prompts in the loop (SPEC 7.4).

    Args:
        model: the student; its encoder and mask decoder learn, its prompt encoder is frozen.
        teacher: frozen; only its prompt encoder and mask decoder are used.
        batches: endless photos at the frame size of the cache.
        cache: the teacher's features.
        loop: weights and number of passes.
    """

    def __init__(
        self,
        model: PromptableModel,
        teacher: Promptable,
        batches: Iterator[LetterboxedBatch],
        cache: FeatureCache,
        loop: TeacherLoop | None = None,
    ) -> None:
        super().__init__()
        self.learner = self.model = model
        model.prompt_encoder.requires_grad_(False)
        # The student's score stays what it was: PromptableModel does not distil it (SPEC 7.5).
        model.mask_decoder.iou_prediction_head.requires_grad_(False)
        self._teacher = [teacher]  # in a list, or it would be saved and distributed with the student
        self._batches, self._cache, self._loop = batches, cache, loop or TeacherLoop()

    def draw(self, count: int, frame_size: int, generator: torch.Generator) -> LetterboxedBatch:  # noqa: ARG002 - the batches come in their own order
        return next(self._batches).to(_device(self.learner))

    def forward(self, batch: LetterboxedBatch, generator: torch.Generator) -> StepLosses:
        is_box = bool(torch.rand((), generator=generator, device=batch.frames.device) < 0.5)
        embeddings = (self.model.image_encoder(batch.frames), self._cache.get(batch.places).to(batch.frames.device))
        passes = prompt_passes(
            self.model,
            self._teacher[0],
            embeddings,
            start="box" if is_box else "point",
            pictures=batch.pictures,
            prompts=batch.boxes if is_box else batch.clicks,
            valid=batch.valid,
            loop=self._loop,
            generator=generator,
        )
        total = torch.stack([one.bce + one.dice for one in passes]).sum()
        parts = {
            "bce": torch.stack([one.bce.detach() for one in passes]).sum(),
            "dice": torch.stack([one.dice.detach() for one in passes]).sum(),
        }
        return StepLosses(total, parts)


class GranularityTask(Task):
    """Stage 3: the granularity module learns boxes on the frozen encoder (SPEC 6).

    Args:
        model: whose encoder is looked at; nothing of it learns.
        module: learns.
        source: photos with masks; the boxes of the masks are to be found.
        augmentation: how photos are varied.
        loss: weights and thresholds.
        max_masks: masks of a photo that are looked at in a step.
    """

    def __init__(
        self,
        model: PromptableModel,
        module: GranularityModule,
        source: Source,
        augmentation: Augmentation | None = None,
        loss: BoxLoss | None = None,
        *,
        max_masks: int = 40,
    ) -> None:
        super().__init__()
        self.learner = self.module = module
        self._encoder = [model.eval().requires_grad_(False).image_encoder]  # in a list: it is not distributed
        self._source, self._max_masks = source, max_masks
        self._augmentation, self._loss = augmentation or Augmentation(), loss

    def draw(self, count: int, frame_size: int, generator: torch.Generator) -> Batch:
        shelf, chosen = self._source.draw(count, generator)
        return make_batch(shelf, chosen, frame_size, self._augmentation, max_masks=self._max_masks, generator=generator)

    def forward(self, batch: Batch, generator: torch.Generator) -> StepLosses:  # noqa: ARG002 - nothing is drawn
        with torch.no_grad():
            stages = self._encoder[0].stages(batch.frames)
        logits, deltas = self.module(stages)
        boxes = [mask_boxes(masks[weights > 0]) for masks, weights in zip(batch.masks, batch.weights, strict=True)]
        return box_losses(logits, deltas, boxes, batch.frames.shape[-1], self._loss)


def _device(module: nn.Module) -> torch.device:
    return next(module.parameters()).device
