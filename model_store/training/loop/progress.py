"""Progress of a run on stderr: a live line on a terminal, plain lines elsewhere."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

_SHOWN = ("loss", "box_iou", "point_iou", "bce", "dice", "focal", "huber")
_SPEED_PERIOD_S = 1200.0  # a run reports a few times a minute, and its speed hardly changes
_HIDDEN = ("val_oracle", "val_obeyed")


@dataclass(frozen=True, slots=True)
class TrainProgress:
    """Progress of a run at one moment.

    Args:
        share: Share of the budget that has passed, 0..1.
        minutes: Minutes of training, in all budgets.
        step: Number of steps, in all budgets.
        images_per_s: Images a second over the last rows.
        figures: Losses and IoUs of the last steps, by name.
        validation: Figures of the last validation; empty before the first.
        message: Note, for instance about the next activity; "" for none.
    """

    share: float
    minutes: float
    step: int
    images_per_s: float = 0.0
    figures: Mapping[str, float] = field(default_factory=dict)
    validation: Mapping[str, float] = field(default_factory=dict)
    message: str = ""

    def line(self) -> str:
        """Return the progress as one line: the main figures, with corrections side by side."""
        shown = {
            name: value for start in _SHOWN for name, value in self.figures.items() if name.startswith(start)
        }  # fmt: skip
        parts = [f"{self.minutes:.1f} min", f"step {self.step}", *_short(shown), f"{self.images_per_s:.1f} images/s"]
        measured = {
            name.removeprefix("val_"): value for name, value in self.validation.items() if not name.startswith(_HIDDEN)
        }
        if measured:
            parts.append(" ".join(["validation", *_short(measured)]))
        return "  ".join(parts)


OnProgress = Callable[[TrainProgress], None]


@contextmanager
def train_progress(console: "Console | None" = None) -> Iterator[OnProgress]:
    """Show the progress of a run: on a terminal a live line below its messages, elsewhere one line for each report.

    Args:
        console: Console to write to; None for stderr.
    """
    from rich.console import Console  # noqa: PLC0415 - runs without rich use no terminal
    from rich.progress import (  # noqa: PLC0415 - the same
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    console = console or Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield lambda progress: console.print(progress.message or progress.line(), markup=False, soft_wrap=True)
        return
    columns = (BarColumn(20), TaskProgressColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, speed_estimate_period=_SPEED_PERIOD_S) as bar:
        task = bar.add_task("starting", total=1.0)

        def update(progress: TrainProgress) -> None:
            if progress.message:
                bar.console.print(progress.message, markup=False, highlight=False)
                bar.update(task, completed=progress.share)
            else:
                bar.update(task, completed=progress.share, description=progress.line())

        yield update


def _short(figures: Mapping[str, float]) -> list[str]:
    """Return figures as text, with the values after corrections behind the first: ``box 0.612/0.630``."""
    grouped: dict[str, list[tuple[str, float]]] = {}
    for name, value in figures.items():
        group, _, step = name.replace("_iou", "").partition("_")
        grouped.setdefault(group, []).append((step, value))
    return [f"{group} {'/'.join(f'{value:.3f}' for _, value in sorted(values))}" for group, values in grouped.items()]
