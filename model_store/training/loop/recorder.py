"""Recording of a run: configuration, train log, curves, checkpoints, state, and progress reports."""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from model_store.training.loop.progress import TrainProgress
from model_store.training.loop.state import save_state
from model_store.training.loop.train_log import TrainLog, draw_curves
from model_store.training.objectives.step_losses import StepLosses

if TYPE_CHECKING:
    from model_store.training.loop.run import Run

CONFIG_NAME = "config.json"
BEST_FIGURES_NAME = "best.json"
CURVES = {
    "losses": ("loss", "mask", "ambiguous", "iou_error", "bce", "dice", "focal", "huber"),
    "IoU of a step": ("box_iou", "point_iou"),
    "validation IoU": ("val_box", "val_point", "val_auto", "val_oracle"),
    "learning rate": ("learning_rate",),
    "images a second": ("images_per_s",),
}


class RunRecorder:
    """Writes the files of a run and reports its progress; only the first process has one.

    Args:
        run: Run whose state, weights and figures are recorded.
    """

    def __init__(self, run: "Run") -> None:
        self._run, self._folder = run, run.config.folder
        self._log = TrainLog(self._folder)
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._has_row = False
        self._begin_row()

    def begin(self) -> None:
        """Write the configuration and report the budget."""
        run, config = self._run, self._run.config
        settings = {**asdict(config), "folder": str(config.folder), "task": self._run.task.settings()}
        (self._folder / CONFIG_NAME).write_text(json.dumps(settings, indent=2, default=str))
        budget = f"{config.steps} steps" if config.steps is not None else f"{config.minutes:g} minutes"
        processes = f" in {run.context.world_size} processes" if run.context.world_size > 1 else ""
        self._report(f"training for {budget} on {run.device}{processes}; {self._folder} has its log and curves")

    def add(self, losses: StepLosses, rate: float) -> None:
        """Add a step, and write a row if one is due.

        Args:
            losses: Losses of the step.
            rate: Learning rate of the step.
        """
        for name, value in {**losses.parts, "loss": losses.total.detach()}.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] = self._counts.get(name, 0) + 1
        passed = time.monotonic() - self._began - self._paused
        if self._has_row and passed < self._run.config.log_every_s:
            return
        figures = {name: float(value) / self._counts[name] for name, value in self._sums.items()}
        speed = (self._run.images - self._first_image) / max(passed, 1e-9)
        position = {"minutes": self._run.minutes, "step": self._run.step}
        self._log.write({**position, "learning_rate": rate, "images_per_s": speed, **figures})
        self._report(images_per_s=speed, figures=figures)
        self._has_row = True
        self._begin_row()

    def add_validation(self, figures: Mapping[str, float], *, is_best: bool) -> None:
        """Write the figures of a validation, and the checkpoint if it is the best so far.

        Args:
            figures: Figures of the validation by name.
            is_best: Whether no earlier validation had a higher score.
        """
        run = self._run
        self._log.write({"minutes": run.minutes, "step": run.step, **figures})
        values = "  ".join(f"{name.removeprefix('val_')} {value:.3f}" for name, value in figures.items())
        self._report(f"validation after {run.minutes:.1f} minutes: {values}{' (best)' if is_best else ''}")
        if is_best:
            self._save_weights("best" + Path(run.task.weights_name).suffix)
            best = {"minutes": run.minutes, "step": run.step, "score": run.best_score, **figures}
            (self._folder / BEST_FIGURES_NAME).write_text(json.dumps(best, indent=2))

    def save_state(self) -> None:
        """Write the state that continues the run."""
        save_state(self._run.state(), self._folder)

    def save(self) -> None:
        """Write state, averaged weights and curves."""
        self.save_state()
        self._save_weights(self._run.task.weights_name)
        draw_curves(self._folder, CURVES)

    def pause(self, seconds: float) -> None:
        """Exclude some seconds from the speed of the next row."""
        self._paused += seconds

    def _save_weights(self, name: str) -> None:
        """Write the averaged weights in one step: if the process is killed meanwhile, the previous file remains."""
        path = self._folder / name
        fresh = path.with_name(f"new-{name}")
        self._run.task.save_weights(self._run.ema.model, fresh)
        fresh.replace(path)

    def _begin_row(self) -> None:
        self._began, self._paused, self._first_image = time.monotonic(), 0.0, self._run.images
        self._sums, self._counts = {}, {}

    def _report(self, message: str = "", **others: Any) -> None:
        run = self._run
        run.on_progress(
            TrainProgress(run.progress, run.minutes, run.step, validation=run.validation, message=message, **others)
        )
