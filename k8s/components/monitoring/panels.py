"""Builders of Grafana panels in JSON: queries, single numbers, curves, heat maps, and their positions."""

from collections.abc import Mapping, Sequence
from typing import Any

Json = dict[str, Any]

GREEN, YELLOW, ORANGE, RED = "green", "yellow", "orange", "red"

SOURCE: Json = {"type": "prometheus", "uid": "${datasource}"}
BARS: Json = {
    "displayMode": "lcd",
    "orientation": "horizontal",
    "valueMode": "color",
    "showUnfilled": True,
    "minVizHeight": 16,
    "minVizWidth": 8,
    "namePlacement": "auto",
    "sizing": "auto",
    "legend": {"showLegend": False, "displayMode": "list", "placement": "bottom", "calcs": []},
    "maxVizHeight": 300,
    "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
}
Steps = Sequence[tuple[float | None, str]]


def query(
    expr: str, legend: str, *, instant: bool = False, exemplar: bool = False, heat: bool = False, table: bool = False
) -> Json:
    """Return one query of a panel. `panel` adds its letter."""
    return {
        "datasource": SOURCE,
        "expr": expr,
        "legendFormat": legend,
        "instant": instant,
        "range": not instant,
        "exemplar": exemplar,
        "format": "heatmap" if heat else "table" if table else "time_series",
        "editorMode": "code",
    }


def link(title: str, url: str) -> Json:
    """Return a link to a page of the runbook."""
    return {
        "title": title,
        "type": "link",
        "icon": "doc",
        "url": url,
        "tooltip": "Meaning and remedies",
        "asDropdown": False,
        "includeVars": False,
        "keepTime": False,
        "tags": [],
        "targetBlank": True,
    }


def quantiles(histogram: str, which: str) -> list[Json]:
    """Return queries of p50, p95 and p99 over all replicas."""
    rates = f"sum by (le) (rate({histogram}_bucket{{{which}}}[$__rate_interval]))"
    return [query(f"histogram_quantile({q}, {rates})", f"p{q * 100:g}", exemplar=q == 0.99) for q in (0.5, 0.95, 0.99)]


def least(objective: float) -> Steps:
    """Return thresholds that are red below the objective."""
    return [(None, RED), (objective, GREEN)]


def panel(
    kind: str,
    title: str,
    queries: Sequence[Json],
    *,
    width: int,
    unit: str,
    help: str,  # noqa: A002 - Grafana shows it as the panel's help
    options: Mapping[str, Any],
    steps: Steps = ((None, GREEN),),
    custom: Mapping[str, Any] | None = None,
    least: float | None = None,
    most: float | None = None,
    decimals: int | None = None,
    alert: str | None = None,
    transformations: Sequence[Json] = (),
) -> Json:
    """Return a panel without its position.

    Args:
        kind: Panel type of Grafana.
        title: Title of the panel.
        queries: Queries of the panel, from `query`.
        width: Width of the panel, in columns of 24.
        unit: Unit of the values, by Grafana's name.
        help: Description of the panel.
        options: Options of the panel type.
        steps: Thresholds with their colours, in ascending order.
        custom: Custom options of the curves.
        least: Lower end of the axis.
        most: Upper end of the axis.
        decimals: Number of decimal places.
        alert: Alert whose section of the runbook the panel links to.
        transformations: Transformations of the query results.
    """
    defaults: Json = {
        "unit": unit,
        "color": {"mode": "thresholds" if kind in {"stat", "bargauge"} else "palette-classic"},
        "thresholds": {"mode": "absolute", "steps": [{"value": value, "color": color} for value, color in steps]},
        "custom": dict(custom or {}),
    }
    bounds = {"min": least, "max": most, "decimals": decimals}
    defaults |= {name: value for name, value in bounds.items() if value is not None}
    made: Json = {
        "type": kind,
        "title": title,
        "description": help,
        "datasource": SOURCE,
        "targets": [{"refId": chr(ord("A") + i), **one} for i, one in enumerate(queries)],
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": dict(options),
        "gridPos": {"x": 0, "y": 0, "w": width, "h": 8},
    }
    if alert is not None:
        made["links"] = [link(alert, f"${{runbook}}#{alert.lower()}")]
    if transformations:
        made["transformations"] = list(transformations)
    return made


def stat(title: str, expr: str, steps: Steps, *, width: int, unit: str = "percentunit", **more: Any) -> Json:
    """Return a panel with one large number."""
    reduce = {"calcs": ["lastNotNull"], "fields": "", "values": False}
    options = {
        "reduceOptions": reduce,
        "colorMode": "value",
        "graphMode": "none",
        "justifyMode": "auto",
        "orientation": "auto",
        "textMode": "auto",
        "wideLayout": True,
        "showPercentChange": False,
        "percentChangeColorMode": "standard",
    }
    return panel("stat", title, [query(expr, "", instant=True)], width=width, unit=unit, steps=steps,
                 options=options, **more)  # fmt: skip


def lines(title: str, queries: Sequence[Json], *, width: int, unit: str, stacked: bool = False, **more: Any) -> Json:
    """Return a panel of curves over time, from zero. Thresholds are dashed lines."""
    custom = {
        "drawStyle": "line",
        "lineWidth": 1,
        "fillOpacity": 40 if stacked else 8,
        "showPoints": "never",
        "spanNulls": False,
        "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
        "thresholdsStyle": {"mode": "dashed" if "steps" in more else "off"},
        "axisSoftMin": 0,
    }
    options = {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    return panel("timeseries", title, queries, width=width, unit=unit, custom=custom, options=options, **more)


def heatmap(title: str, expr: str, *, help: str) -> Json:  # noqa: A002 - as above
    """Return a panel of histogram buckets over time."""
    options = {
        "calculate": False,
        "cellGap": 1,
        "cellValues": {"unit": "none"},
        "color": {"mode": "scheme", "scheme": "Oranges", "scale": "exponential", "exponent": 0.5, "fill": "orange",
                  "reverse": False, "steps": 64},
        "exemplars": {"color": "rgba(90, 200, 250, 0.8)"},
        "filterValues": {"le": 1e-9},
        "legend": {"show": True},
        "rowsFrame": {"layout": "auto"},
        "showValue": "never",
        "tooltip": {"mode": "single", "yHistogram": False, "showColorScale": False},
        "yAxis": {"axisPlacement": "left", "unit": "s"},
    }  # fmt: skip
    return panel("heatmap", title, [query(expr, "{{le}}", exemplar=True, heat=True)], width=12, unit="s",
                 options=options, help=help)  # fmt: skip


def placed(rows: Sequence[tuple[str, list[Json]]]) -> list[Json]:
    """Return all panels, numbered and positioned in lines of 24 columns below the title of their row."""
    panels: list[Json] = []
    y = 0
    for title, members in rows:
        panels.append({"type": "row", "title": title, "collapsed": False, "id": len(panels) + 1, "panels": [],
                       "gridPos": {"x": 0, "y": y, "w": 24, "h": 1}})  # fmt: skip
        y, x = y + 1, 0
        for member in members:
            width = member["gridPos"]["w"]
            if x + width > 24:
                x, y = 0, y + 8
            panels.append({"id": len(panels) + 1, **member, "gridPos": {"x": x, "y": y, "w": width, "h": 8}})
            x += width
        y += 8
    return panels
