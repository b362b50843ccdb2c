"""A training run: a task learned within a budget of minutes or steps, and onwards on another day."""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from model_store.checkpoint import save_checkpoint
from model_store.network.model import PromptableModel
from model_store.training.loop.distributed import Processes
from model_store.training.loop.ema import WeightAverage
from model_store.training.loop.schedule import Schedule, describe_stages
from model_store.training.loop.state import load_state, save_state
from model_store.training.loop.train_log import Journal, draw_curves
from model_store.training.objectives.losses import StepLosses
from model_store.training.tasks import Task

WEIGHTS_NAME = "edgesam.pth"
CURVES = {
    "losses": ("loss", "mask", "ambiguous", "iou", "bce", "dice", "focal", "huber"),
    "IoU of a step": ("box_iou_0", "point_iou_0", "box_iou_1", "point_iou_1"),
    "held-out IoU": ("val_box_0", "val_point_0", "val_box_2", "val_point_2"),
    "images a second": ("images_per_s",),
}

_LONGEST_STEP_S = 120.0  # what lasts longer was a pause of the process or the machine, and is no training

Look = Callable[[nn.Module, int], dict[str, float]]
"""Measures the mean weights at a frame size."""
Show = Callable[[float, str], None]
"""Is told the share of the budget that has gone, and a line about the run."""


@dataclass(frozen=True, slots=True)
class RunConfig:
    """What does not change while a run goes on.

    Args:
        folder: where its state, log and weights are; not in the repository.
        minutes: time of training, without validation and saving.
        schedule: frames, batches and rates over that time.
        steps: end after so many steps instead; then a run is the same for the same seed, whatever the machine's speed.
        seed: of batches and prompts.
        bf16: compute in bfloat16 where autocast knows how.
        compile_model: let torch compile the image encoder; pays on a GPU, costs minutes on a CPU.
        weight_decay: of matrices and kernels.
        betas: of AdamW.
        clip: largest norm of the gradient.
        average_decay: see `WeightAverage`.
        log_every_s: seconds between rows of the log.
        save_every_s: seconds between states on disk.
        look_every_s: seconds between looks at held-out photos.
    """

    folder: Path
    minutes: float
    schedule: Schedule
    steps: int | None = None
    seed: int = 0
    bf16: bool = True
    compile_model: bool = False
    weight_decay: float = 0.02
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float = 1.0
    average_decay: float = 0.998
    log_every_s: float = 20.0
    save_every_s: float = 180.0
    look_every_s: float = 600.0

    def described(self) -> dict[str, Any]:
        """The configuration as plain values."""
        return {**asdict(self), "folder": str(self.folder)}


