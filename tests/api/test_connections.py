"""Bounds of connections: time and size of a request's head, number of connections, and bytes after an answer."""

import re
import socket

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
from service.errors import HeadTimeout, HeadTooLarge, MalformedHead, Overloaded
from service.server.connections import BoundedProtocol, ConnectionBounds
from service.telemetry.metrics import Metrics

LOOPS = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])


def serve(loop="uvloop", *, max_connections=100, head_timeout_s=60.0, max_head_bytes=8192):
    """Run a server with connection bounds. It answers GET at once, and POST when it has read the body."""

    async def answer(request: Request) -> Response:
        return Response(await request.body() or b"hello")

    async def refuse(_: Request) -> Response:
        return Response("no", status_code=413)

    routes = [Route("/", answer, methods=["GET", "POST"]), Route("/refuse", refuse, methods=["POST"])]
    middleware = [Middleware(RequestMiddleware, metrics=Metrics(CollectorRegistry()), routes=routes, policies={})]
    bounds = ConnectionBounds(max_connections, head_timeout_s, max_head_bytes)
    return AppServer(
        Starlette(routes=routes, middleware=middleware), http=BoundedProtocol.within(bounds), loop=loop, ws="none"
    )


def send_for_ever(connection, data):
    """Send until the server closes the connection; the time limit of the test is the bound."""
    while True:
        connection.send(data)


