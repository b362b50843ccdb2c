"""The board: rows of panels for Grafana. `make monitoring` writes it to dashboards/edgesam.json.

One panel answers one question, which is its title; the description says what a bad answer means. Percentiles are never
averaged, thresholds are the objectives of rules.yaml, and every query follows the variables above the board.
"""

from collections.abc import Mapping, Sequence
from typing import Any

HTTP = "edgesam_http_request_duration_seconds"
STAGE = "edgesam_stage_duration_seconds"
CLICK_S, EMBED_S = 0.15, 2.5
AVAILABILITY, CLICKS, IMAGES = 0.999, 0.99, 0.95

# Which series the variables choose. Recorded rules keep namespace and job alone.
JOB = 'namespace=~"$namespace", job=~"$job"'
REPLICA = f'{JOB}, instance=~"$instance"'
REDIS = 'namespace=~"$namespace", job=~"edgesam-redis"'
POD = 'namespace=~"$namespace", pod=~"(.+-)?edgesam.*"'
OURS = 'route!~"/livez|/readyz|/healthz|/metrics|unmatched"'
CLICK = f'route="/segment", method="POST", status="200", {REPLICA}'
EMBED = f'route="/embed", method="POST", status="200", {REPLICA}'
FAILED = 'status=~"5..|0"'

GREEN, YELLOW, ORANGE, RED, BLUE = "green", "yellow", "orange", "red", "blue"
NOT_EVERYWHERE = "Needs {}, which a cluster has and a bare Prometheus has not; without it the panel is empty. "

Json = dict[str, Any]