class Run:
    """One run, fresh or continued.

    Args:
        config: for how long, and how.
        task: what is learned; its learner is on the run's device.
        look: measures the mean weights now and then; None to look at nothing.
        processes: this process among those of the run; each takes its part of every batch.
        show: is told how it goes.
    """

    def __init__(
        self,
        config: RunConfig,
        task: Task,
        *,
        look: Look | None = None,
        processes: Processes | None = None,
        show: Show = lambda _progress, _line: None,
    ) -> None:
        self.config, self.task = config, task
        self.processes = processes or Processes()
        self._look, self._show = look, show
        self.learner = task.learner
        self.device = next(self.learner.parameters()).device
        self.average = WeightAverage(self.learner, config.average_decay)
        self.optimiser = _optimiser(self.learner, config)
        self.step = 0
        self.images = 0
        self.spent_s = 0.0
        """Time of training in earlier budgets."""
        self.used_s = 0.0
        """Time of training in this budget."""
        self._first_step = 0
        self._is_stopped = False
        self._seed_generators(config.seed)

    @property
    def progress(self) -> float:
        """Share of this budget that has gone."""
        if self.config.steps is not None:
            return min((self.step - self._first_step) / self.config.steps, 1.0)
        return min(self.used_s / (60 * self.config.minutes), 1.0)

    @property
    def minutes(self) -> float:
        """Minutes of training in all budgets."""
        return (self.spent_s + self.used_s) / 60

    def stop(self) -> None:
        """End after the step at work, saving the state; the rest of the budget stays for another time."""
        self._is_stopped = True

    def continue_from(self, folder: Path, *, fresh_budget: bool) -> None:
        """Take up the state of a folder.

        Args:
            folder: of this run or of another one.
            fresh_budget: start a new schedule with these weights; else go on where the old one stopped.

        Raises:
            StateError: no whole state is there.
        """
        state = load_state(folder)
        self.learner.load_state_dict(state["model"])
        self.average.model.load_state_dict(state["average"])
        self.average.steps = state["average_steps"]
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.images = state["step"], state["images"]
        self.spent_s, self.used_s = state["spent_s"], state["used_s"]
        self._first_step = state.get("first_step", 0)
        if fresh_budget:
            self.spent_s, self.used_s = self.spent_s + self.used_s, 0.0
            self._first_step = self.step
        if self.processes.count == 1 and state["random_device"].numel() == self.on_device.get_state().numel():
            self.on_cpu.set_state(state["random_cpu"])
            self.on_device.set_state(state["random_device"])
        else:  # the numbers of one process are no use to several, nor those of one kind of device to another
            self._seed_generators(self.config.seed + self.step)

    def state(self) -> dict[str, Any]:
        """All that continues the run."""
        return {
            "model": _on_cpu(self.learner.state_dict()),
            "average": _on_cpu(self.average.model.state_dict()),
            "average_steps": self.average.steps,
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "images": self.images,
            "first_step": self._first_step,
            "spent_s": self.spent_s,
            "used_s": self.used_s,
            "random_cpu": self.on_cpu.get_state(),
            "random_device": self.on_device.get_state(),
        }

    def save(self) -> None:
        """Write the state, and of EdgeSAM the mean weights as a checkpoint under the official keys."""
        save_state(self.state(), self.config.folder)
        if isinstance(self.average.model, PromptableModel):
            save_checkpoint(self.average.model, self.config.folder / WEIGHTS_NAME)
        else:
            torch.save(_on_cpu(self.average.model.state_dict()), self.config.folder / WEIGHTS_NAME)

    def train(self) -> dict[str, float]:
        """Train until the budget is used up or `stop` is called; saves state, log, curves and weights.

        Returns:
            What the last look at the held-out photos found, empty without one.
        """
        config, processes = self.config, self.processes
        journal = Journal(config.folder) if processes.is_first else None
        self.task.start()
        if config.compile_model and isinstance(self.learner, PromptableModel):
            self.learner.image_encoder.compile()
        forward = processes.wrap(self.task)
        budget = f"{config.steps} steps" if config.steps is not None else f"{config.minutes:g} minutes"
        self._show(self.progress, f"{budget} at {describe_stages(config.schedule.stages)} on {self.device}")
        sums: dict[str, Tensor] = {}
        count, logged_images = 0, self.images
        logged_at = saved_at = looked_at = time.monotonic()
        quiet_s = 0.0  # looking and saving since the last row
        found: dict[str, float] = {}
        is_last, is_logged = self.progress >= 1.0, False
        while not is_last:
            started = time.monotonic()
            stage, rate = config.schedule.stage(self.progress), config.schedule.rate(self.progress)
            frame_size = stage.frame_size(self.step)
            losses = self._step(forward, frame_size, rate)
            for name, value in {**losses.parts, "loss": losses.total.detach()}.items():
                sums[name] = sums[name] + value if name in sums else value
            count += 1
            # A row waits for the device, so processes that write none make none.
            is_row_due = journal is not None and (started - logged_at >= config.log_every_s or not is_logged)
            row = {name: float(value) / count for name, value in sums.items()} if is_row_due else {}
            now = time.monotonic()  # after the row, which waited for the device
            self.used_s, stopped = processes.agree(
                self.used_s + min(now - started, _LONGEST_STEP_S), float(self._is_stopped)
            )
            is_last = self.progress >= 1.0 or stopped > 0
            if journal is None:
                continue
            if self._look and (now - looked_at >= config.look_every_s or is_last):
                found = self._look(self.average.model, max(stage.frame_sizes))
                self._show(self.progress, "  ".join(f"{name} {value:.3f}" for name, value in found.items()))
                journal.write(
                    {"minutes": self.minutes, "step": self.step, "frame_size": max(stage.frame_sizes), **found}
                )
                looked_at = time.monotonic()
            if now - saved_at >= config.save_every_s or is_last:
                self.save()
                saved_at = time.monotonic()
            quiet_s += time.monotonic() - now
            if row:
                is_logged = True
                speed = (self.images - logged_images) / max(time.monotonic() - logged_at - quiet_s, 1e-9)
                place = {"minutes": self.minutes, "step": self.step, "frame_size": frame_size}
                journal.write({**place, "learning_rate": rate, "images_per_s": speed, **row})
                self._show(self.progress, _line(place, speed, row))
                sums, count, logged_images, logged_at, quiet_s = {}, 0, self.images, time.monotonic(), 0.0
        if journal is not None:
            draw_curves(config.folder, CURVES)
        processes.wait()
        return found

    def _step(self, forward: nn.Module, frame_size: int, rate: float) -> StepLosses:
        config = self.config
        size = config.schedule.batch_size(frame_size, self.processes.count)
        batch = self.task.draw(size, frame_size, self.on_cpu)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        with torch.autocast(self.device.type, torch.bfloat16, enabled=config.bf16):
            losses: StepLosses = forward(batch, self.on_device)
        self.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(losses.total)
        norm = nn.utils.clip_grad_norm_(self.learner.parameters(), config.clip)
        # One batch that overflows must not end hours of work: it is left out and seen in the log.
        if bool(torch.isfinite(norm)):
            self.optimiser.step()
            if self.processes.is_first:
                self.average.update(self.learner)
        losses.parts["gradient"] = norm
        self.step += 1
        self.images += size * self.processes.count
        return losses

    def _seed_generators(self, seed: int) -> None:
        own = seed * 1000 + self.processes.rank
        self.on_cpu = torch.Generator().manual_seed(own)
        self.on_device = torch.Generator(self.device).manual_seed(own)


def _optimiser(learner: nn.Module, config: RunConfig) -> torch.optim.AdamW:
    trained = [value for value in learner.parameters() if value.requires_grad]
    groups = [
        {"params": [value for value in trained if value.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [value for value in trained if value.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.schedule.learning_rate, betas=config.betas, fused=True)


def _line(place: Mapping[str, float], speed: float, row: Mapping[str, float]) -> str:
    parts = [f"{place['minutes']:6.1f} min", f"step {place['step']}", f"{place['frame_size']} px"]
    shown = ("loss", "box_iou_0", "point_iou_0", "bce", "dice", "focal", "huber")
    parts += [f"{name} {row[name]:.3f}" for name in shown if name in row]
    return "  ".join([*parts, f"{speed:.2f} images/s"])


def _on_cpu(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.cpu() for key, value in state.items()}
