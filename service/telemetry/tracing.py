"""Traces over OTLP: a span for each request, and below it one for each of its stages. Needs the extra `otel`.

A leaf that only the composition root imports, and only when it is asked for. What is sent holds routes, statuses and
times, never a hash, an address or a name.
"""

import logging
from collections.abc import Iterable, Mapping
from threading import Thread
from time import monotonic, perf_counter, time_ns
from typing import Any, Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    Tracer,
    format_trace_id,
    set_span_in_context,
)

from service.telemetry.timings import StageSpan
from service.telemetry.trace_context import TraceParent

# Spans that wait for the collector: some hundred requests, about a kilobyte each. What does not fit is dropped.
_MAX_WAITING_SPANS = 4096
_MAX_BATCH_SPANS = 512
_SEND_EVERY_MS = 2000
_SEND_TIMEOUT_S = 2.0
_COMPLAIN_EVERY_S = 60.0
# What the request's state tells beside its route.
_ATTRIBUTES: Final = ("cached", "prompts", "problem")


class Tracing:
    """Sends spans in batches from a thread of its own; a collector that is slow or gone costs requests nothing.

    The standard variables are honoured where this does not decide: OTEL_EXPORTER_OTLP_HEADERS, OTEL_TRACES_SAMPLER,
    OTEL_RESOURCE_ATTRIBUTES, OTEL_SERVICE_NAME.

    Args:
        endpoint: of the collector, without `/v1/traces`.
        version: of the service.
    """

    def __init__(self, endpoint: str, *, version: str) -> None:
        logging.getLogger(OTLPSpanExporter.__module__).addFilter(_Rarely())
        self._exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces", timeout=_SEND_TIMEOUT_S)
        own = Resource({SERVICE_NAME: "edgesam", SERVICE_VERSION: version})
        self._provider = TracerProvider(resource=own.merge(OTELResourceDetector().detect()), shutdown_on_exit=False)
        self._provider.add_span_processor(
            BatchSpanProcessor(
                self._exporter,
                max_queue_size=_MAX_WAITING_SPANS,
                max_export_batch_size=_MAX_BATCH_SPANS,
                schedule_delay_millis=_SEND_EVERY_MS,
            )
        )
        self._tracer = self._provider.get_tracer("service", version)

    def begin(self, method: str, route: str, parent: TraceParent | None) -> "RequestTrace":
        """Start the span of a request, below the caller's where it told one."""
        return RequestTrace(self._tracer, method, route, parent)

    def close(self, timeout_s: float) -> None:
        """Send what waits, for so long; blocking."""
        sending = Thread(target=self._provider.shutdown, name="edgesam-tracing-close", daemon=True)
        sending.start()
        sending.join(timeout_s)
        if sending.is_alive():  # ends the retries; what still waits is lost
            self._exporter.shutdown()  # type: ignore[no-untyped-call]


class RequestTrace:
    """The trace of one request."""

    def __init__(self, tracer: Tracer, method: str, route: str, parent: TraceParent | None) -> None:
        self._tracer = tracer
        self._began_ns, self._began_at = time_ns(), perf_counter()
        self._span: Span = tracer.start_span(
            f"{method} {route}",
            None if parent is None else set_span_in_context(NonRecordingSpan(_context(parent))),
            SpanKind.SERVER,
            {"http.request.method": method, "http.route": route},
            start_time=self._began_ns,
        )
        self.trace_id = None if parent is None else parent.trace_id
        """32 hex digits: the caller's, or a new one where this request is sampled."""
        if self._span.is_recording():
            self.trace_id = format_trace_id(self._span.get_span_context().trace_id)

    @property
    def is_recording(self) -> bool:
        """Whether the trace is sampled; else nothing of it is sent."""
        return self._span.is_recording()

    def end(self, status: int, timings: Iterable[StageSpan], state: Mapping[str, Any]) -> None:
        """Close the request's span, now that its answer is sent."""
        if not self._span.is_recording():
            return
        below = set_span_in_context(self._span)
        for one in timings:
            span = self._tracer.start_span(one.stage, below, start_time=self._at_ns(one.started_at))
            span.end(self._at_ns(one.ended_at))
        self._span.set_attribute("http.response.status_code", status)
        for key in _ATTRIBUTES:
            if state.get(key) is not None:
                self._span.set_attribute(f"edgesam.{key}", state[key])
        if status >= 500 or status == 0:
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end(self._at_ns(perf_counter()))

    def _at_ns(self, moment: float) -> int:
        """A moment of `perf_counter` as nanoseconds since 1970."""
        return self._began_ns + round((moment - self._began_at) * 1e9)


class _Rarely(logging.Filter):
    """Lets a line through once a minute: of a collector that is gone the exporter tells twice every two seconds."""

    def __init__(self) -> None:
        super().__init__()
        self._next_at = 0.0

    def filter(self, _: logging.LogRecord) -> bool:
        now = monotonic()
        if now < self._next_at:
            return False
        self._next_at = now + _COMPLAIN_EVERY_S
        return True


def _context(parent: TraceParent) -> SpanContext:
    flags = TraceFlags(TraceFlags.SAMPLED if parent.is_sampled else TraceFlags.DEFAULT)
    return SpanContext(int(parent.trace_id, 16), int(parent.span_id, 16), is_remote=True, trace_flags=flags)
