"""Streams of /segment/everything: disconnects, slow readers, several callers, and the stop of the process."""

import contextlib
import hashlib
import json
from collections.abc import Iterator

import httpx
import pytest
from support.everything_requests import ALL_MASKS, NDJSON, ROUTE, ask, stream
from support.noise_images import noise_file
from support.raw_http import RawConnection
from support.redis_server import wait_until
from support.service_client import (
    Scrape,
    assert_problem,
    embed,
    open_client,
    point,
    request_line,
    segment,
    wait_for_in_flight,
)
from support.service_process import ServiceProcess

from service.errors import NotReady, Overloaded, RateLimited

WAIT_S = 60.0
SIZE = (300, 400)
LONG = {"points_per_side": 64}
"""A grid that takes longer than any test waits for it."""
FIRST, SECOND = "the first key of the tests", "the second key of the tests"


@pytest.fixture(scope="module")
def service(artifact, tmp_path_factory) -> Iterator[ServiceProcess]:
    keys = tmp_path_factory.mktemp("keys") / "keys.json"
    entries = [
        {"name": name, "sha256": hashlib.sha256(key.encode()).hexdigest(), "roles": ["embed", "segment", "admin"],
         "namespace": "both"}
        for name, key in (("first", FIRST), ("second", SECOND))
    ]  # fmt: skip
    keys.write_text(json.dumps(entries))
    settings = {"EDGESAM_API_KEYS_FILE": str(keys), "EDGESAM_EVERYTHING_AT_ONCE": "2", "EDGESAM_SEND_TIMEOUT_S": "2"}
    with ServiceProcess({"EDGESAM_MODEL_DIR": str(artifact), **settings}) as running:
        yield running


@pytest.fixture(scope="module")
def first(service) -> Iterator[httpx.Client]:
    with open_client(service.url, headers={"X-API-Key": FIRST}) as client:
        yield client


@pytest.fixture(scope="module")
def second(service) -> Iterator[httpx.Client]:
    with open_client(service.url, headers={"X-API-Key": SECOND}) as client:
        yield client


@pytest.fixture(scope="module")
def image(first) -> str:
    return embed(first, noise_file(SIZE, 4712))


@contextlib.contextmanager
def long_stream(client, image, **parameters):
    """Hold the stream of a large grid open, after its first line of progress."""
    with contextlib.closing(stream(client, image, **LONG, **parameters)) as lines:
        next(line for line in lines if line["event"] == "progress")
        yield lines
    wait_for_in_flight(client, ROUTE, 0)


def decoded(client):
    return Scrape(client).value("edgesam_everything_prompts_total")


def calls(client):
    return Scrape(client).value("edgesam_batch_size_count", lane="everything")


def test_a_client_that_disconnects_ends_the_work(service, first, image):
    with long_stream(first, image):
        assert calls(first) >= 1

    after = calls(first)
    segment(first, image, point(20, 20))  # work of the event loop and the decoder in between
    assert calls(first) == after
    assert decoded(first) < 64 * 64
    assert Scrape(first).value("edgesam_http_request_duration_seconds_count", route=ROUTE, status="499") == 1
    assert Scrape(first).value("edgesam_queue_depth", lane="everything") == 0


def test_a_key_has_one_request_at_a_time_and_others_are_not_held_up(first, second, image):
    with long_stream(first, image):
        document = assert_problem(ask(first, image), RateLimited)
        assert document["limit"] == 1
        assert "in progress" in document["detail"]
        assert ask(second, image, points_per_side=1).status_code == 200

    assert ask(first, image, points_per_side=1).status_code == 200


def test_clicks_are_answered_while_a_grid_is_decoded(first, image):
    with long_stream(first, image):
        (masks,) = segment(first, image, point(100, 100))

    assert masks


def test_a_reader_that_stops_is_disconnected_and_its_permit_is_free_again(service, first, image):
    asked = {"image_hash": image, **ALL_MASKS, **LONG, "max_masks": 1000, "box_nms_thresh": 1.0, "format": "png"}
    body = json.dumps(asked).encode()
    request_id = "stalled"
    with RawConnection(service.url, receive_buffer_bytes=4096) as reader:
        reader.start(
            ROUTE,
            f"Content-Length: {len(body)}",
            f"Accept: {NDJSON}",
            f"X-API-Key: {FIRST}",
            f"X-Request-ID: {request_id}",
        )
        reader.send(body)
        assert reader.receive(100).startswith(b"HTTP/1.1 200 ")

        line = request_line(service, request_id)

    assert line["status"] == 499
    assert ask(first, image, points_per_side=1).status_code == 200


def test_without_keys_a_number_of_requests_is_answered_at_a_time(artifact):
    settings = {"EDGESAM_MODEL_DIR": str(artifact), "EDGESAM_EVERYTHING_AT_ONCE": "2"}
    with ServiceProcess(settings) as service, open_client(service.url) as client:
        image = embed(client, noise_file(SIZE, 4713))
        with (
            contextlib.closing(stream(client, image, **LONG)) as one,
            contextlib.closing(stream(client, image, **LONG)) as two,
        ):
            assert next(one)["event"] == next(two)["event"] == "start"
            document = assert_problem(ask(client, image), Overloaded)
            assert document["limit"] == 2
            assert int(ask(client, image).headers["retry-after"]) >= 1
        wait_until(lambda: ask(client, image, points_per_side=1).status_code == 200, timeout_s=WAIT_S)


def test_a_stream_that_outlasts_the_stop_ends_with_a_line_that_says_to_retry(artifact):
    settings = {"EDGESAM_MODEL_DIR": str(artifact), "EDGESAM_GRACEFUL_TIMEOUT_S": "1"}
    with ServiceProcess(settings) as service, open_client(service.url) as client:
        image = embed(client, noise_file(SIZE, 4714))
        lines = stream(client, image, **LONG)
        assert next(lines)["event"] == "start"

        service.terminate()
        *_, last = lines
        service.process.wait(WAIT_S)

    assert last["event"] == "error"
    assert (last["problem"]["code"], last["problem"]["status"]) == (NotReady.code, 503)
    assert "again" in last["problem"]["detail"]
    assert service.process.returncode == 0
    (line,) = [line for line in service.log if line["event"] == "request" and line["route"] == ROUTE]
    assert (line["status"], line["problem"]) == (503, NotReady.code)
    assert not [line for line in service.log if line["level"] == "error" and line["logger"] == "service.request"]


def test_a_stream_that_ends_in_time_is_complete_after_the_stop_began(artifact):
    settings = {"EDGESAM_MODEL_DIR": str(artifact), "EDGESAM_GRACEFUL_TIMEOUT_S": "60"}
    with ServiceProcess(settings) as service, open_client(service.url) as client:
        image = embed(client, noise_file(SIZE, 4715))
        lines = stream(client, image, points_per_side=8)
        assert next(lines)["event"] == "start"

        service.terminate()
        *_, last = lines
        service.process.wait(WAIT_S)

    assert last["event"] == "end"
    assert service.process.returncode == 0
