"""What a run learns: annotated masks, a teacher's features, a teacher's masks, or boxes for the granularity module.

A task makes its batches and computes the losses of one; the run around it (budget, weights, state) is the same for all.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from model_store.checkpoint import save_checkpoint
from model_store.network.granularity_module import GranularityModule
from model_store.network.model import PromptableModel
from model_store.training.data.letterboxed import LetterboxedBatch
from model_store.training.data.teacher_features import FeatureCache
from model_store.training.data.window_loader import WindowLoader
from model_store.training.data.windows import WindowBatch
from model_store.training.loop.optimiser import ParameterGroups
from model_store.training.objectives.annotated import AnnotatedLoop, annotated_step
from model_store.training.objectives.distilled import TeacherLoop, prompt_passes, valid_cells
from model_store.training.objectives.granularity import BoxLoss, box_losses
from model_store.training.objectives.losses import Division, StepLosses, feature_mse
from model_store.training.objectives.prompt_sets import Promptable

GRANULARITY = "granularity module"
"""Stands for an architecture in the state of a run that trains the module."""
_LEAST_STATISTICS = 2  # cells of the encoder's coarsest map, in all windows of a step
Batches = Callable[[int], Iterator[LetterboxedBatch]]


class Batch(Protocol):
    """What one step learns from."""

    @property
    def frames(self) -> Tensor:
        """(B, 3, S, S); B counts as images."""


B = TypeVar("B", bound=Batch)


@dataclass(frozen=True, slots=True)
class Generators:
    """Random numbers of one step.

    Args:
        own: Numbers of this process, on the device of the model.
        shared: Numbers that are the same in all processes, on the CPU: for choices that decide how much a step
            computes, since the processes wait for each other at each step.
    """

    own: torch.Generator
    shared: torch.Generator


class Task(ABC, Generic[B]):
    """What a run learns.

    Attributes:
        model: Network that learns, and that is saved.
        architecture: Name of the model's architecture; the state of a run keeps it.
        weights_name: File name of the weights that a run leaves.
    """

    model: nn.Module
    architecture: str
    weights_name = "model.safetensors"

    @abstractmethod
    def parameter_groups(self) -> ParameterGroups:
        """Return the parameters that learn, each group with its factor of the learning rate."""

    @abstractmethod
    def begin(self, first_step: int, progress_at: Callable[[int], float]) -> None:
        """Put the model into the mode in which it learns, and prepare batches.

        Args:
            first_step: Step of the first batch.
            progress_at: Share of the budget that has passed at a step.
        """

    @abstractmethod
    def next_batch(self) -> B:
        """Return the next batch, on the device of the model."""

    @abstractmethod
    def backward(self, batch: B, generators: Generators) -> StepLosses:
        """Compute the losses of a batch from `next_batch`, and add their gradients to those of the parameters."""

    def save_weights(self, model: nn.Module, path: Path) -> None:
        """Write weights, averaged ones for instance, to a file with the suffix of `weights_name`."""
        assert isinstance(model, PromptableModel)
        save_checkpoint(model, path)

    def described(self) -> dict[str, Any]:
        """Return the task's settings as plain values, for the configuration of a run."""
        return {"architecture": self.architecture}


