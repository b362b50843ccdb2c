"""What is repeated, for how long, and how every wait ends; the faults are made for real."""

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from support.app_server import AppServer
from support.client_kinds import KEY
from support.noise_images import noise_file
from support.raw_http import RawConnection
from support.redis_server import free_port, wait_until
from support.service_client import Scrape, open_client, wait_for_in_flight
from support.service_process import ServiceProcess

from service.client import Busy, Client, Problem, Unauthorized, UnexpectedAnswer, Unreachable
from service.client.retries import RetryPolicy, retry_after_s

UNKNOWN = "5" * 64
WAIT_S = 60.0


@pytest.fixture(scope="module")
def strange() -> Iterator[AppServer]:
    """What may stand where the service should: proxies in bad shape, other programs."""

    async def answer(request: Request) -> Response:
        kind = request.path_params["kind"]
        if kind == "trickle":
            return StreamingResponse(trickle(), media_type="application/json")
        if kind == "later":
            return Response(status_code=429, headers={"Retry-After": "3600"})
        if kind == "echo":
            return Response(status_code=503, headers={"Retry-After": "0", "X-Request-ID": headers(request)})
        if kind == "moved":
            return Response(status_code=308, headers={"Location": "https://elsewhere.example/"})
        body, content_type = BODIES[kind]
        return Response(body, 502 if kind == "gateway" else 200, media_type=content_type)

    async def trickle() -> AsyncIterator[bytes]:
        while True:
            await asyncio.sleep(0.01)
            yield b" "

    def headers(request: Request) -> str:
        return "|".join(request.headers.get(name, "-") for name in ("x-image-hash", "authorization", "user-agent"))

    methods = ["GET", "HEAD", "POST", "DELETE"]
    with AppServer(Starlette(routes=[Route("/{kind}/{rest:path}", answer, methods=methods)])) as server:
        yield server


BODIES = {
    "page": (b"<html>Welcome</html>", "text/html"),
    "gateway": (b"<html>Bad gateway</html>", "text/html"),
    "list": (b"[]", "application/json"),
    "object": (b"{}", "application/json"),
    "models": (b'{"models": [1]}', "application/json"),
}


def test_a_restarted_service_is_waited_for_and_gets_its_image_again(artifact):
    settings = {"EDGESAM_MODEL_DIR": str(artifact), "EDGESAM_PORT": str(free_port())}
    with ServiceProcess(settings) as service:
        client = Client(service.url, retry_s=WAIT_S)
        image = client.embed(noise_file((30, 40), seed=91))
        before = client.segment(image, points=(20, 15))
        service.process.kill()
        service.process.wait(WAIT_S)

    with client, ThreadPoolExecutor(1) as threads:
        after = threads.submit(client.segment, image, points=(20, 15))
        with ServiceProcess(settings):
            answer = after.result(WAIT_S)

    assert [mask.counts for mask in answer.masks] == [mask.counts for mask in before.masks]


@pytest.mark.alone
def test_a_full_service_is_asked_again_when_it_said(connect, narrow, next_seed):
    data = noise_file((20, 20), next_seed)
    client = connect(narrow.url, KEY, retry_s=WAIT_S)
    with open_client(narrow.url, headers={"X-API-Key": KEY}) as watching, ThreadPoolExecutor(1) as threads:
        refused = Scrape(watching).value("edgesam_rejected_total", reason="overloaded")
        with RawConnection(narrow.url) as slow:
            slow.start("/embed", "Content-Length: 100", f"X-API-Key: {KEY}")
            wait_for_in_flight(watching, "/embed")
            with pytest.raises(Busy) as caught:
                connect(narrow.url, KEY, retry_s=0).embed(data)
            waiting = threads.submit(client.embed, data)
            wait_until(
                lambda: Scrape(watching).value("edgesam_rejected_total", reason="overloaded") >= refused + 2,
                timeout_s=WAIT_S,
            )
            refused_at = time.monotonic()
        image = waiting.result(WAIT_S)
        waited_s = time.monotonic() - refused_at

    assert (caught.value.status, caught.value.code) == (503, "overloaded")
    assert caught.value.retry_after_s == 1.0
    assert image.was_uploaded
    assert waited_s > 0.5  # of the second that the service asked for, some had passed before we looked


def test_a_wait_longer_than_the_policy_allows_is_not_begun(connect, strange):
    started = time.monotonic()

    with pytest.raises(Busy) as caught:
        connect(f"{strange.url}/later", retry_s=30).models()

    assert time.monotonic() - started < 10
    assert (caught.value.status, caught.value.code, caught.value.retry_after_s) == (429, "too-many-requests", 3600.0)


def test_nobody_listening_is_an_error_within_bounds(connect):
    started = time.monotonic()

    with pytest.raises(Unreachable, match="cannot be reached"):
        connect(f"http://127.0.0.1:{free_port()}", retry_s=0.3).contains(UNKNOWN)

    assert time.monotonic() - started < 10


