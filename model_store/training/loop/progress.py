"""Bars on stderr for what takes long; lines where no terminal is."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

_LINES = 10


@contextmanager
def counter(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar that is told (done, all)."""
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
def budget() -> Iterator[Callable[[float, str], None]]:
    """A bar that is told the share of a run's budget that has gone, and a line about it with losses and speed."""
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield lambda _share, line: console.print(line, markup=False, soft_wrap=True)
        return
    columns = (BarColumn(), TaskProgressColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("starting", total=1.0)
        yield lambda share, line: bar.update(task, completed=share, description=line)