def board() -> Json:
    """The dashboard, as Grafana takes it."""
    return {
        "uid": "edgesam",
        "title": "EdgeSAM",
        "description": "Latency, errors, stages, caches and replicas. What to do: docs/operations/runbook.md.",
        "tags": ["edgesam"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "links": [link("Runbook", "${runbook}")],
        "templating": {"list": variables()},
        "annotations": {"list": []},
        "panels": placed(rows()),
    }


def variables() -> list[Json]:
    """What stands above the board. The model chooses the replicas that serve it, and so reaches every panel."""
    chosen = {"type": "query", "datasource": SOURCE, "refresh": 2, "includeAll": True, "multi": True, "sort": 1}
    everything = {"allValue": ".*", "current": {"text": ["All"], "value": ["$__all"]}}
    return [
        {
            "name": "datasource",
            "label": "Prometheus",
            "type": "datasource",
            "query": "prometheus",
            "current": {"text": "", "value": ""},
        },
        {
            "name": "namespace",
            "label": "Namespace",
            "query": "label_values(edgesam_model_info, namespace)",
            **chosen,
            **everything,
        },
        {
            "name": "job",
            "label": "Job",
            "query": 'label_values(edgesam_model_info{namespace=~"$namespace"}, job)',
            **chosen,
            "current": {"text": ["All"], "value": ["$__all"]},
        },
        {
            "name": "model",
            "label": "Model",
            "query": f"label_values(edgesam_model_info{{{JOB}}}, model)",
            **chosen,
            **everything,
        },
        {
            "name": "instance",
            "label": "Replica",
            "query": f'label_values(edgesam_model_info{{{JOB}, model=~"$model"}}, instance)',
            **chosen,
            "current": {"text": ["All"], "value": ["$__all"]},
        },
        {
            "name": "runbook",
            "label": "Runbook",
            "type": "constant",
            "query": "docs/operations/runbook.md",
            "description": "Where docs/operations/runbook.md can be read.",
            "hide": 2,
        },
    ]


def rows() -> list[tuple[str, list[Json]]]:
    """Every row: its title and its panels, from left to right and down."""
    return [
        ("Objectives", objectives()),
        ("Requests", requests()),
        ("Latency", latency()),
        ("Where the time goes", stages()),
        ("Cache", cache()),
        ("Saturation", saturation()),
        ("Fleet", fleet()),
    ]


def objectives() -> list[Json]:
    """Row 1: are the promises kept?"""
    total = f"sum(increase({HTTP}_count{{{OURS}, {REPLICA}}}[$__range]))"
    failed = f"(sum(increase({HTTP}_count{{{OURS}, {FAILED}, {REPLICA}}}[$__range])) or vector(0))"
    slow = {
        name: f'1 - sum(increase({HTTP}_bucket{{{which}, le="{edge}"}}[$__range]))'
        f" / sum(increase({HTTP}_count{{{which}}}[$__range]))"
        for name, which, edge in (("clicks", CLICK, CLICK_S), ("images", EMBED, EMBED_S))
    }
    return [
        stat("Answered without a fault", f"1 - {failed} / {total}", least(AVAILABILITY), width=4, decimals=2,
             help="Share of requests that did not end in a fault of the server (5xx), in the shown range. "
             "The objective is 99.9 %.", alert="EdgesamAvailabilityBudgetBurn"),
        stat("Clicks within 150 ms", f"1 - ({slow['clicks']})", least(CLICKS), width=4, decimals=2,
             help="Share of answered POST /segment, in the shown range. The objective is 99 %.",
             alert="EdgesamClickLatencyBudgetBurn"),
        stat("Images within 2.5 s", f"1 - ({slow['images']})", least(IMAGES), width=4, decimals=2,
             help="Share of answered POST /embed, in the shown range, the client's upload included. "
             "The objective is 95 %.", alert="EdgesamEmbedLatencyBudgetBurn"),
        panel("bargauge", "Budget left in this range", [
            query(f"clamp_min(1 - {failed} / {total} / {1 - AVAILABILITY:.3f}, -1)", "availability", instant=True),
            query(f"clamp_min(1 - ({slow['clicks']}) / {1 - CLICKS:.2f}, -1)", "clicks", instant=True),
            query(f"clamp_min(1 - ({slow['images']}) / {1 - IMAGES:.2f}, -1)", "images", instant=True),
        ], width=5, unit="percentunit", least=-1, most=1, steps=[(None, RED), (0, ORANGE), (0.25, GREEN)],
            help="What is left of the faults and slow answers that the objectives allow, if the shown range were all "
            "of the 30 days. Below 0 it is overdrawn.", options=BARS),
        lines("How fast budgets burn", [
            query(f"job:edgesam_unavailable:ratio_rate1h{{{JOB}}} / {1 - AVAILABILITY:.3f}", "availability {{job}}"),
            query(f"job:edgesam_click_slow:ratio_rate1h{{{JOB}}} / {1 - CLICKS:.2f}", "clicks {{job}}"),
            query(f"job:edgesam_embed_slow:ratio_rate1h{{{JOB}}} / {1 - IMAGES:.2f}", "images {{job}}"),
        ], width=5, unit="none", steps=[(None, GREEN), (1, YELLOW), (6, ORANGE), (14.4, RED)],
            help="Faults of the last hour in units of what 30 days allow: at 1 the budget lasts exactly, "
            "above 14.4 for minutes somebody is called.", alert="EdgesamAvailabilityBudgetBurn"),
        stat("Alerts", 'count(ALERTS{alertname=~"Edgesam.*", alertstate="firing"}) or vector(0)',
             [(None, GREEN), (1, RED)], width=2, unit="none", help="Alerts of rules.yaml that fire now."),
    ]  # fmt: skip


def requests() -> list[Json]:
    """Row 2: rate, errors, duration of each route."""
    by_status = (
        f'sum by (route, status) (rate({HTTP}_count{{status=~"[45]..|0", {OURS}, {REPLICA}}}[$__rate_interval]))'
    )
    return [
        lines("Requests a second", [
            query(f"sum by (route) (rate({HTTP}_count{{{OURS}, {REPLICA}}}[$__rate_interval]))", "{{route}}")
        ], width=6, unit="reqps", help="By route; probes, scrapes and unknown addresses are left out."),
        lines("Errors, share of the route", [
            query(f"{by_status} / on (route) group_left sum by (route) "
                  f"(rate({HTTP}_count{{{REPLICA}}}[$__rate_interval]))", "{{status}} {{route}}")
        ], width=6, unit="percentunit", help="404 on /segment: the image is in no cache any more. 499: the client "
            "left. 503: a queue is full, or Redis cannot be asked.", alert="EdgesamRefusesWork"),
        lines("A click takes", quantiles(HTTP, CLICK), width=6, unit="s",
              steps=[(None, GREEN), (CLICK_S, RED)], help="POST /segment, answered. The line is the objective.",
              alert="EdgesamClickLatencyBudgetBurn"),
        lines("An image takes", quantiles(HTTP, EMBED), width=6, unit="s",
              steps=[(None, GREEN), (EMBED_S, RED)], help="POST /embed, answered, from the first byte of the upload: "
              "a slow client shows here and in no stage.", alert="EdgesamEmbedLatencyBudgetBurn"),
    ]  # fmt: skip


def latency() -> list[Json]:
    """Row 3: all of the distribution, with a way from a cell to a trace."""
    return [
        heatmap(f"{name}, every one", f"sum by (le) (increase({HTTP}_bucket{{{which}}}[$__rate_interval]))",
                help="How many took how long. The diamonds are exemplars: their trace_id stands in the log line of "
                "that request (as trace_id or request_id), and in the traces where they are on.")
        for name, which in (("Clicks", CLICK), ("Images", EMBED))
    ]  # fmt: skip


def stages() -> list[Json]:
    """Row 4: which part of a request is the slow one."""
    rate_of = f"sum by (stage) (rate({STAGE}_{{}}{{{{{REPLICA}}}}}[$__rate_interval]))"
    busy = f'sum by (stage) (rate({STAGE}_sum{{stage!="queue", {REPLICA}}}[$__rate_interval]))'
    return [
        lines("Threads kept busy, by stage", [query(busy, "{{stage}}")], width=8, unit="none", stacked=True,
              help="Seconds of each stage in a second: the height is how many threads work, the thickest band is what "
              "a faster machine would make faster. Waiting (queue) is left out."),
        lines("A stage takes, mean", [
            query(f"{rate_of.format('sum')} / {rate_of.format('count')}", "{{stage}}")
        ], width=8, unit="s", help="Seconds of one run of each stage. Server-Timing tells the same of one request."),
        lines("A stage takes, p99", [
            query(f"histogram_quantile(0.99, sum by (stage, le) "
                  f"(rate({STAGE}_bucket{{{REPLICA}}}[$__rate_interval])))", "{{stage}}", exemplar=True)
        ], width=8, unit="s", help="One run of a hundred takes longer. With queue high and the others not, "
            "there is too much work; with all high, too little machine."),
    ]  # fmt: skip


def cache() -> list[Json]:
    """Row 5: do images stay where clicks look for them?"""
    lookups = "edgesam_cache_lookups_total"
    tiers = 'stage=~"cache_get|cache_put"'
    return [
        lines("Hit ratio, by tier", [
            query(f'sum by (tier) (rate({lookups}{{outcome="hit", {REPLICA}}}[$__rate_interval])) / '
                  f"sum by (tier) (rate({lookups}{{{REPLICA}}}[$__rate_interval]))", "{{tier}}")
        ], width=6, unit="percentunit", least=0, most=1, help="Redis is asked for what memory has not: its ratio may "
            "be low while all is well. Memory low and Redis high: clicks of one image reach many replicas.",
            alert="EdgesamCacheHitRatioCollapsed"),
        lines("Redis in trouble", [
            query(f'sum by (tier) (rate({lookups}{{outcome="error", {REPLICA}}}[$__rate_interval]))',
                  "errors {{tier}}"),
            query(f"sum(edgesam_redis_breaker_open{{{REPLICA}}})", "breakers open"),
        ], width=6, unit="none", help="Look-ups that failed, a second, and replicas that have stopped asking.",
            alert="EdgesamRedisBreakerOpen"),
        lines("A look-up takes", [
            query(f"histogram_quantile({q}, sum by (stage, le) "
                  f"(rate({STAGE}_bucket{{{tiers}, {REPLICA}}}[$__rate_interval])))", f"{{{{stage}}}} p{q * 100:g}")
            for q in (0.5, 0.99)
        ], width=6, unit="s", help="cache_get is memory and then Redis, 2 MiB an image; cache_put is Redis."),
        lines("Given up for want of room", [
            query(f"sum by (tier) (rate(edgesam_cache_evictions_total{{{REPLICA}}}[$__rate_interval]))", "{{tier}}"),
            query(f"sum(rate(redis_evicted_keys_total{{{REDIS}}}[$__rate_interval]))", "redis"),
        ], width=6, unit="ops", help="Values a second. In a full cache some are normal; as many as are found means "
            "that it is too small.", alert="EdgesamRedisEvictsMuch"),
        lines("Held", [
            query(f"sum by (tier) (edgesam_cache_bytes{{{REPLICA}}})", "{{tier}}, all replicas"),
            query(f"sum(redis_memory_used_bytes{{{REDIS}}})", "redis"),
            query(f"sum(redis_memory_max_bytes{{{REDIS}}})", "redis, at most"),
        ], width=8, unit="bytes", help="A prepared image takes 10 MiB of memory, 2 MiB in Redis.",
            alert="EdgesamRedisMemoryHigh"),
        lines("Redis commands a second", [
            query(f"topk(8, sum by (cmd) (rate(redis_commands_total{{{REDIS}}}[$__rate_interval])))", "{{cmd}}")
        ], width=8, unit="ops", help="getex reads an embedding, set writes one, pexpire renews one."),
        lines("Redis spends", [
            query(f"sum by (cmd) (rate(redis_commands_duration_seconds_total{{{REDIS}}}[$__rate_interval]))", "{{cmd}}")
        ], width=8, unit="s", stacked=True, help="Seconds of Redis' one thread in a second; at 1 it is full."),
    ]  # fmt: skip


def saturation() -> list[Json]:
    """Row 6: what is full, or will be."""
    throttled, periods = (
        f"sum by (pod) (rate(container_cpu_cfs_{which}_total{{{POD}}}[$__rate_interval]))"
        for which in ("throttled_periods", "periods")
    )
    return [
        lines("Being answered", [query(f"sum by (route) (edgesam_in_flight{{{OURS}, {REPLICA}}})", "{{route}}")],
              width=6, unit="none", help="Requests in progress; what the autoscaler follows."),
        lines("Waiting", [query(f"sum by (lane) (edgesam_queue_depth{{{REPLICA}}})", "{{lane}}")],
              width=6, unit="none", help="Work that waits for the encoder or the decoder."),
        lines("Waits for a lane, p99", [
            query(f"histogram_quantile(0.99, sum by (lane, le) "
                  f"(rate(edgesam_queue_wait_seconds_bucket{{{REPLICA}}}[$__rate_interval])))", "{{lane}}")
        ], width=6, unit="s", steps=[(None, GREEN), (CLICK_S / 2, RED)], alert="EdgesamClicksQueue",
            help="Clicks that wait half of their objective will miss it."),
        lines("Items run together", [
            query(f"sum by (lane) (rate(edgesam_batch_size_sum{{{REPLICA}}}[$__rate_interval])) / "
                  f"sum by (lane) (rate(edgesam_batch_size_count{{{REPLICA}}}[$__rate_interval]))", "{{lane}}")
        ], width=6, unit="none", help="Mean batch. The decoder in C takes prompts one by one."),
        lines("Refused", [
            query(f"sum by (reason) (rate(edgesam_rejected_total{{{REPLICA}}}[$__rate_interval]))", "{{reason}}")
        ], width=6, unit="reqps", help="overloaded: a queue or the permits are full; the others are bounds of a "
            "single request.", alert="EdgesamRefusesWork"),
        lines("Processors used", [
            query(f"rate(process_cpu_seconds_total{{{REPLICA}}}[$__rate_interval])", "{{instance}}")
        ], width=6, unit="none", help="Seconds a second of each replica."),
        lines("Memory", [query(f"process_resident_memory_bytes{{{REPLICA}}}", "{{instance}}")],
              width=6, unit="bytes", help="Resident; EDGESAM_MEMORY_CACHE_BYTES and about 500 MiB besides."),
        lines("Held back by the CPU limit", [
            query(f"{throttled} / {periods}", "{{pod}}")
        ], width=6, unit="percentunit", help=NOT_EVERYWHERE.format("cAdvisor")
            + "Share of the scheduler's periods in which a pod had used up its limit. More than a few percent ruin the "
            "p99: raise the limit or remove it."),
        lines("GPU busy", [query(f"DCGM_FI_DEV_GPU_UTIL{{{POD}}} / 100", "{{pod}} GPU {{gpu}}")],
              width=12, unit="percentunit", most=1, help=NOT_EVERYWHERE.format("NVIDIA's DCGM exporter")
              + "The encoder alone rarely fills a GPU; scale on requests in progress."),
        lines("GPU memory", [query(f"DCGM_FI_DEV_FB_USED{{{POD}}} * 1048576", "{{pod}} GPU {{gpu}}")],
              width=12, unit="bytes", help=NOT_EVERYWHERE.format("NVIDIA's DCGM exporter")
              + "Prepared images on the GPU take 8 MiB each."),
    ]  # fmt: skip


def fleet() -> list[Json]:
    """Row 7: who runs, and what."""
    return [
        stat("Replicas", f"sum(up{{{JOB}}})", [(None, RED), (1, YELLOW), (2, GREEN)], width=3, unit="none",
             help="Replicas that Prometheus can scrape.", alert="EdgesamTargetDown"),
        stat("Models", f"count(count by (fingerprint) (edgesam_model_info{{{REPLICA}}}))", [(None, GREEN), (2, RED)],
             width=3, unit="none", help="Different fingerprints; replicas with different ones share no cache.",
             alert="EdgesamMixedModels"),
        lines("Running for", [query(f"time() - process_start_time_seconds{{{REPLICA}}}", "{{instance}}")],
              width=7, unit="s", help="Since its start. Saw teeth are a replica that keeps dying.",
              alert="EdgesamRestarts"),
        panel("table", "What is served", [
            query(f"edgesam_model_info{{{REPLICA}}}", "", instant=True, table=True)
        ], width=11, unit="none", help="trained=false: the masks mean nothing.", alert="EdgesamUntrainedModel",
            options={"showHeader": True, "cellHeight": "sm", "frameIndex": 0},
            transformations=[{"id": "organize", "options": {
                "excludeByName": {"Time": True, "Value": True, "__name__": True},
                "indexByName": {"namespace": 0, "job": 1, "instance": 2, "model": 3, "trained": 4, "precision": 5,
                                "provider": 6, "fingerprint": 7},
            }}]),
    ]  # fmt: skip


# --- how a panel is written ------------------------------------------------------------------------------------------

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
    """One query of a panel; `placed` gives it its letter."""
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
    """To a page that says what to do."""
    return {
        "title": title,
        "type": "link",
        "icon": "doc",
        "url": url,
        "tooltip": "What it means, and what to do",
        "asDropdown": False,
        "includeVars": False,
        "keepTime": False,
        "tags": [],
        "targetBlank": True,
    }


def quantiles(histogram: str, which: str) -> list[Json]:
    """p50, p95 and p99 of all replicas together."""
    rates = f"sum by (le) (rate({histogram}_bucket{{{which}}}[$__rate_interval]))"
    return [query(f"histogram_quantile({q}, {rates})", f"p{q * 100:g}", exemplar=q == 0.99) for q in (0.5, 0.95, 0.99)]


def least(objective: float) -> Steps:
    """Red below the objective."""
    return [(None, RED), (objective, GREEN)]


def panel(
    kind: str,
    title: str,
    queries: Sequence[Json],
    *,
    width: int,
    unit: str,
    help: str,  # noqa: A002 - the word that Grafana's readers look for
    options: Mapping[str, Any],
    steps: Steps = ((None, GREEN),),
    custom: Mapping[str, Any] | None = None,
    least: float | None = None,
    most: float | None = None,
    decimals: int | None = None,
    alert: str | None = None,
    transformations: Sequence[Json] = (),
) -> Json:
    """A panel without its place. `alert` links to its page of the runbook."""
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
    """One large number."""
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
    """Curves over time, from zero; a threshold is drawn as a dashed line."""
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
    """Buckets over time."""
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
    """All panels one after the other, numbered, in lines of 24 units below the title of their row."""
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
