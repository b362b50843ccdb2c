"""Progress on stderr: one live line or a bar on a terminal, plain lines elsewhere."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

_LINES = 10
_SHOWN = ("loss", "box_iou", "point_iou", "bce", "dice", "focal", "huber")
_SPEED_PERIOD_S = 1200.0  # a run reports a few times a minute, and its speed hardly changes
_HIDDEN = ("val_oracle", "val_obeyed")


@dataclass(frozen=True, slots=True)
class TrainProgress:
    """What a run tells while it goes on.

    Args:
        share: Share of the budget that has passed, 0..1.
        minutes: Minutes of training, in all budgets.
        step: Number of steps, in all budgets.
        images_per_s: Images a second over the last rows.
        figures: Losses and IoUs of the last steps, by name.
        validation: Figures of the last validation; empty before the first.
        message: Something else to say, such as what begins; "" for none.
    """

    share: float
    minutes: float
    step: int
    images_per_s: float = 0.0
    figures: Mapping[str, float] = field(default_factory=dict)
    validation: Mapping[str, float] = field(default_factory=dict)
    message: str = ""

    def line(self) -> str:
        """Return the progress as one line: what matters most of the figures, corrections side by side."""
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
def counter(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar that is told (done, all)."""
    from rich.console import Console  # noqa: PLC0415 - a run can also tell its progress where rich is absent
    from rich.progress import (  # noqa: PLC0415 - the same
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        last = -1

        def line(done: int, count: int) -> None:
            nonlocal last
            part = done * _LINES // max(count, 1)
            if part != last:
                last = part
                console.print(f"{what}: {done} of {count}", markup=False, soft_wrap=True)

        yield line
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, count: bar.update(task, completed=done, total=count)


@contextmanager
def train_progress(console: "Console | None" = None) -> Iterator[OnProgress]:
    """Show a run: a live line below its messages on a terminal, one line for each report elsewhere.

    Args:
        console: Where to show it; stderr by default.
    """
    from rich.console import Console  # noqa: PLC0415 - the same
    from rich.progress import (  # noqa: PLC0415 - the same
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    console = console or Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield lambda told: console.print(told.message or told.line(), markup=False, soft_wrap=True)
        return
    columns = (BarColumn(20), TaskProgressColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, speed_estimate_period=_SPEED_PERIOD_S) as bar:
        task = bar.add_task("starting", total=1.0)

        def show(told: TrainProgress) -> None:
            if told.message:
                bar.console.print(told.message, markup=False, highlight=False)
                bar.update(task, completed=told.share)
            else:
                bar.update(task, completed=told.share, description=told.line())

        yield show


def _short(figures: Mapping[str, float]) -> list[str]:
    """Return figures as text, those after corrections behind the first: ``box 0.612/0.630``."""
    grouped: dict[str, list[tuple[str, float]]] = {}
    for name, value in figures.items():
        group, _, step = name.replace("_iou", "").partition("_")
        grouped.setdefault(group, []).append((step, value))
    return [f"{group} {'/'.join(f'{value:.3f}' for _, value in sorted(values))}" for group, values in grouped.items()]
