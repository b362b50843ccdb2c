"""Traces, received at an OTLP/HTTP endpoint: a span for each request, with a child span for each stage."""

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
    """An OTLP/HTTP endpoint that stores the spans it receives; a context manager.

    Attributes:
        spans: Received spans.
        resources: Attributes of the resources of received spans.
    """

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
        """Wait for the server span of a trace, and return it with its child spans in the order of their start."""

        def roots() -> list[Span]:
            return [
                span
                for span in list(self.spans)
                if span.trace_id.hex() == trace_id and span.kind == Span.SPAN_KIND_SERVER
            ]

        wait_until(lambda: bool(roots()), timeout_s=30, what=f"no span of the trace {trace_id}")
        (root,) = roots()
        children = [span for span in self.spans if span.parent_span_id == root.span_id]
        return root, sorted(children, key=lambda span: span.start_time_unix_nano)


def attributes(span: Span) -> dict[str, object]:
    """Return the attributes of a span by name."""
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in span.attributes}


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    """The collector of the service `traced`."""
    with Collector() as collector:
        yield collector


@pytest.fixture(scope="module")
def traced(collector: Collector) -> Iterator[ServiceProcess]:
    """A service that exports traces to `collector`."""
    with ServiceProcess({"EDGESAM_OTLP_ENDPOINT": f"{collector.url}/", "EDGESAM_PROVIDER": "cpu"}) as service:
        yield service


@pytest.fixture(scope="module")
def client(traced: ServiceProcess) -> Iterator[httpx.Client]:
    """A client of the service `traced`."""
    with open_client(traced.url) as client:
        yield client


def test_a_prompt_continues_its_callers_trace_and_has_a_span_for_each_stage(client, collector, traced):
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
    assert names == ["queue", "decode", "postprocess", "serialize", "serialize"]  # the masks, then the whole response
    assert request_line(traced, "click-1")["trace_id"] == TRACE
    for before, after in pairwise(stages):
        assert before.end_time_unix_nano <= after.start_time_unix_nano + 1000
    assert root.start_time_unix_nano <= stages[0].start_time_unix_nano
    assert stages[-1].end_time_unix_nano <= root.end_time_unix_nano


def test_an_upload_has_a_span_for_each_stage_in_order(client, collector, traced):
    client.post("/embed", content=noise_file((30, 41), seed=2), headers={"X-Request-ID": "embed-1"})

    line = request_line(traced, "embed-1")
    root, stages = collector.trace(line["trace_id"])
    names = [span.name for span in stages if span.name != "queue"]
    assert root.parent_span_id == b""
    assert names == ["hash", "cache_get", "decode_image", "preprocess", "encode", "prepare"]
    for span in stages:
        assert root.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano
        assert span.end_time_unix_nano <= root.end_time_unix_nano


def test_spans_contain_no_image_hashes_and_no_request_headers(client, collector):
    trace = "1" * 32
    image_hash = embed(client, noise_file((30, 42), seed=3))
    headers = {"traceparent": f"00-{trace}-{PARENT}-01", "X-Request-ID": "alice", "User-Agent": "alice"}

    client.head(f"/embed/{image_hash}", headers=headers)

    root, _ = collector.trace(trace)
    assert root.name == "HEAD /embed/{image_hash}"
    assert image_hash not in str(collector.spans)
    assert "alice" not in str(collector.spans)


def test_a_client_error_is_no_error_of_the_span(client, collector):
    trace = "2" * 32

    client.post("/segment", content=b"{", headers={"traceparent": f"00-{trace}-{PARENT}-01"})

    root, _ = collector.trace(trace)
    assert attributes(root)["edgesam.problem"] == "malformed-body"
    assert root.status.code == Status.STATUS_CODE_UNSET


def test_a_trace_that_the_caller_does_not_sample_is_in_the_log_only(client, collector, traced):
    unsampled, sampled = "3" * 32, "4" * 32

    client.get("/models", headers={"traceparent": f"00-{unsampled}-{PARENT}-00", "X-Request-ID": "unsampled-1"})
    client.get("/models", headers={"traceparent": f"00-{sampled}-{PARENT}-01"})

    collector.trace(sampled)
    assert not [span for span in collector.spans if span.trace_id.hex() == unsampled]
    assert request_line(traced, "unsampled-1")["trace_id"] == unsampled


def test_probes_and_scrapes_have_no_traces(client, collector):
    trace = "5" * 32

    for path in ("/livez", "/readyz", "/metrics"):
        client.get(path, headers=SAMPLED)
    client.get("/models", headers={"traceparent": f"00-{trace}-{PARENT}-01"})

    collector.trace(trace)
    assert not {"GET /livez", "GET /readyz", "GET /metrics"} & {span.name for span in collector.spans}


def test_the_resource_has_the_service_and_the_attributes_of_the_standard_variables(collector):
    settings = {
        "EDGESAM_OTLP_ENDPOINT": collector.url,
        "EDGESAM_PROVIDER": "cpu",
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test",
        "OTEL_SERVICE_NAME": "edgesam-segment",
    }
    trace = "6" * 32
    with ServiceProcess(settings) as service, open_client(service.url) as client:
        client.get("/models", headers={"traceparent": f"00-{trace}-{PARENT}-01"})

    # The process has ended, and it exports remaining spans before it ends.
    assert [span.name for span in collector.spans if span.trace_id.hex() == trace] == ["GET /models"]
    assert {"service.name": "edgesam-segment", "deployment.environment.name": "test"}.items() <= (
        collector.resources[-1].items()
    )


def test_on_kubernetes_a_trace_names_its_pod_and_the_caller_decides_about_sampling(collector, tmp_path):
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
    assert len(sent) < 50  # ten of a hundred are expected; 50 have a probability of 10^-20
    assert {"k8s.pod.name": "edgesam-0", "k8s.namespace.name": "edgesam"}.items() <= collector.resources[-1].items()


def test_an_unreachable_collector_affects_neither_requests_nor_the_shutdown():
    unreachable = f"http://127.0.0.1:{free_port()}"
    with (
        ServiceProcess({"EDGESAM_OTLP_ENDPOINT": unreachable, "EDGESAM_PROVIDER": "cpu"}) as service,
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


def test_without_an_endpoint_no_exporter_is_loaded():
    program = "import sys; from service.app import create_app; create_app(); print(*sys.modules)"

    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True)

    assert "service.api.middleware.request" in done.stdout.split()
    # redis-py loads parts of the SDK by itself if it is installed.
    assert not [name for name in done.stdout.split() if name.startswith("opentelemetry.exporter")]
