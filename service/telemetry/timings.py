"""Start, end and duration of the stages of one request."""

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter

from prometheus_client import Histogram

# A request with 256 prompts can have 1300 stages. A trace of that size cannot be read.
_MAX_SPANS = 100


@dataclass(frozen=True, slots=True)
class StageSpan:
    """Start and end of a stage, in seconds of `time.perf_counter`."""

    stage: str
    started_at: float
    ended_at: float


class Timings:
    """Durations of the stages of one request, for Server-Timing, the log line and the trace.

    Worker threads may add to it at the same time, and also after the request has been answered because its deadline
    passed.

    Args:
        histogram: Function that returns the histogram of a stage.
        trace_id: Id by which an exemplar of the histograms leads to this request; None for no exemplar.
    """

    __slots__ = ("_elapsed_ms", "_histogram", "_lock", "_spans", "exemplar")

    def __init__(self, histogram: Callable[[str], Histogram], trace_id: str | None = None) -> None:
        self._histogram = histogram
        self.exemplar = None if trace_id is None else {"trace_id": trace_id}
        self._spans: list[StageSpan] = []
        self._elapsed_ms: dict[str, float] | None = {}  # of all spans so far; None after a new one
        self._lock = threading.Lock()

    def elapsed_ms(self) -> dict[str, float]:
        """Return the milliseconds of each stage so far, in the order in which stages first ended.

        Stages of one request can run at the same time, when several of its prompts are decoded. They then share that
        time. So the stages never add up to more than the request took.
        """
        with self._lock:
            if self._elapsed_ms is None:
                self._elapsed_ms = {stage: seconds * 1000.0 for stage, seconds in shared_time(self._spans).items()}
            return self._elapsed_ms.copy()

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Add the duration of a block to `stage`, also when the block raises."""
        start = perf_counter()
        try:
            yield
        finally:
            self.add(stage, perf_counter() - start)

    def add(self, stage: str, seconds: float, *, ended_at: float | None = None) -> None:
        """Add a duration that was measured elsewhere, for instance in a worker thread.

        Args:
            stage: Name of the stage.
            seconds: Duration of the stage.
            ended_at: End of the stage in seconds of `time.perf_counter`; None for now.
        """
        with self._lock:
            ended_at = perf_counter() if ended_at is None else ended_at
            self._spans.append(StageSpan(stage, ended_at - seconds, ended_at))
            self._elapsed_ms = None
        self._histogram(stage).observe(seconds, self.exemplar)

    def spans(self) -> list[StageSpan]:
        """Return start and end of the first 100 stages so far."""
        with self._lock:
            return self._spans[:_MAX_SPANS]


def shared_time(spans: Iterable[StageSpan]) -> dict[str, float]:
    """Return the seconds of each stage, where stages that run at the same time share that time equally.

    Args:
        spans: Start and end of stages, in any order.
    """
    seconds: dict[str, float] = {}
    changes: list[tuple[float, int, str]] = []
    for span in spans:
        seconds.setdefault(span.stage, 0.0)
        changes += [(span.started_at, 1, span.stage), (span.ended_at, -1, span.stage)]
    changes.sort()
    running: Counter[str] = Counter()
    total, before = 0, 0.0
    for moment, change, stage in changes:
        if total > 0 and moment > before:
            share = (moment - before) / total
            for each, count in running.items():
                seconds[each] += share * count
        running[stage] += change
        total += change
        before = moment
    return seconds
