"""Limits of capacity: too many requests, too slow bodies, too little time, disconnecting clients."""

from contextlib import ExitStack

import pytest
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
    standing_still,
    wait_for_in_flight,
)
from support.service_process import ServiceProcess

from service.api.access.policy import policies_of
from service.api.middleware.admission import permits_of
from service.app import create_app
from service.errors import BodyTimeout, DeadlineExceeded, Overloaded
from service.inference.scheduling.admission import OnePerCaller
from service.settings import Settings

UNKNOWN = {"image_hash": "0" * 64, "prompts": [point(1, 1)]}


@pytest.mark.parametrize("path", ["/embed", "/segment"])
def test_a_request_beyond_the_permits_is_refused_at_once(limited, limited_client, path):
    rejected = Scrape(limited_client).value("edgesam_rejected_total", reason="overloaded")
    with RawConnection(limited.url) as slow:
        slow.start(path, "Content-Length: 100")
        wait_for_in_flight(limited_client, path)

        response = limited_client.post(path, content=b"x")

    document = assert_problem(response, Overloaded)
    assert int(response.headers["retry-after"]) >= 1
    assert document["detail"].startswith("1 ")
    assert Scrape(limited_client).value("edgesam_rejected_total", reason="overloaded") == rejected + 1
    wait_for_in_flight(limited_client, path, 0)


def test_uploads_and_prompts_have_permits_of_their_own(limited, limited_client):
    image_hash = embed(limited_client, noise_file((20, 20), seed=40))
    with RawConnection(limited.url) as slow:
        slow.start("/embed", "Content-Length: 100")
        wait_for_in_flight(limited_client, "/embed")

        click = limited_client.post("/segment", json={"image_hash": image_hash, "prompts": [point(1, 1)]})
        known = limited_client.head(f"/embed/{image_hash}")

    assert (click.status_code, known.status_code) == (200, 200)
    wait_for_in_flight(limited_client, "/embed", 0)


def test_deletions_have_permits_of_their_own(artifact):
    policies = policies_of(create_app(Settings(model_dir=artifact)).router.routes)
    permits = permits_of(
        policies,
        role="all",
        max_embed_requests=1,
        max_segment_requests=1,
        check_decode_queue=lambda _: None,
        everything=OnePerCaller(1, "everything requests", "/segment/everything"),
    )
    one, another = (permits["DELETE", "/embed/{image_hash}"].permit("") for _ in range(2))
    others = [permits[other].permit("") for other in (("POST", "/embed"), ("GET", "/embed/{image_hash}"))]

    with one:
        with pytest.raises(Overloaded, match="deletions"):
            another.__enter__()
        for other in others:
            with other:
                pass


@pytest.mark.parametrize("path", ["/embed", "/segment"])
def test_a_client_that_disconnects_while_it_sends_its_body_releases_its_permit(limited, limited_client, path):
    name = f"left-upload{path.replace('/', '-')}"
    with RawConnection(limited.url) as slow:
        slow.start(path, "Content-Length: 100", f"X-Request-ID: {name}")
        slow.send(b"half")
        wait_for_in_flight(limited_client, path)

    line = request_line(limited, name)

    assert (line["status"], line["level"]) == (499, "info")
    assert not [one for one in limited.log if one["event"] == "request failed"]
    assert limited_client.post("/embed", content=noise_file((20, 20), seed=41)).status_code == 200


def test_a_client_that_disconnects_while_its_image_waits_releases_its_permit(limited, limited_client):
    # The stopped process receives the request and the disconnect together, so the encoder cannot finish before.
    data = noise_file((90, 90), seed=42)
    with standing_still(limited), RawConnection(limited.url) as leaving:
        leaving.start("/embed", f"Content-Length: {len(data)}", "X-Request-ID: left-embed")
        leaving.send(data)
        leaving.close()

    line = request_line(limited, "left-embed")

    assert line["status"] == 499
    assert limited_client.post("/embed", content=data).status_code == 200
    assert Scrape(limited_client).value("edgesam_http_request_duration_seconds_count", status="499") >= 1


def test_a_body_that_stalls_is_timed_out(short_timeouts):
    with RawConnection(str(short_timeouts.base_url)) as stalling:
        stalling.start("/embed", "Content-Length: 1000")
        stalling.send(b"only this")

        response = stalling.response()

    assert "9 bytes" in assert_problem(response, BodyTimeout)["detail"]
    wait_until(lambda: Scrape(short_timeouts).value("edgesam_in_flight", route="/embed") == 0)


def test_work_that_takes_too_long_is_answered_with_504(short_timeouts, replicas, next_seed):
    first, _ = replicas
    data = noise_file((50, 50), next_seed)

    by_embed = short_timeouts.post("/embed", content=data)
    image_hash = embed(first, data)
    wait_until(lambda: short_timeouts.head(f"/embed/{image_hash}").status_code == 200, timeout_s=60)
    by_segment = short_timeouts.post("/segment", json={"image_hash": image_hash, "prompts": [point(1, 1)]})

    for response in (by_embed, by_segment):
        assert_problem(response, DeadlineExceeded)
        assert int(response.headers["retry-after"]) >= 1


def test_many_connections_at_once_are_all_answered(service_url):
    with open_client(service_url) as client:
        image_hash = embed(client, noise_file((40, 40), seed=43))
    connections = [RawConnection(service_url) for _ in range(50)]
    body = b'{"image_hash": "%b", "prompts": [{"points": [{"x": 1, "y": 1}]}]}' % image_hash.encode()

    for connection in connections:
        connection.start("/segment", f"Content-Length: {len(body)}")
        connection.send(body)
    statuses = [connection.response().status_code for connection in connections]
    for connection in connections:
        connection.close()

    assert statuses == [200] * 50


def test_a_full_decode_queue_refuses_requests_before_their_body_is_read(artifact):
    settings = {"EDGESAM_MODEL_DIR": str(artifact), "EDGESAM_MAX_DECODE_QUEUE": "1", "EDGESAM_BODY_TIMEOUT_S": "1"}
    with ServiceProcess(settings) as service, open_client(service.url) as client:
        image_hash = embed(client, noise_file((40, 40), seed=44))
        body = b'{"image_hash": "%b", "prompts": [{"points": [{"x": 1, "y": 1}]}]}' % image_hash.encode()

        def status_of_a_head_in_a_crowd() -> int:
            with ExitStack() as stack:
                crowd = [stack.enter_context(RawConnection(service.url)) for _ in range(30)]
                with standing_still(service):
                    for connection in crowd:
                        connection.start("/segment", f"Content-Length: {len(body)}")
                        if connection is not crowd[20]:
                            connection.send(body)
                responses = [connection.response() for connection in crowd]
            assert {response.status_code for response in responses} <= {200, 503, 408}
            return responses[20].status_code

        # If the decoder empties its queue too fast, the request is admitted and waits for its body until the 408.
        wait_until(lambda: status_of_a_head_in_a_crowd() == Overloaded.status)