@LOOPS
@pytest.mark.alone
def test_a_head_that_is_incomplete_in_time_is_answered_and_the_connection_closed(loop):
    with serve(loop, head_timeout_s=0.2) as server, RawConnection(server.url) as connection:
        connection.send(b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ")

        response = connection.response()

        assert_problem(response, HeadTimeout)
        assert connection.receive(1) == b""


@LOOPS
@pytest.mark.parametrize("first", [b"", b"\r\n"])
@pytest.mark.alone
def test_a_connection_that_never_begins_a_request_is_closed(loop, first):
    with serve(loop, head_timeout_s=0.2) as server, RawConnection(server.url) as connection:
        connection.send(first)

        assert connection.receive(1) == b""
        wait_until(lambda: server.connections == 0)


@pytest.mark.alone
def test_a_further_request_has_to_end_its_head_in_time_as_well():
    with serve(head_timeout_s=0.2) as server, RawConnection(server.url) as connection:
        connection.start("/", method="GET")
        first = connection.response("GET")
        connection.send(b"GET / HT")

        second = connection.response("GET")

    assert first.status_code == 200
    assert_problem(second, HeadTimeout)


@pytest.mark.alone
def test_a_pipelined_head_waits_for_the_slow_request_before_it():
    with serve(head_timeout_s=0.1) as server, RawConnection(server.url) as connection:
        connection.start("/", "Content-Length: 2")
        connection.send(b"a")
        with pytest.raises(TimeoutError):  # three times the bound
            connection.receive_within(0.3)
        connection.send(b"bGET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")

        answers = connection.receive_all(1 << 20)

    assert re.findall(rb"\r\n\r\n(ab|hello)", answers) == [b"ab", b"hello"]


@LOOPS
@pytest.mark.parametrize("pieces", [[b"X-Large: " + b"x" * 9000 + b"\r\n\r\n"], [b"X-Large: ", *[b"x" * 1000] * 9]])
def test_a_head_larger_than_the_bound_is_refused_in_one_piece_or_several(loop, pieces):
    with serve(loop) as server, RawConnection(server.url) as connection:
        connection.send(b"GET / HTTP/1.1\r\nHost: x\r\n")
        for piece in pieces:
            connection.send(piece)

        assert assert_problem(connection.response(), HeadTooLarge)["limit"] == 8192


def test_endless_headers_are_refused():
    with serve() as server, RawConnection(server.url) as connection:
        connection.send(b"GET / HTTP/1.1\r\n")

        with pytest.raises(ConnectionError):
            send_for_ever(connection, b"X-More: 1\r\n" * 1000)


@LOOPS
def test_a_large_body_does_not_count_as_head(loop):
    body = b"x" * 200_000
    with serve(loop) as server, RawConnection(server.url) as connection:
        connection.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

        assert connection.response().content == body


def test_bytes_that_are_not_http_are_answered_with_a_problem():
    with serve() as server, RawConnection(server.url) as connection:
        connection.send(b"\x16\x03\x01\x02\x00 hello over TLS\r\n\r\n")

        assert_problem(connection.response(), MalformedHead)


@LOOPS
def test_a_connection_above_the_limit_is_answered_503_and_the_others_go_on(loop):
    with serve(loop, max_connections=2) as server:
        kept = [RawConnection(server.url) for _ in range(2)]
        wait_until(lambda: server.connections == 2)
        with RawConnection(server.url) as refused:
            response = refused.response()
        for connection in kept:
            connection.start("/", method="GET")
        answers = [connection.response("GET").status_code for connection in kept]
        kept.pop().close()
        wait_until(lambda: server.connections == 1)
        with RawConnection(server.url) as later:
            later.start("/", method="GET")
            answers.append(later.response("GET").status_code)
        kept.pop().close()

    assert assert_problem(response, Overloaded)["limit"] == 2
    assert int(response.headers["retry-after"]) >= 1
    assert answers == [200, 200, 200]


@pytest.mark.alone
def test_an_endless_body_is_closed_after_its_answer():
    with serve(head_timeout_s=0.2) as server, RawConnection(server.url) as connection:
        connection.start("/refuse", "Transfer-Encoding: chunked")
        response = connection.response()

        with pytest.raises(ConnectionError):
            send_for_ever(connection, b"400\r\n" + b"x" * 1024 + b"\r\n")

    assert response.status_code == 413


def test_pipelined_requests_are_answered_in_their_order():
    ask = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n%03d"
    last = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with serve() as server, RawConnection(server.url) as connection:
        connection.send(b"".join(ask % number for number in range(200)) + last)

        answers = connection.receive_all(1 << 20)

    bodies = re.findall(rb"\r\n\r\n(\d{3}|hello)", answers)
    assert bodies == [*(b"%03d" % number for number in range(200)), b"hello"]


def test_an_upgrade_to_websocket_is_answered_as_a_plain_request():
    with serve() as server, RawConnection(server.url) as connection:
        connection.start("/", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Key: x", method="GET")

        assert connection.response("GET").status_code == 200


@pytest.mark.alone
def test_a_half_closed_socket_is_closed():
    with serve(head_timeout_s=0.2) as server:
        with socket.create_connection(server.url.removeprefix("http://").split(":"), timeout=60) as half:
            half.shutdown(socket.SHUT_WR)
            assert half.recv(1) == b""

        wait_until(lambda: server.connections == 0)


def test_the_rest_of_an_answered_body_is_not_parsed_as_the_next_head():
    with serve(max_head_bytes=2048) as server, RawConnection(server.url) as connection:
        connection.send(b"POST /refuse HTTP/1.1\r\nHost: x\r\nContent-Length: 9000\r\n\r\n")
        refused = connection.response()
        connection.send(b"x" * 9000)
        connection.start("/", method="GET")
        next_one = connection.response("GET")

    assert refused.status_code == 413
    assert next_one.status_code == 200


def test_a_small_head_behind_a_large_body_in_one_piece_is_accepted():
    with serve(max_head_bytes=2048) as server, RawConnection(server.url) as connection:
        connection.send(
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 20000\r\n\r\n" + b"x" * 20000 + b"GET / HTTP/1.1\r\nHo"
        )
        first = connection.response()
        connection.send(b"st: x\r\n\r\n")
        second = connection.response("GET")

    assert first.content == b"x" * 20000
    assert second.content == b"hello"


def test_endless_trailers_are_refused():
    with serve(max_head_bytes=2048) as server, RawConnection(server.url) as connection:
        connection.send(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n")

        with pytest.raises(OSError, match=r"reset|Broken pipe"):
            send_for_ever(connection, b"X-More: " + b"x" * 1000 + b"\r\n")
        wait_until(lambda: server.connections == 0)


def test_bytes_after_a_request_that_are_not_http_are_answered():
    with serve() as server, RawConnection(server.url) as connection:
        connection.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n{}{}\x01\x02junk")

        response = connection.response()

        assert_problem(response, MalformedHead)
