"""Trace context of requests (W3C `traceparent`), and spans that are sent over OTLP.

Reading the header needs `opentelemetry-api`, which FastAPI installs. `Tracing` needs the extra `otel`, and is made only
where an endpoint is set. Spans hold routes, statuses and times, never a hash, an address or a name.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from threading import Thread
from time import monotonic, perf_counter, time_ns
from typing import Any, Final

from opentelemetry.context import Context
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    Tracer,
    format_trace_id,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from service.extras import install_command
from service.telemetry.timings import StageSpan

# Spans that wait for the collector: a few hundred requests, about 1 KiB a span. Further spans are dropped.
_MAX_WAITING_SPANS = 4096
_MAX_BATCH_SPANS = 512
_SEND_EVERY_MS = 2000
_SEND_TIMEOUT_S = 2.0
_COMPLAIN_EVERY_S = 60.0
# Fields of the request's state that become attributes of its span.
_ATTRIBUTES: Final = ("cached", "prompts", "problem")

_PROPAGATOR: Final = TraceContextTextMapPropagator()
_MAX_TRACEPARENT_CHARACTERS = 512  # version 00 has 55; the propagator would write a warning for each longer one


@dataclass(frozen=True, slots=True)
class CallerTrace:
    """The trace that the caller names in its request.

    Args:
        trace_id: 32 lower-case hexadecimal digits, not all 0.
        span_context: Span of the caller.
    """

    trace_id: str
    span_context: SpanContext


def caller_trace(values: Sequence[str]) -> CallerTrace | None:
    """Return the caller's trace; None where the header is missing, sent twice or malformed.

    Args:
        values: Values of every `traceparent` header of the request.
    """
    if len(values) != 1 or len(values[0]) > _MAX_TRACEPARENT_CHARACTERS:
        return None
    context = _PROPAGATOR.extract({"traceparent": values[0]}, Context())
    span_context = get_current_span(context).get_span_context()
    return CallerTrace(format_trace_id(span_context.trace_id), span_context) if span_context.is_valid else None


class Tracing:
    """Sends spans in batches from a thread of its own. A collector that is slow or down does not delay requests.

    The standard variables set the other options: OTEL_EXPORTER_OTLP_HEADERS, OTEL_TRACES_SAMPLER,
    OTEL_RESOURCE_ATTRIBUTES, OTEL_SERVICE_NAME.

    Args:
        endpoint: Address of the collector, without `/v1/traces`.
        version: Version of the service.

    Raises:
        ValueError: The extra `otel` is not installed.
    """

    def __init__(self, endpoint: str, *, version: str) -> None:
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
            from opentelemetry.sdk.resources import (  # noqa: PLC0415
                SERVICE_NAME,
                SERVICE_VERSION,
                OTELResourceDetector,
                Resource,
            )
            from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
            from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
        except ImportError as error:
            raise ValueError(
                f"EDGESAM_OTLP_ENDPOINT is set and OpenTelemetry's SDK is missing. Run: {install_command('otel')}"
            ) from error
        logging.getLogger(OTLPSpanExporter.__module__).addFilter(_OncePerMinute())
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

    def begin(self, method: str, route: str, parent: CallerTrace | None) -> "RequestTrace":
        """Start the span of a request, as a child of the caller's span where there is one."""
        return RequestTrace(self._tracer, method, route, parent)

    def close(self, timeout_s: float) -> None:
        """Send the spans that wait; block for at most `timeout_s` seconds, then drop the rest."""
        sending = Thread(target=self._provider.shutdown, name="edgesam-tracing-close", daemon=True)
        sending.start()
        sending.join(timeout_s)
        if sending.is_alive():  # this ends the retries
            self._exporter.shutdown()  # type: ignore[no-untyped-call]


class RequestTrace:
    """The trace of one request."""

    def __init__(self, tracer: Tracer, method: str, route: str, parent: CallerTrace | None) -> None:
        self._tracer = tracer
        self._began_ns, self._began_at = time_ns(), perf_counter()
        self._span: Span = tracer.start_span(
            f"{method} {route}",
            None if parent is None else set_span_in_context(NonRecordingSpan(parent.span_context)),
            SpanKind.SERVER,
            {"http.request.method": method, "http.route": route},
            start_time=self._began_ns,
        )
        self.trace_id = None if parent is None else parent.trace_id
        """Trace id of the caller, or a new one where this request is sampled; 32 hexadecimal digits or None."""
        if self._span.is_recording():
            self.trace_id = format_trace_id(self._span.get_span_context().trace_id)

    def end(self, status: int, timings: Iterable[StageSpan], state: Mapping[str, Any]) -> None:
        """End the request's span and add a child span for each stage.

        Args:
            status: HTTP status of the answer; 0 where none was sent.
            timings: Start and end of the stages.
            state: State of the request, from which the attributes are taken.
        """
        if not self._span.is_recording():
            return
        parent = set_span_in_context(self._span)
        for stage in timings:
            span = self._tracer.start_span(stage.stage, parent, start_time=self._at_ns(stage.started_at))
            span.end(self._at_ns(stage.ended_at))
        self._span.set_attribute("http.response.status_code", status)
        for key in _ATTRIBUTES:
            if state.get(key) is not None:
                self._span.set_attribute(f"edgesam.{key}", state[key])
        if status >= 500 or status == 0:
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end(self._at_ns(perf_counter()))

    def _at_ns(self, moment: float) -> int:
        """Convert seconds of `time.perf_counter` into nanoseconds since 1970."""
        return self._began_ns + round((moment - self._began_at) * 1e9)


class _OncePerMinute(logging.Filter):
    """Passes one record a minute. The exporter writes two records every two seconds while the collector is down."""

    def __init__(self) -> None:
        super().__init__()
        self._next_at = 0.0

    def filter(self, _: logging.LogRecord) -> bool:
        now = monotonic()
        if now < self._next_at:
            return False
        self._next_at = now + _COMPLAIN_EVERY_S
        return True