class AnnotatedTask(Task[WindowBatch]):
    """Prompts and corrections on annotated masks.

    Args:
        model: Encoder, prompt encoder and decoder learn.
        loader: Windows of photos with masks.
        loop: Settings of a step.

    Raises:
        ValueError: A batch is too small for the encoder's batch norms.
    """

    def __init__(self, model: PromptableModel, loader: WindowLoader, loop: AnnotatedLoop) -> None:
        self.model = self._whole = model
        self.architecture = model.architecture.name
        self._loader, self._loop = loader, loop
        self._batches: Iterator[WindowBatch] = iter(())
        smallest = model.image_encoder.frame_multiple
        for window in loader.windows:
            if window.batch * (window.pixels // smallest) ** 2 < _LEAST_STATISTICS:
                raise ValueError(
                    f"Steps of {window.batch} windows of {window.pixels} pixels are too small for {self.architecture}: "
                    "batch norms need statistics. Take more or larger windows."
                )

    def parameter_groups(self) -> ParameterGroups:
        return model_groups(self._whole)

    def begin(self, first_step: int, progress_at: Callable[[int], float]) -> None:
        self.model.train()
        self._batches = self._loader.batches(first_step, progress_at)

    def next_batch(self) -> WindowBatch:
        return next(self._batches).to(_device(self.model), non_blocking=True)

    def backward(self, batch: WindowBatch, generators: Generators) -> StepLosses:
        rounds = self._loop.draw_rounds(generators.shared)
        return annotated_step(self._whole, batch, self._loop, generators.own, rounds=rounds, backward=True)

    def described(self) -> dict[str, Any]:
        return {**super().described(), **self._loader.described(), "loop": asdict(self._loop)}


class LetterboxedTask(Task[LetterboxedBatch]):
    """A task on whole photos in random order.

    Args:
        batches: Makes endless batches, in another order for each first step.
    """

    def __init__(self, batches: Batches) -> None:
        self._make_batches = batches
        self._batches: Iterator[LetterboxedBatch] = iter(())

    def begin(self, first_step: int, progress_at: Callable[[int], float]) -> None:  # noqa: ARG002 - all steps are alike
        self.model.train()
        self._batches = self._make_batches(first_step)

    def next_batch(self) -> LetterboxedBatch:
        return next(self._batches).to(_device(self.model))

    def backward(self, batch: LetterboxedBatch, generators: Generators) -> StepLosses:
        losses = self.losses(batch, generators)
        torch.autograd.backward(losses.total)
        return losses

    @abstractmethod
    def losses(self, batch: LetterboxedBatch, generators: Generators) -> StepLosses:
        """Return the losses of a batch."""


class FeatureTask(LetterboxedTask):
    """Stage 1 of distillation: the image embedding learns the teacher's (docs/explanation/model.md, section 7.2).

    Args:
        model: Its encoder learns.
        batches: Whole photos at the frame size of the cache.
        cache: Features of the teacher.
        division: See `losses.feature_mse`.
    """

    def __init__(
        self,
        model: PromptableModel,
        batches: Batches,
        cache: FeatureCache,
        *,
        division: Division = "each",
    ) -> None:
        super().__init__(batches)
        self.model = self._whole = model
        self.architecture = model.architecture.name
        self._cache, self._division = cache, division

    def parameter_groups(self) -> ParameterGroups:
        return self._whole.image_encoder.parameter_groups()

    def losses(self, batch: LetterboxedBatch, generators: Generators) -> StepLosses:  # noqa: ARG002 - nothing is drawn
        features = self._cache.get(batch.places).to(batch.frames.device)
        embedding = self._whole.image_encoder(batch.frames).float()
        loss = feature_mse(embedding, features, valid_cells(batch.valid), division=self._division)
        return StepLosses(loss, {})


class PromptTask(LetterboxedTask):
    """Stage 2 of distillation: masks learn the teacher's, with prompts in the loop (docs/explanation/model.md 7.4).

    Args:
        model: Its encoder and mask decoder learn; its prompt encoder stays as it is.
        teacher: Stays as it is; only its prompt encoder and mask decoder are used.
        batches: Whole photos at the frame size of the cache.
        cache: Features of the teacher.
        loop: Weights and number of passes.
    """

    def __init__(
        self,
        model: PromptableModel,
        teacher: Promptable,
        batches: Batches,
        cache: FeatureCache,
        loop: TeacherLoop | None = None,
    ) -> None:
        super().__init__(batches)
        self.model = self._whole = model
        self.architecture = model.architecture.name
        model.prompt_encoder.requires_grad_(False)
        # The predicted IoU stays what it was: EdgeSAM does not distil it (docs/explanation/model.md, section 7.5).
        model.mask_decoder.iou_prediction_head.requires_grad_(False)
        self._teacher, self._cache, self._loop = teacher, cache, loop or TeacherLoop()

    def parameter_groups(self) -> ParameterGroups:
        return model_groups(self._whole)

    def losses(self, batch: LetterboxedBatch, generators: Generators) -> StepLosses:
        is_box = bool(torch.rand((), generator=generators.shared) < 0.5)
        features = self._cache.get(batch.places).to(batch.frames.device)
        passes = prompt_passes(
            self._whole,
            self._teacher,
            (self._whole.image_encoder(batch.frames), features),
            start="box" if is_box else "point",
            pictures=batch.pictures,
            prompts=batch.boxes if is_box else batch.clicks,
            valid=batch.valid,
            loop=self._loop,
            generator=generators.own,
        )
        total = torch.stack([one.bce + one.dice for one in passes]).sum()
        parts = {
            "bce": torch.stack([one.bce.detach() for one in passes]).sum(),
            "dice": torch.stack([one.dice.detach() for one in passes]).sum(),
        }
        return StepLosses(total, parts)


class GranularityTask(LetterboxedTask):
    """Stage 3: the granularity module learns the boxes of annotated masks, on a frozen encoder.

    Source: docs/explanation/model.md, section 6.2.

    Args:
        model: Its encoder gives the features; nothing of it learns.
        module: Learns.
        batches: Whole photos with boxes.
        loss: Weights and thresholds.
    """

    architecture = GRANULARITY
    weights_name = "granularity.pth"

    def __init__(
        self,
        model: PromptableModel,
        module: GranularityModule,
        batches: Batches,
        loss: BoxLoss | None = None,
    ) -> None:
        super().__init__(batches)
        self.model = self._module = module
        self._encoder, self._loss = model.eval().requires_grad_(False).image_encoder, loss

    def parameter_groups(self) -> ParameterGroups:
        return [(1.0, list(self._module.parameters()))]

    def losses(self, batch: LetterboxedBatch, generators: Generators) -> StepLosses:  # noqa: ARG002 - nothing is drawn
        with torch.no_grad():
            stages = self._encoder.stages(batch.frames)
        logits, deltas = self._module(stages)
        boxes = [batch.boxes[batch.pictures == row] for row in range(len(batch.frames))]
        return box_losses(logits, deltas, boxes, batch.frames.shape[-1], self._loss)

    def save_weights(self, model: nn.Module, path: Path) -> None:
        torch.save({key: value.cpu() for key, value in model.state_dict().items()}, path)


def model_groups(model: PromptableModel) -> ParameterGroups:
    """Return all that learns of a model: the encoder's own groups, prompt encoder and decoder."""
    rest = [*model.prompt_encoder.parameters(), *model.mask_decoder.parameters()]
    return [*model.image_encoder.parameter_groups(), (1.0, rest)]


def _device(module: nn.Module) -> torch.device:
    return next(module.parameters()).device
