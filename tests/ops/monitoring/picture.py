"""Draw the board with real data: `python tests/ops/monitoring/picture.py docs/images/board.png`.

What Grafana would ask is asked of Prometheus, and drawn as SVG from the board's JSON: places, units, thresholds and
colours are the board's. Chromium turns it into a PNG.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from pathlib import Path
from time import time
from typing import Any

sys.path[:0] = [str(Path(__file__).parent.parent.parent), str(Path(__file__).parent.parent.parent.parent)]

from playwright.sync_api import sync_playwright  # noqa: E402
from support.browser import needed_program  # noqa: E402
from support.prometheus_server import PrometheusServer  # noqa: E402
from support.watched_service import WatchedService  # noqa: E402

BOARD = Path(__file__).parent.parent.parent.parent / "k8s/components/monitoring/dashboards/edgesam.json"
RATE_INTERVAL = "15s"
UNIT, HEIGHT, GAP, LEFT, TOP = 62, 30, 8, 16, 56
CURVES = ("#73bf69", "#f2cc0c", "#8ab8ff", "#ff780a", "#f2495c", "#5794f2", "#b877d9", "#fade2a", "#37872d", "#fa6400")
NAMED = {"green": "#73bf69", "yellow": "#f2cc0c", "orange": "#ff9830", "red": "#f2495c", "blue": "#5794f2"}
STYLE = """
  text { font: 12px Inter, "DejaVu Sans", system-ui, sans-serif; fill: #ccccdc }
  .faint { fill: #8e8ea0; font-size: 10.5px } .title { font-size: 12.5px; font-weight: 600 }
  .row { font-size: 15px; font-weight: 600 } .board { font-size: 20px; font-weight: 600 }
  .panel { fill: #181b1f; stroke: #2c3235 } .grid { stroke: #2c3235 } .curve { fill: none; stroke-width: 1.4 }
"""

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Series:
    """A curve: its name and (time, value) in order; gaps are NaN."""

    name: str
    points: list[Point]


@dataclass(frozen=True, slots=True)
class Box:
    """A place on the picture, pixels."""

    x: float
    y: float
    width: float
    height: float


class Data:
    """What Prometheus knows of the time that is drawn."""

    def __init__(self, prometheus: PrometheusServer, start: float, end: float) -> None:
        self._prometheus, self.start, self.end = prometheus, start, end
        self._step = max(1.0, (end - start) / 160)

    def series(self, target: dict[str, Any]) -> list[Series]:
        """Of one query of a panel; of an instant one, the last value alone."""
        expr = target["expr"].replace("$__rate_interval", RATE_INTERVAL)
        expr = expr.replace("$__range", f"{math.ceil(self.end - self.start)}s").replace("$namespace", ".*")
        expr = expr.replace("$job", "edgesam").replace("$instance", ".+")
        if target["instant"]:
            found = self._prometheus.ask("query", query=expr, time=self.end)["result"]
            return [Series(_legend(target, one), [(self.end, float(one["value"][1]))]) for one in found]
        ask = {"query": expr, "start": self.start, "end": self.end, "step": self._step}
        found = self._prometheus.ask("query_range", **ask)["result"]
        return [Series(_legend(target, one), [(t, float(v)) for t, v in one["values"]]) for one in found]

    def labels(self, target: dict[str, Any]) -> list[dict[str, str]]:
        """Of an instant query, for a table."""
        expr = target["expr"].replace("$namespace", ".*").replace("$job", "edgesam").replace("$instance", ".+")
        return [one["metric"] for one in self._prometheus.ask("query", query=expr, time=self.end)["result"]]


def picture(board: dict[str, Any], data: Data) -> str:
    """The board as SVG. What has no data here is an empty frame, and a line of nothing but such frames is left out."""
    parts: list[str] = []
    y = float(TOP)
    for _, line in groupby(board["panels"], lambda panel: panel["gridPos"]["y"]):
        panels = list(line)
        if panels[0]["type"] == "row":
            parts.append(f'<text class="row" x="{LEFT}" y="{y + 21}">{escape(panels[0]["title"])}</text>')
            y += HEIGHT
            continue
        boxes = [
            Box(LEFT + place["x"] * UNIT, y, place["w"] * UNIT - GAP, place["h"] * HEIGHT - GAP)
            for place in (panel["gridPos"] for panel in panels)
        ]
        drawn = [_panel(panel, data, box) for panel, box in zip(panels, boxes, strict=True)]
        if any(drawn):
            parts += [_frame(panel, box) + inside for panel, box, inside in zip(panels, boxes, drawn, strict=True)]
            y += panels[0]["gridPos"]["h"] * HEIGHT
    width, height = LEFT * 2 + 24 * UNIT - GAP, y + GAP
    minutes = round((data.end - data.start) / 60)
    head = (
        f'<text class="board" x="{LEFT}" y="34">{escape(board["title"])}</text>'
        f'<text class="faint" x="{LEFT + 110}" y="33">two replicas and one Redis, {minutes} min</text>'
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}"><style>{STYLE}</style><rect width="100%" height="100%" fill="#111217"/>'
        f"{head}{''.join(parts)}</svg>\n"
    )


def _frame(panel: dict[str, Any], box: Box) -> str:
    frame = f'<rect class="panel" x="{box.x}" y="{box.y}" width="{box.width}" height="{box.height}" rx="3"/>'
    return frame + _text(box.x + 10, box.y + 20, panel["title"], "title", width=box.width - 16)


def _panel(panel: dict[str, Any], data: Data, box: Box) -> str:
    """What is in a panel; nothing where no query has an answer."""
    kind = panel["type"]
    if kind == "table":
        return _table(data.labels(panel["targets"][0]), panel, box)
    series = [one for target in panel["targets"] for one in data.series(target)]
    draw = {"stat": _stat, "bargauge": _bars, "heatmap": _heatmap, "timeseries": _curves}[kind]
    return draw(series, panel, box) if series else ""


def _stat(series: Sequence[Series], panel: dict[str, Any], box: Box) -> str:
    value = series[0].points[-1][1]
    shown, color = shown_value(value, panel), _step_color(value, panel)
    size = min(44.0, 1.3 * box.width / max(3, len(shown)))
    return (
        f'<text x="{box.x + box.width / 2:.1f}" y="{box.y + box.height / 2 + size / 2:.1f}" text-anchor="middle" '
        f'style="font-size:{size:.0f}px;font-weight:600;fill:{color}">{escape(shown)}</text>'
    )


def _bars(series: Sequence[Series], panel: dict[str, Any], box: Box) -> str:
    defaults = panel["fieldConfig"]["defaults"]
    least, most = defaults["min"], defaults["max"]
    step, parts = (box.height - 44) / len(series), []
    left, room = box.x + 90, box.width - 160
    for i, one in enumerate(series):
        value, y = one.points[-1][1], box.y + 38 + i * step
        length = room * (min(max(value, least), most) - least) / (most - least)
        parts.append(_text(left - 8, y + step / 2, one.name, anchor="end"))
        parts.append(f'<rect x="{left}" y="{y:.1f}" width="{room}" height="{step - 16:.1f}" fill="#22252b"/>')
        color = _step_color(value, panel)
        parts.append(f'<rect x="{left}" y="{y:.1f}" width="{length:.1f}" height="{step - 16:.1f}" fill="{color}"/>')
        parts.append(_text(left + room + 6, y + step / 2, shown_value(value, panel)))
    return "".join(parts)


def _curves(series: Sequence[Series], panel: dict[str, Any], box: Box) -> str:
    """Lines, stacked where the board says so, with a legend below and thresholds dashed."""
    custom = panel["fieldConfig"]["defaults"]["custom"]
    is_stacked = custom["stacking"]["mode"] == "normal"
    series = [one for one in series if any(math.isfinite(value) for _, value in one.points)]
    if not series:
        return ""
    if is_stacked:
        series = _stacked(series)
    rows = _legend_rows(series, box.width - 20)
    plot = Box(box.x + 58, box.y + 32, box.width - 70, box.height - 58 - 15 * len(rows))
    values = [value for one in series for _, value in one.points if math.isfinite(value)]
    top = panel["fieldConfig"]["defaults"].get("max") or _round_up(max(values) or 1.0)
    end = max(one.points[-1][0] for one in series)
    start = min(one.points[0][0] for one in series)

    def at(t: float, value: float) -> Point:
        x = plot.x + plot.width * (t - start) / max(1.0, end - start)
        return x, plot.y + plot.height * (1 - min(max(value, 0.0), top) / top)

    parts = [_axes(panel, plot, top, start, end)]
    if custom["thresholdsStyle"]["mode"] == "dashed":
        steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
        shown = [step for step in steps if step["value"] is not None and step["value"] <= top]
        parts += [_dashed(plot, at(start, step["value"])[1], NAMED[step["color"]]) for step in shown]
    for i, one in reversed(list(enumerate(series))):
        runs = _runs([at(t, value) if math.isfinite(value) else None for t, value in one.points])
        parts += [_curve(run, CURVES[i % len(CURVES)], plot, opacity=1.0 if is_stacked else 0.07) for run in runs]
    colors = {one.name: CURVES[i % len(CURVES)] for i, one in enumerate(series)}
    return "".join([*parts, _legend_below(rows, colors, box)])


def _dashed(plot: Box, y: float, color: str) -> str:
    return (
        f'<line x1="{plot.x}" x2="{plot.x + plot.width}" y1="{y:.1f}" y2="{y:.1f}" stroke-dasharray="6 4" '
        f'stroke="{color}" stroke-opacity=".8"/>'
    )


def _curve(run: Sequence[Point], color: str, plot: Box, *, opacity: float) -> str:
    """A line, and what is below it."""
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in run)
    bottom = plot.y + plot.height
    ground = f"{run[-1][0]:.1f},{bottom} {run[0][0]:.1f},{bottom}"
    return (
        f'<polygon points="{path} {ground}" fill="{color}" fill-opacity="{opacity}"/>'
        f'<polyline class="curve" points="{path}" stroke="{color}"/>'
    )


def _legend_below(rows: Sequence[Sequence[str]], colors: dict[str, str], box: Box) -> str:
    parts = []
    for i, row in enumerate(rows):
        x, y = box.x + 12.0, box.y + box.height - 15 * (len(rows) - i) + 4
        for name in row:
            parts.append(f'<rect x="{x}" y="{y - 5}" width="10" height="3" rx="1" fill="{colors[name]}"/>')
            parts.append(_text(x + 14, y, name, "faint"))
            x += _legend_width(name)
    return "".join(parts)


def _heatmap(series: Sequence[Series], panel: dict[str, Any], box: Box) -> str:
    """Cells of time and bucket; series are cumulative by `le`."""
    by_edge = sorted((float(one.name.replace("+Inf", "inf")), one.points) for one in series)
    used = [i for i, (_, points) in enumerate(by_edge) if any(_own(by_edge, i, j) > 0.01 for j in range(len(points)))]
    first, last = max(0, min(used) - 1), min(len(by_edge) - 1, max(used) + 1)
    plot = Box(box.x + 58, box.y + 34, box.width - 70, box.height - 62)
    rows, columns = last - first + 1, len(by_edge[0][1])
    cells = {(i, j): _own(by_edge, i, j) for i in range(first, last + 1) for j in range(columns)}
    most = max(cells.values())
    tall, wide = plot.height / rows, plot.width / columns
    parts = []
    for (i, j), count in cells.items():
        if count > 0.01:
            share = math.sqrt(count / most)
            y = plot.y + plot.height - (i - first + 1) * tall
            parts.append(
                f'<rect x="{plot.x + j * wide:.1f}" y="{y:.1f}" width="{wide - 0.6:.1f}" height="{tall - 0.8:.1f}" '
                f'fill="hsl({38 - 26 * share:.0f} {70 + 20 * share:.0f}% {22 + 42 * share:.0f}%)"/>'
            )
    for i in range(first, last + 1):
        edge = by_edge[i][0]
        if (last - i) % max(1, rows // 8) == 0:
            y = plot.y + plot.height - (i - first + 1) * tall + 4
            parts.append(_text(plot.x - 6, y, "∞" if math.isinf(edge) else _seconds(edge), "faint", anchor="end"))
    parts.append(_times(plot, by_edge[0][1][0][0], by_edge[0][1][-1][0]))
    return "".join(parts)


def _own(by_edge: Sequence[tuple[float, list[Point]]], i: int, j: int) -> float:
    below = by_edge[i - 1][1][j][1] if i else 0.0
    return by_edge[i][1][j][1] - below


def _table(rows: Sequence[dict[str, str]], panel: dict[str, Any], box: Box) -> str:
    order = panel["transformations"][0]["options"]["indexByName"]
    columns = [name for name in sorted(order, key=order.__getitem__) if any(name in row for row in rows)]
    wide = (box.width - 20) / len(columns)
    parts = []
    for i, name in enumerate(columns):
        x = box.x + 12 + i * wide
        parts.append(_text(x, box.y + 46, name, "faint"))
        for j, row in enumerate(rows):
            parts.append(_text(x, box.y + 68 + 22 * j, row.get(name, ""), width=wide - 6))
    return "".join(parts)


def _axes(panel: dict[str, Any], plot: Box, top: float, start: float, end: float) -> str:
    parts = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = plot.y + plot.height * (1 - share)
        parts.append(f'<line class="grid" x1="{plot.x}" x2="{plot.x + plot.width}" y1="{y:.1f}" y2="{y:.1f}"/>')
        if share in {0.0, 0.5, 1.0}:
            parts.append(_text(plot.x - 6, y + 4, shown_value(top * share, panel, axis=True), "faint", anchor="end"))
    return "".join(parts) + _times(plot, start, end)


def _times(plot: Box, start: float, end: float) -> str:
    """Minutes from the beginning."""
    parts = []
    for share in (0.0, 0.5, 1.0):
        seconds = round((end - start) * share)
        anchor = "start" if share == 0 else "end" if share == 1 else "middle"
        text = f"{seconds // 60}:{seconds % 60:02d}"
        parts.append(_text(plot.x + plot.width * share, plot.y + plot.height + 14, text, "faint", anchor=anchor))
    return "".join(parts)


def shown_value(value: float, panel: dict[str, Any], *, axis: bool = False) -> str:
    """A number in the panel's unit, as people read it."""
    defaults = panel["fieldConfig"]["defaults"]
    unit = defaults["unit"]
    if unit == "s":
        return _seconds(value)
    if unit == "percentunit":
        decimals = 0 if axis or abs(value) > 9 else defaults.get("decimals", 0)
        return f"{value * 100:.{decimals}f} %"
    if unit == "bytes":
        for suffix in ("B", "KiB", "MiB", "GiB"):
            if abs(value) < 1024 or suffix == "GiB":
                return f"{value:.3g} {suffix}"
            value /= 1024
    return f"{value:.3g}" + {"reqps": "/s", "ops": "/s"}.get(unit, "")


def _seconds(value: float) -> str:
    if value == 0:
        return "0"
    if value < 1:
        return f"{value * 1000:.3g} ms"
    return f"{value:.3g} s" if value < 120 else f"{value / 60:.3g} min"


def _step_color(value: float, panel: dict[str, Any]) -> str:
    steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    return NAMED[[step["color"] for step in steps if step["value"] is None or value >= step["value"]][-1]]


def _stacked(series: Sequence[Series]) -> list[Series]:
    """Each on top of those before it; drawn from the last."""
    ground: dict[float, float] = {}
    made = []
    for one in series:
        points = []
        for t, value in one.points:
            ground[t] = ground.get(t, 0.0) + (value if math.isfinite(value) else 0.0)
            points.append((t, ground[t]))
        made.append(Series(one.name, points))
    return made


def _runs(points: Sequence[Point | None]) -> list[list[Point]]:
    """What belongs together between gaps."""
    runs: list[list[Point]] = [[]]
    for point in points:
        if point is None:
            runs.append([])
        else:
            runs[-1].append(point)
    return [run for run in runs if run]


def _legend(target: dict[str, Any], one: dict[str, Any]) -> str:
    name = target["legendFormat"]
    for label, value in one["metric"].items():
        name = name.replace(f"{{{{{label}}}}}", value)
    return name


def _legend_width(name: str) -> float:
    return 30 + 6.3 * len(name)


def _legend_rows(series: Sequence[Series], width: float) -> list[list[str]]:
    """Names in at most two lines."""
    rows: list[list[str]] = [[]]
    used = 0.0
    for one in series:
        if used + _legend_width(one.name) > width and rows[-1]:
            if len(rows) == 2:
                break
            rows.append([])
            used = 0.0
        rows[-1].append(one.name)
        used += _legend_width(one.name)
    return rows


def _round_up(value: float) -> float:
    """The next of 1, 2, 5, 10, …"""
    step = 10 ** math.floor(math.log10(value))
    return next(step * factor for factor in (1, 2, 4, 5, 8, 10) if step * factor >= value * 0.9999)


def _text(x: float, y: float, text: str, kind: str = "", *, anchor: str = "start", width: float = 0.0) -> str:
    most = int(width / 6.6)
    shown = text if not width or len(text) <= most else text[: most - 1] + "…"
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(shown)}</text>'


def write_png(svg: str, path: Path) -> None:
    """As chromium draws it."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=needed_program("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": LEFT * 2 + 24 * UNIT - GAP, "height": 800})
        page.set_content(f'<body style="margin:0;background:#111217">{svg}</body>')
        page.locator("svg").screenshot(path=path)
        browser.close()


def main() -> None:
    """Start, use for a while, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="a PNG; the SVG goes beside it with --svg")
    parser.add_argument("--seconds", type=float, default=240.0)
    parser.add_argument("--svg", action="store_true")
    chosen = parser.parse_args()
    with WatchedService() as watched:
        watched.wait_for_scrapes()
        began = time()
        watched.use(chosen.seconds, pause_s=0.35, crowd_every_s=60)
        watched.wait_for_scrapes()
        data = Data(watched.prometheus, began + 5, began + chosen.seconds)
        svg = picture(json.loads(BOARD.read_text()), data)
    if chosen.svg:
        chosen.out.with_suffix(".svg").write_text(svg)
    write_png(svg, chosen.out)


if __name__ == "__main__":
    main()
