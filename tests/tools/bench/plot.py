"""The figure of the benchmark report: what a click takes, and what many clients get."""

import io
import textwrap
from collections.abc import Mapping, Sequence

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

Values = Mapping[str, float]

OURS, OTHER, TAIL = "#1f7a5c", "#9aa4af", "#c2682a"
BARS = (
    ("official decoder graph", "graphs.official_all_ms", OTHER),
    ("our decoder graph, ONNX Runtime", "graphs.graph_all_ms", OURS),
    ("our service's decoder", "graphs.served_all_ms", OURS),
    ("our service, HTTP, 2 MP", "click.medium_ms", OURS),
    ("our service, HTTP, 12 MP", "click.large_ms", OURS),
    ("typical peer, HTTP, 2 MP", "peer.medium_ms", OTHER),
    ("typical peer, HTTP, 12 MP", "peer.large_ms", OTHER),
)
PANEL_INCHES = (8.6, 2.6)


def as_svg(drawing: Figure) -> str:
    """Return the text of the SVG file; text stays text, so that the file is small and can be searched."""
    text = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "bench"}):
        drawing.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()


def draw(values: Values, where: str) -> Figure:
    """Draw bars of a click's time and curves of the load.

    Args:
        values: Figures of the report by name; panels without figures are left out.
        where: Machine and versions, printed below the panels.
    """
    closed = _by_number(values, "load.per_s.")
    open_loop = _by_number(values, "load.open_p50_ms."), _by_number(values, "load.open_p99_ms.")
    bars = [(name, values[key], colour) for name, key, colour in BARS if key in values]
    rows = [row for row, present in (("bars", bars), ("curves", closed or open_loop[0])) if present]
    width, height = PANEL_INCHES
    drawing = Figure(figsize=(width, height * max(1, len(rows))), layout="constrained", facecolor="white")
    grid = drawing.add_gridspec(max(1, len(rows)), 2)
    for place, row in enumerate(rows):
        if row == "bars":
            _draw_bars(drawing.add_subplot(grid[place, :]), bars)
        else:
            _draw_throughput(drawing.add_subplot(grid[place, 0]), closed, values.get("load.plain_per_s"))
            _draw_latency(drawing.add_subplot(grid[place, 1]), *open_loop)
    drawing.supxlabel("\n".join(textwrap.wrap(where, 130)), fontsize=7, color="#57606a")
    return drawing


def _draw_bars(axes: Axes, bars: Sequence[tuple[str, float, str]]) -> None:
    axes.set_title("One click, median, ms (all cores)", loc="left", fontsize=10)
    drawn = axes.barh([name for name, _, _ in bars], [ms for _, ms, _ in bars], color=[colour for *_, colour in bars])
    axes.bar_label(drawn, fmt="%.1f", padding=4, fontsize=8)
    axes.invert_yaxis()
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_throughput(axes: Axes, closed: Sequence[tuple[int, float]], plain_per_s: float | None) -> None:
    _prepare(axes, "Clicks per second, by clients (closed loop)", [clients for clients, _ in closed])
    axes.plot(range(len(closed)), [per_s for _, per_s in closed], "o-", color=OURS, label="our service")
    if plain_per_s is not None:
        axes.axhline(plain_per_s, color=OTHER, linestyle="--", label="bare decoder calls")
    _finish(axes)


def _draw_latency(axes: Axes, p50: Sequence[tuple[int, float]], p99: Sequence[tuple[int, float]]) -> None:
    _prepare(axes, "Latency in ms, by rate (open loop)", [f"{rate} %" for rate, _ in p50])
    axes.plot(range(len(p99)), [ms for _, ms in p99], "o-", color=TAIL, label="p99")
    axes.plot(range(len(p50)), [ms for _, ms in p50], "o-", color=OURS, label="p50")
    _finish(axes)


def _prepare(axes: Axes, title: str, steps: Sequence[object]) -> None:
    axes.set_title(title, loc="left", fontsize=10)
    axes.set_xticks(range(len(steps)), [str(step) for step in steps])
    axes.tick_params(labelsize=8)
    axes.grid(axis="y", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _finish(axes: Axes) -> None:
    axes.set_ylim(bottom=0)
    if axes.lines:
        axes.legend(fontsize=8, frameon=False)


def _by_number(values: Values, prefix: str) -> list[tuple[int, float]]:
    """Return (n, value) of the values called prefix + n, sorted by n."""
    return sorted((int(name.removeprefix(prefix)), value) for name, value in values.items() if name.startswith(prefix))
