"""Output for people: tables on stdout; notes, progress bars and steps on stderr."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table
from rich.text import Text

from service.manifest import Manifest
from service.mask_rules import Ranking

MEGABYTE = 1e6
PIPED_WIDTH = 240
"""Columns of a table that goes to a pipe or file, which has no screen width."""
_COUNTER_LINES = 10  # of a counter without a terminal


def print_note(message: str) -> None:
    """Print one note on stderr."""
    _stderr().print(message, markup=False, soft_wrap=True)


def print_manifest(directory: Path, manifest: Manifest) -> None:
    """Print a manifest as a table of names and values.

    Args:
        directory: Folder of the artifact.
        manifest: Manifest of the artifact.
    """
    table = Table(box=None, show_header=False, pad_edge=False)
    rows = [("directory", str(directory)), ("fingerprint", manifest.fingerprint), *_rows(manifest)]
    for key, value in rows:
        table.add_row(Text(key.replace("_", " ")), Text(value))
    stdout().print(table)


def print_table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table of figures below its title, and an empty line.

    Args:
        title: Title of the table.
        header: Titles of the columns.
        rows: Cells of each row, as many as the header has.
    """
    table = Table(title=Text(title), title_justify="left", box=None, pad_edge=False)
    for name in header:
        table.add_column(Text(name))
    for row in rows:
        table.add_row(*map(Text, row))
    stdout().print(table)
    print()


def stdout() -> Console:
    """Return the console for results: as wide as the terminal, or `PIPED_WIDTH` without one."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=PIPED_WIDTH)


@contextmanager
def download_bar(file_name: str) -> Iterator[Callable[[int, int | None], None]]:
    """Show a progress bar; its callback takes (bytes received, bytes in all; None while that is not known)."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=_stderr()) as bar:
        task = bar.add_task(file_name, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def steps() -> Iterator[Callable[[str], None]]:
    """Show the current step beside a spinner, or one line a step without a terminal; its callback takes the step."""
    console = _stderr()
    if not console.is_terminal:
        yield print_note
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("starting", total=None)
        yield lambda step: bar.update(task, description=step)


@contextmanager
def counter(title: str) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar, or a few lines without a terminal; its callback takes (items done, items in all)."""
    console = _stderr()
    if not console.is_terminal:
        last = -1

        def line(done: int, count: int) -> None:
            nonlocal last
            part = done * _COUNTER_LINES // max(count, 1)
            if part != last:
                last = part
                console.print(f"{title}: {done} of {count}", markup=False, soft_wrap=True)

        yield line
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, count: bar.update(task, completed=done, total=count)


def _rows(manifest: Manifest) -> Iterator[tuple[str, str]]:
    for key, value in manifest.model_dump(mode="json").items():
        if key == "graphs":
            for graph_name, graph in value.items():
                yield graph_name, f"{graph['file']}, {graph['size_bytes'] / MEGABYTE:.1f} MB, SHA-256 {graph['sha256']}"
        elif key == "encoder":
            yield "image encoder", value
        elif key == "ranking":
            yield "masks ordered by", _rule(manifest.ranking)
        elif isinstance(value, dict):
            yield key, ", ".join(f"{name} {_short(number)}" for name, number in value.items()) or "-"
        elif isinstance(value, list):
            yield key, ", ".join(map(str, value))
        elif isinstance(value, bool):
            yield key, "yes" if value else "no"
        else:
            yield key, str(value) if value not in {None, ""} else "-"


def _rule(ranking: Ranking) -> str:
    """Return the formula of the ranking score, without the terms that are zero."""
    weights = ((ranking.stability, "stability"), (ranking.predicted_iou, "predicted IoU"))
    terms = [name if weight == 1.0 else f"{weight:.4g} × {name}" for weight, name in weights if weight]
    if any(ranking.bias):
        terms.append(f"({', '.join(f'{bias:.4g}' for bias in ranking.bias)}) by output")
    return " + ".join(terms) or "output"


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _stderr() -> Console:
    # Made at each use: stderr may have been replaced, in tests for instance.
    return Console(stderr=True, highlight=False)
