"""A training run: trains a task within a budget of minutes or steps, and can be stopped and continued."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from model_store.training.loop.distributed import DistributedContext
from model_store.training.loop.ema import EMA
from model_store.training.loop.optimiser import Optimiser, OptimiserConfig
from model_store.training.loop.progress import OnProgress
from model_store.training.loop.recorder import BEST_FIGURES_NAME, RunRecorder
from model_store.training.loop.schedule import LearningRate
from model_store.training.loop.state import RunState
from model_store.training.objectives.step_losses import StepLosses
from model_store.training.tasks import Generators, Task

_MAX_STEP_S = 120.0  # a longer step contains a pause of the process or the machine, which does not count as training

_NOT_SCORED = ("val_oracle", "val_obeyed")

EvalFn = Callable[[nn.Module], Mapping[str, float]]
"""Function that validates averaged weights; every process calls it, and all get the same figures."""


@dataclass(frozen=True, slots=True)
class RunConfig:
    """Settings of a run.

    Args:
        folder: Folder of state, checkpoints, log and curves.
        minutes: Budget in minutes of training, without validation and saving.
        learning_rate: Learning rate over the budget.
        steps: Budget in steps instead of minutes; then the same seed gives the same numbers at any speed.
        seed: Seed of batches and prompts.
        bfloat16: Whether to compute in bfloat16 where autocast allows.
        optimiser: Settings of AdamW.
        ema_decay: Decay of the averaged weights.
        log_every_s: Seconds between rows of the log.
        save_every_s: Seconds between saved states.
        validate_every_s: Seconds of training between validations.
    """

    folder: Path
    minutes: float
    learning_rate: LearningRate
    steps: int | None = None
    seed: int = 0
    bfloat16: bool = False
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    ema_decay: float = 0.998
    log_every_s: float = 20.0
    save_every_s: float = 180.0
    validate_every_s: float = 1200.0


class Run:
    """One run, new or continued.

    Args:
        config: Budget and settings.
        task: Task to train; its model is on the device of the run.
        eval_fn: Validation of the averaged weights; None for none.
        context: Rank and world size of this process; None for a single process.
        on_progress: Callback of the first process that receives reports.
        is_trained: Whether the model is trained already, so that the average starts with its weights.
    """

    def __init__(
        self,
        config: RunConfig,
        task: Task[Any],
        *,
        eval_fn: EvalFn | None = None,
        context: DistributedContext | None = None,
        on_progress: OnProgress = lambda _progress: None,
        is_trained: bool = False,
    ) -> None:
        self.config, self.task = config, task
        self.context = context or DistributedContext()
        self._eval_fn, self.on_progress = eval_fn, on_progress
        self.model = task.model
        self.device = next(self.model.parameters()).device
        self.ema = EMA(self.model, config.ema_decay, is_trained=is_trained)
        self.optimiser = Optimiser(self.model, task.parameter_groups(), config.optimiser, self.context)
        self.step = 0
        self.images = 0
        self.spent_s = 0.0
        """Seconds of training in earlier budgets."""
        self.used_s = 0.0
        """Seconds of training in this budget."""
        self.best_score: float | None = None
        self._first_step = 0
        self._is_stopped = False
        self.validation: Mapping[str, float] = {}
        """Figures of the last validation."""
        self._generators = Generators(own=torch.Generator(self.device), shared=torch.Generator())

    @property
    def progress(self) -> float:
        """Share of this budget that has passed, 0..1."""
        return self._progress_at(self.step)

    @property
    def minutes(self) -> float:
        """Minutes of training in all budgets."""
        return (self.spent_s + self.used_s) / 60

    def stop(self) -> None:
        """End after the current step and save the state; `--continue` uses the rest of the budget."""
        self._is_stopped = True

    def load(self, state: RunState, *, fresh_budget: bool) -> None:
        """Load the state of this run or of another one.

        Args:
            state: Weights, moments and counters.
            fresh_budget: Whether to start a new budget and schedule, or to continue the old ones.
        """
        self.model.load_state_dict(dict(state.model))
        self.ema.model.load_state_dict(dict(state.ema))
        self.ema.steps = state.ema_steps
        self.optimiser.load_moments(state.moments)
        self.step, self.images = state.step, state.images
        if fresh_budget:
            self.spent_s, self._first_step = state.spent_s + state.used_s, state.step
        else:
            self.spent_s, self.used_s, self._first_step = state.spent_s, state.used_s, state.first_step
        # The best checkpoint of an earlier budget stays until a better one exists. Another folder has no earlier one.
        if (self.config.folder / BEST_FIGURES_NAME).is_file():
            self.best_score = state.best_score

    def state(self) -> RunState:
        """Return everything that continues the run, on the CPU."""
        return RunState(
            architecture=self.task.architecture,
            model=_on_cpu(self.model.state_dict()),
            ema=_on_cpu(self.ema.model.state_dict()),
            ema_steps=self.ema.steps,
            moments=self.optimiser.moments(),
            step=self.step,
            images=self.images,
            first_step=self._first_step,
            spent_s=self.spent_s,
            used_s=self.used_s,
            best_score=self.best_score,
        )

    def train(self) -> Mapping[str, float]:
        """Train until the budget is used up or `stop` is called; saves state, checkpoints, log and curves.

        Returns:
            The figures of the last validation; empty without one.
        """
        config, context = self.config, self.context
        recorder = RunRecorder(self) if context.is_first else None
        if recorder:
            recorder.begin()
        self.task.begin(self.step, self._progress_at)
        if self._eval_fn and self.step == self._first_step:
            self._validate(self._eval_fn, recorder)  # the starting point, for comparison
        saved_at = time.monotonic()
        validated_s = self.used_s
        is_last = self.progress >= 1.0
        while not is_last:
            started = time.monotonic()
            rate = config.learning_rate.at(self.progress, moment_steps=self.optimiser.moment_steps)
            losses = self._step(rate)
            if recorder:
                recorder.add(losses, rate)  # before the clock is read, since a row waits for the device
            now = time.monotonic()
            is_stopped, is_save_due = self._synchronise(
                now - started, is_save_due=now - saved_at >= config.save_every_s
            )
            paused = time.monotonic()
            is_done = self.progress >= 1.0
            is_last = is_done or is_stopped
            # A stopped run skips the validation: torchrun kills its processes after 30 seconds.
            is_due = is_done or (self.used_s - validated_s >= config.validate_every_s and not is_stopped)
            if self._eval_fn and is_due:
                self._validate(self._eval_fn, recorder)
                validated_s, is_save_due = self.used_s, True
            if is_last or is_save_due:
                self._save(recorder)
                saved_at = time.monotonic()
            if recorder:
                recorder.pause(time.monotonic() - paused)
        context.barrier()
        return self.validation

    def _step(self, rate: float) -> StepLosses:
        batch = self.task.next_batch()
        seed, step, rank = self.config.seed, self.step, self.context.rank
        self._generators.own.manual_seed(step_seed(seed, step, rank + 1))
        self._generators.shared.manual_seed(step_seed(seed, step, 0))
        self.optimiser.zero_gradients()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.bfloat16):
            losses = self.task.backward(batch, self._generators)
        losses.parts["gradient"] = self.optimiser.step(rate)
        if bool(torch.isfinite(losses.parts["gradient"])):
            self.ema.update(self.model)
        else:
            self.ema.restore_buffers(self.model)
        self.step += 1
        self.images += len(batch.frames) * self.context.world_size
        return losses

    def _synchronise(self, step_s: float, *, is_save_due: bool) -> tuple[bool, bool]:
        """Exchange clock and requests with the other processes; the clock of the first process counts for all.

        Args:
            step_s: Duration of the step in this process, in seconds.
            is_save_due: Whether this process would save; only that of the first process counts.

        Returns:
            Whether any process has to stop, and whether to save.
        """
        own = {"used_s": min(step_s, _MAX_STEP_S), "save": float(is_save_due)}
        sums = self.context.sum(
            {name: value if self.context.is_first else 0.0 for name, value in own.items()}
            | {"stop": float(self._is_stopped)}
        )
        self.used_s += sums["used_s"]
        return sums["stop"] > 0, sums["save"] > 0

    def _validate(self, eval_fn: EvalFn, recorder: RunRecorder | None) -> None:
        self._average_buffers()
        if recorder:
            recorder.save_state()  # so that a process that is killed meanwhile loses no training
        self.validation = eval_fn(self.ema.model)
        score = validation_score(self.validation)
        is_best = self.best_score is None or score > self.best_score
        if is_best:
            self.best_score = score
        if recorder:
            recorder.add_validation(self.validation, is_best=is_best)

    def _save(self, recorder: RunRecorder | None) -> None:
        self._average_buffers()
        if recorder:
            recorder.save()

    def _average_buffers(self) -> None:
        self.context.average_buffers(self.model)
        self.context.average_buffers(self.ema.model)

    def _progress_at(self, step: int) -> float:
        if self.config.steps is not None:
            return min((step - self._first_step) / self.config.steps, 1.0)
        return min(self.used_s / (60 * self.config.minutes), 1.0)


def validation_score(figures: Mapping[str, float]) -> float:
    """Return the score by which the best checkpoint is chosen: the mean IoU of the masks that users get.

    The best of four masks (oracle) and the share of obeyed clicks do not count.
    """
    chosen = [value for name, value in figures.items() if not name.startswith(_NOT_SCORED)]
    return sum(chosen) / max(len(chosen), 1)


def step_seed(seed: int, step: int, stream: int) -> int:
    """Return the seed of one step in one stream.

    A step depends on nothing else, so that a continued run makes the same steps as a run without a break.

    Args:
        seed: Seed of the run.
        step: Number of the step.
        stream: Stream of random numbers: 0 for all processes together, rank + 1 for each process.
    """
    return int(np.random.SeedSequence((seed, step, stream)).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _on_cpu(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.detach().cpu() for key, value in state.items()}
