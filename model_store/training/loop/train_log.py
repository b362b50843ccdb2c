"""The train log: a CSV file with a row every few steps, and its curves as a PNG."""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CSV_NAME = "log.csv"
CURVES_NAME = "curves.png"

_ROLLING_ROWS = 15
_EXACT = ("val_", "learning_rate")  # columns that do not vary with the images of a few steps
_PANEL_INCHES = (5.2, 3.6)
_PANELS_A_ROW = 3


class TrainLog:
    """Appends rows to a CSV file; a continued run appends to the same file.

    If a row has new columns, the file is written again with them.

    Args:
        folder: Folder of the run, which is made if it does not exist.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / CSV_NAME
        rows = read_rows(self.path) if self.path.is_file() else []
        self._columns = list(rows[0]) if rows else []

    def write(self, row: Mapping[str, Any]) -> None:
        """Append a row; numbers are written with six significant digits."""
        fresh = [column for column in row if column not in self._columns]
        if fresh:
            rows = read_rows(self.path) if self.path.is_file() else []
            self._columns += fresh
            with self.path.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, self._columns)
                writer.writeheader()
                writer.writerows(rows)
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self._columns).writerow({key: _short(value) for key, value in row.items()})


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a log by column; a missing value is an empty text."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def draw_curves(folder: Path, panels: Mapping[str, Sequence[str]], *, over: str = "minutes") -> Path | None:
    """Draw the curves of a run.

    Args:
        folder: Folder of the run; the image is written beside its log.
        panels: Prefixes of the columns of each panel, by the panel's title: ``val_`` takes all columns of validation.
            Panels without a value are left out.
        over: Column of the horizontal axis.

    Returns:
        The path of the image; None if matplotlib is not installed.
    """
    # Not at the top: only the first process draws, and matplotlib takes memory. Without pyplot, which would look for a
    # display and keep every figure.
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError:
        return None

    rows = read_rows(folder / CSV_NAME)
    drawn: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for title, prefixes in panels.items():
        names = sorted(name for name in (rows[0] if rows else {}) if name.startswith(tuple(prefixes)))
        series = {name: points for name in names if (points := _series(rows, over, name))}
        if series:
            drawn[title] = series
    columns = min(max(len(drawn), 1), _PANELS_A_ROW)
    lines = math.ceil(max(len(drawn), 1) / columns)
    width, height = _PANEL_INCHES
    figure = Figure(figsize=(width * columns, height * lines))
    # Fixed margins: an automatic layout would take half of the drawing time, every few minutes.
    figure.subplots_adjust(
        left=0.2 / columns, right=1 - 0.05 / columns, bottom=0.15 / lines, top=1 - 0.1 / lines, hspace=0.35
    )
    for index, (title, series) in enumerate(drawn.items()):
        axes = figure.add_subplot(lines, columns, index + 1)
        for name, points in series.items():
            _draw_curve(axes, name, points)
        axes.set(title=title, xlabel=over)
        axes.grid(alpha=0.3)
        axes.legend(fontsize="x-small", ncols=2)
    path = folder / CURVES_NAME
    figure.savefig(path, dpi=100)
    return path


def _series(rows: Sequence[Mapping[str, str]], over: str, name: str) -> list[tuple[float, float]]:
    return [(float(row[over]), float(row[name])) for row in rows if row.get(name) and row.get(over)]


def _draw_curve(axes: "Axes", name: str, points: Sequence[tuple[float, float]]) -> None:
    is_noisy = len(points) > _ROLLING_ROWS and not name.startswith(_EXACT)
    marker = None if len(points) > _ROLLING_ROWS else "o"  # a single point makes no line
    shown = _rolling_mean(points) if is_noisy else points
    (line,) = axes.plot(*_columns(shown), label=name, linewidth=1.4, marker=marker, markersize=3)
    if is_noisy:  # single rows, faintly behind their mean
        axes.plot(*_columns(points), color=line.get_color(), linewidth=0.6, alpha=0.25)


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [position for position, _ in points], [value for _, value in points]


def _rolling_mean(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return points with the mean of the preceding rows, since single rows vary with their images."""
    means = []
    for index, (position, _) in enumerate(points):
        recent = [value for _, value in points[max(index + 1 - _ROLLING_ROWS, 0) : index + 1]]
        means.append((position, sum(recent) / len(recent)))
    return means


def _short(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value
