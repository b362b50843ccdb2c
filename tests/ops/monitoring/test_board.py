"""The dashboard: Grafana's types accept it, and every query returns data from a real Prometheus after a real load."""

import json
import math
import os
import re
import subprocess
from pathlib import Path

import pytest
from support.browser import needed_program

ROOT = Path(__file__).parent.parent.parent.parent
BOARD = json.loads((ROOT / "k8s" / "components" / "monitoring" / "dashboards" / "edgesam.json").read_text())
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
QUERIES = [(panel, target) for panel in PANELS for target in panel["targets"]]

# Panels whose data sources do not run in tests. Every other panel has to return data.
NO_DATA_HERE = {
    "CPU throttling": "cAdvisor, a part of the kubelet",
    "GPU utilization": "a GPU and NVIDIA's DCGM exporter",
    "GPU memory": "a GPU and NVIDIA's DCGM exporter",
}

SCHEMA = "@grafana/schema@13.2.3"
TYPESCRIPT = "typescript@5.9.3"
PANEL_TYPES = "@grafana/schema/dist/esm/raw/composable"
OPTIONS = {
    "timeseries": "timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen",
    "stat": "stat/panelcfg/x/StatPanelCfg_types.gen",
    "bargauge": "bargauge/panelcfg/x/BarGaugePanelCfg_types.gen",
    "heatmap": "heatmap/panelcfg/x/HeatmapPanelCfg_types.gen",
    "table": "table/panelcfg/x/TablePanelCfg_types.gen",
}


def query_name(value: object) -> str | None:
    """Return a panel's title as the id of a test."""
    return value["title"] if isinstance(value, dict) and "title" in value else None


def filled(expr: str, span_s: float) -> str:
    """Return a query as Grafana sends it when all variables are set to All."""
    values = {
        "$__rate_interval": "10s",
        "$__range": f"{math.ceil(span_s)}s",
        "$namespace": ".*",
        "$job": "edgesam",
        "$instance": ".+",
    }
    for name, value in values.items():
        expr = expr.replace(name, value)
    assert "$" not in expr, "an unknown variable"
    return expr


