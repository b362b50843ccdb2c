"""Tasks of training: annotated masks, a teacher's features, a teacher's masks, or boxes of the granularity module.

A task makes batches and computes their losses. The run (budget, weights, state) is the same for all tasks.
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
from model_store.training.data.windows.dataset import WindowBatch
from model_store.training.data.windows.loader import WindowLoader
from model_store.training.loop.optimiser import ParameterGroups
from model_store.training.objectives.annotated import AnnotatedLoop, annotated_step
from model_store.training.objectives.distillation import TeacherLoop, prompt_passes, valid_cells
from model_store.training.objectives.distillation_losses import Division, feature_mse
from model_store.training.objectives.granularity_losses import BoxLoss, box_losses
from model_store.training.objectives.prompt_sets import Promptable
from model_store.training.objectives.step_losses import StepLosses

GRANULARITY = "granularity module"
"""Name that replaces an architecture in the state of a run that trains the module."""
_MIN_STATISTICS = 2  # smallest number of cells of the encoder's coarsest map, in all windows of a step
BatchFactory = Callable[[int], Iterator[LetterboxedBatch]]


class Batch(Protocol):
    """The batch of one step."""

    @property
    def frames(self) -> Tensor:
        """Frames, (B, 3, S, S); B counts as images."""


B = TypeVar("B", bound=Batch)


@dataclass(frozen=True, slots=True)
class Generators:
    """Random generators of one step.

    Args:
        own: Generator of this process, on the device of the model.
        shared: Generator with the same numbers in all processes, on the CPU. It is for choices that determine the
            duration of a step, since the processes wait for each other at each step.
    """

    own: torch.Generator
    shared: torch.Generator


class Task(ABC, Generic[B]):
    """A task that a run trains.

    Attributes:
        model: Network that is trained and saved.
        architecture: Name of the model's architecture, for the state of a run.
        weights_name: File name of the weights that a run saves.
    """

    model: nn.Module
    architecture: str
    weights_name = "model.safetensors"

    @abstractmethod
    def parameter_groups(self) -> ParameterGroups:
        """Return the trained parameters, each group with its learning-rate factor."""

    @abstractmethod
    def begin(self, first_step: int, progress_at: Callable[[int], float]) -> None:
        """Put the model into train mode, and prepare batches.

        Args:
            first_step: Step of the first batch.
            progress_at: Function of a step that returns the passed share of the budget, 0..1.
        """

    @abstractmethod
    def next_batch(self) -> B:
        """Return the next batch, on the device of the model."""

    @abstractmethod
    def backward(self, batch: B, generators: Generators) -> StepLosses:
        """Compute the losses of a batch from `next_batch`, and add their gradients to those of the parameters."""

    def save_weights(self, model: nn.Module, path: Path) -> None:
        """Write weights to a file.

        Args:
            model: Model to write, for instance the averaged one.
            path: File with the suffix of `weights_name`.
        """
        assert isinstance(model, PromptableModel)
        save_checkpoint(model, path)

    def settings(self) -> dict[str, Any]:
        """Return the task's settings as plain values, for the configuration of a run."""
        return {"architecture": self.architecture}


class AnnotatedTask(Task[WindowBatch]):
    """Prompts and corrections on annotated masks.

    Args:
        model: Model whose encoder, prompt encoder and decoder are trained.
        loader: Loader of windows of photos with masks.
        loop: Settings of a step.

    Raises:
        ValueError: A batch is too small for the encoder's batch norms.
    """

    def __init__(self, model: PromptableModel, loader: WindowLoader, loop: AnnotatedLoop) -> None:
        self.model = self._promptable = model
        self.architecture = model.architecture.name
        self._loader, self._loop = loader, loop
        self._batches: Iterator[WindowBatch] = iter(())
        smallest = model.image_encoder.frame_multiple
        for window in loader.windows:
            if window.batch * (window.pixels // smallest) ** 2 < _MIN_STATISTICS:
                raise ValueError(
                    f"Steps of {window.batch} windows of {window.pixels} pixels are too small for {self.architecture}: "
                    "batch norms need statistics. Take more or larger windows."
                )

    def parameter_groups(self) -> ParameterGroups:
        return model_groups(self._promptable)

    def begin(self, first_step: int, progress_at: Callable[[int], float]) -> None:
        self.model.train()
        self._batches = self._loader.batches(first_step, progress_at)

    def next_batch(self) -> WindowBatch:
        return next(self._batches).to(_device(self.model), non_blocking=True)

    def backward(self, batch: WindowBatch, generators: Generators) -> StepLosses:
        rounds = self._loop.draw_rounds(generators.shared)
        return annotated_step(self._promptable, batch, self._loop, generators.own, rounds=rounds, backward=True)

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), **self._loader.settings(), "loop": asdict(self._loop)}


