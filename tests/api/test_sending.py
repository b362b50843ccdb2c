"""Large answers are sent at the speed of the client and hold their permit, up to a time limit."""

import asyncio
import logging
import os
import weakref

import httpx
import numpy as np
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

from service.api.middleware.admission import AdmissionMiddleware
from service.api.middleware.request import RequestMiddleware
from service.api.middleware.sending import PIECE_BYTES, Answer, AnswerTimeout
from service.errors import Overloaded
from service.inference.scheduling.admission import AdmissionController
from service.server.connections import BoundedProtocol
from service.telemetry.metrics import Metrics

# Larger than the kernel's buffers of a connection.
LARGE = os.urandom(1 << 20) * 32
LONG_TIMEOUT_S = 3600.0
SERVERS = pytest.mark.parametrize(
    "server", [{"http": BoundedProtocol, "loop": "uvloop"}, {"http": BoundedProtocol, "loop": "asyncio"}], ids=str
)


class LargeAnswers:
    """An app whose /large answers 32 MiB, with one permit, its metrics, and weak references to its answers."""

    def __init__(self, *, send_timeout_s):
        self.registry = CollectorRegistry()
        self.alive = weakref.WeakValueDictionary()
        metrics = Metrics(self.registry)
        routes = [Route("/large", self._large, methods=["POST"])]
        permits = {("POST", "/large"): AdmissionController(1, "large answers")}
        self.app = Starlette(
            routes=routes,
            middleware=[
                Middleware(
                    RequestMiddleware, metrics=metrics, routes=routes, policies={}, send_timeout_s=send_timeout_s
                ),
                Middleware(AdmissionMiddleware, permits=permits, metrics=metrics),
            ],
        )

    def value(self, name, **labels):
        """Return a sample of the metrics, 0 if it is absent."""
        return self.registry.get_sample_value(name, labels) or 0.0

    async def _large(self, request: Request) -> Response:
        await request.body()
        body = np.frombuffer(LARGE, np.uint8).copy()  # unlike bytes it supports weak references
        self.alive[id(body)] = body
        return Response(memoryview(body))


def start_reading(connection):
    """Send the request and read a small part of the answer."""
    connection.start("/large", "Content-Length: 0", "Connection: close")
    return connection.receive(1000)


def request_records(caplog):
    """Return the log records of requests."""
    return [record for record in caplog.records if record.getMessage() == "request"]


@SERVERS
def test_an_answer_in_pieces_arrives_whole(server):
    service = LargeAnswers(send_timeout_s=LONG_TIMEOUT_S)
    with AppServer(service.app, **server) as running, httpx.Client(base_url=running.url, trust_env=False) as client:
        first, second = (client.post("/large") for _ in range(2))

    assert first.content == second.content == LARGE
    assert first.headers["content-length"] == str(len(LARGE))


@SERVERS
def test_an_answer_that_is_not_read_keeps_its_permit(server):
    service = LargeAnswers(send_timeout_s=LONG_TIMEOUT_S)
    with AppServer(service.app, **server) as running, httpx.Client(base_url=running.url, trust_env=False) as client:
        with RawConnection(running.url, receive_buffer_bytes=1 << 20) as reader:
            start = start_reading(reader)

            refused = client.post("/large")
            wait_until(lambda: service.value("edgesam_in_flight", route="/large") == 1, timeout_s=60)
            rest = reader.receive_all(len(LARGE))
        wait_until(lambda: service.value("edgesam_in_flight", route="/large") == 0, timeout_s=60)
        again = client.post("/large")

    assert_problem(refused, Overloaded)
    assert (start + rest).endswith(LARGE[-1000:])
    assert again.status_code == 200
    assert service.value("edgesam_rejected_total", reason="overloaded") == 1


@SERVERS
@pytest.mark.alone
def test_a_client_that_does_not_read_is_disconnected_and_its_answer_freed(server, caplog):
    service = LargeAnswers(send_timeout_s=0.5)
    with (
        caplog.at_level(logging.INFO),
        AppServer(service.app, **server) as running,
        RawConnection(running.url, receive_buffer_bytes=1 << 20) as reader,
    ):
        start_reading(reader)

        wait_until(lambda: bool(request_records(caplog)), timeout_s=60, what="the answer is never given up")
        wait_until(lambda: running.connections == 0, timeout_s=60, what="the connection stays")
        wait_until(lambda: not service.alive, timeout_s=60, what="the answer stays in memory")
        received = reader.receive_all(len(LARGE))

    (record,) = request_records(caplog)
    assert record.status == 499
    assert len(received) < len(LARGE)
    assert service.value("edgesam_in_flight", route="/large") == 0
    assert not [one for one in caplog.records if one.levelno >= logging.WARNING]


@SERVERS
def test_a_client_that_disconnects_during_its_answer_is_logged_as_disconnected(server, caplog):
    service = LargeAnswers(send_timeout_s=LONG_TIMEOUT_S)
    with caplog.at_level(logging.INFO), AppServer(service.app, **server) as running:
        with RawConnection(running.url, receive_buffer_bytes=1 << 20) as reader:
            start_reading(reader)

        wait_until(lambda: bool(request_records(caplog)), timeout_s=60)

    (record,) = request_records(caplog)
    assert record.status == 499
    assert not [one for one in caplog.records if one.levelno >= logging.WARNING]


@pytest.mark.parametrize("size", [0, 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES])
async def test_pieces_are_bounded_and_only_the_last_one_ends_the_answer(size):
    sent = []

    async def send(message):
        sent.append(message)

    answer = Answer(send, timeout_s=LONG_TIMEOUT_S)
    body = os.urandom(size)

    await answer.send({"type": "http.response.start", "status": 200, "headers": []})
    await answer.send({"type": "http.response.body", "body": body})

    start, *pieces = sent
    assert start["status"] == answer.status == 200
    assert b"".join(piece["body"] for piece in pieces) == body
    assert all(len(piece["body"]) <= PIECE_BYTES for piece in pieces)
    assert [piece.get("more_body", False) for piece in pieces] == [True] * (len(pieces) - 1) + [False]
    assert answer.is_complete


async def test_the_send_timeout_applies_to_the_whole_answer():
    async def send(message):
        if message["type"] == "http.response.body":
            await forever.wait()

    forever = asyncio.Event()
    answer = Answer(send, timeout_s=0.01)
    await answer.send({"type": "http.response.start", "status": 200, "headers": []})

    with pytest.raises(AnswerTimeout):
        await answer.send({"type": "http.response.body", "body": b"x", "more_body": True})

    assert not answer.is_complete


async def test_start_and_body_of_a_small_answer_are_sent_without_yielding():
    events = []

    async def send(message):
        events.append(message["type"])

    answer = Answer(send, timeout_s=LONG_TIMEOUT_S)
    asyncio.get_running_loop().call_soon(events.append, "somebody else's turn")
    await answer.send({"type": "http.response.start", "status": 200, "headers": []})
    await answer.send({"type": "http.response.body", "body": b"small"})

    assert events == ["http.response.start", "http.response.body"]
    assert answer.is_complete
