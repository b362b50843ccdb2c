"""What a run leaves in its folder and tells while it goes on: configuration, train log, curves, checkpoints, state."""

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
from model_store.training.objectives.losses import StepLosses

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
    """Writes and tells how a run goes; only the first process has one.

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
        """Write the configuration and tell the budget."""
        run, config = self._run, self._run.config
        described = {**asdict(config), "folder": str(config.folder), "task": self._run.task.described()}
        (self._folder / CONFIG_NAME).write_text(json.dumps(described, indent=2, default=str))
        budget = f"{config.steps} steps" if config.steps is not None else f"{config.minutes:g} minutes"
        processes = f" in {run.context.world_size} processes" if run.context.world_size > 1 else ""
        self._tell(f"training for {budget} on {run.device}{processes}; {self._folder} holds its log and curves")

    def add(self, losses: StepLosses, rate: float) -> None:
        """Take in a step; write a row when one is due."""
        for name, value in {**losses.parts, "loss": losses.total.detach()}.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] = self._counts.get(name, 0) + 1
        passed = time.monotonic() - self._began - self._paused
        if self._has_row and passed < self._run.config.log_every_s:
            return
        figures = {name: float(value) / self._counts[name] for name, value in self._sums.items()}
        speed = (self._run.images - self._first_image) / max(passed, 1e-9)
        place = {"minutes": self._run.minutes, "step": self._run.step}
        self._log.write({**place, "learning_rate": rate, "images_per_s": speed, **figures})
        self._tell(images_per_s=speed, figures=figures)
        self._has_row = True
        self._begin_row()

    def add_validation(self, figures: Mapping[str, float], *, is_best: bool) -> None:
        """Write the figures of a validation, and the best checkpoint when it is one."""
        run = self._run
        self._log.write({"minutes": run.minutes, "step": run.step, **figures})
        values = "  ".join(f"{name.removeprefix('val_')} {value:.3f}" for name, value in figures.items())
        self._tell(f"validation after {run.minutes:.1f} minutes: {values}{' (best)' if is_best else ''}")
        if is_best:
            self._save_weights("best" + Path(run.task.weights_name).suffix)
            best = {"minutes": run.minutes, "step": run.step, "score": run.best_score, **figures}
            (self._folder / BEST_FIGURES_NAME).write_text(json.dumps(best, indent=2))

    def save_state(self) -> None:
        """Write what continues the run."""
        save_state(self._run.state(), self._folder)

    def save(self) -> None:
        """Write state, averaged weights and curves."""
        self.save_state()
        self._save_weights(self._run.task.weights_name)
        draw_curves(self._folder, CURVES)

    def pause(self, seconds: float) -> None:
        """Leave this time out of the speed of the next row."""
        self._paused += seconds

    def _save_weights(self, name: str) -> None:
        """Write the averaged weights; the file is whole at any time, whenever the process is killed."""
        path = self._folder / name
        fresh = path.with_name(f"new-{name}")
        self._run.task.save_weights(self._run.ema.model, fresh)
        fresh.replace(path)

    def _begin_row(self) -> None:
        self._began, self._paused, self._first_image = time.monotonic(), 0.0, self._run.images
        self._sums, self._counts = {}, {}

    def _tell(self, message: str = "", **others: Any) -> None:
        run = self._run
        run.on_progress(
            TrainProgress(run.progress, run.minutes, run.step, validation=run.validation, message=message, **others)
        )