class LetterboxedTask(Task[LetterboxedBatch]):
    """A task on whole photos in random order.

    Args:
        batches: Function of the first step that makes endless batches, in another order for each.
    """

    def __init__(self, batches: BatchFactory) -> None:
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
    """Stage 1 of distillation: trains the encoder on the teacher's features (docs/explanation/model.md, section 7.2).

    Args:
        model: Model whose encoder is trained.
        batches: Function that makes batches of photos at the frame size of the cache.
        cache: Features of the teacher.
        division: Divisor of the errors, see `distillation_losses.feature_mse`.
    """

    def __init__(
        self,
        model: PromptableModel,
        batches: BatchFactory,
        cache: FeatureCache,
        *,
        division: Division = "each",
    ) -> None:
        super().__init__(batches)
        self.model = self._promptable = model
        self.architecture = model.architecture.name
        self._cache, self._division = cache, division

    def parameter_groups(self) -> ParameterGroups:
        return self._promptable.image_encoder.parameter_groups()

    def losses(self, batch: LetterboxedBatch, generators: Generators) -> StepLosses:  # noqa: ARG002 - nothing is drawn
        features = self._cache.get(batch.indices).to(batch.frames.device)
        embedding = self._promptable.image_encoder(batch.frames).float()
        loss = feature_mse(embedding, features, valid_cells(batch.valid), division=self._division)
        return StepLosses(loss, {})


class PromptTask(LetterboxedTask):
    """Stage 2 of distillation: trains on the teacher's masks, prompts in the loop (docs/explanation/model.md 7.4).

    Args:
        model: Model whose encoder and mask decoder are trained; its prompt encoder is frozen.
        teacher: Frozen teacher, of which only prompt encoder and mask decoder are used.
        batches: Function that makes batches of photos at the frame size of the cache.
        cache: Features of the teacher.
        loop: Weights and number of passes; None for the defaults.
    """

    def __init__(
        self,
        model: PromptableModel,
        teacher: Promptable,
        batches: BatchFactory,
        cache: FeatureCache,
        loop: TeacherLoop | None = None,
    ) -> None:
        super().__init__(batches)
        self.model = self._promptable = model
        self.architecture = model.architecture.name
        model.prompt_encoder.requires_grad_(False)
        # EdgeSAM does not distil the predicted IoU, so its head is frozen (docs/explanation/model.md, section 7.5).
        model.mask_decoder.iou_prediction_head.requires_grad_(False)
        self._teacher, self._cache, self._loop = teacher, cache, loop or TeacherLoop()

    def parameter_groups(self) -> ParameterGroups:
        return model_groups(self._promptable)

    def losses(self, batch: LetterboxedBatch, generators: Generators) -> StepLosses:
        is_box = bool(torch.rand((), generator=generators.shared) < 0.5)
        features = self._cache.get(batch.indices).to(batch.frames.device)
        passes = prompt_passes(
            self._promptable,
            self._teacher,
            (self._promptable.image_encoder(batch.frames), features),
            start="box" if is_box else "point",
            image_index=batch.image_index,
            prompts=batch.boxes if is_box else batch.points,
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
    """Stage 3: the granularity module is trained on the boxes of annotated masks, with a frozen encoder.

    Source: docs/explanation/model.md, section 6.2.

    Args:
        model: Frozen model whose encoder gives the features.
        module: Module to train.
        batches: Function that makes batches of photos with boxes.
        loss: Weights and thresholds; None for the defaults.
    """

    architecture = GRANULARITY
    weights_name = "granularity.pth"

    def __init__(
        self,
        model: PromptableModel,
        module: GranularityModule,
        batches: BatchFactory,
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
        boxes = [batch.boxes[batch.image_index == row] for row in range(len(batch.frames))]
        return box_losses(logits, deltas, boxes, batch.frames.shape[-1], self._loss)

    def save_weights(self, model: nn.Module, path: Path) -> None:
        torch.save({key: value.cpu() for key, value in model.state_dict().items()}, path)


def model_groups(model: PromptableModel) -> ParameterGroups:
    """Return the trained parameters of a model: the encoder's own groups, prompt encoder and decoder."""
    rest = [*model.prompt_encoder.parameters(), *model.mask_decoder.parameters()]
    return [*model.image_encoder.parameter_groups(), (1.0, rest)]


def _device(module: nn.Module) -> torch.device:
    return next(module.parameters()).device
