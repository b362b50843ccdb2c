"""The figure of the report, drawn as SVG text: readable alone, on light and on dark pages."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

Values = Mapping[str, float]

WIDTH = 860
_PANEL_GAP = 34
_STYLE = """
  text { font: 12px system-ui, "Segoe UI", sans-serif; fill: #24292f }
  .title { font-size: 14px; font-weight: 600 }
  .faint { fill: #57606a }
  .axis { stroke: #8c959f; stroke-width: 1 }
  .grid { stroke: #8c959f; stroke-opacity: .25; stroke-width: 1 }
  .ours { fill: #1f7a5c } .other { fill: #9aa4af } .line { fill: none; stroke-width: 2.5 }
  .ours.line { stroke: #1f7a5c } .tail.line { stroke: #c2682a } .other.line { stroke: #9aa4af; stroke-dasharray: 5 4 }
  .tail.dot { fill: #c2682a }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .faint { fill: #9aa4af }
    .ours { fill: #3fb68b } .ours.line { stroke: #3fb68b } .other { fill: #6e7781 } .other.line { stroke: #9aa4af }
    .tail.line { stroke: #f0954f } .tail.dot { fill: #f0954f }
  }
"""


@dataclass(frozen=True, slots=True)
class Panel:
    """A part of the figure: its height and what is drawn in it, from (0, 0) on."""

    height: int
    drawn: str


def figure(values: Values, where: str) -> str:
    """Bars of what a click takes, curves of what many clients get; panels without measurements are left out."""
    panels = [panel for panel in (_click_bars(values), _curves(values)) if panel is not None]
    parts, y = [], 16
    for panel in panels:
        parts.append(f'<g transform="translate(16 {y})">{panel.drawn}</g>')
        y += panel.height + _PANEL_GAP
    for line in textwrap.wrap(where, 130):
        parts.append(_text(16, y, line, "faint", size=10))
        y += 14
    height = y
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'role="img" aria-label="What a click costs"><style>{_STYLE}</style>{"".join(parts)}</svg>\n'
    )


def _click_bars(values: Values) -> Panel | None:
    bars = [
        ("official decoder graph", "graphs.official_all_ms", False),
        ("our decoder graph, ONNX Runtime", "graphs.graph_all_ms", True),
        ("our service's decoder", "graphs.served_all_ms", True),
        ("our service, HTTP, 2 MP", "click.medium_ms", True),
        ("our service, HTTP, 12 MP", "click.large_ms", True),
        ("typical peer, HTTP, 2 MP", "peer.medium_ms", False),
        ("typical peer, HTTP, 12 MP", "peer.large_ms", False),
    ]
    present = [(name, values[key], is_ours) for name, key, is_ours in bars if key in values]
    if not present:
        return None
    left, room = 220, WIDTH - 220 - 90
    most = max(value for _, value, _ in present)
    parts = [_text(0, 12, "One click, median, ms (all cores)", "title")]
    for i, (name, value, is_ours) in enumerate(present):
        y, length = 28 + 24 * i, max(1.0, room * value / most)
        parts.append(_text(left - 8, y + 13, name, anchor="end"))
        kind = "ours" if is_ours else "other"
        parts.append(f'<rect class="{kind}" x="{left}" y="{y}" width="{length:.1f}" height="17" rx="2"/>')
        parts.append(_text(left + length + 6, y + 13, f"{value:.1f}"))
    return Panel(28 + 24 * len(present), "".join(parts))


def _curves(values: Values) -> Panel | None:
    """Side by side: throughput by clients, and latency by rate."""
    half, height = (WIDTH - 32 - 60) // 2, 210
    closed = _by_number(values, "load.per_s.")
    p50, p99 = _by_number(values, "load.open_p50_ms."), _by_number(values, "load.open_p99_ms.")
    drawn = []
    if closed:
        curves = [("our service", "ours", closed)]
        if "load.plain_per_s" in values:
            plain = [(clients, values["load.plain_per_s"]) for clients, _ in closed]
            curves.append(("bare decoder calls", "other", plain))
        drawn.append(_chart("Clicks a second, by clients (closed loop)", curves, half, height, ""))
    if p50:
        curves = [("p99", "tail", p99), ("p50", "ours", p50)]
        chart = _chart("Latency, ms, by rate (open loop)", curves, half, height, " %")
        drawn.append(f'<g transform="translate({half + 60 if drawn else 0} 0)">{chart}</g>')
    return Panel(height, "".join(drawn)) if drawn else None


def _chart(
    title: str,
    curves: Sequence[tuple[str, str, list[tuple[int, float]]]],
    width: int,
    height: int,
    unit: str,
) -> str:
    """Curves over the same places in equal steps, from 0 up, named at their ends."""
    left, top, bottom, right = 34, 30, height - 22, width - 110
    xs = [place for place, _ in curves[0][2]]
    most = _round_up(max(value for _, _, points in curves for _, value in points))

    def at(i: int, value: float) -> tuple[float, float]:
        x = left + 14 + (right - left - 28) * (i / (len(xs) - 1) if len(xs) > 1 else 0.5)
        return x, bottom - (bottom - top) * value / most

    parts = [_text(0, 12, title, "title")]
    for share in (0.0, 0.5, 1.0):
        y = bottom - (bottom - top) * share
        parts.append(f'<line class="{"axis" if share == 0 else "grid"}" x1="{left}" y1="{y}" x2="{right}" y2="{y}"/>')
        parts.append(_text(left - 6, y + 4, f"{most * share:g}", "faint", anchor="end"))
    parts += [_text(at(i, 0)[0], bottom + 16, f"{x}{unit}", "faint", anchor="middle") for i, x in enumerate(xs)]
    ends: list[tuple[float, str]] = []
    for name, kind, points in curves:
        places = [at(i, value) for i, (_, value) in enumerate(points)]
        parts.append(f'<polyline class="{kind} line" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in places)}"/>')
        if kind != "other":
            parts += [f'<circle class="{kind} dot" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>' for x, y in places]
        ends.append((places[-1][1] + 4, name))
    lowest = 0.0
    for y, name in sorted(ends):  # from above; two names may not lie on each other
        lowest = max(y, lowest + 14)
        parts.append(_text(right + 4, lowest, name))
    return "".join(parts)


def _by_number(values: Values, prefix: str) -> list[tuple[int, float]]:
    """(n, value) of the values called prefix + n, in order."""
    return sorted((int(name.removeprefix(prefix)), value) for name, value in values.items() if name.startswith(prefix))


def _round_up(value: float) -> float:
    """The next of 1, 2, 5, 10, 20, …"""
    step = 1.0
    while step * 10 <= value:
        step *= 10
    return next(step * factor for factor in (1, 2, 3, 4, 5, 6, 8, 10) if step * factor >= value)


def _text(x: float, y: float, text: str, kind: str = "", *, anchor: str = "start", size: int | None = None) -> str:
    style = f' style="font-size:{size}px"' if size else ""
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{style}>{escape(text)}</text>'
