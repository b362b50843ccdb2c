"""The Prometheus metrics, named once. A leaf: anything may use it, it uses nothing of ours.

Labels never hold hashes, users or raw paths; `route` is a template, `unmatched` where none matched.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

# An edge stands exactly on each latency objective (a click 0.15, a picture 2.5 s): attainment needs no interpolation.
_SECONDS = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2,
    0.25, 0.3, 0.4, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 10.0,
)  # fmt: skip
_BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)
# A request of 256 prompts in calls of their own has 1300 stages; a trace that long helps nobody.
_MAX_SPANS = 100


@dataclass(frozen=True, slots=True)
class StageSpan:
    """When a stage of a request ran, on the clock of `perf_counter`, seconds."""

    stage: str
    started_at: float
    ended_at: float


class Timings:
    """The stages of one request in the order they ended; becomes Server-Timing and a log line.

    Worker threads add to it, several at a time for a request of many prompts, and also for one that has been answered
    with its deadline meanwhile.

    Args:
        metrics: where each stage is observed.
        trace_id: leads from a bucket of the histograms to this request, as an exemplar.
        keeps_spans: whether to remember when each stage ran, for a trace.
    """

    __slots__ = ("_elapsed_ms", "_lock", "_metrics", "_spans", "exemplar")

    def __init__(self, metrics: "Metrics", trace_id: str | None = None, *, keeps_spans: bool = False) -> None:
        self._metrics = metrics
        self._elapsed_ms: dict[str, float] = {}
        self.exemplar = None if trace_id is None else {"trace_id": trace_id}
        self._spans: list[StageSpan] | None = [] if keeps_spans else None
        self._lock = threading.Lock()

    def elapsed_ms(self) -> dict[str, float]:
        """Milliseconds by stage, so far."""
        with self._lock:
            return self._elapsed_ms.copy()

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Time a block as `stage`, also when it raises."""
        start = perf_counter()
        try:
            yield
        finally:
            self.add(stage, perf_counter() - start)

    def add(self, stage: str, seconds: float, *, ended_at: float | None = None) -> None:
        """Record a duration measured elsewhere, for instance by a lane's worker thread.

        Args:
            ended_at: `perf_counter` when the stage ended; None: now.
        """
        with self._lock:
            self._elapsed_ms[stage] = self._elapsed_ms.get(stage, 0.0) + seconds * 1000.0
            if self._spans is not None and len(self._spans) < _MAX_SPANS:
                ended_at = perf_counter() if ended_at is None else ended_at
                self._spans.append(StageSpan(stage, ended_at - seconds, ended_at))
        self._metrics.stage(stage).observe(seconds, self.exemplar)

    def spans(self) -> list[StageSpan]:
        """When the stages ran, so far; the first hundred of them, and none where they are not kept."""
        with self._lock:
            return [] if self._spans is None else self._spans.copy()


class Metrics:
    """All metrics of one process, on a registry of their own."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self._timings: dict[str, Histogram] = {}
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
        self.stage_duration_seconds = Histogram(
            "edgesam_stage_duration_seconds",
            "Time one stage of a request took.",
            ["stage"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.cache_lookups_total = Counter(
            "edgesam_cache_lookups_total",
            "Cache look-ups by tier (memory, redis) and outcome (hit, miss, error).",
            ["tier", "outcome"],
            registry=registry,
        )
        self.cache_bytes = Gauge(
            "edgesam_cache_bytes", "Bytes that a cache tier of this process holds.", ["tier"], registry=registry
        )
        self.cache_evictions_total = Counter(
            "edgesam_cache_evictions_total",
            "Values that a cache tier of this process gave up for want of room or for age.",
            ["tier"],
            registry=registry,
        )
        self.queue_depth = Gauge(
            "edgesam_queue_depth", "Work that waits for a lane (encode, decode).", ["lane"], registry=registry
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
        self.in_flight = Gauge("edgesam_in_flight", "Requests being answered, by route.", ["route"], registry=registry)
        self.rejected_total = Counter(
            "edgesam_rejected_total", "Requests refused before any work, by reason.", ["reason"], registry=registry
        )
        self.rejected_total.labels("overloaded")  # from 0 on: a rate does not see the burst with which a series begins
        self.redis_breaker_open = Gauge(
            "edgesam_redis_breaker_open", "1 while Redis is not asked because it kept failing.", registry=registry
        )
        self.api_keys = Gauge("edgesam_api_keys", "API keys that are known.", registry=registry)
        self.api_keys_stale = Gauge(
            "edgesam_api_keys_stale",
            "1 while the file of API keys cannot be used and those read before it stay.",
            registry=registry,
        )
        self.model_info = Gauge(
            "edgesam_model_info",
            "1; the labels describe the served model.",
            ["model", "fingerprint", "provider", "precision", "trained"],
            registry=registry,
        )

    def stage(self, name: str) -> Histogram:
        """The histogram of one stage, looked up once: `labels` takes longer than `observe`."""
        histogram = self._timings.get(name)
        if histogram is None:
            histogram = self._timings[name] = self.stage_duration_seconds.labels(name)
        return histogram

    def rejected(self, reason: str) -> Counter:
        """The counter of one reason, looked up by its label once: under a flood it is most of the counting."""
        counter = self._rejected.get(reason)
        if counter is None:
            counter = self._rejected[reason] = self.rejected_total.labels(reason)
        return counter

    def timings(self, trace_id: str | None = None, *, keeps_spans: bool = False) -> Timings:
        """A new record of stages for one request."""
        return Timings(self, trace_id, keeps_spans=keeps_spans)

    def watch_cache(self, tier: str, size_bytes: Callable[[], int]) -> None:
        """Let `edgesam_cache_bytes{tier}` read its value when it is scraped."""
        self.cache_bytes.labels(tier).set_function(size_bytes)
