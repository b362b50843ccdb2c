"""The Grafana dashboard: rows of panels. `make monitoring` writes it to dashboards/edgesam.json.

A panel's title names what it shows, and its description says what a bad value means. Percentiles are never averaged,
thresholds are the objectives of rules.yaml, and every query uses the dashboard's variables.
"""

from panels import (
    BARS,
    GREEN,
    ORANGE,
    RED,
    YELLOW,
    Json,
    heatmap,
    least,
    lines,
    link,
    panel,
    placed,
    quantiles,
    query,
    stat,
)
from variables import JOB, variables

HTTP = "edgesam_http_request_duration_seconds"
OBJECTIVE = "edgesam_objective_duration_seconds"
STAGE = "edgesam_stage_duration_seconds"
CLICK_S, EMBED_S, EVERYTHING_S = 0.15, 2.5, 10.0
AVAILABILITY, CLICKS, IMAGES, EVERYTHING = 0.999, 0.99, 0.95, 0.95

# Label matchers of the dashboard's variables. Results of recording rules only have the labels namespace and job.
REPLICA = f'{JOB}, instance=~"$instance"'
REDIS = 'namespace=~"$namespace", job=~"edgesam-redis"'
POD = 'namespace=~"$namespace", pod=~"(.+-)?edgesam.*"'
OURS = 'route!~"/livez|/readyz|/healthz|/metrics|unmatched"'
CLICK = f'objective="clicks", {REPLICA}'
EMBED = f'objective="images", {REPLICA}'
ALL_OBJECTS = f'objective="everything", {REPLICA}'
FAILED = 'status=~"5..|0"'

NOT_EVERYWHERE = "Needs {}, which is usual in a cluster. Without it the panel is empty. "


