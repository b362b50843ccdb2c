"""Answers in lines: an error after the start becomes the last line, and the lines are closed in any case."""

import json
import logging

import httpx
import pytest
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Route
from support.app_server import AppServer

from service.api.event_stream import EventStream
from service.api.everything_rendering import NDJSON, error_line
from service.api.middleware.request import RequestMiddleware
from service.errors import Overloaded
from service.server.connections import BoundedProtocol
from service.telemetry.metrics import Metrics


class Streams:
    """An app whose /stream answers two lines and then fails as told, its metrics, and how often lines were closed."""

    def __init__(self, error):
        self.registry = CollectorRegistry()
        self.closed = 0
        metrics = Metrics(self.registry)

        async def lines():
            try:
                for number in range(2):
                    yield b'{"line":%d}\n' % number
                if error is not None:
                    raise error
            finally:
                self.closed += 1

        async def stream(request):
            return EventStream(lines(), error_line=error_line, media_type=NDJSON, metrics=metrics)

        routes = [Route("/stream", stream, methods=["POST"])]
        request = Middleware(RequestMiddleware, metrics=metrics, routes=routes, policies={})
        self.app = Starlette(routes=routes, middleware=[request])

    def count(self, status):
        labels = {"route": "/stream", "method": "POST", "status": str(status)}
        return self.registry.get_sample_value("edgesam_http_request_duration_seconds_count", labels)


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (None, 200, None),
        (Overloaded("Full.", retry_after_s=1.0), 503, "overloaded"),
        (ZeroDivisionError("a secret of the house"), 500, "internal-error"),
    ],
    ids=["complete", "overloaded", "failed"],
)
def test_a_stream_ends_with_its_lines_or_with_the_problem(caplog, error, status, code):
    streams = Streams(error)
    with (
        caplog.at_level(logging.ERROR, "service.request"),
        AppServer(streams.app, http=BoundedProtocol) as running,
        httpx.Client(base_url=running.url, trust_env=False) as client,
    ):
        response = client.post("/stream", headers={"X-Request-ID": "one"})

    *lines, last = [json.loads(line) for line in response.text.splitlines()]
    assert response.status_code == 200
    assert response.headers["content-type"] == NDJSON
    assert response.headers["x-accel-buffering"] == "no"
    assert streams.closed == 1
    assert streams.count(status) == 1
    assert "secret" not in response.text
    if code is None:
        assert [*lines, last] == [{"line": 0}, {"line": 1}]
    else:
        assert lines == [{"line": 0}, {"line": 1}]
        assert last["event"] == "error"
        problem = last["problem"]
        assert (problem["code"], problem["status"], problem["instance"]) == (code, status, "one")
    failures = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(failures) == (status == 500)
