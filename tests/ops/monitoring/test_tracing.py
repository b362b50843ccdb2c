"""Traces, received by a real OTLP/HTTP collector's endpoint: one span a request, one below it for each stage."""

import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from itertools import pairwise
from time import monotonic
from typing import Self

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from support.manifests import Manifests, rendered_variant, why_not
from support.noise_images import noise_file
from support.redis_server import free_port, wait_until
from support.service_client import embed, open_client, point, request_line
from support.service_process import ROOT, ServiceProcess

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = {"traceparent": f"00-{TRACE}-{PARENT}-01"}


class Collector:
    """Takes what an exporter posts to /v1/traces; a context manager."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.resources: list[dict[str, str]] = []
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                assert self.path == "/v1/traces"
                for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                    collector.resources.append(
                        {one.key: one.value.string_value for one in resource.resource.attributes}
                    )
                    collector.spans += [span for scope in resource.scope_spans for span in scope.spans]
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join(20)
        self._server.server_close()

    def trace(self, trace_id: str) -> tuple[Span, list[Span]]:
        """The server's span of a trace, as soon as it has come, and those below it in the order of their beginnings."""

        def roots() -> list[Span]:
            return [
                span
                for span in list(self.spans)
                if span.trace_id.hex() == trace_id and span.kind == Span.SPAN_KIND_SERVER
            ]

        wait_until(lambda: bool(roots()), timeout_s=30, what=f"no span of the trace {trace_id}")
        (root,) = roots()
        below = [span for span in self.spans if span.parent_span_id == root.span_id]
        return root, sorted(below, key=lambda span: span.start_time_unix_nano)


def attributes(span: Span) -> dict[str, object]:
    """By name."""
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in span.attributes}


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    """Of one service, `traced`."""
    with Collector() as collector:
        yield collector


@pytest.fixture(scope="module")
def traced(collector: Collector) -> Iterator[ServiceProcess]:
    """A service that sends its traces."""
    with ServiceProcess({"EDGESAM_OTLP_ENDPOINT": f"{collector.url}/", "EDGESAM_PROVIDER": "cpu"}) as service:
        yield service


@pytest.fixture(scope="module")
def client(traced: ServiceProcess) -> Iterator[httpx.Client]:
    """Of `traced`."""
    with open_client(traced.url) as client:
        yield client


def test_a_click_continues_its_callers_trace_and_shows_its_stages(client, collector, traced):
    image_hash = embed(client, noise_file((30, 40), seed=1))
    body = {"image_hash": image_hash, "prompts": [point(3, 3)]}

    client.post("/segment", json=body, headers={**SAMPLED, "X-Request-ID": "click-1"})

    root, stages = collector.trace(TRACE)
    names = [span.name for span in stages]
    assert root.name == "POST /segment"
    assert root.parent_span_id.hex() == PARENT
    assert attributes(root) == {
        "http.request.method": "POST",
        "http.route": "/segment",
        "http.response.status_code": 200,
        "edgesam.prompts": 1,
    }
    assert names == ["queue", "decode", "postprocess", "serialize", "serialize"]  # masks, then the whole
    assert request_line(traced, "click-1")["trace_id"] == TRACE
    for before, after in pairwise(stages):
        assert before.end_time_unix_nano <= after.start_time_unix_nano + 1000
    assert root.start_time_unix_nano <= stages[0].start_time_unix_nano
    assert stages[-1].end_time_unix_nano <= root.end_time_unix_nano


def test_an_image_shows_every_stage_in_its_order(client, collector, traced):
    client.post("/embed", content=noise_file((30, 41), seed=2), headers={"X-Request-ID": "embed-1"})

    line = request_line(traced, "embed-1")
    root, stages = collector.trace(line["trace_id"])
    names = [span.name for span in stages if span.name != "queue"]
    assert root.parent_span_id == b""
    assert names == ["hash", "cache_get", "decode_image", "preprocess", "encode", "prepare"]
    for span in stages:
        assert root.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano
        assert span.end_time_unix_nano <= root.end_time_unix_nano


def test_spans_hold_neither_hashes_nor_names_of_people(client, collector):
    trace = "1" * 32
    image_hash = embed(client, noise_file((30, 42), seed=3))
    headers = {"traceparent": f"00-{trace}-{PARENT}-01", "X-Request-ID": "alice", "User-Agent": "alice"}

    client.head(f"/embed/{image_hash}", headers=headers)

    root, _ = collector.trace(trace)
    assert root.name == "HEAD /embed/{image_hash}"
    assert image_hash not in str(collector.spans)
    assert "alice" not in str(collector.spans)