def test_a_server_that_stays_silent_is_an_error_within_bounds(connect):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"

        with pytest.raises(Unreachable, match=r"did not answer in 0\.\d s"):
            connect(address, timeout_s=0.2, retry_s=0).segment(UNKNOWN, points=(1, 1))


def test_a_server_that_takes_no_upload_is_an_error_within_bounds(connect):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"

        with pytest.raises(Unreachable, match="did not answer"):
            connect(address, timeout_s=0.3, retry_s=0).embed(bytes(20_000_000), progress=lambda _sent, _total: None)


def test_an_answer_that_never_ends_is_an_error_within_bounds(connect, strange):
    with pytest.raises((Unreachable, UnexpectedAnswer)):
        connect(f"{strange.url}/trickle", timeout_s=0.3, retry_s=0).models()


def test_a_connection_that_ends_without_an_answer_is_tried_again(connect):
    seen = []

    def close_connection(server: socket.socket) -> None:
        while len(seen) < 3:
            connection, _ = server.accept()
            seen.append(connection.recv(10))
            connection.close()

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=close_connection, args=(server,))
        thread.start()
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(Unreachable):
            connect(address, retry_s=1.5, timeout_s=0.5).contains(UNKNOWN)
        thread.join(WAIT_S)

    assert seen == [b"HEAD /embe"] * 3


@pytest.mark.parametrize("kind", ["page", "list", "object", "models", "nothing", "moved"])
def test_what_is_not_the_service_is_not_mistaken_for_it(connect, strange, kind):
    url = f"{strange.url}/{kind}" if kind != "nothing" else strange.url

    with pytest.raises(UnexpectedAnswer):
        connect(url).models()


def test_a_proxy_without_its_service_is_busy(connect, strange):
    with pytest.raises(Busy) as caught:
        connect(f"{strange.url}/gateway", retry_s=0).models()

    assert (caught.value.status, caught.value.code) == (502, "bad-gateway")


@pytest.mark.parametrize("call", ["contains", "forget", "segment"])
def test_requests_on_an_image_say_its_hash_for_the_ingress(connect, strange, call):
    client = connect(f"{strange.url}/echo", KEY, retry_s=0)
    prompt = {"points": (1, 1)} if call == "segment" else {}

    with pytest.raises(Problem) as caught:
        getattr(client, call)(UNKNOWN, **prompt)

    image_hash, key, agent = caught.value.request_id.split("|")
    assert (image_hash, key) == (UNKNOWN, f"Bearer {KEY}")
    assert agent.startswith("edgesam-client/")


@pytest.mark.parametrize("key", [None, "a-wrong-key-of-nobody"])
def test_without_the_right_key_the_error_says_so(connect, narrow, key):
    client = connect(narrow.url, key)

    for call in (client.models, lambda: client.embed(noise_file((20, 20))), lambda: client.contains(UNKNOWN)):
        with pytest.raises(Unauthorized, match="API key"):
            call()


@pytest.mark.parametrize("url", ["", "127.0.0.1:8000", "ftp://host", "http://", "http://host:port", "http://[::1"])
def test_what_is_no_address_is_refused_at_once(connect, url):
    with pytest.raises(ValueError, match="not the address of a service"):
        connect(url)


@pytest.mark.parametrize("key", ["", " key", "ke\ny", "schlüssel"])
def test_what_is_no_key_is_refused_at_once(connect, key):
    with pytest.raises(ValueError, match="key"):
        connect("http://127.0.0.1:8000", key)


def test_passwords_in_the_address_stand_in_no_error(connect):
    with pytest.raises(Unreachable) as caught:
        connect(f"http://user:secret@127.0.0.1:{free_port()}", retry_s=0).models()

    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("attempt", [0, 1, 5, 1000])
@pytest.mark.parametrize("retry_after", [None, 0.0, 2.5])
def test_waits_are_spread_between_what_was_asked_for_and_a_doubling_bound(attempt, retry_after):
    retry_policy = RetryPolicy(60, first_s=0.25, longest_s=8)
    bound = min(8, 0.25 * 2 ** min(attempt, 10))

    waits = [retry_policy.wait_s(attempt, retry_after) - (retry_after or 0) for _ in range(200)]

    assert 0 <= min(waits) < bound / 2 < max(waits) <= bound


def test_retry_after_is_read_as_seconds_and_as_a_date():
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)

    assert retry_after_s("7") == 7.0
    assert retry_after_s(soon) == pytest.approx(100, abs=5)
    assert retry_after_s("Fri, 31 Dec 1999 23:59:59 GMT") == 0.0
    assert [retry_after_s(text) for text in (None, "", "soon", "-1", "1" * 10, "Fri, 99 Dec")] == [None] * 6