@pytest.fixture(scope="session")
def typescript() -> Path:
    """A folder with Grafana's types and a TypeScript compiler from the npm registry, kept between runs."""
    npm = needed_program("npm")
    folder = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "edgesam-grafana-schema"
    wanted = f"{SCHEMA} {TYPESCRIPT}"
    mark = folder / "installed"
    if not mark.exists() or mark.read_text() != wanted:
        folder.mkdir(parents=True, exist_ok=True)
        command = [npm, "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(folder), SCHEMA, TYPESCRIPT]
        subprocess.run(command, check=True, timeout=120, capture_output=True)
        mark.write_text(wanted)
    return folder


def type_errors(typescript: Path, board: dict) -> str:
    """Return the compiler's errors about a dashboard, and about the options of each panel."""
    kinds = {panel["type"] for panel in board["panels"]} & OPTIONS.keys()
    lines = [
        'import type { Dashboard } from "@grafana/schema";',
        *(f'import type {{ Options as {kind} }} from "{PANEL_TYPES}/{OPTIONS[kind]}";' for kind in sorted(kinds)),
        f'import type {{ FieldConfig as curves }} from "{PANEL_TYPES}/{OPTIONS["timeseries"]}";',
        # In JSON, an enumeration is the text of its member.
        "type Plain<T> = T extends string ? `${T}` : T extends object ? { [K in keyof T]: Plain<T[K]> } : T;",
        f"export const board: Plain<Dashboard> = {json.dumps(board)};",
    ]
    for panel in board["panels"]:
        if panel["type"] == "row":
            continue
        kind, number = panel["type"], panel["id"]
        lines.append(f"export const options{number}: Plain<{kind}> = {json.dumps(panel['options'])};")
        if kind == "timeseries":
            custom = json.dumps(panel["fieldConfig"]["defaults"]["custom"])
            lines.append(f"export const custom{number}: Plain<curves> = {custom};")
    (typescript / "board.ts").write_text("\n".join(lines))
    compiler = [needed_program("node"), str(typescript / "node_modules" / "typescript" / "bin" / "tsc")]
    switches = "--noEmit --strict --skipLibCheck --module nodenext --moduleResolution nodenext --target es2022"
    done = subprocess.run(
        [*compiler, *switches.split(), "board.ts"],
        cwd=typescript,
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.stdout


def test_grafanas_types_accept_the_board(typescript: Path):
    assert type_errors(typescript, BOARD) == ""


def test_grafanas_types_refuse_misspelled_fields(typescript: Path):
    broken = json.loads(json.dumps(BOARD))
    broken["panels"][1]["gridPoss"] = broken["panels"][1].pop("gridPos")
    broken["panels"][2]["options"]["colourMode"] = "value"

    errors = type_errors(typescript, broken)

    assert "gridPoss" in errors
    assert "colourMode" in errors


@pytest.mark.parametrize(("panel", "target"), QUERIES, ids=query_name)
def test_a_query_is_valid_promql(watched, panel: dict, target: dict):
    watched.prometheus.ask("format_query", query=filled(target["expr"], 60))


@pytest.mark.parametrize(("panel", "target"), QUERIES, ids=query_name)
def test_a_query_returns_numbers_from_the_service_under_load(watched, panel: dict, target: dict):
    if panel["title"] in NO_DATA_HERE:
        assert "Needs" in panel["description"]
        pytest.skip(f"needs {NO_DATA_HERE[panel['title']]}")
    expr = filled(target["expr"], watched.ended - watched.began)

    if target["instant"]:
        series = watched.prometheus.ask("query", query=expr, time=watched.ended)["result"]
        numbers = [float(one["value"][1]) for one in series]
    else:
        series = watched.prometheus.ask("query_range", query=expr, step=1, **watched.span)["result"]
        numbers = [float(value) for one in series for _, value in one["values"]]

    assert series, "no series"
    assert not any(math.isinf(number) for number in numbers)
    assert any(math.isfinite(number) for number in numbers), "nothing but NaN"
    if target["instant"]:
        assert not any(math.isnan(number) for number in numbers)


def test_panels_without_data_in_tests_exist():
    assert {panel["title"] for panel in PANELS} >= NO_DATA_HERE.keys()


def test_titles_and_numbers_are_unique_and_panels_do_not_overlap():
    taken = set()
    for panel in BOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells

    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])
    assert len({panel["title"] for panel in PANELS}) == len(PANELS)


def test_every_panel_has_a_unit_and_a_description_and_uses_the_variables():
    for panel in PANELS:
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["description"], panel["title"]
        for target in panel["targets"]:
            assert target["expr"].startswith("count(ALERTS") or "$namespace" in target["expr"], panel["title"]
            assert "[5m]" not in target["expr"], "use $__rate_interval, which follows the zoom"


def test_percentiles_are_computed_from_summed_buckets():
    for panel, target in QUERIES:
        for rest in target["expr"].split("histogram_quantile(")[1:]:
            assert re.match(r"[\d.]+, sum by \([a-z, ]*le\) \(rate\(", rest), panel["title"]


def test_thresholds_of_the_dashboard_are_the_objectives_of_the_rules():
    rules = (ROOT / "k8s" / "components" / "monitoring" / "rules.yaml").read_text()
    lines = {
        panel["title"]: {step["value"] for step in panel["fieldConfig"]["defaults"]["thresholds"]["steps"]}
        for panel in PANELS
    }

    for title, edge, budget in (
        ("Prompt latency", 0.15, None),
        ("Upload latency", 2.5, None),
        ("Availability", 0.999, "> 1 * 0.001"),
        ("Prompts within 150 ms", 0.99, "> 1 * 0.01"),
        ("Uploads within 2.5 s", 0.95, "> 1 * 0.05"),
        ("Everything latency", 10.0, None),
        ("Everything requests within 10 s", 0.95, "> 1 * 0.05"),
    ):
        assert edge in lines[title]
        assert (budget or f'le="{edge}"') in rules


def test_links_lead_to_sections_of_the_runbook():
    runbook = (ROOT / "docs" / "operations" / "runbook.md").read_text()
    pages = {title.lower() for title in re.findall(r"^## (\w+)$", runbook, re.MULTILINE)}

    linked = {link["url"].partition("#")[2] for panel in PANELS for link in panel.get("links", [])}

    assert linked
    assert linked <= pages
