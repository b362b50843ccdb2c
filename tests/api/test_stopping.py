"""Requests that the server cancels when it stops are answered with a problem and counted, without a traceback."""

import asyncio
import logging
import os

import pytest
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from support.app_server import AppServer
from support.raw_http import RawConnection
from support.redis_server import wait_until
from support.service_client import assert_problem

from service.api.middleware.request import RequestMiddleware
from service.errors import NotReady
from service.server.connections import BoundedProtocol
from service.telemetry.metrics import Metrics

LARGE_BYTES = 32 << 20  # larger than the kernel's buffers of a connection
CANCELLED = "Cancel 1 running task(s), timeout graceful shutdown exceeded"


def service_of(endpoint):
    """Return an app of one route, and its metrics."""
    registry = CollectorRegistry()
    routes = [Route("/work", endpoint)]
    request = Middleware(
        RequestMiddleware, metrics=Metrics(registry), routes=routes, policies={}, send_timeout_s=3600.0
    )
    return Starlette(routes=routes, middleware=[request]), registry


def count(registry, status):
    """Return the number of requests that ended with a status."""
    labels = {"route": "/work", "method": "GET", "status": str(status)}
    return registry.get_sample_value("edgesam_http_request_duration_seconds_count", labels) or 0


def complaints(caplog):
    """Return the warnings and errors in the log, without the lines of requests."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelno >= logging.WARNING and record.name != "service.request"
    ]


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_work_that_is_cancelled_by_the_stop_is_answered_and_counted(caplog, loop):
    async def wait_for_ever(request: Request) -> Response:
        await asyncio.Event().wait()
        raise AssertionError

    app, registry = service_of(wait_for_ever)
    options = {"http": BoundedProtocol, "loop": loop, "timeout_graceful_shutdown": 1}
    with caplog.at_level(logging.INFO), AppServer(app, **options) as running, RawConnection(running.url) as connection:
        connection.start("/work", method="GET")
        wait_until(lambda: registry.get_sample_value("edgesam_in_flight", {"route": "/work"}) == 1, timeout_s=60)
        running.stop()

        response = connection.response("GET")

    assert_problem(response, NotReady)
    assert int(response.headers["retry-after"]) >= 1
    assert count(registry, 503) == 1
    assert complaints(caplog) == [CANCELLED]


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_an_answer_that_is_still_being_read_is_cut_off_by_the_stop(caplog, loop):
    async def large(request: Request) -> Response:
        return Response(os.urandom(LARGE_BYTES))

    app, registry = service_of(large)
    options = {"http": BoundedProtocol, "loop": loop, "timeout_graceful_shutdown": 1}
    with (
        caplog.at_level(logging.INFO),
        AppServer(app, **options) as running,
        RawConnection(running.url, receive_buffer_bytes=1 << 20) as connection,
    ):
        connection.start("/work", method="GET")
        start = connection.receive(1000)
        running.stop()
        wait_until(lambda: count(registry, 503) == 1, timeout_s=60)

        rest = connection.receive_all(LARGE_BYTES)

    assert start.startswith(b"HTTP/1.1 200 ")
    assert len(rest) < LARGE_BYTES - 1000
    assert complaints(caplog) == [CANCELLED]