def test_a_fault_of_the_server_is_an_error_and_a_clients_mistake_is_not(client, collector):
    trace = "2" * 32

    client.post("/segment", content=b"{", headers={"traceparent": f"00-{trace}-{PARENT}-01"})

    root, _ = collector.trace(trace)
    assert attributes(root)["edgesam.problem"] == "malformed-body"
    assert root.status.code == Status.STATUS_CODE_UNSET


def test_what_the_caller_does_not_sample_is_not_sent_and_still_named_in_the_log(client, collector, traced):
    dark, bright = "3" * 32, "4" * 32

    client.get("/models", headers={"traceparent": f"00-{dark}-{PARENT}-00", "X-Request-ID": "dark-1"})
    client.get("/models", headers={"traceparent": f"00-{bright}-{PARENT}-01"})

    collector.trace(bright)
    assert not [span for span in collector.spans if span.trace_id.hex() == dark]
    assert request_line(traced, "dark-1")["trace_id"] == dark


def test_probes_and_scrapes_are_no_traces(client, collector):
    trace = "5" * 32

    for path in ("/livez", "/readyz", "/metrics"):
        client.get(path, headers=SAMPLED)
    client.get("/models", headers={"traceparent": f"00-{trace}-{PARENT}-01"})

    collector.trace(trace)
    assert not {"GET /livez", "GET /readyz", "GET /metrics"} & {span.name for span in collector.spans}


def test_the_resource_is_the_service_and_what_the_standard_variables_add(collector):
    settings = {
        "EDGESAM_OTLP_ENDPOINT": collector.url,
        "EDGESAM_PROVIDER": "cpu",
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test",
        "OTEL_SERVICE_NAME": "edgesam-segment",
    }
    trace = "6" * 32
    with ServiceProcess(settings) as service, open_client(service.url) as client:
        client.get("/models", headers={"traceparent": f"00-{trace}-{PARENT}-01"})

    # The process has ended: what waited was sent at its end.
    assert [span.name for span in collector.spans if span.trace_id.hex() == trace] == ["GET /models"]
    assert {"service.name": "edgesam-segment", "deployment.environment.name": "test"}.items() <= (
        collector.resources[-1].items()
    )


def test_on_kubernetes_a_trace_tells_its_pod_and_a_caller_decides_whether_there_is_one(collector, tmp_path):
    if reason := why_not():
        pytest.skip(reason)
    manifests = Manifests("traced", rendered_variant("traced", tmp_path))
    (replica,) = [one for one in manifests.services() if one["metadata"]["name"] == "edgesam-segment"]
    variables = {
        name: value for name, value in manifests.environment(replica).items() if name.startswith(("OTEL_", "POD_"))
    }
    settings = {**variables, "EDGESAM_OTLP_ENDPOINT": collector.url, "EDGESAM_PROVIDER": "cpu"}
    trace = "7" * 32
    with ServiceProcess(settings) as service, open_client(service.url) as client:
        before = len(collector.spans)
        for _ in range(100):
            client.get("/models")
        client.get("/models", headers={"traceparent": f"00-{trace}-{PARENT}-01"})

    sent = collector.spans[before:]
    assert [span.name for span in sent if span.trace_id.hex() == trace] == ["GET /models"]
    assert len(sent) < 50  # ten of a hundred are expected; this many come once in 10^20 times
    assert {"k8s.pod.name": "edgesam-0", "k8s.namespace.name": "edgesam"}.items() <= collector.resources[-1].items()


def test_a_collector_that_is_gone_costs_neither_requests_nor_the_stop():
    nobody = f"http://127.0.0.1:{free_port()}"
    with (
        ServiceProcess({"EDGESAM_OTLP_ENDPOINT": nobody, "EDGESAM_PROVIDER": "cpu"}) as service,
        open_client(service.url) as client,
    ):
        statuses = {client.get("/models").status_code for _ in range(600)}
        began = monotonic()
        status = service.stop()

    assert statuses == {200}
    assert status in {0, -15}
    assert monotonic() - began < 15
    complaints = [line for line in service.log if line.get("logger", "").startswith("opentelemetry.exporter")]
    assert len(complaints) == 1
    assert "Traceback" not in json.dumps(service.log)


def test_without_an_endpoint_nothing_that_sends_is_loaded():
    program = "import sys; from service.app import create_app; create_app(); print(*sys.modules)"

    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True)

    assert "service.api.middleware.request" in done.stdout.split()
    # Of the SDK, redis-py loads parts by itself where it is installed.
    assert not [name for name in done.stdout.split() if name.startswith("opentelemetry.exporter")]