def board() -> Json:
    """Return the dashboard in Grafana's JSON format."""
    return {
        "uid": "edgesam",
        "title": "EdgeSAM",
        "description": "Latency, errors, stages, caches and replicas. Remedies: docs/operations/runbook.md.",
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


def rows() -> list[tuple[str, list[Json]]]:
    """Return all rows, each with its title and its panels in reading order."""
    return [
        ("Objectives", objectives()),
        ("Requests", requests()),
        ("Latency", latency()),
        ("Everything mode", everything()),
        ("Stages", stages()),
        ("Cache", cache()),
        ("Saturation", saturation()),
        ("Replicas", fleet()),
    ]


def objectives() -> list[Json]:
    """Return row 1: service level objectives and error budgets."""
    total = f"sum(increase({HTTP}_count{{{OURS}, {REPLICA}}}[$__range]))"
    failed = f"(sum(increase({HTTP}_count{{{OURS}, {FAILED}, {REPLICA}}}[$__range])) or vector(0))"
    slow = {
        name: f'1 - sum(increase({OBJECTIVE}_bucket{{{which}, le="{edge}"}}[$__range]))'
        f" / sum(increase({OBJECTIVE}_count{{{which}}}[$__range]))"
        for name, which, edge in (("clicks", CLICK, CLICK_S), ("images", EMBED, EMBED_S))
    }
    return [
        stat("Availability", f"1 - {failed} / {total}", least(AVAILABILITY), width=4, decimals=2,
             help="Share of requests that did not end with a server error (5xx), in the shown range. "
             "The objective is 99.9 %.", alert="EdgesamAvailabilityBudgetBurn"),
        stat("Prompts within 150 ms", f"1 - ({slow['clicks']})", least(CLICKS), width=4, decimals=2,
             help="Share of successful prompts on embedded images, by /segment and by labelling tools, in the shown "
             "range. The objective is 99 %.", alert="EdgesamClickLatencyBudgetBurn"),
        stat("Uploads within 2.5 s", f"1 - ({slow['images']})", least(IMAGES), width=4, decimals=2,
             help="Share of successful POST /embed, and of labelling tools' requests that embed an image, in the shown "
             "range. For /embed the duration includes the transfer. The objective is 95 %.",
             alert="EdgesamEmbedLatencyBudgetBurn"),
        panel("bargauge", "Remaining error budget", [
            query(f"clamp_min(1 - {failed} / {total} / {1 - AVAILABILITY:.3f}, -1)", "availability", instant=True),
            query(f"clamp_min(1 - ({slow['clicks']}) / {1 - CLICKS:.2f}, -1)", "clicks", instant=True),
            query(f"clamp_min(1 - ({slow['images']}) / {1 - IMAGES:.2f}, -1)", "images", instant=True),
        ], width=5, unit="percentunit", least=-1, most=1, steps=[(None, RED), (0, ORANGE), (0.25, GREEN)],
            help="Remaining share of the errors and slow responses that the objectives allow in the shown range. "
            "Below 0 the objective is missed.", options=BARS),
        lines("Burn rate of error budgets", [
            query(f"job:edgesam_unavailable:ratio_rate1h{{{JOB}}} / {1 - AVAILABILITY:.3f}", "availability {{job}}"),
            query(f"job:edgesam_click_slow:ratio_rate1h{{{JOB}}} / {1 - CLICKS:.2f}", "clicks {{job}}"),
            query(f"job:edgesam_embed_slow:ratio_rate1h{{{JOB}}} / {1 - IMAGES:.2f}", "images {{job}}"),
        ], width=5, unit="none", steps=[(None, GREEN), (1, YELLOW), (6, ORANGE), (14.4, RED)],
            help="Errors of the last hour, relative to the objective over 30 days. At 1 the budget lasts exactly. "
            "Above 14.4 for some minutes an alert pages.", alert="EdgesamAvailabilityBudgetBurn"),
        stat("Alerts", 'count(ALERTS{alertname=~"Edgesam.*", alertstate="firing"}) or vector(0)',
             [(None, GREEN), (1, RED)], width=2, unit="none", help="Number of alerts of rules.yaml that fire now."),
    ]  # fmt: skip


def requests() -> list[Json]:
    """Return row 2: rate, errors and duration of requests by route."""
    by_status = (
        f'sum by (route, status) (rate({HTTP}_count{{status=~"[45]..|0", {OURS}, {REPLICA}}}[$__rate_interval]))'
    )
    return [
        lines("Requests per second", [
            query(f"sum by (route) (rate({HTTP}_count{{{OURS}, {REPLICA}}}[$__rate_interval]))", "{{route}}")
        ], width=6, unit="reqps", help="By route, without probes, scrapes and unknown paths."),
        lines("Error ratio by route", [
            query(f"{by_status} / on (route) group_left sum by (route) "
                  f"(rate({HTTP}_count{{{REPLICA}}}[$__rate_interval]))", "{{status}} {{route}}")
        ], width=6, unit="percentunit", help="404 on /segment: no cache has the image. 499: the client "
            "disconnected. 503: a queue is full, or Redis is unavailable.", alert="EdgesamRefusesWork"),
        lines("Prompt latency", quantiles(OBJECTIVE, CLICK), width=6, unit="s",
              steps=[(None, GREEN), (CLICK_S, RED)],
              help="Successful prompts on embedded images, on all routes. The line is the objective.",
              alert="EdgesamClickLatencyBudgetBurn"),
        lines("Upload latency", quantiles(OBJECTIVE, EMBED), width=6, unit="s",
              steps=[(None, GREEN), (EMBED_S, RED)], help="Successful POST /embed, from the first byte of the upload, "
              "and labelling tools' first requests for an image. A slow client increases it, but no stage.",
              alert="EdgesamEmbedLatencyBudgetBurn"),
    ]  # fmt: skip


def latency() -> list[Json]:
    """Return row 3: latency distributions with exemplars."""
    return [
        heatmap(f"{name}, latency distribution",
                f"sum by (le) (increase({OBJECTIVE}_bucket{{{which}}}[$__rate_interval]))",
                help="Number of requests by duration. The diamonds are exemplars. Their trace_id is in the log line of "
                "the request (as trace_id or request_id), and in the traces if tracing is enabled.")
        for name, which in (("Prompts", CLICK), ("Uploads", EMBED))
    ]  # fmt: skip


def everything() -> list[Json]:
    """Return row 4: requests for all objects of an image."""
    slow = (
        f'sum(increase({OBJECTIVE}_bucket{{{ALL_OBJECTS}, le="{EVERYTHING_S}"}}[$__range]))'
        f" / sum(increase({OBJECTIVE}_count{{{ALL_OBJECTS}}}[$__range]))"
    )
    masks = f"sum by (source) (rate(edgesam_everything_masks_total{{{REPLICA}}}[$__rate_interval]))"
    return [
        stat("Everything requests within 10 s", slow, least(EVERYTHING), width=4, decimals=2,
             help="Share of successful POST /segment/everything in the shown range, without those answered from "
             "Redis. The objective is 95 %.", alert="EdgesamEverythingLatencyBudgetBurn"),
        lines("Everything latency", quantiles(OBJECTIVE, ALL_OBJECTS), width=7, unit="s",
              steps=[(None, GREEN), (EVERYTHING_S, RED)], alert="EdgesamEverythingLatencyBudgetBurn",
              help="Successful POST /segment/everything, without those from Redis. The line is the objective."),
        lines("Prompts of everything mode per second", [
            query(f"sum by (instance) (rate(edgesam_everything_prompts_total{{{REPLICA}}}[$__rate_interval]))",
                  "{{instance}}")
        ], width=6, unit="none", help="Decoded points of grids. They run at low priority, so other requests lower it."),
        lines("Masks of everything mode per second", [query(masks, "{{source}}")], width=7, unit="none",
              help="Masks in complete results. cached: the result came from Redis, without the decoder."),
    ]  # fmt: skip


def stages() -> list[Json]:
    """Return row 5: durations of the stages of a request."""
    rate_of = f"sum by (stage) (rate({STAGE}_{{}}{{{{{REPLICA}}}}}[$__rate_interval]))"
    busy = f'sum by (stage) (rate({STAGE}_sum{{stage!~"queue|wait", {REPLICA}}}[$__rate_interval]))'
    return [
        lines("Busy threads by stage", [query(busy, "{{stage}}")], width=8, unit="none", stacked=True,
              help="Seconds of each stage per second, so that the height is the number of busy threads. The thickest "
              "band is the most expensive stage. Waiting (queue, wait) is not included."),
        lines("Stage duration, mean", [
            query(f"{rate_of.format('sum')} / {rate_of.format('count')}", "{{stage}}")
        ], width=8, unit="s", help="Mean duration of each stage. The header Server-Timing shows those of one request."),
        lines("Stage duration, p99", [
            query(f"histogram_quantile(0.99, sum by (stage, le) "
                  f"(rate({STAGE}_bucket{{{REPLICA}}}[$__rate_interval])))", "{{stage}}", exemplar=True)
        ], width=8, unit="s", help="99th percentile of each stage. If only queue is high, there are too many "
            "requests. If all stages are high, the machine is too slow or throttled."),
    ]  # fmt: skip


def cache() -> list[Json]:
    """Return row 6: hit ratios, evictions and memory of the cache tiers."""
    lookups = "edgesam_cache_lookups_total"
    tiers = 'stage=~"cache_get|cache_put"'
    return [
        lines("Hit ratio by tier", [
            query(f'sum by (tier) (rate({lookups}{{outcome="hit", {REPLICA}}}[$__rate_interval])) / '
                  f"sum by (tier) (rate({lookups}{{{REPLICA}}}[$__rate_interval]))", "{{tier}}")
        ], width=6, unit="percentunit", least=0, most=1, help="Redis is asked only after a miss of memory, so a "
            "low ratio of Redis can be normal. If only memory is low, prompts on one image reach many replicas.",
            alert="EdgesamCacheHitRatioCollapsed"),
        lines("Redis errors", [
            query(f'sum by (tier) (rate({lookups}{{outcome="error", {REPLICA}}}[$__rate_interval]))',
                  "errors {{tier}}"),
            query(f"sum(edgesam_redis_breaker_open{{{REPLICA}}})", "open breakers"),
        ], width=6, unit="none", help="Failed lookups per second, and replicas with an open circuit breaker.",
            alert="EdgesamRedisBreakerOpen"),
        lines("Lookup duration", [
            query(f"histogram_quantile({q}, sum by (stage, le) "
                  f"(rate({STAGE}_bucket{{{tiers}, {REPLICA}}}[$__rate_interval])))", f"{{{{stage}}}} p{q * 100:g}")
            for q in (0.5, 0.99)
        ], width=6, unit="s", help="cache_get: memory, Redis (2 or 8 MiB per image), disk. cache_put: Redis."),
        lines("Evictions", [
            query(f"sum by (tier) (rate(edgesam_cache_evictions_total{{{REPLICA}}}[$__rate_interval]))", "{{tier}}"),
            query(f"sum(rate(redis_evicted_keys_total{{{REDIS}}}[$__rate_interval]))", "redis"),
        ], width=6, unit="ops", help="Evicted values per second. Some are normal in a full cache. As many as there "
            "are hits mean that the cache is too small.", alert="EdgesamRedisEvictsMuch"),
        lines("Cache size", [
            query(f"sum by (tier) (edgesam_cache_bytes{{{REPLICA}}})", "{{tier}}, all replicas"),
            query(f"sum(redis_memory_used_bytes{{{REDIS}}})", "redis"),
            query(f"sum(redis_memory_max_bytes{{{REDIS}}})", "redis, maxmemory"),
        ], width=8, unit="bytes",
              help="An image takes 5 MiB of memory and 2 MiB of Redis, and 11 and 8 MiB with EdgeTAM and SAM 2.1.",
            alert="EdgesamRedisMemoryHigh"),
        lines("Redis commands per second", [
            query(f"topk(8, sum by (cmd) (rate(redis_commands_total{{{REDIS}}}[$__rate_interval])))", "{{cmd}}")
        ], width=8, unit="ops", help="get reads a value, set writes one, pexpire renews its expiry."),
        lines("Redis busy", [
            query(f"sum by (cmd) (rate(redis_commands_duration_seconds_total{{{REDIS}}}[$__rate_interval]))", "{{cmd}}")
        ], width=8, unit="s", stacked=True, help="Seconds per second of Redis' main thread. At 1 it is saturated."),
    ]  # fmt: skip


def saturation() -> list[Json]:
    """Return row 7: queues, processors, memory and GPUs."""
    throttled, periods = (
        f"sum by (pod) (rate(container_cpu_cfs_{which}_total{{{POD}}}[$__rate_interval]))"
        for which in ("throttled_periods", "periods")
    )
    return [
        lines("Requests in progress", [query(f"sum by (route) (edgesam_in_flight{{{OURS}, {REPLICA}}})", "{{route}}")],
              width=6, unit="none", help="The autoscaler follows this number."),
        lines("Queue length", [query(f"sum by (lane) (edgesam_queue_depth{{{REPLICA}}})", "{{lane}}")],
              width=6, unit="none", help="Images, prompts, and grids of everything mode that wait for their threads."),
        lines("Queue wait, p99", [
            query(f"histogram_quantile(0.99, sum by (lane, le) "
                  f"(rate(edgesam_queue_wait_seconds_bucket{{{REPLICA}}}[$__rate_interval])))", "{{lane}}")
        ], width=6, unit="s", steps=[(None, GREEN), (CLICK_S / 2, RED)], alert="EdgesamClicksQueue",
            help="Prompts that wait for half of their latency objective will miss it."),
        lines("Batch size", [
            query(f"sum by (lane) (rate(edgesam_batch_size_sum{{{REPLICA}}}[$__rate_interval])) / "
                  f"sum by (lane) (rate(edgesam_batch_size_count{{{REPLICA}}}[$__rate_interval]))", "{{lane}}")
        ], width=6, unit="none", help="Mean size of a batch. The decoder in C processes prompts one by one."),
        lines("Refused requests", [
            query(f"sum by (reason) (rate(edgesam_rejected_total{{{REPLICA}}}[$__rate_interval]))", "{{reason}}")
        ], width=6, unit="reqps", help="overloaded: a queue or the permits are full. The other reasons concern "
            "single requests.", alert="EdgesamRefusesWork"),
        lines("CPU usage", [
            query(f"rate(process_cpu_seconds_total{{{REPLICA}}}[$__rate_interval])", "{{instance}}")
        ], width=6, unit="none", help="Processor seconds per second of each replica."),
        lines("Memory", [query(f"process_resident_memory_bytes{{{REPLICA}}}", "{{instance}}")],
              width=6, unit="bytes", help="Resident memory: EDGESAM_MEMORY_CACHE_BYTES and about 500 MiB."),
        lines("CPU throttling", [
            query(f"{throttled} / {periods}", "{{pod}}")
        ], width=6, unit="percentunit", help=NOT_EVERYWHERE.format("cAdvisor")
            + "Share of the scheduler's periods in which a pod was throttled by its CPU limit. More than a few percent "
            "increase the p99 latency: raise the limit or remove it."),
        lines("GPU utilization", [query(f"DCGM_FI_DEV_GPU_UTIL{{{POD}}} / 100", "{{pod}} GPU {{gpu}}")],
              width=12, unit="percentunit", most=1, help=NOT_EVERYWHERE.format("NVIDIA's DCGM exporter")
              + "The encoder rarely saturates a GPU, so scale by requests in progress."),
        lines("GPU memory", [query(f"DCGM_FI_DEV_FB_USED{{{POD}}} * 1048576", "{{pod}} GPU {{gpu}}")],
              width=12, unit="bytes", help=NOT_EVERYWHERE.format("NVIDIA's DCGM exporter")
              + "An image state on the GPU takes 8 MiB."),
    ]  # fmt: skip


def fleet() -> list[Json]:
    """Return row 8: replicas and the models that they serve."""
    return [
        stat("Replicas", f"sum(up{{{JOB}}})", [(None, RED), (1, YELLOW), (2, GREEN)], width=3, unit="none",
             help="Number of replicas that Prometheus can scrape.", alert="EdgesamTargetDown"),
        stat("Models not on all replicas", f"count(count by (fingerprint) (edgesam_model_info{{{REPLICA}}}) < scalar("
             f"count(count by (instance) (edgesam_model_info{{{REPLICA}}})))) or vector(0)",
             [(None, GREEN), (1, RED)], width=3, unit="none",
             help="Number of models that not every replica serves. These replicas share no embeddings of them.",
             alert="EdgesamMixedModels"),
        lines("Uptime", [query(f"time() - process_start_time_seconds{{{REPLICA}}}", "{{instance}}")],
              width=7, unit="s", help="Time since the start. A saw-tooth curve is a replica that keeps restarting.",
              alert="EdgesamRestarts"),
        panel("table", "Served models", [
            query(f"edgesam_model_info{{{REPLICA}}}", "", instant=True, table=True)
        ], width=11, unit="none", help="trained=false: the masks are meaningless.", alert="EdgesamUntrainedModel",
            options={"showHeader": True, "cellHeight": "sm", "frameIndex": 0},
            transformations=[{"id": "organize", "options": {
                "excludeByName": {"Time": True, "Value": True, "__name__": True},
                "indexByName": {"namespace": 0, "job": 1, "instance": 2, "model": 3, "trained": 4, "precision": 5,
                                "provider": 6, "fingerprint": 7},
            }}]),
    ]  # fmt: skip
