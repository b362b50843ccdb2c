"""The Prometheus metrics of one process.

Labels never hold hashes, users or raw paths, and names of API keys only with EDGESAM_USAGE_METRICS. The label `route`
is the template of a route, or `unmatched`.
"""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from service.telemetry.timings import Timings

# One bucket ends at each latency objective (0.15 s for a prompt, 2.5 s for an image). The share of requests that meet
# an objective is then the value of a bucket and needs no interpolation.
_SECONDS = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2,
    0.25, 0.3, 0.4, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 10.0,
)  # fmt: skip
_BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """All metrics of one process.

    Args:
        registry: Registry to which the metrics are added.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self._stages: dict[str, Histogram] = {}
        self._rejected: dict[str, Counter] = {}
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        self.http_request_duration_seconds = Histogram(
            "edgesam_http_request_duration_seconds",
            "Time from the first byte of a request to the last of its answer.",
            ["route", "method", "status"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.objective_duration_seconds = Histogram(
            "edgesam_objective_duration_seconds",
            "Time of successful requests by latency objective (clicks, images, everything), on all routes. That of a "
            "labelling tool begins when its body has arrived, because each click carries the image.",
            ["objective"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.stage_duration_seconds = Histogram(
            "edgesam_stage_duration_seconds",
            "Time one stage of a request took.",
            ["stage"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.cache_lookups_total = Counter(
            "edgesam_cache_lookups_total",
            "Cache look-ups by tier (memory, redis, disk) and outcome (hit, miss, error).",
            ["tier", "outcome"],
            registry=registry,
        )
        self.cache_bytes = Gauge(
            "edgesam_cache_bytes", "Bytes that a cache tier of this process holds.", ["tier"], registry=registry
        )
        self.cache_evictions_total = Counter(
            "edgesam_cache_evictions_total",
            "Values that a cache tier of this process evicted for memory or dropped because they expired.",
            ["tier"],
            registry=registry,
        )
        self.disk_cache_files = Gauge(
            "edgesam_disk_cache_files", "Files of embeddings in the folder of the disk cache.", registry=registry
        )
        self.disk_cache_paused = Gauge(
            "edgesam_disk_cache_paused",
            "1 while the disk is not read or not written because it kept failing.",
            registry=registry,
        )
        self.disk_cache_errors_total = Counter(
            "edgesam_disk_cache_errors_total",
            "Failures of the disk cache by operation (read, write, delete, scan). A damaged file counts as read.",
            ["operation"],
            registry=registry,
        )
        self.queue_depth = Gauge(
            "edgesam_queue_depth",
            "Work that waits for a lane (encode, decode, everything).",
            ["lane"],
            registry=registry,
        )
        self.queue_wait_seconds = Histogram(
            "edgesam_queue_wait_seconds",
            "Time work waited for its lane.",
            ["lane"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.batch_size = Histogram(
            "edgesam_batch_size", "Items run together.", ["lane"], buckets=_BATCH_SIZES, registry=registry
        )
        self.everything_prompts_total = Counter(
            "edgesam_everything_prompts_total", "Prompts that everything mode decoded.", registry=registry
        )
        self.everything_masks_total = Counter(
            "edgesam_everything_masks_total",
            "Masks in complete results of everything mode, by source: decoded, or cached in Redis.",
            ["source"],
            registry=registry,
        )
        self.in_flight = Gauge("edgesam_in_flight", "Requests being answered, by route.", ["route"], registry=registry)
        self.rejected_total = Counter(
            "edgesam_rejected_total", "Requests refused before any work, by reason.", ["reason"], registry=registry
        )
        # The series starts at 0: `rate` in Prometheus ignores the first value of a series, and so a burst in it.
        self.rejected_total.labels("overloaded")
        self.redis_breaker_open = Gauge(
            "edgesam_redis_breaker_open", "1 while Redis is not asked because it kept failing.", registry=registry
        )
        self.api_keys = Gauge("edgesam_api_keys", "API keys that are known.", registry=registry)
        self.api_keys_stale = Gauge(
            "edgesam_api_keys_stale",
            "1 while the file of API keys cannot be used and those read before it stay.",
            registry=registry,
        )
        self.usage_requests_total = Counter(
            "edgesam_usage_requests_total",
            "Requests of an API key that were answered with a status below 400.",
            ["key"],
            registry=registry,
        )
        self.usage_images_total = Counter(
            "edgesam_usage_images_total",
            "Images and regions that were encoded for an API key. Those from a cache are not counted.",
            ["key"],
            registry=registry,
        )
        self.usage_pixels_total = Counter(
            "edgesam_usage_pixels_total",
            "Pixels of the images and regions that were encoded for an API key, at full resolution.",
            ["key"],
            registry=registry,
        )
        self.usage_prompts_total = Counter(
            "edgesam_usage_prompts_total",
            "Prompts that were decoded for an API key, with the points of everything mode.",
            ["key"],
            registry=registry,
        )
        self.usage_compute_seconds_total = Counter(
            "edgesam_usage_compute_seconds_total",
            "Time of the image encoder and the prompt decoder for an API key by lane (encode, decode, everything). "
            "Requests that share a call share its time.",
            ["key", "lane"],
            registry=registry,
        )
        self.model_info = Gauge(
            "edgesam_model_info",
            "1 for each served model, which the labels describe.",
            ["model", "fingerprint", "provider", "precision", "trained"],
            registry=registry,
        )

    def stage(self, name: str) -> Histogram:
        """Return the histogram of one stage. It is cached, because `labels` takes longer than `observe`."""
        histogram = self._stages.get(name)
        if histogram is None:
            histogram = self._stages[name] = self.stage_duration_seconds.labels(name)
        return histogram

    def rejected(self, reason: str) -> Counter:
        """Return the counter of one reason. It is cached, because `labels` is slow when many requests are refused."""
        counter = self._rejected.get(reason)
        if counter is None:
            counter = self._rejected[reason] = self.rejected_total.labels(reason)
        return counter

    def timings(self, trace_id: str | None = None) -> Timings:
        """Return the stage timings of a new request; see `Timings` for the arguments."""
        return Timings(self.stage, trace_id)

    def watch_cache(self, tier: str, size_bytes: Callable[[], int]) -> None:
        """Let `edgesam_cache_bytes{tier}` call `size_bytes` when it is scraped."""
        self.cache_bytes.labels(tier).set_function(size_bytes)

    def watch_disk(self, count: Callable[[], int], is_paused: Callable[[], bool]) -> None:
        """Let the gauges of the disk cache call these functions when they are scraped."""
        self.disk_cache_files.set_function(count)
        self.disk_cache_paused.set_function(is_paused)
