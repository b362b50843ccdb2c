"""What a run wrote about itself: one CSV line every few steps, and the same as curves in an SVG."""

import csv
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

CSV_NAME = "log.csv"
SVG_NAME = "curves.svg"

_COLOURS = ("#3b6fb6", "#c8553d", "#4f8f4f", "#8a5aa8", "#b08a2e", "#4aa3a3")
_PANEL_WIDTH, _PANEL_HEIGHT, _MARGIN = 460, 240, 44


class Journal:
    """Appends rows to a CSV file; a continued run goes on in the same one.

    A row may have columns that earlier ones had not: then the file is written again with them.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / CSV_NAME
        self._columns = list(read_rows(self.path)[0]) if self.path.is_file() and read_rows(self.path) else []

    def write(self, row: Mapping[str, Any]) -> None:
        """Append a row; numbers to six digits."""
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
    """Rows of a log, by column."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def draw_curves(folder: Path, panels: Mapping[str, Sequence[str]], *, over: str = "minutes") -> Path:
    """Curves of a run's log.

    Args:
        folder: where its log is; the SVG is written beside it.
        panels: columns to draw together, by the panel's title.
        over: column of the horizontal axis.
    """
    rows = read_rows(folder / CSV_NAME)
    drawn = []
    for number, (title, columns) in enumerate(panels.items()):
        series = {name: _series(rows, over, name) for name in columns}
        drawn.append(_panel(title, over, {name: points for name, points in series.items() if points}, number))
    width, height = _PANEL_WIDTH * len(panels), _PANEL_HEIGHT
    path = folder / SVG_NAME
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        f'font-size="11"><rect width="{width}" height="{height}" fill="white"/>{"".join(drawn)}</svg>\n',
        encoding="utf-8",
    )
    return path


def _series(rows: Sequence[Mapping[str, str]], over: str, name: str) -> list[tuple[float, float]]:
    return [(float(row[over]), float(row[name])) for row in rows if row.get(name) and row.get(over)]


def _panel(title: str, over: str, series: Mapping[str, Sequence[tuple[float, float]]], number: int) -> str:
    left, right = _PANEL_WIDTH * number + _MARGIN, _PANEL_WIDTH * (number + 1) - 12
    top, bottom = 30, _PANEL_HEIGHT - 34
    points = [point for curve in series.values() for point in curve]
    parts = [f'<text x="{left}" y="16" font-weight="bold">{html.escape(title)}</text>']
    if points:
        x_low, x_high = min(x for x, _ in points), max(x for x, _ in points)
        y_low, y_high = min(y for _, y in points), max(y for _, y in points)
        x_span, y_span = x_high - x_low or 1.0, y_high - y_low or 1.0
        for index, (name, curve) in enumerate(series.items()):
            colour = _COLOURS[index % len(_COLOURS)]
            places = [
                (left + (x - x_low) / x_span * (right - left), bottom - (y - y_low) / y_span * (bottom - top))
                for x, y in curve
            ]
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
            parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.3"/>')
            parts.append(f'<text x="{left + 116 + 72 * index}" y="16" fill="{colour}">{html.escape(name)}</text>')
        for value, y in ((y_high, top), (y_low, bottom)):
            parts.append(f'<text x="{left - 4}" y="{y + 4}" text-anchor="end">{value:.3g}</text>')
        for value, x in ((x_low, left), (x_high, right)):
            parts.append(f'<text x="{x}" y="{bottom + 14}" text-anchor="middle">{value:.3g}</text>')
    parts.append(f'<path d="M{left},{top} V{bottom} H{right}" fill="none" stroke="#888"/>')
    parts.append(f'<text x="{(left + right) / 2}" y="{_PANEL_HEIGHT - 6}" text-anchor="middle">{over}</text>')
    return "".join(parts)


def _short(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value
